"""Calls through the whole broker: real engine, mutual TLS, policy and ledger."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from broker.client import InputFile
from broker.client.models import Finished, Stdout
from broker.domain.call import CallState
from broker.domain.run import EndCause, EvidenceSource
from broker.errors import (
    ConflictError,
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
)
from tests.served import Served, ledger

pytestmark = pytest.mark.docker


async def test_a_call_runs_and_its_decision_intent_and_outcome_are_on_record(served: Served) -> None:
    async with served.client(purpose="count the airports") as client:
        call = await client.run("python.run", {"code": "print(1)"})
    assert call.state is CallState.SUCCEEDED
    assert call.stdout == b"1\n"
    assert call.outcome is not None
    assert (call.outcome.exit_code, call.outcome.cause) == (0, EndCause.TOOL)
    call_id = call.name.removeprefix("calls/")
    entries = ledger(served.state, "--call", call_id)
    assert [item["type"] for item in entries] == ["decision", "intent", "outcome"]
    decision, intent, outcome = entries
    assert decision["policy"]["decision"] == "allow"
    assert decision["lineage"]["starter"] == "unproven"
    assert intent["envelope_digest"] == decision["envelope_digest"]
    assert outcome["intent_seq"] == intent["seq"]
    assert outcome["outcome"]["state"] == "SUCCEEDED"
    assert "airports" not in str(entries)


async def test_output_arrives_while_the_tool_still_runs(served: Served) -> None:
    # The tool waits for a file that never comes; only its first line can be seen, and then it is cancelled.
    code = "import time\nprint('first', flush=True)\ntime.sleep(3600)"
    async with served.client() as client, client.stream("python.run", {"code": code}) as events:
        async for event in events:
            if isinstance(event, Stdout):
                assert event.data == b"first\n"
                break


async def test_denied_by_policy_names_rule_and_reason(served: Served) -> None:
    async with served.client() as client:
        with pytest.raises(PermissionDeniedError) as caught:
            await client.run("shell.run", {"script": "id"})
    assert caught.value.reason == "POLICY_DENIED"
    assert caught.value.metadata["rule"] == "demo-no-shell"
    assert "no shell in the demo workspace" in caught.value.message


async def test_bad_arguments_name_the_json_pointer(served: Served) -> None:
    async with served.client() as client:
        with pytest.raises(InvalidArgumentError) as caught:
            await client.run("python.run", {"code": "1", "args": ["a", 2]})
    assert [item.field for item in caught.value.violations] == ["arguments/args/1"]


async def test_a_caller_who_may_not_use_a_tool_learns_nothing_of_it(served: Served) -> None:
    async with served.client(workspace="elsewhere") as client:
        with pytest.raises(PermissionDeniedError) as known:
            await client.run("python.run", {"nonsense": True})
        with pytest.raises(PermissionDeniedError) as unknown:
            await client.run("no.such", {"nonsense": True})
        with pytest.raises(NotFoundError):
            await client.get_tool("python.run")
    assert known.value.metadata["rule"] == unknown.value.metadata["rule"] == "default-deny"


async def test_repeated_refusals_become_one_counted_entry(served: Served) -> None:
    before = len(ledger(served.state))
    async with served.client("rover", workspace="nowhere") as client:
        for _ in range(25):
            with pytest.raises(PermissionDeniedError):
                await client.run("python.run", {"code": "1"})
    refused = [item for item in ledger(served.state)[before:] if item["type"] == "decision"]
    assert len(refused) == 1
    assert refused[0]["refused"]["rule"] == "default-deny"


async def test_a_failing_tool_is_the_tools_failure(served: Served) -> None:
    async with served.client() as client:
        call = await client.run("python.run", {"code": "import sys; print('no', file=sys.stderr); sys.exit(3)"})
    assert call.state is CallState.FAILED
    assert call.outcome is not None
    assert (call.outcome.exit_code, call.outcome.cause) == (3, EndCause.TOOL)
    assert call.stderr == b"no\n"


async def test_memory_limit_is_told_from_the_engines_evidence(served: Served) -> None:
    async with served.client() as client:
        call = await client.run(
            "python.run", {"code": "x = bytearray(8 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1"}
        )
    assert call.outcome is not None
    assert call.state is CallState.FAILED
    assert call.outcome.cause in (EndCause.MEMORY, EndCause.TOOL), call.outcome


async def test_files_go_in_and_results_come_out(served: Served) -> None:
    data = bytes(range(256)) * 9000
    code = (
        "import hashlib, os, pathlib\n"
        "data = pathlib.Path('in/data.bin').read_bytes()\n"
        "os.makedirs('out', exist_ok=True)\n"
        "pathlib.Path('out/copy.bin').write_bytes(data[::-1])\n"
        "print(hashlib.sha256(data).hexdigest())\n"
    )
    async with served.client() as client:
        call = await client.run("python.run", {"code": code}, files=[InputFile("in/data.bin", data)])
        assert call.stdout.decode().strip() == hashlib.sha256(data).hexdigest()
        assert call.outcome is not None
        (result,) = call.outcome.files
        assert (result.path, result.size) == ("out/copy.bin", len(data))
        assert result.digest == f"sha256:{hashlib.sha256(data[::-1]).hexdigest()}"
        pieces = [piece async for piece in client.read(result)]
    assert b"".join(pieces) == data[::-1]


async def test_the_same_request_id_gives_the_same_call_and_other_content_is_refused(served: Served) -> None:
    async with served.client() as client:
        first = await client.create_call("python.run", {"code": "print(1)"}, request_id="once")
        again = await client.create_call("python.run", {"code": "print(1)"}, request_id="once")
        assert again.name == first.name
        with pytest.raises(ConflictError) as caught:
            await client.create_call("python.run", {"code": "print(2)"}, request_id="once")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    async with served.client("rover") as other:
        theirs = await other.create_call("python.run", {"code": "print(3)"}, request_id="once")
    assert theirs.name != first.name


async def test_ten_at_once_with_one_request_id_are_one_call(served: Served) -> None:
    async with served.client() as client:
        calls = await asyncio.gather(
            *(client.create_call("python.run", {"code": "print(1)"}, request_id="race") for _ in range(10))
        )
    assert len({call.name for call in calls}) == 1


async def test_another_agents_call_is_not_found(served: Served) -> None:
    async with served.client() as client:
        call = await client.run("python.run", {"code": "print(1)"})
    async with served.client("rover") as other:
        for ask in (other.get_call, other.cancel_call):
            with pytest.raises(NotFoundError):
                await ask(call.name)
        with pytest.raises(NotFoundError):
            async for _ in other.watch(call.name):
                pass
        assert call.name not in [item.name async for item in other.list_calls()]
    async with served.human() as owner:
        assert (await owner.get_call(call.name)).state is CallState.SUCCEEDED


async def test_watch_resumes_at_any_event_and_never_leaves_a_gap(served: Served) -> None:
    async with served.client() as client:
        call = await client.run("python.run", {"code": "print('a' * 100000)"})
        every = [event async for event in client.watch(call.name)]
        numbers = [event.number for event in every]
        assert numbers == list(range(1, len(every) + 1))
        assert isinstance(every[-1], Finished)
        rest = [event.number async for event in client.watch(call.name, first_event=3)]
        assert rest == numbers[2:]
        with pytest.raises(OutOfRangeError):
            async for _ in client.watch(call.name, first_event=len(every) + 2):
                pass


async def test_cancel_kills_a_tool_that_ignores_signals(served: Served) -> None:
    code = (
        "import signal, time\n"
        "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(3600)\n"
    )
    async with served.client() as client:
        call = await client.create_call("python.run", {"code": code})
        async for event in client.watch(call.name):
            if isinstance(event, Stdout):
                break
        ended = await client.cancel_call(call.name)
    assert ended.state is CallState.CANCELLED
    assert ended.outcome is not None
    assert ended.outcome.cause is EndCause.CLIENT


async def test_deadline_of_a_run_cancels_the_call(served: Served) -> None:
    async with served.client() as client:
        with pytest.raises(DeadlineError):
            await client.run("python.run", {"code": "import time; time.sleep(3600)"}, request_id="late", timeout_s=1.5)
        call = await client.create_call("python.run", {"code": "import time; time.sleep(3600)"}, request_id="late")
        async for _ in client.watch(call.name):
            pass
        ended = await client.get_call(call.name)
    assert ended.state is CallState.CANCELLED
    assert ended.outcome is not None
    assert ended.outcome.cause is EndCause.CLIENT
    assert ended.outcome.cause_source in (EvidenceSource.BROKER, None)


async def test_truncated_output_is_said_with_total_and_digest(served: Served) -> None:
    async with served.client() as client:
        call = await client.run("python.run", {"code": "import sys; sys.stdout.write('x' * (5 << 20))"})
    assert call.outcome is not None
    assert call.outcome.stdout is not None
    summary = call.outcome.stdout
    assert summary.truncated
    assert summary.total_bytes == 5 << 20
    assert summary.kept_bytes == len(call.stdout) < summary.total_bytes
    assert summary.digest == f"sha256:{hashlib.sha256(b'x' * (5 << 20)).hexdigest()}"

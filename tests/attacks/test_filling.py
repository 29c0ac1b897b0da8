"""An agent that wants to fill the ledger, the disk or the broker's memory, or to make a call hang by its size."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.client import CallContext, InputFile
from broker.domain.call import CallState
from broker.errors import DataLossError, InvalidArgumentError, PermissionDeniedError, ResourceExhaustedError
from broker.pipeline.refusals import MAX_KINDS
from tests.served import OPERATOR, Served, asked, ledger, make_state, serving

pytestmark = pytest.mark.docker

_WIDE = "\U0001f512" * 256
_WORKSPACES = 30
_BLOB_TTL_S = 120
_RULES = """
p, nobody-searches, *, *, text.search, call, 4, deny, nobody searches
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A broker with small quotas, a refusal for every workspace, and many workspaces by name."""
    state = tmp_path_factory.mktemp("filling") / "state"
    settings = {
        "storage_quota_bytes": 16 << 20,
        "blob_ttl_s": _BLOB_TTL_S,
        "refusal_window_s": 3600,
    }
    make_state(state, agents=dict.fromkeys(("scout", "rover", "filler", "maker"), OPERATOR), settings=settings)
    policy = state / "policy" / "policy.csv"
    grants = "".join(f"g, role:agent, role:analyst, named-{number}\n" for number in range(_WORKSPACES))
    policy.write_text(policy.read_text("utf-8") + _RULES + grants, "utf-8")
    with serving(state) as broker:
        yield broker


def _labels(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{number:02d}{'x' * 60}" for number in range(count))


async def test_a_request_sized_to_the_limit_of_an_entry_runs_to_its_end(served: Served) -> None:
    texts = dict.fromkeys(("model", "prompt_version", "feature", "team"), _WIDE)
    async with served.client() as client:
        labelled = await client.upload(b"x", data_classes=_labels("b", 32))
        context = CallContext(purpose=_WIDE * 16, data_classes=_labels("a", 32), **texts)
        call = await client.run("python.run", {"code": "1"}, files=[InputFile("x", labelled)], context=context)
    assert call.state is CallState.SUCCEEDED
    assert len(call.data_classes) == 64


async def test_more_data_classes_than_an_entry_holds_are_refused_before_anything_is_written(served: Served) -> None:
    async with served.client() as client:
        blobs = [await client.upload(b"x", data_classes=_labels(prefix, 32)) for prefix in "bc"]
        files = [InputFile(blob.name[-8:], blob) for blob in blobs]
        before = len(asked(served.state))
        with pytest.raises(InvalidArgumentError) as caught:
            await client.run("python.run", {"code": "1"}, files=files, context=CallContext(data_classes=("one-more",)))
    assert caught.value.reason == "DATA_CLASSES_TOO_MANY"
    assert len(asked(served.state)) == before


async def test_text_that_an_agent_makes_up_never_stands_in_the_ledger(served: Served) -> None:
    before = len(ledger(served.state))
    async with served.client("maker") as client:
        for number in range(40):
            with pytest.raises(PermissionDeniedError) as caught:
                await client.run("text.search", {}, context=CallContext(workspace=f"my-secret-{number}"))
            assert caught.value.metadata["rule"] == "nobody-searches"
    entries = ledger(served.state)[before:]
    assert "my-secret" not in str(entries)
    assert [item["workspace"] for item in entries if item["type"] == "decision"] == ["?"]
    assert not any("policy" in item for item in entries), "what the policy read would name it"


async def test_different_refusals_are_counted_together_beyond_a_few(served: Served) -> None:
    before = len(ledger(served.state))
    async with served.client("rover") as client:
        for number in range(_WORKSPACES):
            with pytest.raises(PermissionDeniedError):
                await client.run("text.search", {}, context=CallContext(workspace=f"named-{number}"))
    refused = [item["refused"]["reason"] for item in ledger(served.state)[before:] if item["type"] == "decision"]
    assert refused == ["POLICY_DENIED"] * MAX_KINDS + ["MANY_REFUSALS"]
    read = [
        item.get("policy", {}).get("inputs") for item in ledger(served.state)[before:] if item["type"] == "decision"
    ]
    assert [item["workspace"] for item in read[:-1]] == [f"named-{number}" for number in range(MAX_KINDS)]
    assert read[-1] is None
    with closing(sqlite3.connect(f"file:{served.state / 'broker.db'}?mode=ro", uri=True)) as database:
        (count,) = database.execute("SELECT count FROM refusal WHERE key = 'other'").fetchone()
    assert count == _WORKSPACES - MAX_KINDS


async def test_empty_blobs_count(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state, settings={"storage_quota_bytes": 50 * 1024})
    with serving(state) as served:
        async with served.client() as client:
            with pytest.raises(ResourceExhaustedError) as caught:
                _ = [await client.upload(b"") for _ in range(60)]
    assert caught.value.reason == "STORAGE_QUOTA"


async def test_the_piece_that_would_go_over_the_quota_is_not_stored(served: Served) -> None:
    async with served.client("filler") as client:
        with pytest.raises(ResourceExhaustedError):
            await client.upload(bytes(17 << 20))
        await client.upload(bytes(15 << 20))
        with pytest.raises(ResourceExhaustedError) as caught:
            await client.upload(bytes(1 << 20))
    assert caught.value.reason == "STORAGE_QUOTA"


async def test_a_short_time_to_live_of_blobs_is_kept(served: Served) -> None:
    async with served.client() as client:
        blob = await client.upload(b"short-lived")
    assert blob.expires is not None
    assert blob.expires <= datetime.now(UTC) + timedelta(seconds=_BLOB_TTL_S)


@pytest.mark.parametrize(
    "path",
    ["a\u0085b", "a\u009fb", "\U0001f512" * 60 + "/" + "\U0001f512" * 60 + "/" + "\U0001f512" * 150, "ä" * 130],
    ids=["next-line", "c1-control", "long-in-bytes", "long-name"],
)
async def test_a_path_that_the_sandbox_refuses_is_the_callers_fault_and_leaves_no_intent(
    served: Served, path: str
) -> None:
    async with served.client() as client:
        blob = await client.upload(b"x")
        before = asked(served.state)
        with pytest.raises(InvalidArgumentError) as caught:
            await client.run("python.run", {"code": "1"}, files=[InputFile(path, blob)])
    assert caught.value.violations[0].field == "tool_call.files[0].path"
    assert asked(served.state) == before


async def test_a_blob_that_lost_its_end_never_comes_back_short(served: Served) -> None:
    async with served.client() as client:
        blob = await client.upload(bytes(2 << 20) + b"the end")
        with closing(sqlite3.connect(served.state / "broker.db", timeout=30)) as database:
            cut = database.execute("DELETE FROM vault_chunk WHERE object_id = ? AND idx = 2", (blob.name[6:],))
            assert cut.rowcount == 1
            database.commit()
        with pytest.raises(DataLossError) as caught:
            _ = [piece async for piece in client.read(blob.name)]
        call = await client.run("python.run", {"code": "print('ran')"}, files=[InputFile("x", blob)])
    assert caught.value.reason == "BLOB_CORRUPT"
    assert call.state is CallState.CANCELLED
    assert call.stdout == b""


async def test_a_file_with_another_digest_than_was_admitted_never_reaches_a_tool(served: Served) -> None:
    digest, real = f"sha256:{'0' * 64}", f"sha256:{hashlib.sha256(b'what was uploaded').hexdigest()}"
    async with served.client() as client:
        blob = await client.upload(b"what was uploaded")
        with closing(sqlite3.connect(served.state / "broker.db", timeout=30)) as database:
            database.execute("UPDATE vault_object SET digest = ? WHERE id = ?", (digest, blob.name[6:]))
            database.commit()
        call = await client.run("python.run", {"code": "print('ran')"}, files=[InputFile("x", blob)])
    assert call.state is CallState.CANCELLED
    assert call.stdout == b""
    assert call.outcome is not None
    assert f"files[x] is {real} instead of {digest}" in call.outcome.detail

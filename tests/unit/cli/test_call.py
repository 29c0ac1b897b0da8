"""``broker call`` and ``broker calls`` against a scripted broker: bytes, summaries, exit codes, signals, files."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from broker.cli.call import input_file
from broker.errors import InvalidArgumentError
from broker.v1 import blob_pb2, call_pb2, tool_broker_pb2, tool_pb2
from tests.cli_program import Program, Start
from tests.fake_broker import CALL, HANG, FakeBroker, Refuse, call, watch

MORE = "2"


def outcome(**values: Any) -> call_pb2.Outcome:  # noqa: ANN401 - fields of several types
    return call_pb2.Outcome(**values)


def follow(server: FakeBroker, *payloads: object) -> None:
    server.script.on("CreateToolCall", call("QUEUED"))
    server.script.on("WatchToolCall", watch(1, *payloads))


def test_output_passes_through_untouched(server: FakeBroker, broker: Program) -> None:
    raw = b"\x00\xff\x1b[31mred\r\nno newline at the end"
    follow(server, "RUNNING", raw, call())
    ran = broker("call", "python.run", "--args", '{"code": "1"}')
    assert ran.code == 0
    assert ran.out == raw.decode("latin-1")
    assert ran.err.startswith("broker: ")
    assert "SUCCEEDED, exit code 0" in ran.err
    request = server.script.sent("CreateToolCall")[0]
    assert (request.tool_call.tool, request.tool_call.arguments_json) == ("tools/python.run", '{"code": "1"}')


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (call("SUCCEEDED"), 0),
        (call("FAILED"), 1),
        (call("FAILED", outcome=outcome(cause=call_pb2.END_CAUSE_TIME)), 1),
        (call("FAILED", outcome=outcome(cause=call_pb2.END_CAUSE_ENGINE)), 6),
        (call("CANCELLED"), 1),
        (call("DENIED"), 3),
        (call("EXPIRED"), 3),
        (call("UNKNOWN"), 6),
    ],
)
def test_exit_codes_of_ends(server: FakeBroker, broker: Program, last: call_pb2.ToolCall, code: int) -> None:
    follow(server, "RUNNING", last)
    assert broker("call", "python.run").code == code
    assert broker("call", "python.run", "--json").code == code


def test_a_call_that_waits_for_approval_is_left_alone(server: FakeBroker, broker: Program) -> None:
    follow(server, "PENDING_APPROVAL", HANG)
    ran = broker("call", "python.run")
    assert ran.code == 4
    assert "waits for approval" in ran.err
    assert not server.script.sent("CancelToolCall")


def test_waiting_for_approval_can_be_asked_for(server: FakeBroker, broker: Program) -> None:
    follow(server, "PENDING_APPROVAL", "APPROVED", "RUNNING", call())
    assert broker("call", "python.run", "--wait").code == 0


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        (StatusCode.INVALID_ARGUMENT, "ARGUMENTS_INVALID", 2),
        (StatusCode.NOT_FOUND, "TOOL_NOT_FOUND", 2),
        (StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", 2),
        (StatusCode.FAILED_PRECONDITION, "SESSION_ENDED", 2),
        (StatusCode.OUT_OF_RANGE, "EVENT_NOT_KEPT", 2),
        (StatusCode.RESOURCE_EXHAUSTED, "BLOB_QUOTA", 2),
        (StatusCode.PERMISSION_DENIED, "POLICY_DENIED", 3),
        (StatusCode.UNAUTHENTICATED, "CERTIFICATE_REVOKED", 3),
        (StatusCode.INTERNAL, "INTERNAL", 6),
        (StatusCode.DATA_LOSS, "DATA_LOSS", 6),
    ],
)
def test_exit_codes_of_refusals(
    server: FakeBroker, broker: Program, status: StatusCode, reason: str, code: int
) -> None:
    server.script.on(
        "CreateToolCall",
        Refuse(status, "a sentence", reason=reason, metadata={"rule": "r1", "hint": "do this"}, fields={"a/b": "why"}),
    )
    ran = broker("call", "python.run")
    assert (ran.code, ran.out) == (code, "")
    for text in (reason, "a sentence", "rule: r1", "do this", "a/b: why"):
        assert text in ran.err
    assert broker("call", "python.run", "--json").json == {
        "error": "a sentence",
        "reason": reason,
        "hint": "do this",
        "metadata": {"rule": "r1"},
        "fields": {"a/b": "why"},
    }


def test_a_full_queue_and_a_silent_broker_are_code_5(server: FakeBroker, broker: Program, state: Path) -> None:
    server.script.on(
        "CreateToolCall", Refuse(StatusCode.RESOURCE_EXHAUSTED, "full", reason="QUEUE_FULL", retry_after_s=60)
    )
    assert broker("call", "python.run").code == 5
    (state / "serve.json").unlink()
    ran = broker("call", "python.run", "--json")
    assert (ran.code, ran.json["reason"]) == (5, "BROKER_UNREACHABLE")
    ran = broker("call", "python.run", "--address", "127.0.0.1:1", "--json")
    assert (ran.code, ran.json["reason"]) == (5, "BROKER_UNREACHABLE")


@pytest.mark.parametrize(
    "args",
    [
        ["call"],
        ["call", "x", "--nonsense"],
        ["call", "x", "--args", "{"],
        ["call", "x", "--args", "[]"],
        ["call", "x", "--args", '{"a": 1, "a": 2}'],
        ["call", "x", "--args", "@/nonexistent"],
        ["call", "x", "--file", "/nonexistent"],
        ["call", "x", "--timeout", "0"],
        ["nonsense"],
        ["calls", "list", "--call-state", "ODD"],
        ["sessions", "start", "--agent", "bot", "--ttl", "soon"],
        ["sessions", "schedule", "--agent", "bot", "--for", "30d", "--window", "25:00-26:00"],
    ],
)
def test_wrong_usage_is_code_2_and_nothing_is_sent(server: FakeBroker, broker: Program, args: list[str]) -> None:
    assert broker(*args).code == 2
    ran = broker(*args, "--json")
    assert (ran.code, set(ran.json)) == (2, {"error", "reason", "hint", "metadata", "fields"})
    assert not server.script.requests


def test_json_is_one_object_with_all_there_is(server: FakeBroker, broker: Program) -> None:
    follow(server, "QUEUED", "RUNNING", b"text\n", call())
    ran = broker("call", "python.run", "--json")
    answer = ran.json
    assert answer["call"]["name"] == CALL
    assert answer["call"]["outcome"]["exit_code"] == 0
    assert answer["stdout"] == {"encoding": "utf-8", "data": "text\n"}
    assert [item["state"] for item in answer["states"]] == ["QUEUED", "RUNNING"]
    assert ran.err == ""


def test_output_that_is_not_text_is_base64_in_json(server: FakeBroker, broker: Program) -> None:
    follow(server, b"\xff\x00", call())
    assert broker("call", "python.run", "--json").json["stdout"] == {
        "encoding": "base64",
        "data": base64.b64encode(b"\xff\x00").decode(),
    }


def test_detach_prints_the_name_alone(server: FakeBroker, broker: Program) -> None:
    server.script.on("CreateToolCall", call("QUEUED"))
    ran = broker("call", "python.run", "--detach")
    assert (ran.code, ran.out, ran.err) == (0, f"{CALL}\n", "")
    assert not server.script.sent("WatchToolCall")


def test_context_goes_with_the_call(server: FakeBroker, broker: Program, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("tok.en\n")
    server.script.on("CreateToolCall", call("QUEUED"))
    broker(
        "call", "x.y", "-d", "--purpose", "why", "--session", "ses_1", "--delegation", f"@{token}", "--model", "m",
        "--source", "https://a", "--source", "https://b", "--data-class", "customer", "--team", "t", "--request-id", "r1",
    )  # fmt: skip
    request = server.script.sent("CreateToolCall")[0]
    context = request.tool_call.context
    assert request.request_id == "r1"
    assert (context.workspace, context.purpose, context.session) == ("demo", "why", "sessions/ses_1")
    assert (context.delegation, context.model, context.team) == ("tok.en", "m", "t")
    assert [item.uri for item in context.sources] == ["https://a", "https://b"]
    assert list(context.data_classes) == ["customer"]


def test_truncation_and_warnings_are_said(server: FakeBroker, broker: Program) -> None:
    cut = call_pb2.StreamSummary(total_bytes=900, kept_bytes=5, truncated=True)
    follow(server, b"12345", call(outcome=outcome(stdout=cut, warnings=["too many files"])))
    ran = broker("call", "python.run")
    assert "stdout was cut at its limit: 5 of 900 bytes were kept" in ran.err
    assert "too many files" in ran.err


EGRESS = [
    call_pb2.EgressRecord(
        host="api.example.com",
        port=443,
        kind=tool_pb2.EGRESS_KIND_HTTPS,
        verdict=call_pb2.EGRESS_VERDICT_ALLOWED,
        listed=True,
        count=3,
        sent_bytes=120,
        received_bytes=4000,
    ),
    call_pb2.EgressRecord(
        host="evil.example\x1b[2K",
        port=80,
        kind=tool_pb2.EGRESS_KIND_HTTP,
        verdict=call_pb2.EGRESS_VERDICT_NOT_LISTED,
        count=1,
        detail="no rule lists it",
    ),
]


def test_the_summary_says_which_hosts_were_reached_and_which_were_not(server: FakeBroker, broker: Program) -> None:
    follow(server, b"", call(outcome=outcome(egress=EGRESS)))
    err = broker("call", "python.run").err
    assert "broker: https api.example.com:443 ALLOWED 3 times, 120 bytes sent, 4000 received\n" in err
    assert 'http "evil.example' in err
    assert ':80" NOT_LISTED, 0 bytes sent, 0 received: no rule lists it\n' in err
    assert "\x1b" not in err
    follow(server, b"", call(outcome=outcome(egress=EGRESS)))
    assert broker("call", "python.run", "--json").json["call"]["outcome"]["egress"][0] == {
        "host": "api.example.com",
        "port": 443,
        "kind": "https",
        "verdict": "ALLOWED",
        "listed": True,
        "count": 3,
        "sent_bytes": 120,
        "received_bytes": 4000,
        "detail": "",
    }


def test_a_call_says_what_is_kept_of_hosts_answers(server: FakeBroker, broker: Program) -> None:
    kept = call_pb2.EgressRecording(artifact="sha256:1", exchanges=7, missed=2, size=4096)
    follow(server, b"", call(outcome=outcome(recording=kept)))
    said = (
        "7 requests with their answers, 4096 bytes, not all of it: there was no room for more (2 requests not at all)"
    )
    assert f"broker: kept of what hosts answered: {said}\n" in broker("call", "python.run").err
    server.script.on("GetToolCall", call(outcome=outcome(recording=kept)))
    assert said in " ".join(broker("calls", "show", CALL).out.split())
    server.script.on("GetToolCall", call(outcome=outcome(recording=kept)))
    assert broker("calls", "show", CALL, "--json").json["outcome"]["recording"] == {
        "artifact": "sha256:1",
        "exchanges": 7,
        "missed": 2,
        "size": 4096,
        "whole": False,
    }


def test_calls_show_has_a_table_of_hosts(server: FakeBroker, broker: Program) -> None:
    server.script.on("GetToolCall", call(outcome=outcome(egress=EGRESS)))
    out = broker("calls", "show", CALL).out
    assert "api.example.com:443\thttps\tALLOWED\t3\t120\t4000\t\n" in out
    assert "\x1b" not in out


def test_the_summary_cannot_be_forged_by_control_characters(server: FakeBroker, broker: Program) -> None:
    ended = outcome(cause=call_pb2.END_CAUSE_TIME, detail="x\x1b[2K\rbroker: SUCCEEDED\u202e")
    follow(server, call("FAILED", outcome=ended))
    ran = broker("call", "python.run")
    assert "\x1b" not in ran.err
    assert "\r" not in ran.err
    assert "\\u202e" in ran.err


def test_files_go_up_and_results_come_down(server: FakeBroker, broker: Program, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"1,2\n")
    data = b"result"
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

    def keep(requests: list[tool_broker_pb2.UploadBlobRequest]) -> blob_pb2.Blob:
        content = b"".join(item.chunk for item in requests[1:])
        return blob_pb2.Blob(name="blobs/in", size=len(content), digest=f"sha256:{hashlib.sha256(content).hexdigest()}")

    file = call_pb2.OutputFile(path="out/r.txt", blob="blobs/out", size=len(data), digest=digest)
    server.script.on("UploadBlob", keep)
    server.script.on("DownloadBlob", [tool_broker_pb2.DownloadBlobResponse(offset=0, chunk=data)])
    follow(server, call(outcome=outcome(files=[file])))
    out = tmp_path / "results"
    args = ("call", "python.run", "--file", f"{tmp_path / 'a.csv'}:in/data.csv", "--out", str(out))
    ran = broker(*args, "--json")
    assert ran.json["saved"] == [{"path": "out/r.txt", "file": str(out / "out/r.txt")}]
    assert (out / "out" / "r.txt").read_bytes() == data
    sent = server.script.sent("CreateToolCall")[0].tool_call.files
    assert [(item.path, item.blob) for item in sent] == [("in/data.csv", "blobs/in")]
    # Again: the file is there, so it stays, the call's own outcome is still told, and the code says why.
    again = broker(*args, "--json")
    assert (again.code, again.json["save_error"]["reason"]) == (2, "FILE_EXISTS")
    assert again.json["call"]["state"] == "SUCCEEDED"
    assert broker(*args, "--force").code == 0


def test_a_result_file_never_leaves_its_folder(server: FakeBroker, broker: Program, tmp_path: Path) -> None:
    file = call_pb2.OutputFile(path="../../evil", blob="blobs/out", size=1, digest="sha256:0")
    follow(server, call(outcome=outcome(files=[file])))
    ran = broker("call", "python.run", "--out", str(tmp_path / "results"))
    assert (ran.code, "UNSAFE_PATH" in ran.err) == (6, True)
    assert not server.script.sent("DownloadBlob")
    assert not (tmp_path / "evil").exists()


def test_a_timeout_cancels(server: FakeBroker, broker: Program) -> None:
    follow(server, "RUNNING", HANG)
    server.script.on("CancelToolCall", call("CANCELLED"))
    ran = broker("call", "python.run", "--timeout", "0.3")
    assert (ran.code, f"{CALL} is CANCELLED" in ran.err) == (1, True)
    assert [item.name for item in server.script.sent("CancelToolCall")] == [CALL]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_cancels_and_says_so(server: FakeBroker, start: Start, number: int, code: int) -> None:
    follow(server, "RUNNING", HANG)
    server.script.on("CancelToolCall", call("CANCELLED"))
    process = start("call", "python.run")
    assert server.wait(server.script.hung)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"interrupted: {CALL} is CANCELLED" in err.decode()
    assert [item.name for item in server.script.sent("CancelToolCall")] == [CALL]


def test_a_closed_pipe_cancels_without_a_traceback(server: FakeBroker, start: Start) -> None:
    follow(server, "RUNNING", b"first\n", *[b"x" * 65536] * 64, HANG)
    server.script.on("CancelToolCall", call("CANCELLED"))
    process = start("call", "python.run")
    assert process.stdout.readline() == b"first\n"
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert process.returncode == 141
    assert b"Traceback" not in err
    assert [item.name for item in server.script.sent("CancelToolCall")] == [CALL]


def test_a_lost_broker_says_that_the_call_may_go_on(server: FakeBroker, broker: Program) -> None:
    server.script.on("CreateToolCall", call("QUEUED"))
    server.script.on("WatchToolCall", [*watch(1, "RUNNING"), Refuse(StatusCode.INTERNAL, "x", reason="INTERNAL")])
    ran = broker("call", "python.run")
    assert (ran.code, f"broker calls watch {CALL}" in ran.err) == (6, True)


def test_calls_list_pages_and_stops_at_its_limit(server: FakeBroker, broker: Program) -> None:
    page = tool_broker_pb2.ListToolCallsResponse(tool_calls=[call(), call("FAILED")], next_page_token=MORE)
    server.script.on("ListToolCalls", page, tool_broker_pb2.ListToolCallsResponse(tool_calls=[call("RUNNING")]))
    ran = broker("calls", "list", "--tool", "python.run", "--call-state", "failed", "--since", "2026-01-31T00:00:00Z")
    assert [line.split("\t")[1] for line in ran.out.splitlines()] == ["SUCCEEDED", "FAILED", "RUNNING"]
    request = server.script.sent("ListToolCalls")[0]
    assert (request.filter.tool, list(request.filter.states)) == ("tools/python.run", [8])
    assert request.filter.create_time_from.seconds == 1769817600
    server.script.on("ListToolCalls", page)
    answer = broker("calls", "list", "--limit", "1", "--json").json
    assert (len(answer["items"]), answer["more"]) == (1, True)


def test_calls_show_says_rule_and_evidence(server: FakeBroker, broker: Program) -> None:
    decision = call_pb2.Decision(allowed=True, rule="r1", reason="because")
    ended = outcome(cause=call_pb2.END_CAUSE_MEMORY, cause_source=call_pb2.EVIDENCE_SOURCE_ENGINE)
    server.script.on("GetToolCall", call("FAILED", decision=decision, outcome=ended))
    ran = broker("calls", "show", CALL)
    assert ran.code == 0
    assert "allowed by r1: because" in ran.out
    assert "MEMORY (by the word of ENGINE)" in ran.out
    assert broker("calls", "show", CALL, "--json").json["outcome"]["cause"] == "MEMORY"


def test_calls_watch_leaves_the_call_alone_when_interrupted(server: FakeBroker, start: Start) -> None:
    server.script.on("GetToolCall", call("RUNNING"))
    server.script.on("WatchToolCall", [*watch(1, "RUNNING"), HANG])
    process = start("calls", "watch", CALL)
    assert server.wait(server.script.hung)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, b"goes on" in err) == (130, True)
    assert not server.script.sent("CancelToolCall")


def test_calls_watch_and_cancel(server: FakeBroker, broker: Program) -> None:
    server.script.on("GetToolCall", call("RUNNING"))
    server.script.on("WatchToolCall", watch(3, b"rest", call("FAILED")))
    server.script.on("CancelToolCall", call("CANCELLED"))
    ran = broker("calls", "watch", CALL, "--from", "3")
    assert (ran.code, ran.out) == (1, "rest")
    ran = broker("calls", "cancel", CALL)
    assert (ran.code, ran.out) == (0, f"{CALL} is CANCELLED\n")


def test_calls_files_needs_an_end(server: FakeBroker, broker: Program, tmp_path: Path) -> None:
    server.script.on("GetToolCall", call("RUNNING"))
    ran = broker("calls", "files", CALL, "--out", str(tmp_path), "--json")
    assert (ran.code, ran.json["reason"]) == (2, "CALL_NOT_ENDED")


def test_a_file_option_is_split_only_where_it_must_be(tmp_path: Path) -> None:
    odd = tmp_path / "a:b"
    odd.write_bytes(b"")
    assert (input_file(str(odd)).path, input_file(f"{odd}:c").path) == ("a:b", "c")
    with pytest.raises(InvalidArgumentError):
        input_file(f"{odd}:")


def test_arguments_may_come_from_a_file(server: FakeBroker, broker: Program, tmp_path: Path) -> None:
    path = tmp_path / "args.json"
    path.write_text(json.dumps({"code": "1"}))
    server.script.on("CreateToolCall", call("QUEUED"))
    broker("call", "x.y", "-d", "--args", f"@{path}")
    assert json.loads(server.script.sent("CreateToolCall")[0].tool_call.arguments_json) == {"code": "1"}

"""A sealed run's way out: which request gets which recorded answer, and what is said of the rest."""

from __future__ import annotations

from dataclasses import replace

from broker.domain.run import EgressKind, EgressRule, EgressVerdict
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.recorded import MAX_ASKED, NOT_RECORDED, RecordedGate
from broker.sandbox.egress.recording import (
    How,
    RecordedAnswer,
    RecordedExchange,
    RecordedRefusal,
    RecordedRequest,
    Recording,
)
from tests.egress_support import Answer, Tool, read_answer
from tests.unit.sandbox.egress.test_recording import named

HOST = "h.example"
_LIMITS = EgressLimits(linger_s=0.01, idle_s=5.0)


def exchange(
    target: str = "/", body: bytes = b"fine", *, method: str = "GET", sent: bytes = b"", how: How = How.COMPLETE
) -> RecordedExchange:
    request = RecordedRequest(method, HOST, 80, target, (), (), len(sent), named(sent), body_whole=True)
    headers = (("content-length", str(len(body) + (how is How.BROKEN))), ("x-kept", "yes"))
    answer = RecordedAnswer(200, "OK", headers, len(body), named(body), kept=True)
    return RecordedExchange(request, how, begun=True, answer=answer, body=b"" if method == "HEAD" else body)


def gate(*exchanges: RecordedExchange, rules: tuple[EgressRule, ...] = ()) -> RecordedGate:
    return RecordedGate(Recording("call_1", exchanges), rules=rules, limits=_LIMITS)


def asking(target: str = "/", method: str = "GET", body: bytes = b"", host: str = HOST) -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} http://{host}{target} HTTP/1.1\r\nHost: {host}\r\n{length}\r\n".encode() + body


async def raw(sealed: RecordedGate, data: bytes, listener: int = 3128) -> bytes:
    tool = Tool(sealed, listener)
    tool.send(data)
    tool.close()
    return await tool.all()


async def ask(sealed: RecordedGate, *args: str, **more: bytes) -> Answer:
    return read_answer(await raw(sealed, asking(*args, **more)), *args[1:2])  # type: ignore[arg-type]  # by place


async def test_each_request_gets_the_next_answer_of_its_kind() -> None:
    sealed = gate(exchange("/a", b"one"), exchange("/b", b"other"), exchange("/a", b"two"))
    found = [(await ask(sealed, target)).body for target in ("/a", "/a", "/b")]
    assert found == [b"one", b"two", b"other"]
    assert [item.number for item in sealed.report.served] == [1, 3, 2]
    assert sealed.report.same


async def test_one_connection_serves_request_after_request() -> None:
    sealed = gate(exchange("/a", b"one"), exchange("/b", b"two"))
    got = await raw(sealed, asking("/a") + asking("/b"))
    assert (got.count(b"HTTP/1.1 200"), got.count(b"x-kept: yes")) == (2, 2)
    assert got.index(b"one") < got.index(b"two")


async def test_what_was_asked_once_is_not_answered_twice() -> None:
    sealed = gate(exchange("/a"))
    assert (await ask(sealed, "/a")).status == 200
    again = await ask(sealed, "/a")
    assert (again.status, again.verdict) == (502, NOT_RECORDED)
    assert b"more often than in the call" in again.body
    (missed,) = sealed.report.not_recorded
    assert (missed.what, missed.count) == ("GET http://h.example/a", 1)
    assert not sealed.report.same


async def test_another_method_host_target_or_query_is_not_recorded() -> None:
    sealed = gate(exchange("/a?x=1", method="GET"))
    for target, method, host in (("/a?x=1", "POST", HOST), ("/a?x=2", "GET", HOST), ("/a?x=1", "GET", "g.example")):
        answer = read_answer(await raw(sealed, asking(target, method, host=host)))
        assert (answer.status, answer.verdict) == (502, NOT_RECORDED)
        assert b"sealed" in answer.body
    assert len(sealed.report.not_recorded) == 3
    assert [number for number, _ in sealed.report.not_asked] == [1]


async def test_another_body_is_answered_and_reported() -> None:
    sealed = gate(exchange(method="POST", sent=b"was"), exchange("/b", method="POST", sent=b"was"))
    assert (await ask(sealed, "/", "POST", body=b"is")).body == b"fine"
    assert (await ask(sealed, "/b", "POST", body=b"was")).body == b"fine"
    assert [item.same_body for item in sealed.report.served] == [False, True]
    assert not sealed.report.same


async def test_an_answer_to_head_has_its_length_and_no_body() -> None:
    got = await raw(gate(exchange(method="HEAD")), asking("/", "HEAD"))
    assert b"content-length: 4" in got.lower()
    assert got.endswith(b"\r\n\r\n")


async def test_an_answer_that_broke_off_breaks_off_again() -> None:
    sealed = gate(exchange("/", b"par", how=How.BROKEN), exchange("/b"))
    got = await raw(sealed, asking("/") + asking("/b"))
    assert got.endswith(b"\r\n\r\npar")
    assert [number for number, _ in sealed.report.not_asked] == [2]


async def test_a_broken_answer_in_chunks_gets_no_end() -> None:
    item = exchange("/", b"par", how=How.BROKEN)
    assert item.answer is not None
    sealed = gate(replace(item, answer=replace(item.answer, headers=())))
    assert (await raw(sealed, asking("/"))).endswith(b"\r\n3\r\npar\r\n")


async def test_a_request_that_was_never_answered_gets_the_end_of_its_connection() -> None:
    sealed = gate(replace(exchange(), answer=None, begun=False, how=How.BROKEN, body=b""))
    assert await raw(sealed, asking("/")) == b""
    assert [item.how for item in sealed.report.served] == [How.BROKEN]


async def test_a_refusal_is_given_again_in_its_words() -> None:
    refusal = RecordedRefusal(EgressVerdict.UNREACHABLE, "the host was away", 504, "Wait.")
    sealed = gate(replace(exchange(), answer=None, begun=False, how=How.REFUSED, refusal=refusal, body=b""))
    answer = await ask(sealed, "/")
    assert (answer.status, answer.verdict) == (504, "UNREACHABLE")
    assert b"the host was away" in answer.body
    assert sealed.report.same


async def test_what_was_not_kept_is_said_and_not_made_up() -> None:
    (long, headless, secret) = (exchange("/long"), exchange("/head"), exchange("/secret"))
    assert long.answer is not None
    refusal = RecordedRefusal(EgressVerdict.SECRET_ECHOED, "it held the secret", 502)
    sealed = gate(
        replace(long, answer=replace(long.answer, kept=False, body_bytes=7_000_000), body=b""),
        replace(headless, answer=None, body=b""),
        replace(headless, answer=None, body=b"", how=How.BROKEN),
        replace(secret, answer=None, body=b"", how=How.BROKEN, refusal=refusal),
    )
    for target, why in (
        ("/long", b"7000000 bytes"),
        ("/head", b"no room"),
        ("/head", b"no room"),
        ("/secret", b"held a secret"),
    ):
        answer = await ask(sealed, target)
        assert (answer.status, answer.verdict) == (502, NOT_RECORDED)
        assert why in answer.body
    assert sum(item.count for item in sealed.report.not_recorded) == 4
    assert not sealed.report.served


async def test_tunnels_and_forwards_are_closed() -> None:
    sealed = gate(exchange())
    tunnel = read_answer(await raw(sealed, b"CONNECT h.example:443 HTTP/1.1\r\nHost: h.example:443\r\n\r\n"))
    assert (tunnel.status, tunnel.verdict) == (502, NOT_RECORDED)
    assert await raw(sealed, b"hello", listener=5432) == b""
    assert [item.what for item in sealed.report.not_recorded] == ["CONNECT h.example:443", "the forward from port 5432"]


async def test_what_the_rules_refuse_is_refused_as_in_the_call() -> None:
    sealed = gate(exchange(), rules=(EgressRule(EgressKind.HTTP, HOST, 80),))
    for data in (
        asking("/", "DELETE"),
        asking("/", host="evil.example"),
        b"CONNECT h.example:443 HTTP/1.1\r\nHost: h.example:443\r\n\r\n",
    ):
        answer = read_answer(await raw(sealed, data))
        assert (answer.status, answer.verdict) == (403, "NOT_LISTED")
    assert len(sealed.report.refused) == 3
    assert not sealed.report.not_recorded
    assert (await ask(sealed, "/")).status == 200


async def test_a_tool_can_not_fill_the_report() -> None:
    sealed = gate()
    for number in range(MAX_ASKED + 5):
        await raw(sealed, asking(f"/{number}" + "x" * 300))
    assert len(sealed.report.not_recorded) == MAX_ASKED
    assert sealed.report.more_not_recorded == 5
    assert max(len(item.what) for item in sealed.report.not_recorded) <= 255


async def test_a_tool_that_lies_about_its_body_is_refused_or_left_alone() -> None:
    sealed = gate(exchange(method="POST", sent=b"was"))
    short = b"POST http://h.example/ HTTP/1.1\r\nHost: h.example\r\nContent-Length: 9\r\n\r\nwas"
    answer = read_answer(await raw(sealed, short))
    assert (answer.status, answer.verdict) == (400, "MALFORMED")
    both = (
        b"POST http://h.example/ HTTP/1.1\r\nHost: h.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert read_answer(await raw(sealed, both)).verdict == "MALFORMED"
    assert [number for number, _ in sealed.report.not_asked] == [1]
    assert len(sealed.report.refused) == 2


async def test_a_recording_whose_lengths_lie_ends_its_connection() -> None:
    item = exchange("/", b"four")
    assert item.answer is not None
    long = replace(item, answer=replace(item.answer, headers=(("content-length", "2"),)))
    got = await raw(gate(long), asking("/"))
    assert b"four" not in got

"""How much of an exchange is kept, and what is free again once it isn't."""

from __future__ import annotations

import h11
import pytest

from broker.domain.run import EgressKind, EgressRule, EgressVerdict
from broker.sandbox.egress.recorder import Recorder, Tape
from broker.sandbox.egress.recording import How, Recording, dump_recording, load_recording
from broker.sandbox.egress.refusal import RefusedError
from broker.sandbox.egress.target import Target

RULE = EgressRule(EgressKind.HTTP, "h.example", 80, record_bytes=4096)
_REQUEST = h11.Request(method="GET", target="http://h.example/a", headers=[("Host", "h.example")])
_ECHOED = RefusedError(EgressVerdict.SECRET_ECHOED, "it held the secret")


def begun(recorder: Recorder, rule: EgressRule = RULE) -> Tape:
    tape = recorder.tape(rule, _REQUEST, Target("h.example", 80, "/a", b"/a"), ())
    tape.asked()
    tape.answer(200, b"OK", [(b"x-a", b"b")])
    return tape


def recorded(recorder: Recorder) -> Recording:
    found = recorder.recording()
    assert found is not None
    assert load_recording(b"".join(dump_recording(found))) == found
    return found


def test_an_answer_that_grows_too_long_gives_its_room_back() -> None:
    recorder = Recorder("call_1")
    tape = begun(recorder)
    for _ in range(6):
        tape.data(b"x" * 600)
    tape.finish()
    other = begun(recorder)
    other.data(b"y" * 2000)
    other.finish()
    first, second = recorded(recorder).exchanges
    assert first.answer is not None
    assert (first.answer.kept, first.answer.body_bytes, first.body) == (False, 3600, b"")
    assert second.body == b"y" * 2000


def test_an_answer_that_held_a_secret_leaves_nothing_and_gives_its_room_back() -> None:
    recorder = Recorder("call_1")
    tape = begun(recorder)
    tape.data(b"x" * 3000)
    tape.refused(_ECHOED)
    other = begun(recorder)
    other.data(b"y" * 2000)
    other.finish()
    first, second = recorded(recorder).exchanges
    assert (first.answer, first.body, first.how) == (None, b"", How.BROKEN)
    assert second.body == b"y" * 2000


def test_each_rule_has_room_of_its_own() -> None:
    recorder = Recorder("call_1")
    other = EgressRule(EgressKind.HTTP, "g.example", 80, record_bytes=4096)
    for rule in (RULE, other):
        begun(recorder, rule).data(b"x" * 3000)
    assert [len(item.body) for item in recorded(recorder).exchanges] == [3000, 3000]
    begun(recorder, EgressRule(EgressKind.HTTP, "i.example", 80))
    assert len(recorded(recorder).exchanges) == 2


def test_an_exchange_that_goes_on_is_kept_as_far_as_it_came() -> None:
    recorder = Recorder("call_1")
    assert recorder.recording() is None
    tape = begun(recorder)
    assert recorded(recorder).exchanges[0].how is How.BROKEN
    tape.data(b"some")
    assert recorded(recorder).exchanges[0].body == b"some"


@pytest.mark.parametrize(("pieces", "whole"), [((), False), ((b"ab",), False), ((b"ab", b"cd"), True)])
def test_a_body_is_whole_once_its_declared_length_came_though_the_host_answers_first(
    pieces: tuple[bytes, ...], *, whole: bool
) -> None:
    recorder = Recorder("call_1")
    request = h11.Request(
        method="POST", target="http://h.example/a", headers=[("Host", "h.example"), ("Content-Length", "4")]
    )
    tape = recorder.tape(RULE, request, Target("h.example", 80, "/a", b"/a"), ())
    for piece in pieces:
        tape.sent(piece)
    tape.answer(200, b"OK", [])
    tape.finish()
    assert recorded(recorder).exchanges[0].request.body_whole is whole

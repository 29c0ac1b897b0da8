"""PostgreSQL's messages are read in any pieces, within bounds, and nothing hostile confuses the readers."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.run import EgressVerdict
from broker.sandbox.egress.postgres import messages
from broker.sandbox.egress.postgres.messages import Message, MessageError, MessageReader
from broker.sandbox.egress.postgres.session import admitted, fatal
from broker.sandbox.egress.postgres.startup import MAX_BYTES, Question, Startup, StartupError, StartupReader
from broker.sandbox.egress.refusal import RefusedError, bad_host, limit, malformed, mismatch, unreachable
from tests.database_support import DATABASE, USER, postgres_rule
from tests.fake_postgres import error_fields

_TEXT = st.binary(max_size=40).map(lambda data: data.replace(b"\x00", b""))
_NAME = _TEXT.filter(lambda name: name and not name.startswith(b"_pq_."))
_PARAMETERS = st.dictionaries(_NAME, _TEXT, max_size=8)
_HARMLESS = st.dictionaries(_NAME.filter(lambda name: name not in {b"replication", b"options", b"database"}), _TEXT)
_QUESTIONS = st.lists(st.sampled_from(Question), unique=True)
_CUTS = st.lists(st.integers(1, 40), max_size=40)
_MESSAGES = st.lists(st.builds(Message, st.binary(min_size=1, max_size=1), st.binary(max_size=60)), max_size=8)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    found = []
    for size in cuts:
        found.append(data[:size])
        data = data[size:]
    return [*found, data]


def asked(question: Question) -> bytes:
    return (8).to_bytes(4) + question.to_bytes(4)


@given(_QUESTIONS, _PARAMETERS, st.binary(max_size=20), _CUTS)
def test_a_startup_may_be_cut_anywhere(
    questions: list[Question], parameters: dict[bytes, bytes], more: bytes, cuts: list[int]
) -> None:
    before = b"".join(asked(question) for question in questions)
    reader, found = StartupReader(), []
    for piece in pieces(before + messages.startup(parameters) + more, cuts):
        reader.feed(piece)
        while not (found and isinstance(found[-1], Startup)) and (message := reader.read()) is not None:
            found.append(message)
    assert found == [*questions, Startup(parameters)]
    assert reader.rest == more
    assert reader.asked == frozenset(questions)


@given(st.binary(max_size=200), _CUTS)
def test_nothing_but_a_startup_or_an_error_comes_of_any_bytes(data: bytes, cuts: list[int]) -> None:
    reader = StartupReader()
    try:
        for piece in pieces(data, cuts):
            reader.feed(piece)
            for _ in range(len(data) + 1):
                if reader.read() is None:
                    break
            else:
                pytest.fail("it reads messages out of nothing")
    except StartupError:
        return
    assert len(reader.rest) <= len(data)


@given(st.binary(max_size=80))
def test_the_parameters_that_are_read_are_those_that_were_written(body: bytes) -> None:
    message = (8 + len(body)).to_bytes(4) + (3 << 16).to_bytes(4) + body
    reader = StartupReader()
    reader.feed(message)
    try:
        found = reader.read()
    except StartupError:
        return
    assert isinstance(found, Startup)
    assert messages.startup(found.parameters) == message


@given(st.integers(0, 2**32 - 1))
def test_a_length_is_judged_before_its_bytes_come(length: int) -> None:
    reader = StartupReader()
    reader.feed(length.to_bytes(4))
    if 8 <= length <= MAX_BYTES:
        assert reader.read() is None
    else:
        with pytest.raises(StartupError):
            reader.read()


@given(_MESSAGES, st.binary(max_size=4), _CUTS)
def test_a_servers_messages_may_be_cut_anywhere(sent: list[Message], more: bytes, cuts: list[int]) -> None:
    reader, found = MessageReader(), []
    for piece in pieces(b"".join(message.encoded() for message in sent) + more, cuts):
        reader.feed(piece)
        while (message := reader.read()) is not None:
            found.append(message)
    assert found == sent
    assert reader.rest == more


@given(st.binary(max_size=300), _CUTS)
def test_a_servers_bytes_are_read_once_or_refused(data: bytes, cuts: list[int]) -> None:
    reader, taken = MessageReader(), b""
    try:
        for piece in pieces(data, cuts):
            reader.feed(piece)
            while (message := reader.read()) is not None:
                taken += message.encoded()
    except MessageError:
        return
    assert taken + reader.rest == data


def test_a_server_is_read_to_its_bounds_and_no_further() -> None:
    whole = Message(b"N", bytes(messages.MAX_BYTES - 4))
    reader = MessageReader()
    reader.feed(whole.encoded())
    assert reader.read() == whole
    reader.feed(b"N" + (messages.MAX_BYTES + 1).to_bytes(4))
    with pytest.raises(MessageError, match="impossible length"):
        reader.read()
    reader = MessageReader()
    with pytest.raises(MessageError, match="before its session began"):  # noqa: PT012  # which of them is its affair
        for _ in range(messages.MAX_TOTAL // messages.MAX_BYTES + 1):
            reader.feed(whole.encoded())
            assert reader.read() == whole


@given(st.text(), st.text())
def test_an_error_has_fields_that_a_driver_reads(message: str, hint: str) -> None:
    error = RefusedError(EgressVerdict.UNREACHABLE, message, hint=hint.replace("\x00", "").replace("\ud800", ""))
    fields = error_fields(fatal(error))
    assert fields["S"] == fields["V"] == "FATAL"
    assert fields["M"].startswith("the broker refused the connection: ")
    assert fields["D"] == "Verdict UNREACHABLE."


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (mismatch("x"), "28000"),
        (RefusedError(EgressVerdict.SECRET_UNAVAILABLE, "x"), "28000"),
        (malformed("x"), "08P01"),
        (bad_host("x"), "08001"),
        (unreachable("x"), "08001"),
        (limit("x"), "08001"),
        (RefusedError(EgressVerdict.ADDRESS_REFUSED, "x"), "08001"),
        (RefusedError(EgressVerdict.UNRESOLVED, "x"), "08001"),
    ],
)
def test_a_refusal_has_a_state(error: RefusedError, state: str) -> None:
    assert error_fields(fatal(error))["C"] == state


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (b"SFATAL\x00C28P01\x00Mno\x00\x00", "28P01"),
        (b"C28P01\x00\x00", "28P01"),
        (b"Mno\x00\x00", ""),
        (b"C28P0\x00\x00", ""),
        (b"C28P01 and more\x00\x00", ""),
        (b"C28p01\x00\x00", ""),
        (b"", ""),
        (b"\x00", ""),
    ],
)
def test_of_a_servers_error_only_its_state_is_taken(body: bytes, state: str) -> None:
    assert messages.state_of(Message(b"E", body)) == state


@given(st.binary(max_size=300))
def test_a_key_is_zeros_whatever_its_length(body: bytes) -> None:
    key = messages.keyless(Message(b"K", body))
    assert len(key.body) == len(body)
    assert key.body[:4] == body[:4]
    assert not any(key.body[4:])


@given(_HARMLESS)
def test_of_any_parameters_only_two_pass(parameters: dict[bytes, bytes]) -> None:
    given_too = {**parameters, b"user": USER.encode(), b"client_encoding": b"UTF8"}
    passed = admitted(Startup(given_too), postgres_rule(5432))
    assert set(passed) <= {b"client_encoding", b"application_name"}
    assert passed[b"client_encoding"] == b"UTF8"


def test_a_user_and_a_database_may_be_left_out_or_named_exactly() -> None:
    rule = postgres_rule(5432)
    assert admitted(Startup({}), rule) == {}
    assert admitted(Startup({b"user": USER.encode(), b"database": DATABASE.encode()}), rule) == {}
    with pytest.raises(RefusedError, match="another database"):
        admitted(Startup({b"database": DATABASE.encode() + b" "}), rule)

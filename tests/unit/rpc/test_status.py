"""Errors fit their way to the client, whatever texts they carry, and never lose their reason."""

from __future__ import annotations

import base64
from urllib.parse import quote

from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import DOMAIN, BrokerError, FieldViolation, InvalidArgumentError
from broker.rpc.status import BUDGET, to_status

HOSTILE = st.text(max_size=40) | st.builds(
    lambda piece, times: piece * times,
    st.sampled_from(["x", "%", "\x00", "\u00e4", "\u20ac", "\U0001f600", "e\u0301", "\ud800", "a\U0001f600"]),
    st.integers(0, 5000),
)


def info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    found = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(found)
    return found


def violations(status: status_pb2.Status) -> list[error_details_pb2.BadRequest.FieldViolation]:
    found = error_details_pb2.BadRequest()
    return [item for detail in status.details if detail.Unpack(found) for item in found.field_violations]


@given(
    message=HOSTILE,
    hint=HOSTILE,
    metadata=st.dictionaries(HOSTILE, HOSTILE, max_size=30),
    wrong=st.lists(st.builds(FieldViolation, HOSTILE, HOSTILE), max_size=40),
    delay=st.none() | st.floats(0, 1e6),
)
def test_a_hostile_text_never_costs_an_error_its_reason(
    message: str, hint: str, metadata: dict[str, str], wrong: list[FieldViolation], delay: float | None
) -> None:
    error = InvalidArgumentError(
        message, reason="TEST", hint=hint, metadata=metadata, violations=tuple(wrong), retry_after_s=delay
    )
    status = to_status(error)
    assert base64_size(status) + percent_encoded(status.message) <= BUDGET
    found = info(status)
    assert (found.reason, found.domain) == ("TEST", DOMAIN)
    assert status.message.encode().decode() == status.message
    dropped = int(found.metadata.get("violations_dropped", "0"))
    assert len(violations(status)) + dropped == len(wrong)


def base64_size(status: status_pb2.Status) -> int:
    return len(base64.b64encode(status.SerializeToString()))


def percent_encoded(text: str) -> int:
    # gRPC leaves printable ASCII but the percent sign as it is.
    return len(quote(text, safe="".join(chr(byte) for byte in range(0x20, 0x7F) if byte != 0x25)))


def test_a_short_error_is_sent_whole() -> None:
    error = InvalidArgumentError(
        "a is wrong", hint="mend it", metadata={"k": "v"}, violations=(FieldViolation("a", "is wrong"),)
    )
    status = to_status(error)
    assert status.message == "a is wrong"
    assert dict(info(status).metadata) == {"k": "v", "hint": "mend it"}
    assert [(item.field, item.description) for item in violations(status)] == [("a", "is wrong")]


def test_texts_are_shortened_before_violations_are_dropped() -> None:
    error = InvalidArgumentError("x", violations=tuple(FieldViolation(f"f{n}", "y" * 500) for n in range(16)))
    status = to_status(error)
    assert len(violations(status)) == 16
    assert all(item.description.endswith("...") for item in violations(status))
    assert "violations_dropped" not in info(status).metadata


def test_what_is_dropped_is_counted() -> None:
    error = InvalidArgumentError("x", violations=tuple(FieldViolation("f" * 500, "y" * 500) for _ in range(40)))
    status = to_status(error)
    assert 0 < len(violations(status)) <= 16
    assert info(status).metadata["violations_dropped"] == str(40 - len(violations(status)))


def test_a_text_is_never_cut_inside_a_character() -> None:
    for offset in range(4):
        status = to_status(BrokerError("x" * offset + "\U0001f600" * 3000, hint="h" * offset + "\u20ac" * 3000))
        assert status.message.rstrip("\U0001f600.") == "x" * offset
        assert info(status).metadata["hint"].rstrip("\u20ac.") == "h" * offset

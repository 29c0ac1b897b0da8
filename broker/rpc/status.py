"""Errors of ours as ``google.rpc.Status`` with ``ErrorInfo``, ``BadRequest``, ``RetryInfo`` and ``Help``."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from broker.errors import DOMAIN, BrokerError, status_code

BUDGET = 6 * 1024
"""Bytes of trailers that an error may take. Peers bound the headers of HTTP/2 (gRPC: 8 KiB by default), and an error
that is longer reaches the client as RESOURCE_EXHAUSTED, without a word of ours."""
_CUT = "..."
_MAX_REASON = 63
_MAX_VIOLATIONS = 16
_MAX_METADATA = 16


@dataclass(frozen=True, slots=True)
class _Lengths:
    """Longest texts, in bytes of UTF-8."""

    message: int
    description: int
    metadata: int


_LENGTHS = (_Lengths(2048, 512, 1024), _Lengths(1024, 256, 512), _Lengths(512, 128, 256), _Lengths(384, 64, 96))
"""Tried in turn, until the error fits."""


def to_status(error: BrokerError) -> status_pb2.Status:
    """The status of an error, short enough for its way: texts are shortened first, and end in ``...``; then violations
    are left out, and the metadata say how many (``violations_dropped``). ``hint`` travels in the metadata too.
    """
    for lengths in _LENGTHS:
        status = _build(error, lengths, _MAX_VIOLATIONS)
        if trailer_bytes(status) <= BUDGET:
            return status
    shortest = _LENGTHS[-1]
    for kept in range(min(len(error.violations), _MAX_VIOLATIONS) - 1, 0, -1):
        status = _build(error, shortest, kept)
        if trailer_bytes(status) <= BUDGET:
            return status
    return _build(error, shortest, 0)


def trailer_bytes(status: status_pb2.Status) -> int:
    """What a status takes in trailers: itself in base64, and its message once more, percent-encoded."""
    encoded = sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in status.message.encode())
    packed: int = status.ByteSize()
    return -(-packed // 3) * 4 + encoded


def _build(error: BrokerError, lengths: _Lengths, violations: int) -> status_pb2.Status:
    shown = error.violations[:violations]
    metadata = {
        _clip(key, _MAX_REASON): _clip(value, lengths.metadata)
        for key, value in islice(error.metadata.items(), _MAX_METADATA)
    }
    if len(error.metadata) > _MAX_METADATA:
        metadata["metadata_dropped"] = str(len(error.metadata) - _MAX_METADATA)
    if len(error.violations) > len(shown):
        metadata["violations_dropped"] = str(len(error.violations) - len(shown))
    if error.hint:
        metadata["hint"] = _clip(error.hint, lengths.metadata)
    info = error_details_pb2.ErrorInfo(reason=_clip(error.reason, _MAX_REASON), domain=DOMAIN, metadata=metadata)
    details: list[Message] = [info]
    if shown:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=_clip(item.field, lengths.description),
                        description=_clip(item.description, lengths.description),
                    )
                    for item in shown
                ],
            ),
        )
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(
        code=status_code(error), message=_clip(error.message, lengths.message), details=[_pack(d) for d in details]
    )


def _clip(text: str, limit: int) -> str:
    # A lone surrogate has no UTF-8 and would make the message fail: it becomes a question mark.
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - len(_CUT)].decode("utf-8", "ignore") + _CUT


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed

"""Errors of ours as ``google.rpc.Status`` with ``ErrorInfo``, ``BadRequest``, ``RetryInfo`` and ``Help``."""

from __future__ import annotations

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from broker.errors import DOMAIN, BrokerError, status_code

_MAX_METADATA_VALUE = 1024
"""Longest value of ``ErrorInfo.metadata``: trailers travel in HTTP/2 headers, which peers bound."""


def to_status(error: BrokerError) -> status_pb2.Status:
    """The status of an error. ``hint`` travels in the metadata under that key."""
    metadata = {key: value[:_MAX_METADATA_VALUE] for key, value in error.metadata.items()}
    if error.hint:
        metadata["hint"] = error.hint[:_MAX_METADATA_VALUE]
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=item.field[:512], description=item.description[:512]
                    )
                    for item in error.violations[:16]
                ],
            ),
        )
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(code=status_code(error), message=error.message[:2048], details=[_pack(d) for d in details])


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed

"""What went wrong, as the exceptions of ``broker.errors``: the broker's own refusals, and the transport's failures.

A refusal of the broker carries a ``google.rpc.Status``: its ``ErrorInfo`` gives ``reason``, ``hint`` and ``metadata``, its
``BadRequest`` the ``violations``, its ``RetryInfo`` the ``retry_after_s``. A failure without one was made by the gRPC
library on either side; those get a reason of the client's own:

=====================  ========================  ==========================================================
class                  reason                    when
=====================  ========================  ==========================================================
UnavailableError       BROKER_UNREACHABLE        nothing answers at the address
UnavailableError       TLS_HANDSHAKE_FAILED      something answers, but not as the broker that the CA vouches for
UnavailableError       CONNECTION_LOST           the connection broke during the call
DeadlineError          DEADLINE_EXCEEDED         no answer in time
CancelledCallError     CANCELLED                 the call was cancelled on the way
ResourceExhaustedError MESSAGE_TOO_LARGE         a message is longer than one side takes
InternalError          UNIMPLEMENTED             the broker doesn't know the method
InternalError          TRANSPORT_FAILED          anything else
HistoryRewrittenError  HISTORY_REWRITTEN         the ledger no longer holds what it held when this client last looked
HistoryRewrittenError  HISTORY_ROLLED_BACK       the ledger ends before what this client has seen of it
HistoryRewrittenError  HISTORY_UNPROVED          the broker doesn't show that its ledger is what it was
HistoryRewrittenError  CHECKPOINT_FORGED         a checkpoint isn't signed by the ledger's key
HistoryRewrittenError  LEDGER_REPLACED           another ledger stands in the place of the one that was there
=====================  ========================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from broker.errors import (
    DOMAIN,
    BrokerError,
    CancelledCallError,
    DataLossError,
    DeadlineError,
    FieldViolation,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
    class_for_code,
)


class HistoryRewrittenError(DataLossError):
    """The broker's ledger isn't the one that this client has seen before, or not honestly so, or not shown to be.

    Every call raises it from then on: what the broker says of the past can't be believed. Keep both checkpoints, for
    together they are the evidence. With ``HISTORY_UNPROVED`` nothing is decided: calls go on once the broker has shown it.
    """

    default_reason = "HISTORY_REWRITTEN"

    def __init__(
        self, message: str, *, remembered: str, shown: str, reason: str, hint: str, metadata: Mapping[str, str]
    ) -> None:
        super().__init__(message, reason=reason, hint=hint, metadata=metadata)
        self.remembered = remembered
        """The checkpoint (a signed note) that this client remembers; empty where it had none."""
        self.shown = shown
        """The checkpoint that the broker showed; empty where it showed none."""


UNREACHABLE = "BROKER_UNREACHABLE"
HANDSHAKE_FAILED = "TLS_HANDSHAKE_FAILED"
CONNECTION_LOST = "CONNECTION_LOST"

_HANDSHAKE_WORDS = ("handshake", "ssl_error", "certificate")
_CLOSED_WORDS = ("socket closed", "connection reset", "broken pipe")
_CONNECT_WORDS = ("failed to connect", "connection refused", "dns resolution", "no route", "unreachable", "not resolve")
_UNREACHABLE_HINT = "Is it running? `broker serve` starts one; --address or BROKER_ADDRESS says where it listens."
_HANDSHAKE_HINT = (
    "Check that the CA file is the broker's own, that the address is one of its certificate's names, and that your"
    " certificate is neither expired nor from another CA."
)
_LOST_HINT = (
    "If it happens at once and each time, the broker may have refused your certificate: it then ends the connection"
    " without a word, and its log says why."
)


def from_rpc_error(error: grpc.aio.AioRpcError, address: str) -> BrokerError:
    """The exception for a failed RPC.

    Args:
        error: what the gRPC library raised.
        address: the broker's address, for the text.
    """
    status = _status(error)
    if status is not None:
        found = _from_status(status)
        if found is not None:
            return found
    return _from_library(error, address)


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):
        # Details that contradict the status or can't be read say nothing that could be believed.
        return None
    return status if isinstance(status, status_pb2.Status) else None


def _from_status(status: status_pb2.Status) -> BrokerError | None:
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after: float | None = None
    known = False
    try:
        for detail in status.details:
            if detail.Unpack(info):
                known = info.domain == DOMAIN
            elif detail.Unpack(retry):
                retry_after = max(0.0, retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
            else:
                detail.Unpack(bad)
    except DecodeError:
        return None
    if not known:
        return None
    # A protobuf map has no order of its own.
    metadata = dict(sorted(info.metadata.items()))
    return class_for_code(status.code)(
        status.message,
        reason=info.reason or None,
        hint=metadata.pop("hint", ""),
        metadata=metadata,
        violations=tuple(FieldViolation(item.field, item.description) for item in bad.field_violations),
        retry_after_s=retry_after,
    )


def _from_library(error: grpc.aio.AioRpcError, address: str) -> BrokerError:
    code, details = error.code(), (error.details() or "").strip()
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return _unavailable(details, address)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineError(
                f"the broker at {address} gave no answer in time",
                hint="Give the call a longer timeout, or look it up: it may have gone on.",
            )
        case grpc.StatusCode.CANCELLED:
            return CancelledCallError(f"the request to {address} was cancelled: {details or 'no reason given'}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ResourceExhaustedError(
                f"a message is too large: {details}",
                reason="MESSAGE_TOO_LARGE",
                hint="Send files as blobs, and ask for smaller pages.",
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return InternalError(
                f"what answers at {address} doesn't know this method: {details}",
                reason="UNIMPLEMENTED",
                hint="Is it a broker, and as new as this client?",
            )
        case _:
            return InternalError(f"the request failed with {code.name}: {details}", reason="TRANSPORT_FAILED")


def _unavailable(details: str, address: str) -> UnavailableError:
    lower = details.lower()
    if any(word in lower for word in _HANDSHAKE_WORDS):
        return UnavailableError(
            f"no secure connection to {address}: {details}", reason=HANDSHAKE_FAILED, hint=_HANDSHAKE_HINT
        )
    closed = any(word in lower for word in _CLOSED_WORDS)
    if not closed and any(word in lower for word in _CONNECT_WORDS):
        return UnavailableError(
            f"no broker answers at {address}: {details}", reason=UNREACHABLE, hint=_UNREACHABLE_HINT
        )
    return UnavailableError(f"the connection to {address} broke: {details}", reason=CONNECTION_LOST, hint=_LOST_HINT)

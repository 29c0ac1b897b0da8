"""The status that a broker gave, where the library replaces it by one of its own.

In grpc.aio a write that fails because the other side has already ended the call sets the call's status to INTERNAL, even
where the true status has arrived before (grpc/grpc#36066, seen with 1.85.1). Each status that is set is announced to the
done callbacks, so the true one can be kept there.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

T = TypeVar("T")
_LIBRARY_DETAILS = "Internal error from Core"


class FirstStatus:
    """Keeps the first failure of a call that is not the library's substitute."""

    def __init__(self, rpc: grpc.aio.Call) -> None:
        self._rpc = rpc
        self.error: grpc.aio.AioRpcError | None = None
        """The failure; ``None`` while there is none, or where only the substitute is known."""
        rpc.add_done_callback(self._keep)

    def _keep(self, _: object) -> None:
        code, details = _at_once(self._rpc.code()), _at_once(self._rpc.details())
        substitute = code is grpc.StatusCode.INTERNAL and details == _LIBRARY_DETAILS
        if self.error is not None or code is None or code is grpc.StatusCode.OK or substitute:
            return
        self.error = grpc.aio.AioRpcError(
            code, trailing_metadata=_at_once(self._rpc.trailing_metadata()), details=details or ""
        )


def _at_once(question: Coroutine[Any, Any, T]) -> T | None:
    """The answer of a coroutine that has no need to wait, as those about a status that is set."""
    try:
        question.send(None)
    except StopIteration as answer:
        value: T = answer.value
        return value
    question.close()
    return None

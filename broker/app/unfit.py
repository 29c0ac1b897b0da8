"""A broker whose ledger must not be gone on with: it stays up and says so, and does nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from broker.app.place import announced, only_broker, tls_files
from broker.errors import BrokerError
from broker.rpc.administration import Boot
from broker.rpc.server import Server
from broker.rpc.unfit import UnfitHandler
from broker.settings import Settings, StatePaths

UNFIT = frozenset(
    {
        "LEDGER_NOT_VERIFIED",
        "LEDGER_BEHIND_CHECKPOINT",
        "LEDGER_FORKED",
        "LEDGER_TREE_WRONG",
        "LEDGER_DAMAGED",
        "LEDGER_LEAVES_MISSING",
        "KEY_HISTORY_BROKEN",
        "KEY_NOT_CURRENT",
        "CHECKPOINT_FORKED",
        "CHECKPOINTS_MISSING",
        "CHECKPOINT_DAMAGED",
        "CHECKPOINT_FOREIGN",
        "CHECKPOINT_KEY",
    }
)
"""Reasons of errors after which a start answers every request with the error."""


@asynccontextmanager
async def refusing(state: Path, settings: Settings, boot: Boot, why: BrokerError) -> AsyncIterator[str]:
    """Listens at the broker's address and refuses everything until the block ends; gives the address.

    Nothing of the database is opened: who asks is let in by the CA's word alone, and is told the same as everybody.

    Raises:
        FailedPreconditionError: another broker serves this state, the address is taken, the certificates are missing.
    """
    paths = StatePaths(state)
    async with AsyncExitStack() as stack:
        stack.enter_context(only_broker(paths))
        server = Server([UnfitHandler(why)], max_request_bytes=settings.max_request_bytes)
        address = server.listen(settings.listen, tls_files(paths))
        await stack.enter_async_context(server)
        stack.enter_context(announced(paths, address, boot, not_serving=why.reason))
        yield address

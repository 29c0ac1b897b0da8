"""Puts the transparency log together: who signs, where checkpoints are kept, and who else gets them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from broker.app.clock import now
from broker.domain.ports import Recorder, Store
from broker.domain.urls import parse_url
from broker.errors import BrokerError, FailedPreconditionError
from broker.ledger.checkpoint_store import DirectoryCheckpoints
from broker.ledger.checkpointer import Checkpointer
from broker.ledger.posting import Trust
from broker.ledger.publish import FolderPublisher, Publisher, WebhookPublisher
from broker.ledger.rotation import check_signer, open_signer, read_history
from broker.ledger.signer import Signer, read_passphrase, read_public_key
from broker.ledger.startup import verify_checkpoints, verify_store
from broker.ledger.witness import Witness
from broker.sandbox.egress.upstream import trust_from
from broker.settings import Settings, StatePaths
from broker.tlog.note import VerifierKey


@dataclass(frozen=True, slots=True)
class VerifiedLog:
    """A ledger that has verified, and that its newest checkpoint is a part of."""

    store: Store
    signer: Signer
    checkpoints: DirectoryCheckpoints

    def checkpointer(
        self, ledger: Recorder, settings: Settings, on_unfit: Callable[[BrokerError], None]
    ) -> Checkpointer:
        """Signs what comes, as the settings say; ``on_unfit`` is told when it must not be gone on with."""
        return Checkpointer(
            store=self.store,
            ledger=ledger,
            signer=self.signer,
            checkpoints=self.checkpoints,
            publishers=_publishers(settings),
            witnesses=_witnesses(settings),
            clock=now,
            interval_s=settings.checkpoint_interval_s,
            on_unfit=on_unfit,
        )


def checkpoints_folder(paths: StatePaths, settings: Settings) -> Path:
    """Where the checkpoints of a state directory are kept."""
    return Path(settings.checkpoint_dir) if settings.checkpoint_dir else paths.checkpoints


async def verified_log(store: Store, paths: StatePaths, settings: Settings) -> VerifiedLog:
    """Verifies the ledger and its checkpoints, and unlocks the key that signs.

    Raises:
        DataLossError: the ledger doesn't verify, is behind its checkpoints, or isn't what they say.
        FailedPreconditionError: the key or its passphrase is missing, or isn't the ledger's.
        UnavailableError: the checkpoints can't be read.
    """
    await verify_store(store)
    checkpoints = DirectoryCheckpoints(checkpoints_folder(paths, settings))
    try:
        signer = await _signer(store, paths, settings)
    except FailedPreconditionError as error:
        if error.reason == "KEY_NOT_CURRENT":
            # A backup from before the key was changed: that it is behind says more than that its key is another.
            await verify_checkpoints(store, checkpoints, await asyncio.to_thread(read_public_key, paths.checkpoint_key))
        raise
    await verify_checkpoints(store, checkpoints, signer.key)
    return VerifiedLog(store, signer, checkpoints)


async def _signer(store: Store, paths: StatePaths, settings: Settings) -> Signer:
    history = await store.read(read_history)
    signer = await asyncio.to_thread(
        open_signer,
        paths.checkpoint_key,
        paths.next_checkpoint_key,
        history.current,
        read_passphrase(settings.checkpoint_passphrase, paths.checkpoint_passphrase),
    )
    check_signer(history, signer)
    return signer


def _publishers(settings: Settings) -> list[Publisher]:
    folder = settings.checkpoint_publish_dir
    return [
        *([FolderPublisher(Path(folder))] if folder else []),
        *(WebhookPublisher(parse_url(url), _trust(settings)) for url in settings.checkpoint_webhooks),
    ]


def _witnesses(settings: Settings) -> list[Witness]:
    return [
        Witness(parse_url(item.url), VerifierKey.parse(item.key), _trust(settings), now) for item in settings.witnesses
    ]


def _trust(settings: Settings) -> Trust:
    return partial(trust_from, Path(settings.egress_trust) if settings.egress_trust else None)

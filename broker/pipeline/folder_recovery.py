"""What a start does about effects on directories of the host that an earlier run of the broker left on their way.

One whose intent is on record and of which all lies ready is gone on with. Of any other nothing was changed, and what was
made ready is removed. Where the journal isn't the broker's own word, nothing is done by it.
"""

from __future__ import annotations

import hmac
from dataclasses import replace

import structlog

from broker.domain.call import CallState
from broker.domain.envelope import salt_of
from broker.domain.ports import CallRow, Transaction
from broker.errors import BrokerError, ConflictError, DataLossError, NotFoundError
from broker.pipeline.applying import applied, planned_of
from broker.pipeline.ending import finish
from broker.pipeline.folder_applying import SEALED, carry_out
from broker.pipeline.folders import BoundFolder
from broker.pipeline.kept import read_request
from broker.pipeline.parts import Parts
from broker.pipeline.verdict import lost
from broker.tree_folder.applying import FolderEffect
from broker.tree_folder.journal import Journal
from broker.workspace.objects import in_thread

_log = structlog.get_logger(__name__)


async def settle_folders(parts: Parts) -> frozenset[str]:
    """Goes on with what was cut, and reads each directory then.

    Returns:
        Calls that can't be gone on with now, since their directory isn't there: a later start does.
    """
    waiting = set()
    for _, folder in sorted(parts.folders.bound.items()):
        async with folder.lock:
            waiting.add(await _settle(parts, folder))
    await parts.folders.read_all()
    return frozenset(waiting - {""})


async def _settle(parts: Parts, folder: BoundFolder) -> str:
    """The id of a call that has to wait; empty for none."""
    folder.journal.clear_drafts()
    try:
        journal = folder.journal.read()
        if journal is None:
            return ""
        row, why = await parts.store.read(lambda tx: _judged(tx, parts, folder, journal))
    except BrokerError as error:
        _set_aside(folder, error.message)
        return ""
    if why:
        _set_aside(folder, why)
        return ""
    forward = row is not None and row.state is CallState.APPLYING and journal.ready
    try:
        with folder.host.opened() as root, FolderEffect(root, folder.journal, journal) as placing:
            if row is not None and forward:
                await _go_on(parts, folder, placing, row)
            else:
                begun = journal.ready and (row is None or row.intent_seq is not None)
                left = await in_thread(placing.finish, begun=begun)
                _log.warning("folder.cleared", workspace=folder.workspace, call=journal.call, left=left)
                if row is not None and row.state is CallState.APPLYING:
                    # Its tool's own program had run, on a copy; of what it had changed there nothing was taken.
                    detail = "the broker stopped before anything was put into the directory: nothing was changed"
                    await finish(parts, row, CallState.FAILED, lost(detail))
    except (NotFoundError, DataLossError, ConflictError) as error:
        _set_aside(folder, error.message)
    except (BrokerError, OSError) as error:
        _log.exception("folder.unsettled", workspace=folder.workspace, call=journal.call, error=str(error))
        return journal.call if forward else ""
    return ""


async def _go_on(parts: Parts, folder: BoundFolder, placing: FolderEffect, row: CallRow) -> None:
    def read(tx: Transaction) -> tuple[str, str]:
        return tx.trees.state(row.workspace), salt_of(read_request(tx, parts.vault.open(tx, row.id)).envelope)

    planned = await parts.store.read(lambda tx: planned_of(tx, parts, row.id))
    present, salt = await parts.store.read(read)
    after = await parts.trees.apply(present, placing.effect)
    outcome = replace(planned.outcome, effect=applied(planned, salt, present, after))
    _log.warning("folder.gone_on", workspace=folder.workspace, call=row.id)
    doubtful = None if planned.outside is None else applied(planned, salt)
    await carry_out(parts, folder, placing, row, outcome, doubtful=doubtful)


def _judged(tx: Transaction, parts: Parts, folder: BoundFolder, journal: Journal) -> tuple[CallRow | None, str]:
    """The call that a journal is about, and why nothing is done by the journal; empty where it may be.

    Raises:
        NotFoundError, DataLossError: the call's keys are gone, so that nobody can say whether the seal is right.
    """
    seal = parts.vault.open(tx, journal.call).commit(SEALED, journal.text())
    if not hmac.compare_digest(seal, journal.seal):
        return None, "its seal isn't the broker's"
    row = tx.calls.get(journal.call)
    if journal.folder != str(folder.host.folder) or (row is not None and row.workspace != folder.workspace):
        return None, "it is about another directory"
    return row, ""


def _set_aside(folder: BoundFolder, why: str) -> None:
    aside = folder.journal.set_aside()
    _log.error("folder.journal_unfit", workspace=folder.workspace, kept=str(aside), error=why)

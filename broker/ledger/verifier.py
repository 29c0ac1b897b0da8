"""Checks a ledger by nothing but its rows, in bounded memory: in this process, or shared among several.

The stored bytes are the truth: each hash is computed from them, and each column beside them must agree with what they
say. The first thing that is wrong decides the verdict; what follows it proves nothing any more. Runs of rows are checked
fast (``segment``); the rows of a run that isn't sound are looked at one after the other (``chain``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeAlias

from broker.errors import DataLossError, UnavailableError
from broker.ledger.chain import Chain
from broker.ledger.entry_checks import FoundError
from broker.ledger.held import Held, brought_along, judge
from broker.ledger.segment import BATCH, MAX_LISTED, SEGMENT, Run
from broker.ledger.segment_workers import Workers, runs
from broker.ledger.source import Noted, Projected, Row, Source, UnreadableError
from broker.ledger.verdict import Expectation, Place, Report, Verdict
from broker.ledger.votes import Votes
from broker.tlog.merkle import EMPTY_ROOT, CompactRange, leaf_hash
from broker.tlog.note import VerifierKey

__all__ = ["MAX_LISTED", "Known", "Row", "UnreadableError", "verify", "verify_opened", "verify_source"]

Progress: TypeAlias = Callable[[int], None]

_ATTEMPTS = 3
_WHOLE = frozenset({Verdict.OK, Verdict.RECOVERED})
_BUSY = "LEDGER_BUSY"
"""Why a source is opened again: somebody began to use it meanwhile."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a reader knows of a ledger from elsewhere; without it a shortened ledger can't be told from a younger one."""

    expected: Expectation | None = None
    """An entry that must be in it."""
    held: Sequence[Held] = ()
    """Checkpoints that it must extend."""
    keys: Sequence[VerifierKey] = ()
    """Keys, one of which must be among the ledger's own."""
    votes: bool = False
    """Whether the votes are checked too; they can't be where the check doesn't begin at the first entry."""


def verify(
    rows: Iterable[Row],
    *,
    expected: Expectation | None = None,
    progress: Progress | None = None,
    held: Sequence[Held] = (),
    keys: Sequence[VerifierKey] = (),
    votes: bool = False,
) -> Report:
    """Checks a ledger from its first entry to its last, in this process.

    Args:
        rows: the stored entries in the order of their numbers.
        expected: an entry that must be in the ledger.
        progress: called with the number of entries checked, now and then.
        held: checkpoints that the ledger must extend.
        keys: keys of the ledger that are known from elsewhere.
        votes: whether the votes are checked too.
    """
    known = Known(expected, held, keys, votes)
    chain = _chain(known)
    try:
        _feed(chain, rows, progress)
        chain.end()
    except FoundError as found:
        return chain.report(found.verdict, found.place)
    except UnreadableError as error:
        return chain.report(Verdict.MALFORMED, _damaged(chain, error))
    return _judged(chain, known, "", whole=None)


def verify_source(
    source: Source,
    known: Known,
    *,
    first: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Checks the ledger of a source.

    Args:
        source: open, and at rest.
        known: what the reader knows from elsewhere.
        first: where to begin; what is before it is trusted, so nothing is said about it.
        workers: most processes to share the work among.
        progress: called with the number of the next entry, now and then.

    Raises:
        DataLossError: ``LEDGER_UNREADABLE``: what the source brings along can't be read.
    """
    if isinstance(source, Noted) and not first:
        known = replace(known, held=(*known.held, *brought_along(source.name, source.notes())))
    chain = Chain()
    try:
        total = source.count()
        chain = _chain(known, first, _leaf_before(source, first))
        _check_begin(first, total)
        if workers > 1 and total - first > 2 * SEGMENT:
            _share(chain, source, total, workers, progress)
        _feed(chain, source.rows(chain.count), progress)
        chain.end()
        if first and known.keys:
            chain.roots.update(_stored_roots(source, known, chain.count))
        beyond = source.beyond(chain.count) if isinstance(source, Projected) else ""
    except FoundError as found:
        return chain.report(found.verdict, found.place)
    except UnreadableError as error:
        return chain.report(Verdict.MALFORMED, _damaged(chain, error))
    whole = not beyond if isinstance(source, Projected) else None
    return _judged(chain, known, beyond or source.incomplete, whole=whole)


def verify_opened(
    opening: Callable[[], AbstractContextManager[Source]],
    known: Known,
    *,
    first: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Opens a source and checks its ledger; what can't be read as a ledger is malformed.

    Args:
        opening: opens it, and does so again where somebody began to use it meanwhile.
        known: what the reader knows from elsewhere.
        first: where to begin; what is before it is trusted.
        workers: most processes to share the work among.
        progress: called now and then with the number of entries checked and that of all.

    Raises:
        UnavailableError: it couldn't be read at rest, again and again.
        BrokerError: as ``opening`` says; but ``DataLossError`` is a verdict.
    """
    for left in reversed(range(_ATTEMPTS)):
        try:
            with opening() as source:
                total = source.count() if progress is not None else 0
                step = None if progress is None else partial(_step, progress, total)
                return verify_source(source, known, first=first, workers=workers, progress=step)
        except (DataLossError, UnreadableError) as error:
            return Report(Verdict.MALFORMED, 0, None, "", EMPTY_ROOT.hex(), Place(None, "file", str(error)))
        except UnavailableError as error:
            if error.reason != _BUSY or not left:
                raise
    raise UnavailableError("the ledger can't be read at rest", reason=_BUSY)


def _step(progress: Callable[[int, int], None], total: int, done: int) -> None:
    progress(done, total)


def _check_begin(first: int, total: int) -> None:
    if first > total:
        last = total - 1 if total else None
        raise FoundError(Verdict.TRUNCATED, last, "seq", f"there is no entry {first - 1}, after which to begin")


def _chain(known: Known, first: int = 0, leaf: str = "") -> Chain:
    sizes = frozenset(item.checkpoint.size for item in known.held)
    return Chain(known.expected, sizes, first, leaf, Votes() if known.votes and not first else None)


def _stored_roots(source: Source, known: Known, count: int) -> dict[int, bytes]:
    """Roots at the sizes of the checkpoints, from the leaf hashes as they lie there: those of the entries that were checked
    are right, and where a signed root comes out, those before are too.
    """
    wanted = {item.checkpoint.size for item in known.held if item.checkpoint.size <= count}
    tree, roots = CompactRange(), {}
    for row in source.rows(0, max(wanted, default=0) - 1) if wanted - {0} else ():
        if not isinstance(row.leaf, bytes):
            raise FoundError(Verdict.TAMPERED, tree.size, "leaf", "the hash of this entry is no longer bytes")
        tree.append(row.leaf)
        if tree.size in wanted:
            roots[tree.size] = tree.root()
    return roots


def _leaf_before(source: Source, first: int) -> str:
    """Hash of the entry before the first one to check, which is trusted as it lies there; empty where it can't be had."""
    row = next(source.rows(first - 1, first - 1), None) if first else None
    return leaf_hash(row.data).hex() if row is not None and isinstance(row.data, bytes) else ""


def _share(chain: Chain, source: Source, total: int, workers: int, progress: Progress | None) -> None:
    """Takes the runs that workers find sound, up to the first that isn't."""
    how = source.reopen
    if how is None:
        return
    wanted = list(runs(chain.count, total))
    with Workers(min(workers, len(wanted)), how, chain.asked) as pool:
        for summary in pool.summaries(wanted):
            if summary is None or not chain.take(summary):
                return
            if progress is not None:
                progress(chain.count)


def _feed(chain: Chain, rows: Iterable[Row], progress: Progress | None) -> None:
    """Takes rows to the end, in batches that are aligned, so that each is a perfect subtree."""
    iterator = iter(rows)
    unread: UnreadableError | None = None
    more = True
    while more:
        wanted = BATCH - chain.count % BATCH
        batch: list[Row] = []
        try:
            batch.extend(islice(iterator, wanted))
        except UnreadableError as error:
            unread = error
        more = len(batch) == wanted and unread is None
        run = Run(chain.count, chain.asked)
        summary = run.summary() if run.add(batch) else None
        if summary is None or not chain.take(summary):
            for row in batch:
                chain.entry(row)
        if progress is not None:
            progress(chain.count)
    if unread is not None:
        raise unread


def _judged(chain: Chain, known: Known, lacking: str, *, whole: bool | None) -> Report:
    judgement = judge(chain, known.held, known.keys, lacking, whole=whole)
    report = chain.report(judgement.verdict, judgement.place)
    report = replace(report, checkpoints=judgement.counted, checkpoint_size=judgement.size)
    if report.verdict in _WHOLE and report.votes is not None and report.votes.findings:
        return replace(report, verdict=Verdict.VOTES_INVALID, place=report.votes.findings[0])
    return report


def _damaged(chain: Chain, error: UnreadableError) -> Place:
    return Place(chain.count, "file", f"the file is damaged here: {error}")

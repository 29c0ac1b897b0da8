"""The calls of a session, one after the other, on a scratch copy of the workspace's tree; it alone is changed.

Each call is run again on the tree as the calls before it have left it there. Where one can't be, its effect comes from what is
kept of it, and that is said. What others did to the workspace meanwhile isn't in the scratch tree.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from broker.domain.call import CallState
from broker.domain.canonical import JsonObject
from broker.domain.identity import Session
from broker.domain.outside import of_outside
from broker.domain.ports import EntryQuery, Transaction
from broker.domain.tree import Effect
from broker.errors import (
    BrokerError,
    ConflictError,
    DataLossError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
)
from broker.ledger.reading import Step as Pages
from broker.ledger.reading import read_step
from broker.replay.call_entries import CallEntry, entries_of, of_types
from broker.replay.obstacles import Obstacle
from broker.replay.rebuilding import Sources
from broker.replay.recording import Recording
from broker.replay.rerun import Rerun, Verdict, again, read
from broker.sandbox.engine import Engine

_MOST = 10_000
"""Calls of one session."""


class How(enum.StrEnum):
    """In which way a step came about."""

    RERUN = "rerun"
    """It was run again."""
    EFFECT = "effect"
    """It couldn't be; the effect that was recorded was put on the scratch tree."""
    STATE = "state"
    """Nor was its effect kept; what differs between the states that the ledger names was put on the scratch tree."""
    LEFT_OUT = "left_out"
    """Nothing of it is in the scratch tree."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A call of a session, and what the ledger says it did to the workspace's tree."""

    call: str
    tool: str
    order: int
    """Number of the entry with which its effect or its run began."""
    before: str
    """State of the tree that it changed, and into which; both empty where it changed nothing there."""
    after: str
    ran: bool


@dataclass(frozen=True, slots=True)
class SessionCalls:
    """A session, with its calls in the order in which they had their effect."""

    session: Session
    calls: tuple[Listed, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the session."""

    listed: Listed
    how: How
    before: str
    """State of the scratch tree; empty while there is none."""
    after: str
    rerun: Rerun | None = field(repr=False)
    """``None`` where nothing of the call ever ran."""
    obstacles: tuple[Obstacle, ...] = ()
    notes: tuple[str, ...] = ()


def session_calls(tx: Transaction, session: str, origin: str) -> SessionCalls:
    """The calls of a session, by the ledger.

    Args:
        tx: a transaction.
        session: its id.
        origin: of the ledger.

    Raises:
        NotFoundError: there is no such session (``SESSION_NOT_FOUND``).
        FailedPreconditionError: it has too many calls to be run again (``SESSION_TOO_LONG``).
        DataLossError: an entry isn't as it was written.
    """
    found = tx.identities.session(session)
    if found is None:
        raise NotFoundError(
            f"there is no session {session[:80]!a}", reason="SESSION_NOT_FOUND", hint="See: broker sessions list"
        )
    proof = f"session:{session}"
    calls: list[str] = []
    query = EntryQuery(agent=found.agent, types=frozenset({"decision"}))
    while True:
        page = read_step(tx.ledger, query, lambda _: True, Pages(1000))
        for item in page.entries:
            lineage = item.body.get("lineage")
            proofs = lineage.get("proofs") if isinstance(lineage, dict) else None
            if item.keys.call_id and isinstance(proofs, list) and proof in proofs:
                calls.append(item.keys.call_id)
        if len(calls) > _MOST:
            raise FailedPreconditionError(
                f"{session} has more than {_MOST} calls",
                reason="SESSION_TOO_LONG",
                hint="Look at its calls one by one: broker replay timeline --session, then broker replay rerun.",
            )
        if page.next is None:
            break
        query = replace(query, first=page.next)
    listed = [_listed(call, entries_of(tx, call, origin)) for call in dict.fromkeys(calls)]
    return SessionCalls(found, tuple(sorted(listed, key=lambda item: item.order)))


def _listed(call: str, entries: Sequence[CallEntry]) -> Listed:
    began = of_types(entries, "intent") or of_types(entries, "plan.intent")
    ended = of_types(entries, "outcome")
    effect: JsonObject = ended[-1].part("effect") if ended else {}
    first = entries[0]
    return Listed(
        call=call,
        tool=str(first.part("tool").get("name", "")),
        order=began[-1].seq if began else first.seq,
        before=str(effect.get("before", "")),
        after=str(effect.get("after", "")),
        ran=bool(began),
    )


def chosen(found: SessionCalls, *, to: str = "", before: str = "") -> tuple[Listed, ...]:
    """The calls up to a point.

    Args:
        found: the session.
        to: the last call; empty for all.
        before: the first call that isn't taken any more.

    Raises:
        InvalidArgumentError: both are given, or the session has no such call (``CALL_NOT_IN_SESSION``).
    """
    if to and before:
        why = "can't stand beside --to"
        raise InvalidArgumentError(
            f"--before {why}",
            reason="POINT_TWICE",
            violations=(FieldViolation("--before", why),),
            hint="Give one of them.",
        )
    if not to and not before:
        return found.calls
    names = [item.call for item in found.calls]
    if (to or before) not in names:
        option = "--to" if to else "--before"
        why = f"names {(to or before)[:80]!a}, which is no call of {found.session.id}"
        raise InvalidArgumentError(
            f"{option} {why}",
            reason="CALL_NOT_IN_SESSION",
            violations=(FieldViolation(option, why),),
            hint=f"Its calls are: {', '.join(names[:20])}",
        )
    at = names.index(to or before)
    return found.calls[: at + 1] if to else found.calls[:at]


class Scratch:
    """A scratch tree, and the calls that are put on it one after the other.

    Args:
        sources: what is kept, and the scratch objects.
        engine: one whose containers carry a label that no broker takes for its own.
        origin: of the ledger.
    """

    def __init__(self, sources: Sources, engine: Engine, origin: str) -> None:
        self._sources = sources
        self._engine = engine
        self._origin = origin
        self.state = ""
        """The scratch tree's; empty until a call gets files of the workspace."""
        self.start = ""
        """The state that the first of these calls read."""

    async def replay(self, calls: Sequence[Listed]) -> AsyncIterator[Step]:
        """Takes the calls in turn; one that is doctored is the last.

        Raises:
            UnavailableError: the engine or the store failed.
        """
        for listed in calls:
            step = await self._step(listed)
            yield step
            if step.rerun is not None and step.rerun.verdict is Verdict.DOCTORED:
                return

    async def _step(self, listed: Listed) -> Step:
        before = self.state
        if not listed.ran:
            never = Obstacle("CALL_NEVER_RAN", f"nothing of {listed.call} ever ran, so it did nothing")
            return Step(listed, How.LEFT_OUT, before, before, None, (never,))
        recording = await read(self._sources, listed.call, self._origin)
        if isinstance(recording, Rerun):
            return await self._without(listed, recording, None)
        base = recording.request.base
        if base and not self.state:
            self.start = self.state = before = base
        done = await again(self._sources, self._engine, recording, state=self.state if base else None)
        if done.verdict is Verdict.DOCTORED:
            return Step(listed, How.LEFT_OUT, before, before, done, done.obstacles)
        if done.done is None:
            return await self._without(listed, done, recording)
        effect = done.done.effect if done.done.state is CallState.SUCCEEDED else None
        notes = [*done.notes, *self._elsewhere(listed, before)]
        if not listed.after:
            if effect is not None and effect.changes:
                notes.append(f"What it would change was never applied, and isn't here: it is {recording.row.state}.")
            return Step(listed, How.RERUN, before, before, done, notes=tuple(notes))
        if recording.planned is not None and of_outside(recording.planned.effect):
            why = await self._recorded(listed)
            notes.append("Its dry run was run again; what was done to the workspace's files is what was recorded.")
        else:
            why = "the rerun came to no effect" if effect is None else await self._apply(effect)
        if why:
            notes.append(f"Nothing was changed: {why}.")
        return Step(listed, How.RERUN, before, self.state, done, notes=tuple(notes))

    async def _without(self, listed: Listed, rerun: Rerun, recording: Recording | None) -> Step:
        """A call that can't be run again: its effect, or the state that it led to, from what is kept."""
        before = self.state
        if rerun.verdict is Verdict.DOCTORED or not listed.after:
            return Step(listed, How.LEFT_OUT, before, before, rerun, rerun.obstacles)
        if recording is not None and recording.applied is not None and self.state and not of_outside(recording.applied):
            why = await self._apply(recording.applied)
            if not why:
                notes = self._elsewhere(listed, before)
                return Step(listed, How.EFFECT, before, self.state, rerun, rerun.obstacles, tuple(notes))
        why = await self._recorded(listed)
        if not why:
            notes = self._elsewhere(listed, before or self.start)
            return Step(listed, How.STATE, before, self.state, rerun, rerun.obstacles, tuple(notes))
        note = f"Its effect isn't in the scratch tree ({why}): what comes after it may come out otherwise."
        return Step(listed, How.LEFT_OUT, before, self.state, rerun, rerun.obstacles, (note,))

    async def _recorded(self, listed: Listed) -> str:
        """Puts on the scratch tree what differs between the two states that the ledger names; gives why it can't be."""
        objects = self._sources.objects
        if not await objects.has(listed.before) or not await objects.has(listed.after):
            return "the states before and after it are no longer kept"
        if not self.state:
            self.start = self.state = listed.before
        try:
            effect = await self._sources.trees.diff(listed.before, listed.after)
        except DataLossError as error:
            return _told(error)
        return await self._apply(effect)

    async def _apply(self, effect: Effect) -> str:
        """Puts an effect on the scratch tree; gives why it can't be, empty where it was."""
        try:
            self.state = await self._sources.trees.apply(self.state, effect)
        except (ConflictError, DataLossError, FailedPreconditionError, InvalidArgumentError) as error:
            return _told(error)
        return ""

    def _elsewhere(self, listed: Listed, before: str) -> list[str]:
        if listed.before and listed.before != before:
            return [
                f"The workspace was in state {listed.before} then: something outside of these calls had changed it."
            ]
        return []


def _told(error: BrokerError) -> str:
    paths = ", ".join(repr(item.field) for item in error.violations[:5])
    return f"{error.reason}: {error.message}" + (f" ({paths})" if paths else "")

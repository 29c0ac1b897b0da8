"""All entries that belong to what was selected: those of each call and its approvals, of what took it back, and around it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from broker.replay.casebook import Casebook
from broker.replay.timeline.model import Left
from broker.replay.timeline.selecting import Selected

MOST_AROUND = 500
"""Changes of what is in force that are shown between the first and the last entry, the newest."""

CHANGES = (
    "policy.changed",
    "settings.changed",
    "spec.registered",
    "workflow.approved",
    "key.enrolled",
    "key.revoked",
    "founding.completed",
    "signer.rotated",
    "signer.revoked",
    "recovered",
    "heartbeat",
)
"""Types of entries that change what is in force, and those of the broker's starts."""
_SESSIONS = ("session.started", "session.ended")
_FREEZES = ("frozen", "unfrozen")
_STEP = 500


@dataclass(frozen=True, slots=True)
class CallEntries:
    """A call by its number in the casebook, its approvals, and the entries of both."""

    call: int
    selected: bool
    approvals: tuple[int, ...]
    entries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gathered:
    """Numbers of entries, grouped. Each stands in one place, the first that has it."""

    calls: tuple[CallEntries, ...]
    approvals: tuple[tuple[int, tuple[int, ...]], ...]
    single: tuple[int, ...]
    around: tuple[int, ...]
    left_out: tuple[Left, ...]


def gather(casebook: Casebook, selected: Selected, most: int) -> Gathered:
    """Gathers.

    Args:
        casebook: where to look.
        selected: what was selected.
        most: entries of calls and approvals, all together; what comes last is left out, call by call.
    """
    left: list[Left] = []
    seen: set[int] = set()
    calls: list[CallEntries] = []
    related = _related(casebook, selected.calls)
    wanted = [(call, True) for call in selected.calls] + [(call, False) for call in related]
    told: set[int] = set()
    for place, (call, asked) in enumerate(wanted):
        if len(seen) >= most:
            left.append(Left("calls, as there would be too many entries", len(wanted) - place))
            break
        approvals = approvals_of(casebook, call)
        # An approval that several calls name, such as a runbook's, is told with the first of them.
        found = _entries(casebook, "call", (call,), most)
        found += _entries(casebook, "approval", [item for item in approvals if item not in told], most)
        told.update(approvals)
        entries = sorted(set(found) - seen)
        if len(entries) > most - len(seen):
            left.append(Left("entries of one call or of its approval", None))
            entries = entries[: most - len(seen)]
        calls.append(CallEntries(call, asked, approvals, tuple(entries)))
        seen.update(entries)
    others: list[tuple[int, tuple[int, ...]]] = []
    for place, approval in enumerate(selected.approvals):
        if len(seen) >= most:
            left.append(Left("approvals, as there would be too many entries", len(selected.approvals) - place))
            break
        entries = [seq for seq in _of_approval(casebook, approval, most) if seq not in seen][: most - len(seen)]
        if entries:
            others.append((approval, tuple(entries)))
        seen.update(entries)
    single = tuple(seq for seq in selected.entries if seq not in seen)
    seen.update(single)
    around = _around(casebook, [item.call for item in calls], seen, left)
    return Gathered(tuple(calls), tuple(others), single, around, tuple(left))


def approvals_of(casebook: Casebook, call: int) -> tuple[int, ...]:
    """The approvals that were asked for a call, and those that it used."""
    rows = casebook.rows(
        # The indexes hold only what isn't 0, and are taken only where the query says so too.
        "SELECT id FROM approval WHERE call = ?1 AND call != 0 UNION "
        "SELECT u.approval FROM entry e JOIN used u ON u.seq = e.seq WHERE e.call = ?1 AND e.call != 0",
        call,
    )
    return tuple(row[0] for row in rows)


def types(casebook: Casebook, names: Iterable[str]) -> tuple[int, ...]:
    """The numbers of those types that the casebook has entries of."""
    return tuple(number for number in map(casebook.number, names) if number is not None)


def marks(count: int) -> str:
    """So many question marks."""
    return ", ".join("?" * count)


def _related(casebook: Casebook, calls: Sequence[int]) -> list[int]:
    """Calls that took one of these back, and calls that one of these took back."""
    known, found = set(calls), set[int]()
    for start in range(0, len(calls), _STEP):
        part = calls[start : start + _STEP]
        some = marks(len(part))
        rows = casebook.rows(
            f"SELECT call FROM undo WHERE target IN ({some}) UNION SELECT target FROM undo WHERE call IN ({some})",  # noqa: S608 - ours
            *part,
            *part,
        )
        found.update(row[0] for row in rows)
    return sorted(found - known)


def _entries(casebook: Casebook, column: str, numbers: Sequence[int], most: int) -> list[int]:
    """The first entries of calls or approvals, one more than ``most`` of them at the utmost."""
    if not numbers:
        return []
    chosen = f"{column} IN ({marks(len(numbers))}) AND {column} != 0"
    return [
        row[0]
        for row in casebook.rows(f"SELECT seq FROM entry WHERE {chosen} ORDER BY seq LIMIT ?", *numbers, most + 1)  # noqa: S608 - ours
    ]


def _of_approval(casebook: Casebook, approval: int, most: int) -> list[int]:
    used = casebook.rows("SELECT seq FROM used WHERE approval = ? AND call = 0 ORDER BY seq LIMIT ?", approval, most)
    return sorted({*_entries(casebook, "approval", (approval,), most), *(row[0] for row in used)})


def _around(casebook: Casebook, calls: Sequence[int], seen: set[int], left: list[Left]) -> tuple[int, ...]:
    if not seen:
        return ()
    first, last = min(seen), max(seen)
    found = set(_sessions(casebook, calls)) | set(_freezes(casebook, calls, first, last))
    kinds = types(casebook, CHANGES)
    if kinds:
        rows = casebook.rows(
            f"SELECT seq FROM act WHERE seq BETWEEN ? AND ? AND type IN ({marks(len(kinds))}) ORDER BY seq DESC LIMIT ?",  # noqa: S608 - ours
            first,
            last,
            *kinds,
            MOST_AROUND + 1,
        )
        if len(rows) > MOST_AROUND:
            left.append(Left("older changes of what was in force", None))
        found.update(row[0] for row in rows[:MOST_AROUND])
    return tuple(sorted(found - seen))


def _sessions(casebook: Casebook, calls: Sequence[int]) -> list[int]:
    kinds = types(casebook, _SESSIONS)
    sessions = {casebook.rows("SELECT session FROM call WHERE id = ?", call)[0][0] for call in calls} - {0}
    if not kinds:
        return []
    return [
        row[0]
        for session in sessions
        for row in casebook.rows(
            f"SELECT seq FROM act WHERE subject = ? AND type IN ({marks(len(kinds))})",  # noqa: S608 - ours
            session,
            *kinds,
        )
    ]


def _freezes(casebook: Casebook, calls: Sequence[int], first: int, last: int) -> list[int]:
    """Freezes of a call's agent, tool or workspace, or of all, that were made, ended or in force meanwhile."""
    kinds = types(casebook, _FREEZES)
    if not kinds:
        return []
    targets = {0}
    for call in calls:
        row = casebook.one(
            "SELECT p.agent, p.tool, p.workspace FROM call c JOIN path p ON p.id = c.path WHERE c.id = ?", call
        )
        targets.update(row or ())
    found: list[int] = []
    frozen = casebook.number("frozen")
    for target in targets:
        rows = casebook.rows(
            f"SELECT seq, type FROM act WHERE subject = ? AND seq <= ? AND type IN ({marks(len(kinds))}) ORDER BY seq",  # noqa: S608 - ours
            target,
            last,
            *kinds,
        )
        before = [row for row in rows if row[0] < first]
        found += [seq for seq, kind in before[-1:] if kind == frozen]
        found += [seq for seq, _ in rows if seq >= first]
    return found

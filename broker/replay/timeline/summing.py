"""Sums up each call of a timeline: who, what, for whom, what people said, what came of it, and whether it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from broker.replay.casebook import Casebook
from broker.replay.timeline.gathering import CallEntries, marks
from broker.replay.timeline.model import CallStory, CallTexts, Kept
from broker.replay.timeline.texts import Texts

_CALL = (
    "SELECT c.name, c.session, c.ts, c.ended, c.state, c.cause, c.exit_code, c.effect, c.added, c.changed, c.removed,"
    " c.path, c.outcome, c.intent, c.plan FROM call c WHERE c.id = ?"
)
_PATH = "SELECT agent, tool, tool_version, workspace, workflow, owner, starter, on_behalf, classes, tier FROM path WHERE id = ?"
_NO_PATH = (0,) * 10
_MOST_VOTES = 500
_OPEN = ("PENDING", "APPROVED")
_WAITING = ("PENDING_APPROVAL", "APPROVED")


class Summing:
    """Sums up calls.

    Args:
        casebook: what is read.
        texts: where the content of calls is, if anywhere.
    """

    def __init__(self, casebook: Casebook, texts: Texts) -> None:
        self._casebook = casebook
        self._texts = texts

    def stories(self, calls: Sequence[CallEntries]) -> Mapping[int, CallStory]:
        """The summaries, by the calls' numbers in the casebook."""
        found = {item.call: self._story(item) for item in calls}
        kept = self._texts.calls([story.call for story in found.values()])
        return {number: self._with_texts(story, kept.get(story.call, CallTexts())) for number, story in found.items()}

    def _story(self, item: CallEntries) -> CallStory:
        book, word = self._casebook, self._casebook.text
        row = book.rows(_CALL, item.call)[0]  # it was selected from this very table
        (
            name,
            session,
            began,
            ended,
            state,
            cause,
            code,
            effect,
            added,
            changed,
            removed,
            path,
            outcome,
            intent,
            plan,
        ) = row
        about = (book.one(_PATH, path) if path else None) or _NO_PATH
        agent, tool, version, workspace, workflow, owner, starter, behalf, classes = map(word, about[:9])
        undone = book.one(
            "SELECT c.name FROM undo u JOIN call c ON c.id = u.call WHERE u.target = ? ORDER BY u.seq DESC", item.call
        )
        back = book.rows(
            "SELECT c.name FROM undo u JOIN call c ON c.id = u.target WHERE u.call = ? ORDER BY u.target", item.call
        )
        hosts = book.rows(
            "SELECT DISTINCT w.text FROM egress e JOIN word w ON w.id = e.host WHERE e.call = ? ORDER BY 1", item.call
        )
        stands = self._state(item, word(state), open_=outcome is None)
        return CallStory(
            call=name,
            selected=item.selected,
            agent=agent,
            tool=tool,
            tool_version=version,
            workspace=workspace,
            workflow=workflow,
            session=word(session),
            owner=owner,
            starter=starter,
            on_behalf_of=behalf,
            tier=about[9],
            data_classes=tuple(filter(None, classes.split(" "))),
            state=stands,
            exit_code=code,
            cause=word(cause),
            began=began,
            ended=ended,
            effect=(added, changed, removed) if effect else None,
            votes=self._votes(item.approvals),
            hosts=tuple(row[0] for row in hosts),
            undoes=tuple(row[0] for row in back),
            undone_by=undone[0] if undone else "",
            left_open="" if outcome is not None else self._left_open(item, intent or plan, stands),
            texts=CallTexts(),
            erased=None,
        )

    def _state(self, item: CallEntries, state: str, *, open_: bool) -> str:
        if open_ and state in ("", "PLANNING"):
            for approval in item.approvals:
                row = self._casebook.one("SELECT state FROM approval WHERE id = ?", approval)
                asked = self._casebook.text(row[0]) if row else ""
                if asked in _OPEN:
                    return "APPROVED" if asked == "APPROVED" else "PENDING_APPROVAL"
        return state or "QUEUED"

    def _votes(self, approvals: Sequence[int]) -> tuple[tuple[str, str], ...]:
        if not approvals:
            return ()
        rows = self._casebook.rows(
            f"SELECT person, decision FROM vote WHERE approval IN ({marks(len(approvals))}) ORDER BY seq LIMIT ?",  # noqa: S608 - ours
            *approvals,
            _MOST_VOTES,
        )
        last = {self._casebook.text(person): self._casebook.text(decision) for person, decision in rows}
        return tuple(last.items())

    def _left_open(self, item: CallEntries, begun: int | None, state: str) -> str:
        """Why nothing says how a call ended; empty where it waits for people, which it may do over restarts."""
        if state in _WAITING:
            return ""
        last = max(item.entries, default=0)
        row = self._casebook.one("SELECT first FROM boot WHERE first > ? ORDER BY first LIMIT 1", last)
        what = "it had begun" if begun else "it had not begun"
        if row is not None:
            return f"{what}, and its broker was gone: another start wrote entry {row[0]}"
        return f"{what}, and the ledger ends before its end" if begun else ""

    def _with_texts(self, story: CallStory, texts: CallTexts) -> CallStory:
        erased = self._erased(story) if texts.kept in (Kept.ERASED, Kept.AWAY) else None
        if erased is not None and texts.kept is Kept.AWAY:
            texts = replace(texts, kept=Kept.ERASED)
        return replace(story, texts=texts, erased=erased)

    def _erased(self, story: CallStory) -> int | None:
        """The entry that says that the call's content was erased: its own, or that of its workspace's key."""
        number = self._casebook.number(story.call)
        row = number and self._casebook.one("SELECT min(seq) FROM gone WHERE item = ?", number)
        if row and row[0] is not None:
            return int(row[0])
        erased, place = self._casebook.number("erased"), self._casebook.number(story.workspace)
        if erased is None or not place:
            return None
        found = self._casebook.one(
            "SELECT min(a.seq) FROM act a JOIN call c ON c.name = ? WHERE a.type = ? AND a.subject = ? AND a.seq > c.first",
            story.call,
            erased,
            place,
        )
        return None if found is None or found[0] is None else int(found[0])

"""A ledger's entries as one chain: takes them one after the other, or whole runs that were found sound, and judges.

``entry`` is the reference: it says which entry is wrong first, and how. ``take`` adds a run at once and changes nothing if
the run doesn't fit: whoever holds its rows then feeds them to ``entry``.
"""

from __future__ import annotations

import copy
from collections import Counter

from broker.domain.canonical import JsonObject
from broker.ledger.encoding import decode
from broker.ledger.entry import ENTRY_TYPES, GENESIS_PREV
from broker.ledger.entry_checks import (
    FoundError,
    check_columns,
    check_hash,
    check_link,
    check_members,
    check_number,
    parse,
    read_agent,
    read_heads,
    text,
)
from broker.ledger.segment import MAX_LISTED, Asked, Mark, Summary
from broker.ledger.source import Row
from broker.ledger.verdict import Expectation, Place, Report, Verdict
from broker.ledger.votes import Votes, concerns
from broker.ledger.votes_reading import ran_of
from broker.tlog.agent_map import AgentMap
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import KEY_ENTRIES, KeyHistory, KeyHistoryError
from broker.tlog.merkle import CompactRange
from broker.tlog.note import Note, NoteError

_KEY_MEMBERS = frozenset(
    {
        "checkpoint",
        "checkpoint_key",
        "forked",
        "key",
        "lost",
        "lost_key",
        "new",
        "old",
        "reason_commit",
        "statement",
        "unproved",
        "votes",
    }
)
"""Members of the entries that a key history is made of."""


class Chain:
    """Everything that is known of the entries taken so far.

    Args:
        expected: an entry that must be in the ledger.
        sizes: at which sizes the tree's root is wanted, see ``roots``.
        first: number of the first entry to come; what is before it is trusted.
        leaf: hash (hexadecimal) of the entry before that; empty where it isn't known.
        votes: is given the entries that concern the votes; ``None`` where those aren't checked.
    """

    def __init__(
        self,
        expected: Expectation | None = None,
        sizes: frozenset[int] = frozenset(),
        first: int = 0,
        leaf: str = "",
        votes: Votes | None = None,
    ) -> None:
        self.count = self.first = first
        self.roots: dict[int, bytes] = {}
        """Size -> root of the tree, for the sizes that are wanted and were reached."""
        self.history = KeyHistory()
        self._expected = expected
        self._sizes = sizes
        self._tree = CompactRange()
        self._leaf = leaf
        self._prev = ""
        self._origin = self._first_ts = self._last_ts = ""
        self._agents: dict[str, tuple[int, str]] = {}
        self._changed: set[str] = set()
        self._map: AgentMap | None = None
        self._heads = 0
        self._boots: set[str] = set()
        self._types: Counter[str] = Counter()
        self._open: dict[int, None] = {}
        self._unmatched: list[int] = []
        self._steps_back: list[int] = []
        self._votes = votes
        self._note_root()

    @property
    def asked(self) -> Asked:
        """What runs must say besides themselves."""
        leaves = frozenset() if self._expected is None else frozenset({self._expected.seq})
        return Asked(self._sizes, leaves, tree=self._has_tree, votes=self._votes is not None)

    def entry(self, row: Row) -> None:
        """Checks the next row and takes it in.

        Raises:
            FoundError: it is wrong; nothing of it was taken in.
        """
        seq = check_number(row.seq, self.count)
        data, leaf = check_hash(row, seq)
        entry = parse(data, seq)
        check_columns(row, entry, seq)
        prev = text(entry, "prev", seq)
        check_link(prev, seq, self._leaf, self._prev)
        kind, origin, stamp, boot = check_members(entry, seq, self._origin)
        agent = self._agent(entry, seq)
        if kind == "heads":
            self._check_heads(entry, seq)
        elif kind in KEY_ENTRIES:
            self._check_keys(entry, seq)
        self._check_expected(seq, leaf.hex())
        if agent is not None:
            self._agents[agent[0]] = agent[1], leaf.hex()
            self._changed.add(agent[0])
        self._facts(entry, kind, seq)
        if self._votes is not None:
            self._vote(self._votes, seq, data, entry, kind)
        self._times(seq, stamp, stamp)
        self._origin = origin
        self._boots.add(boot)
        self._types[kind] += 1
        if self._has_tree:
            self._tree.append(leaf)
        self._leaf, self._prev = leaf.hex(), prev
        self.count += 1
        self._note_root()

    def take(self, run: Summary) -> bool:
        """Adds a run that is sound in itself; ``False``, and nothing is added, if it doesn't follow on this chain."""
        wanted = self._leaf if self.count else GENESIS_PREV
        if run.first != self.count or (wanted and run.prev != wanted) or (self._origin and run.origin != self._origin):
            return False
        for name, (number, before, _, _) in run.agents.items():
            if not self._continues(name, number, before):
                return False
        expected = self._expected
        if expected is not None and run.leaves.get(str(expected.seq), expected.leaf) != expected.leaf and expected.leaf:
            return False
        roots: dict[int, bytes] = {}
        history = copy.deepcopy(self.history) if any(mark.data for mark in run.marks) else self.history
        if not self._judge(run, history, roots):
            self._map = None  # made anew from the agents when it is needed
            return False
        self.history = history
        self.roots |= roots
        self._add(run)
        if self._votes is not None:
            _take_votes(self._votes, run)
        return True

    @staticmethod
    def _vote(votes: Votes, seq: int, data: bytes, entry: JsonObject, kind: str) -> None:
        if concerns(kind, entry):
            votes.entry(seq, data, entry)
        ran = ran_of(kind, entry)
        if ran is not None:
            votes.ran(seq, *ran)

    def end(self) -> None:
        """Checks what only the end shows.

        Raises:
            FoundError: entries are missing at the end.
        """
        expected = self._expected
        last = self.count - 1 if self.count else None
        if expected is not None and expected.seq >= self.count:
            why = f"entry {expected.seq} is expected, but the ledger ends after {self.count} entries"
            raise FoundError(Verdict.TRUNCATED, last, "seq", why)
        if self.count == 0:
            raise FoundError(Verdict.TRUNCATED, None, "seq", "there is no entry at all, not even the genesis")

    def report(self, verdict: Verdict, place: Place | None) -> Report:
        """The verdict with all that was found before it."""
        return Report(
            verdict=verdict,
            entries=self.count - self.first,
            head_seq=self.count - 1 if self.count else None,
            head_leaf=self._leaf,
            root=self._tree.root().hex() if self._has_tree else "",
            place=place,
            origin=self._origin,
            first_ts=self._first_ts,
            last_ts=self._last_ts,
            agents=len(self._agents),
            boots=len(self._boots),
            types=dict(sorted(self._types.items())),
            unknown_types=tuple(sorted(self._types.keys() - ENTRY_TYPES)),
            open_intents=tuple(self._open)[:MAX_LISTED],
            unmatched_outcomes=tuple(self._unmatched),
            clock_steps_back=tuple(self._steps_back),
            first=self.first,
            heads=self._heads,
            keys=tuple(str(item.key) for item in self.history.keys),
            recovered=tuple((item.first, item.last) for item in self.history.recovered),
            votes=None if self._votes is None else self._votes.report(),
        )

    @property
    def _has_tree(self) -> bool:
        return self.first == 0

    def _note_root(self) -> None:
        if self.count in self._sizes and self._has_tree:
            self.roots[self.count] = self._tree.root()

    def _agent(self, entry: JsonObject, seq: int) -> tuple[str, int] | None:
        found = read_agent(entry, seq)
        if found is None:
            return None
        name, number, prev = found
        if self._continues(name, number, prev):
            return name, number
        last = self._agents.get(name)
        next_number, wanted = (0, GENESIS_PREV) if last is None else (last[0] + 1, last[1])
        if number != next_number and not (last is None and self.first):
            verdict = Verdict.GAPPED if number > next_number else Verdict.FORKED
            why = f"is number {number} of agent {name}, whose next is {next_number}"
            raise FoundError(verdict, seq, "agent.seq", why)
        why = f"names {prev} as the agent's last entry, which is {wanted}"
        raise FoundError(Verdict.FORKED, seq, "agent.prev", why)

    def _continues(self, name: str, number: int, prev: object) -> bool:
        last = self._agents.get(name)
        if last is not None:
            return (number, prev) == (last[0] + 1, last[1])
        if number == 0 or not self.first:
            return number == 0 and prev == GENESIS_PREV
        return isinstance(prev, str)  # the agent's first entry that is looked at

    def _facts(self, entry: JsonObject, kind: str, seq: int) -> None:
        if kind == "intent":
            self._open[seq] = None
        elif kind in ("outcome", "unknown"):
            self._outcome(seq, entry.get("intent_seq"))

    def _outcome(self, seq: int, intent: object) -> None:
        if type(intent) is int and intent in self._open:
            del self._open[intent]
        elif type(intent) is int and 0 <= intent < self.first:
            return  # of a call that began before what is looked at
        elif len(self._unmatched) < MAX_LISTED:
            self._unmatched.append(seq)

    def _times(self, seq: int, first: str, last: str) -> None:
        if first < self._last_ts and len(self._steps_back) < MAX_LISTED:
            self._steps_back.append(seq)
        self._first_ts = self._first_ts or first
        self._last_ts = last

    def _check_heads(self, entry: JsonObject, seq: int) -> None:
        agents, root = read_heads(entry, seq)
        if not self._has_tree:
            return
        found = self._mapped({name: self._agents[name] for name in self._changed})
        self._changed.clear()
        if (len(found), found.root().hex()) != (agents, root):
            why = f"commits {agents} agents and the root {root}; before it are {len(found)}, with {found.root().hex()}"
            raise FoundError(Verdict.TAMPERED, seq, "heads", why)
        self._heads += 1

    def _mapped(self, changed: dict[str, tuple[int, str]]) -> AgentMap:
        if self._map is None:
            self._map, changed = AgentMap(), {**self._agents, **changed}
        for name, (number, leaf) in changed.items():
            self._map.set(name, number, bytes.fromhex(leaf))
        return self._map

    def _check_keys(self, entry: JsonObject, seq: int) -> None:
        if not self._has_tree:
            return
        try:
            self.history.entry(entry, self._tree.root)
        except KeyHistoryError as error:
            # Nearly every text begins with the member that is wrong.
            member = str(error).split(maxsplit=1)[0].removesuffix("'s")
            verdict, field = Verdict.MALFORMED, member if member.partition(".")[0] in _KEY_MEMBERS else "type"
            if self._is_of_another_tree(entry, seq):
                verdict, field = Verdict.FORKED, "checkpoint"
            raise FoundError(verdict, seq, field, str(error)) from error

    def _is_of_another_tree(self, entry: JsonObject, seq: int) -> bool:
        if entry["type"] != "signer.rotated":
            return False
        try:
            checkpoint = Checkpoint.parse(Note.parse(str(entry.get("checkpoint")).encode()).text)
        except (NoteError, UnicodeEncodeError):
            return False
        return checkpoint.size == seq and checkpoint.root != self._tree.root()

    def _check_expected(self, seq: int, leaf: str) -> None:
        expected = self._expected
        if expected is not None and expected.seq == seq and expected.leaf not in ("", leaf):
            why = f"has the hash {leaf}, but {expected.leaf} is expected: this is another history"
            raise FoundError(Verdict.FORKED, seq, "leaf", why)

    def _judge(self, run: Summary, history: KeyHistory, roots: dict[int, bytes]) -> bool:
        """Compares what entries of a run say of all before them; fills in the history and the roots."""
        if not self._has_tree:
            return True
        before = {name: self._agents[name] for name in self._changed}
        for mark in run.marks:
            entry = decode(mark.data) if mark.data else {}
            if entry.get("type") == "heads":
                agents, root = read_heads(entry, mark.seq)
                found = self._mapped({**before, **mark.changed})
                before = {}
                if (len(found), found.root().hex()) != (agents, root):
                    return False
            elif entry:
                try:
                    history.entry(entry, lambda mark=mark: self._with(mark, run.first).root())  # type: ignore[misc]
                except KeyHistoryError:
                    return False
            else:
                roots[mark.seq] = self._with(mark, run.first).root()
        return True

    def _with(self, mark: Mark, first: int) -> CompactRange:
        return extended(self._tree, mark.nodes, mark.seq - first)

    def _add(self, run: Summary) -> None:
        for name, (_, _, number, leaf) in run.agents.items():
            self._agents[name] = number, leaf
        heads = run.types.get("heads", 0)
        if heads and self._has_tree:
            self._heads += heads
            self._changed = set(run.changed)
        else:
            self._changed.update(run.changed)
        for seq, intent in run.outcomes:
            self._outcome(seq, intent)
        self._open.update(dict.fromkeys(run.open))
        self._unmatched = sorted((*self._unmatched, *run.unmatched))[:MAX_LISTED]
        self._times(run.first, run.first_ts, run.last_ts)
        self._steps_back = [*self._steps_back, *run.steps_back][:MAX_LISTED]
        self._origin = run.origin
        self._boots.update(run.boots)
        self._types.update(run.types)
        if self._has_tree:
            self._tree = extended(self._tree, run.nodes, run.count)
        self._leaf, self._prev = run.leaf, run.last_prev
        self.count += run.count
        self._note_root()


def extended(tree: CompactRange, nodes: tuple[bytes, ...], count: int) -> CompactRange:
    """The tree with ``count`` more leaves, given as the perfect subtrees over them, largest first."""
    result = CompactRange.restore(tree.size, tree.nodes)
    levels = [level for level in range(count.bit_length() - 1, -1, -1) if count >> level & 1]
    for level, node in zip(levels, nodes, strict=True):
        result.append_subtree(level, node)
    return result


def _take_votes(votes: Votes, run: Summary) -> None:
    """The entries that concern the votes, and the calls that began below Tier 4, in the order of the ledger."""
    began, place = run.began, 0
    for seq, data in (*run.ballots, (run.first + run.count, b"")):
        while place < len(began) and began[place][0] < seq:
            number, ran = began[place]
            votes.ran(number, *run.ran[ran])
            place += 1
        if data:
            votes.entry(seq, data, decode(data))

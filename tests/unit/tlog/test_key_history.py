"""The key history against a model, and each thing that its entries must have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.domain.canonical import JsonObject
from broker.tlog.checkpoint import Checkpoint
from broker.tlog.key_history import KeyHistory, KeyHistoryError
from broker.tlog.note import COSIGNATURE, Note, NoteError, VerifierKey
from tests.signing_support import (
    ORIGIN,
    NumberedSigner,
    genesis,
    note_of,
    recovered,
    revoked,
    root_of,
    rotated,
    signed,
    statement_of,
    text_of,
)

A, B, C, X = (NumberedSigner(number) for number in (0, 1, 2, 1000))


@dataclass
class _Key:
    """What the model knows of one key: the entry that brought it in, and whether it was revoked."""

    signer: NumberedSigner
    since: int
    revoked: bool = False


@dataclass
class _Model:
    keys: list[_Key] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)

    def at(self, size: int) -> _Key:
        return max((item for item in self.keys if item.since < size), key=lambda item: item.since)

    def counts(self, size: int, signers: list[NumberedSigner]) -> bool:
        due = self.at(size)
        if due.signer not in signers:
            return False
        later = [item for item in self.keys if item.since > due.since and not item.revoked]
        return not due.revoked or any(item.signer in signers for item in later)


class HistoryMachine(RuleBasedStateMachine):
    """Entries come as a ledger would have them; whatever is asked, model and history say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.history = KeyHistory()
        self.model = _Model([_Key(NumberedSigner(0), 0)])
        self.history.entry(genesis(self.model.keys[0].signer))
        self.size = 1

    def feed(self, entry: JsonObject) -> None:
        seq = self.size
        self.history.entry(entry, lambda: root_of(seq))
        self.size += 1

    @rule(count=st.integers(1, 5))
    def others(self, count: int) -> None:
        for _ in range(count):
            self.feed({"type": "intent", "seq": self.size})

    @precondition(lambda self: len(self.model.keys) < 6)
    @rule()
    def rotate(self) -> None:
        new = _Key(NumberedSigner(len(self.model.keys)), self.size)
        self.feed(rotated(self.size, self.model.keys[-1].signer, new.signer))
        self.model.keys.append(new)

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        target = data.draw(st.sampled_from(self.model.keys))
        if target.revoked or target is self.model.keys[-1]:
            with pytest.raises(KeyHistoryError):
                self.history.entry(revoked(self.size, target.signer))
            return
        self.feed(revoked(self.size, target.signer))
        target.revoked = True

    @rule(beyond=st.integers(0, 9))
    def recover(self, beyond: int) -> None:
        note = note_of(self.size + 1 + beyond, self.model.keys[-1].signer, history="lost")
        self.model.lost.append((self.size, self.size + beyond))
        self.feed(recovered(self.size, self.size, note, self.model.keys[-1].signer))

    @rule(which=st.sampled_from(["old", "new", "size", "next", "origin", "root", "again"]))
    def rotate_wrongly(self, which: str) -> None:
        old, new = self.model.keys[-1].signer, NumberedSigner(99)
        line = (f"next-key {new.key}",)
        wrong: dict[str, Callable[[], JsonObject]] = {
            "old": lambda: rotated(self.size, old, new, note_of(self.size, new, extensions=line)),
            "new": lambda: rotated(self.size, old, new, note_of(self.size, old, extensions=line)),
            "size": lambda: rotated(self.size, old, new, note_of(self.size - 1, old, new, extensions=line)),
            "next": lambda: rotated(self.size, old, new, note_of(self.size, old, new)),
            "origin": lambda: rotated(
                self.size, old, new, signed(Checkpoint("other", self.size, root_of(self.size), line), old, new)
            ),
            "root": lambda: rotated(
                self.size, old, new, note_of(self.size, old, new, extensions=line, history="other")
            ),
            "again": lambda: rotated(self.size, old, old, note_of(self.size, old, extensions=(f"next-key {old.key}",))),
        }
        before = self.history.keys
        with pytest.raises(KeyHistoryError):
            self.history.entry(wrong[which](), lambda: root_of(self.size))
        assert self.history.keys == before

    @rule(data=st.data())
    def check(self, data: st.DataObject) -> None:
        size = data.draw(st.integers(1, self.size + 3))
        chosen = data.draw(st.lists(st.sampled_from(self.model.keys), unique_by=id, min_size=1))
        signers = [item.signer for item in chosen]
        note = note_of(size, *signers, X)
        if self.model.counts(size, signers):
            assert self.history.check(note).size == size
        else:
            with pytest.raises(NoteError):
                self.history.check(note)

    @invariant()
    def keys_agree(self) -> None:
        for size in range(1, self.size + 2):
            assert self.history.key_for(size) == self.model.at(size).signer.key
        assert [item.revoked for item in self.history.keys] == [item.revoked for item in self.model.keys]
        assert [(item.first, item.last) for item in self.history.recovered] == self.model.lost
        ends = [item.until_size for item in self.history.keys]
        assert ends == [*(item.from_size - 1 for item in self.history.keys[1:]), None]


TestHistory = HistoryMachine.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def _history(*entries: JsonObject) -> KeyHistory:
    history = KeyHistory()
    for entry in entries:
        history.entry(entry)
    return history


def test_the_history_of_two_rotations_and_a_revocation() -> None:
    history = _history(genesis(A), rotated(3, A, B), revoked(5, A), rotated(9, B, C))
    assert [(item.key, item.from_size, item.until_size, item.revoked) for item in history.keys] == [
        (A.key, 1, 3, True),
        (B.key, 4, 9, False),
        (C.key, 10, None, False),
    ]
    assert (history.origin, history.current, history.anchored) == (ORIGIN, C.key, True)
    with pytest.raises(NoteError, match="no key signs checkpoints of 0 entries"):
        history.key_for(0)


_ROTATED = rotated(3, A, B)
_WRONG: list[tuple[str, JsonObject]] = [
    ("old is no key", {**_ROTATED, "old": "brk"}),
    ("old is missing", {name: value for name, value in _ROTATED.items() if name != "old"}),
    ("new is missing", {**_ROTATED, "new": 7}),
    ("old is not the key in force", rotated(3, X, B)),
    ("new was a key of this ledger", rotated(3, A, A)),
    ("new is no Ed25519 key", {**_ROTATED, "new": str(VerifierKey(ORIGIN, COSIGNATURE, B.key.public_key))}),
    ("new is named 'other'", {**_ROTATED, "new": str(NumberedSigner(1, "other").key)}),
    ("checkpoint can't be taken", {**_ROTATED, "checkpoint": "brk\n3\n"}),
    ("checkpoint is missing", {**_ROTATED, "checkpoint": None}),
    ("not signed by the new key", rotated(3, A, B, note_of(3, A, extensions=(f"next-key {B.key}",)))),
    ("not signed by the old key", rotated(3, A, B, note_of(3, B, extensions=(f"next-key {B.key}",)))),
    ("doesn't follow", {**_ROTATED, "seq": 0}),
    ("doesn't follow", {**_ROTATED, "seq": "3"}),
    ("doesn't follow", {**_ROTATED, "seq": True}),
    ("is the genesis", {**genesis(B), "seq": 3}),
    ("key is none of", revoked(3, X)),
    ("the one in force", revoked(3, A)),
    ("reason_commit", {**revoked(3, X), "reason_commit": "AB" * 32}),
    ("reason_commit is missing", {"type": "signer.revoked", "seq": 3, "key": str(A.key)}),
    ("lost is missing", {**recovered(3, 3, note_of(9, A), A), "lost": [3, 8]}),
    ("lost.from", {**recovered(3, 3, note_of(9, A), A), "lost": {"from": "3", "to": 8}}),
    ("lost.to", {**recovered(3, 3, note_of(9, A), A), "lost": {"from": 3}}),
    ("can't be lost", recovered(3, 4, note_of(9, A), A)),
    ("can't be lost", recovered(3, 2, note_of(2, A), A)),
    ("doesn't show that 7 is lost", {**recovered(3, 3, note_of(9, A), A), "lost": {"from": 3, "to": 7}}),
    ("not signed by a known key", recovered(3, 3, note_of(9, X), A)),
    ("votes is missing", {**recovered(3, 3, note_of(9, A), A), "votes": None}),
    ("forked is neither", recovered(3, 3, note_of(9, A), A, forked="yes")),
    ("of another ledger", recovered(3, 3, signed(Checkpoint("other", 9, root_of(9)), A), A)),
]


_LOST = note_of(9, A, history="lost")
_TRUE = statement_of(3, 3, _LOST, A)
_STATEMENTS: list[tuple[str, JsonObject | str | None]] = [
    ("statement is missing", None),
    ("statement can't be taken: .*not UTF-8|statement can't be taken", "brk\n3\n"),
    ("not signed by a known key", text_of(statement_of(3, 3, _LOST, X))),
    ("signature by .* is false", text_of(Note(_TRUE.text, note_of(3, A).signatures))),
    ("of 2 entries, not of the 3", text_of(statement_of(2, 3, _LOST, A))),
    ("of another ledger", text_of(signed(replace(Checkpoint.parse(_TRUE.text), origin="other"), A))),
    ("doesn't say just", text_of(note_of(3, A))),
    ("doesn't say just", text_of(statement_of(3, 2, _LOST, A))),
    ("doesn't say just", text_of(statement_of(3, 3, note_of(8, A, history="lost"), A))),
    ("doesn't say just", text_of(statement_of(3, 3, note_of(9, A), A))),
    ("doesn't say just", text_of(statement_of(3, 3, _LOST, A, unproved=True))),
    ("doesn't say just", text_of(note_of(3, A, extensions=(*Checkpoint.parse(_TRUE.text).extensions, "more")))),
    ("another root than the tree", text_of(statement_of(3, 3, _LOST, A, history="rewritten"))),
]


@pytest.mark.parametrize(("why", "statement"), _STATEMENTS)
def test_a_recovery_that_the_key_in_force_did_not_state_so_is_none(
    why: str, statement: JsonObject | str | None
) -> None:
    history = _history(genesis(A))
    with pytest.raises(KeyHistoryError, match=why):
        history.entry(recovered(3, 3, _LOST, A, statement=statement), lambda: root_of(3))
    assert history.recovered == ()
    history.entry(recovered(3, 3, _LOST, A), lambda: root_of(3))
    assert [(item.first, item.last, item.unproved) for item in history.recovered] == [(3, 8, False)]


def test_a_recovery_is_stated_by_the_key_in_force_and_not_by_an_older_one() -> None:
    with pytest.raises(KeyHistoryError, match="statement can't be taken"):
        _history(genesis(A), rotated(3, A, B), recovered(5, 5, note_of(9, B), A))
    assert _history(genesis(A), rotated(3, A, B), recovered(5, 5, note_of(9, A), B)).recovered[0].seq == 5
    with pytest.raises(KeyHistoryError, match="names no key"):
        _history(genesis(None), recovered(5, 5, note_of(9, A), A, lost_key=str(A.key)))


def test_a_recovery_without_proof_states_no_root() -> None:
    history = _history(genesis(A), recovered(5, 2, note_of(5, A), A, unproved=True))
    assert [(item.first, item.last, item.unproved) for item in history.recovered] == [(2, 4, True)]
    for wrong in (False, "yes", None):
        entry = {**recovered(5, 2, note_of(5, A), A, unproved=True), "unproved": wrong}
        with pytest.raises(KeyHistoryError, match=r"doesn't say just|unproved is neither"):
            _history(genesis(A), entry)


def test_no_recovery_gives_up_what_an_earlier_one_has_signed_as_standing() -> None:
    first = recovered(6, 3, note_of(9, A, history="lost"), A)
    for begin in (0, 3, 5):
        with pytest.raises(KeyHistoryError, match="the recovery 6 signed that what is before it stands"):
            _history(genesis(A), first, recovered(8, begin, note_of(20, A, history="lost"), A))
    found = _history(genesis(A), first, recovered(8, 6, note_of(20, A, history="lost"), A)).recovered
    assert [(item.first, item.last) for item in found] == [(3, 8), (6, 19)]


def test_a_lost_key_is_none_that_the_ledger_names() -> None:
    before = (genesis(A), rotated(3, A, B), revoked(4, A))
    for key in (A, B):
        for signer in (A, B, X):
            with pytest.raises(KeyHistoryError, match="lost_key is a key of this ledger"):
                _history(*before, recovered(5, 5, note_of(9, signer), B, lost_key=str(key.key)))


def test_a_key_that_was_revoked_shows_no_longer_whose_history_it_is() -> None:
    history = _history(genesis(A), rotated(3, A, B), revoked(4, A))
    with pytest.raises(NoteError, match="was revoked: it shows no longer"):
        history.check(note_of(9, B), [A.key])
    for known in ([B.key], [A.key, B.key]):
        assert history.check(note_of(9, B), known).size == 9


@pytest.mark.parametrize(("why", "entry"), _WRONG)
def test_an_entry_that_lacks_something_is_refused_and_changes_nothing(why: str, entry: JsonObject) -> None:
    history = _history(genesis(A))
    before = (history.keys, history.recovered)
    with pytest.raises(KeyHistoryError, match=why):
        history.entry(entry)
    assert (history.keys, history.recovered) == before
    history.entry(_ROTATED)
    assert history.current == B.key


def test_a_revoked_key_is_made_up_for_by_a_later_one_only() -> None:
    history = _history(genesis(A), rotated(3, A, B), rotated(6, B, C), revoked(8, B))
    for others, counts in (((), False), ((A,), False), ((C,), True), ((A, C), True)):
        note = note_of(5, B, *others)
        if counts:
            assert history.check(note).size == 5
        else:
            with pytest.raises(NoteError, match="was revoked, and by no later one"):
                history.check(note)


def test_unknown_members_and_unknown_types_are_passed_over() -> None:
    history = _history(genesis(A), {**_ROTATED, "colour": "blue"}, {"type": "signer.frozen", "seq": 4})
    assert history.current == B.key


def test_the_first_entry_must_be_the_genesis() -> None:
    with pytest.raises(KeyHistoryError, match="is the genesis"):
        KeyHistory().entry(_ROTATED)
    with pytest.raises(KeyHistoryError, match="not the first entry"):
        KeyHistory().entry({**genesis(A), "seq": 1})
    with pytest.raises(KeyHistoryError, match="named 'other'"):
        KeyHistory().entry(genesis(NumberedSigner(0, "other")))


def test_a_given_key_must_be_in_the_history() -> None:
    history = _history(genesis(A), rotated(3, A, B))
    note = note_of(5, B)
    for known in (A, B):
        assert history.check(note, [known.key]).size == 5
    assert history.check(note, [X.key, A.key]).size == 5
    with pytest.raises(NoteError, match="another history"):
        history.check(note, [X.key])


def test_a_ledger_whose_genesis_names_no_key_needs_a_known_one() -> None:
    bare = _history(genesis(None))
    note = note_of(5, A)
    with pytest.raises(NoteError, match="without a known key"):
        bare.check(note)
    with pytest.raises(NoteError, match="not signed by a known key"):
        bare.check(note, [B.key])
    assert bare.check(note, [A.key]).size == 5
    with pytest.raises(NoteError, match="names no checkpoint key"):
        bare.key_for(5)
    assert (bare.current, bare.anchored) == (None, False)


def test_such_a_ledger_can_hand_over_all_the_same() -> None:
    history = _history(genesis(None), rotated(3, A, B))
    with pytest.raises(NoteError, match="without a known key"):
        history.check(note_of(5, B))
    assert history.check(note_of(5, B), [A.key]).size == 5
    with pytest.raises(NoteError, match="must be signed by"):
        history.check(note_of(5, A), [A.key])


def test_a_lost_key_is_named_by_the_recovery() -> None:
    note = note_of(9, X)
    history = _history(genesis(A), recovered(3, 3, note, A, lost_key=str(X.key)))
    assert [(item.seq, item.first, item.last, item.forked) for item in history.recovered] == [(3, 3, 8, False)]
    with pytest.raises(NoteError):
        history.check(note)


def test_what_a_revoked_key_signed_shows_no_loss() -> None:
    with pytest.raises(KeyHistoryError, match="not signed by a known key"):
        _history(genesis(A), rotated(3, A, B), revoked(4, A), recovered(5, 5, note_of(9, A), B))


def test_a_recovery_within_the_present_size_is_a_fork() -> None:
    history = _history(genesis(A), recovered(7, 2, note_of(5, A, history="other"), A))
    assert history.recovered[0].forked


@pytest.mark.parametrize("member", sorted(_ROTATED))
@pytest.mark.parametrize("value", [None, 5, "", [], {}, True, "\ud800", "x+y+z"])
def test_no_value_of_any_member_gets_another_error_out(member: str, value: Any) -> None:  # noqa: ANN401 - any JSON
    history = _history(genesis(A))
    if member == "type":
        history.entry({**_ROTATED, member: value})
        assert history.current == A.key
        return
    with pytest.raises(KeyHistoryError):
        history.entry({**_ROTATED, member: value})

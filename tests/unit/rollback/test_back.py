"""Taking back: whatever was done and taken back in whatever order, the tree is what the calls in effect make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain.taken_back import marks, taken_back_by
from broker.domain.tree import Change, Effect, Entry, TreeFile, TreeLink
from broker.rollback.back import Done, dependents, differences, moved_bases, taking_back
from tests.tree_values import address, applied, entries, paths


class World:
    """A workspace and what was done to it, in the plainest form."""

    def __init__(self) -> None:
        self.tree: dict[str, Entry] = {"a": TreeLink("0"), "d/e": TreeLink("0")}
        self.start = dict(self.tree)
        self.done: dict[str, Done] = {}

    def _add(self, effect: Effect, undoes: tuple[str, ...] = ()) -> str:
        self.tree = applied(self.tree, effect)
        call = f"call_{len(self.done)}"
        self.done[call] = Done(call, len(self.done), effect, undoes)
        return call

    def change(self, *changes: tuple[str, Entry | None]) -> None:
        made = [Change(path, self.tree.get(path), entry) for path, entry in dict(changes).items()]
        if found := [change for change in made if change.before != change.after]:
            self._add(Effect.of(found))

    def turns(self, since: int) -> list[Done]:
        return [item for item in self.done.values() if item.undoes and item.seq > since]

    def undoes(self, call: str) -> tuple[str, ...]:
        return self.done[call].undoes

    def effect(self, call: str) -> Done | None:
        return self.done[call]

    def in_effect(self, call: str) -> bool:
        return not taken_back_by(call, self.undoes, lambda one: self.done[one].undone_by)

    def undo(self, call: str, *, cascade: bool) -> bool:
        """Whether it was taken back."""
        if not self.in_effect(call):
            return False
        others = dependents(self.done[call], self.done.values())
        if others and not cascade:
            return False
        chain = (self.done[call], *others)
        if moved_bases(chain, self.turns(chain[0].seq), self):
            return False
        back = taking_back(chain)
        if not back.changes or differences(back, self.tree, tuple(self.done.values())):
            return False
        by = self._add(back, tuple(item.call for item in chain))
        for item in chain:
            for other, taken in marks(item.call, by, self.undoes):
                self.done[other] = replace(self.done[other], undone_by=taken)
        return True

    def replayed(self) -> dict[str, Entry]:
        """What the calls that are in effect make of the start, each by what it leaves, in their order."""
        tree = dict(self.start)
        for item in self.done.values():
            if not item.undoes and not item.undone_by:
                for change in item.effect.changes:
                    tree.pop(change.path, None)
                    if change.after is not None:
                        tree[change.path] = change.after
        return tree


few = st.sampled_from(("a", "b", "d/e"))
values = st.none() | st.sampled_from((TreeLink("0"), TreeLink("1"), TreeLink("2")))
several = st.lists(st.tuples(few, values), min_size=1, max_size=2)
steps = st.lists(
    st.tuples(st.just("change"), several, st.none()) | st.tuples(st.just("undo"), st.integers(0, 20), st.booleans()),
    max_size=30,
)


@given(steps)
@settings(max_examples=250)
def test_the_tree_is_always_what_the_calls_in_effect_make_of_it(plan: Sequence[tuple[str, object, object]]) -> None:
    world = World()
    for what, one, other in plan:
        if what == "change":
            world.change(*one)  # type: ignore[misc]  # drawn so
        elif world.done:
            call = list(world.done)[one % len(world.done)]  # type: ignore[operator]  # drawn so
            before = dict(world.tree)
            if world.undo(call, cascade=bool(other)):
                # And the undo is taken back at once: all is as it was.
                by = list(world.done)[-1]
                then = {name: item.undone_by for name, item in world.done.items() if name != by}
                tree = dict(world.tree)
                assert world.undo(by, cascade=False)
                assert world.tree == before
                again = list(world.done)[-1]
                assert world.undo(again, cascade=False)
                assert world.tree == tree
                assert {name: world.done[name].undone_by for name in then} == then
        assert world.tree == world.replayed()


def below(world: World, call: str, *, cascade: bool = False) -> list[str]:
    """The changes that keep a call from being taken back since they aren't below it as they were."""
    target = world.done[call]
    chain = (target, *(dependents(target, world.done.values()) if cascade else ()))
    return [item.call for item in moved_bases(chain, world.turns(target.seq), world)]


def test_a_change_that_stood_on_something_else_is_not_taken_back_to_it() -> None:
    world = World()
    world.change(("a", None))
    assert world.undo("call_0", cascade=False)  # by call_1
    world.change(("a", None))  # call_2
    assert world.undo("call_2", cascade=False)  # by call_3
    assert world.undo("call_1", cascade=False)  # by call_4: call_0 is in effect again, and lies below call_2 now
    world.change(("a", TreeLink("1")))
    assert below(world, "call_3", cascade=True) == ["call_0"]
    assert not world.undo("call_3", cascade=True)
    assert world.undo("call_0", cascade=True)
    assert below(world, "call_3") == []
    assert world.undo("call_3", cascade=False)
    assert world.tree == world.replayed()


def test_what_cancels_out_in_a_taking_back_counts_all_the_same() -> None:
    world = World()
    world.change(("a", TreeLink("1")))
    world.change(("a", TreeLink("2")))
    assert world.undo("call_1", cascade=False)  # by call_2
    world.change(("a", TreeLink("0")), ("b", TreeLink("9")))  # call_3
    assert world.undo("call_0", cascade=True)  # by call_4, which leaves `a` as it is
    assert world.done["call_4"].effect.paths == {"b"}
    world.change(("a", TreeLink("1")))
    assert below(world, "call_2", cascade=True) == ["call_0"]


def test_what_a_taking_back_is_about_counts_though_it_cancels_out_there() -> None:
    world = World()
    world.change(("a", TreeLink("2")))
    world.change(("b", TreeLink("1")), ("a", None))
    world.change(("d/e", None), ("a", TreeLink("2")))
    assert world.undo("call_1", cascade=True)  # by call_3, which leaves `a` as it is
    assert world.undo("call_0", cascade=False)
    assert below(world, "call_3") == ["call_0"]


def test_a_taking_back_of_other_paths_is_in_nobodys_way() -> None:
    world = World()
    world.change(("a", TreeLink("1")))
    world.change(("b", TreeLink("1")))
    world.change(("a", TreeLink("2")), ("b", TreeLink("2")))
    assert world.undo("call_0", cascade=True)
    assert below(world, "call_1") == []
    assert world.undo("call_1", cascade=False)
    assert world.tree == world.start


@given(st.lists(st.tuples(paths, entries | st.none()), max_size=12), st.integers(0, 11))
def test_a_chain_that_is_taken_back_leaves_what_was_there_before_it(
    plan: list[tuple[str, Entry | None]], first: int
) -> None:
    tree: dict[str, Entry] = {}
    done, states = [], [tree]
    for path, entry in plan:
        effect = Effect.of(c for c in [Change(path, tree.get(path), entry)] if c.before != c.after)
        tree = applied(tree, effect)
        done.append(Done(f"call_{len(done)}", len(done), effect))
        states.append(tree)
    chain = done[first:]
    assert applied(tree, taking_back(chain)) == states[min(first, len(done))]
    back = taking_back(chain)
    assert differences(back, tree, chain) == ()
    for change in back.changes:
        other = dict(tree)
        if change.before is None:
            other[change.path] = TreeLink("somebody else's")
        else:
            del other[change.path]
        (found,) = differences(back, other, chain)
        assert (found.path, found.expected, found.present) == (change.path, change.before, other.get(change.path))
        assert set(found.by) >= {item.call for item in chain if change.path in item.effect.paths}


def one(call: str, seq: int, *touched: str) -> Done:
    file = TreeFile(address(b"a"), 1)
    return Done(call, seq, Effect.of(Change(path, None, file) for path in touched))


def test_who_builds_on_a_call_is_told_through_others_and_through_folders() -> None:
    target = one("t", 5, "d/e")
    others = [
        one("before", 4, "d/e"),
        one("same", 6, "d/e", "x"),
        one("through another", 7, "x"),
        one("a file where its folder was", 8, "d"),
        one("below it", 9, "d/e/f"),
        one("beside it", 10, "e/d", "de"),
        replace(one("taken back", 11, "d/e"), undone_by="u"),
        replace(one("takes back", 12, "d/e"), undoes=("z",)),
        target,
    ]
    found = [item.call for item in dependents(target, reversed(others))]
    assert found == ["same", "through another", "a file where its folder was", "below it"]


def test_hundreds_of_undos_of_undos_are_followed_to_the_first() -> None:
    world = World()
    world.change(("b", TreeLink("1")))
    for count in range(600):
        assert world.undo(f"call_{count}", cascade=False)
    assert world.in_effect("call_0")
    assert world.tree["b"] == TreeLink("1")
    assert world.tree == world.replayed()


def test_what_was_brought_back_and_taken_back_by_another_is_not_taken_back_twice() -> None:
    world = World()
    world.change(("a", TreeLink("1")))  # 0
    world.change(("a", TreeLink("0")))  # 1
    assert world.undo("call_1", cascade=False)  # 2
    assert world.undo("call_2", cascade=False)  # 3: 1 is in effect again
    by = "call_9"
    for call in ("call_0", "call_1"):
        for other, taken in marks(call, by, world.undoes):
            world.done[other] = replace(world.done[other], undone_by=taken)
    assert not world.in_effect("call_3")
    assert not world.undo("call_3", cascade=True)

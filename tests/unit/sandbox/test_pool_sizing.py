"""The arithmetic of the warm pool: bounds that hold whatever calls come, and shares that follow them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.errors import InvalidArgumentError
from broker.sandbox.pool_sizing import Demand, Sizing, Stock, Want, refills, shares, surplus

SIZING = Sizing(floor=2, ceiling=10, idle_age_s=600, shrink_s=60)


def asked(demand: Demand, times: int, now: float = 0.0, *, missed: bool = False, left: int = 0) -> Demand:
    for _ in range(times):
        demand = demand.called(SIZING, now, left=left, missed=missed)
    return demand


def wanted(demand: Demand, now: float, *, prewarmed: bool = False) -> int:
    return demand.settled(SIZING, now).wanted(SIZING, now, prewarmed=prewarmed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("floor", -1),
        ("ceiling", -1),
        ("creates", 0),
        ("idle_age_s", 0.0),
        ("max_age_s", 0.0),
        ("shrink_s", 0.0),
        ("quiet_s", 0.0),
        ("refill_wait_s", -1.0),
        ("linger_s", 0.0),
        ("retry_s", 0.0),
        ("retry_max_s", 0.0),
    ],
)
def test_a_bound_that_cannot_be_kept_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        replace(SIZING, **{field: value})
    assert field in str(caught.value)


def test_a_profile_that_no_call_asked_for_wants_none_unless_prewarmed() -> None:
    fresh = Demand.fresh(SIZING, 0.0)
    assert wanted(fresh, 0.0) == 0
    assert wanted(fresh, 1e6, prewarmed=True) == 2


def test_a_call_brings_the_floor_and_the_age_takes_it() -> None:
    demand = asked(Demand.fresh(SIZING, 0.0), 1)
    assert wanted(demand, 0.0) == 2
    assert wanted(demand, 599.0) == 2
    assert wanted(demand, 600.0) == 0
    assert wanted(demand, 600.0, prewarmed=True) == 2


def test_misses_raise_what_is_wanted_up_to_the_ceiling() -> None:
    fresh = Demand.fresh(SIZING, 0.0)
    assert wanted(asked(fresh, 3, missed=True), 0.0) == 5
    assert wanted(asked(fresh, 100, missed=True), 0.0) == 10


def test_half_of_what_lay_unused_is_given_up_each_period_down_to_the_floor() -> None:
    demand = asked(Demand.fresh(SIZING, 0.0), 100, missed=True).settled(SIZING, 60.0)
    assert [wanted(demand, now) for now in (60.0, 119.0, 120.0, 180.0, 240.0, 500.0)] == [10, 10, 5, 2, 2, 2]


def test_what_was_needed_to_the_last_is_kept() -> None:
    demand = asked(Demand.fresh(SIZING, 0.0), 100, missed=True).settled(SIZING, 60.0)
    demand = asked(demand, 1, now=61.0, left=0)
    assert wanted(demand, 120.0) == 10
    demand = asked(demand.settled(SIZING, 120.0), 1, now=121.0, left=4)
    assert wanted(demand, 180.0) == 8


def test_a_prewarmed_profile_wants_one_even_with_no_floor() -> None:
    sizing = replace(SIZING, floor=0)
    assert Demand.fresh(sizing, 0.0).wanted(sizing, 0.0, prewarmed=True) == 1


def test_a_ceiling_of_nothing_turns_all_off() -> None:
    sizing = replace(SIZING, ceiling=0)
    demand = Demand.fresh(sizing, 0.0).called(sizing, 0.0, left=0, missed=True)
    assert demand.wanted(sizing, 0.0, prewarmed=True) == 0


def test_who_is_called_more_gets_more_of_a_ceiling_too_small_for_all() -> None:
    wants = {
        "busy": Want(10, 90.0, prewarmed=False),
        "calm": Want(10, 10.0, prewarmed=False),
        "never": Want(2, 0.0, prewarmed=True),
    }
    assert shares(wants, 11) == {"busy": 9, "calm": 1, "never": 1}
    assert shares(wants, 100) == {"busy": 10, "calm": 10, "never": 2}
    assert shares(wants, 1) == {"busy": 0, "calm": 0, "never": 1}
    assert shares(wants, 0) == {"busy": 0, "calm": 0, "never": 0}


def test_who_was_called_last_has_one_whatever_was_called_before() -> None:
    old = Want(10, 300.0, prewarmed=False, expected=8.0)
    new = Want(2, 1.0, prewarmed=False, expected=9.0)
    assert shares({"old": old, "new": new}, 10) == {"old": 9, "new": 1}
    assert shares({"old": old, "new": replace(new, expected=None)}, 10) == {"old": 10, "new": 0}
    assert shares({"old": old, "new": replace(new, wanted=0)}, 10) == {"old": 10, "new": 0}
    assert shares({"old": old, "new": new}, 1) == {"old": 1, "new": 0}
    assert shares({"old": old, "new": new}, 2) == {"old": 1, "new": 1}


def test_those_called_last_get_half_of_the_ceiling_at_most() -> None:
    wants = {f"new{number}": Want(2, 1.0, prewarmed=False, expected=float(number)) for number in range(20)}
    given = shares({"old": Want(10, 300.0, prewarmed=False)} | wants, 10)
    assert {key for key, count in given.items() if count} == {"old", "new15", "new16", "new17", "new18", "new19"}
    assert given["old"] == 5


def test_a_call_is_expected_for_a_while_after_the_last() -> None:
    demand = Demand.fresh(SIZING, 0.0)
    assert demand.expected(0.0) is None
    demand = asked(demand, 1, now=10.0)
    assert (demand.expected(10.0), demand.expected(24.9), demand.expected(25.0)) == (10.0, 10.0, None)


def test_the_emptiest_shelf_is_filled_first() -> None:
    stocks = {"a": Stock(1, 0), "b": Stock(0, 0), "c": Stock(2, 1)}
    assert refills(stocks, {"a": 2, "b": 2, "c": 3}, 10) == ["b", "a", "b"]
    assert refills(stocks, {"a": 2, "b": 2, "c": 3}, 5) == ["b"]
    assert refills(stocks, {"a": 2, "b": 2, "c": 3}, 4) == []


def test_what_a_profile_itself_does_not_want_goes() -> None:
    assert surplus({"a": Stock(3, 1)}, {"a": 2}, {"a": 2}, 10) == {"a": 2}
    assert surplus({"a": Stock(1, 3)}, {"a": 0}, {"a": 0}, 10) == {"a": 1}


def test_what_is_above_the_share_goes_only_for_who_needs_the_room() -> None:
    full = {"a": Stock(10, 0), "b": Stock(0, 0)}
    assert surplus(full, {"a": 10, "b": 2}, {"a": 8, "b": 2}, 10) == {"a": 2}
    assert surplus(full, {"a": 10, "b": 0}, {"a": 10, "b": 0}, 10) == {}


def test_what_is_being_made_cannot_be_given_up() -> None:
    assert surplus({"a": Stock(1, 9), "b": Stock(0, 0)}, {"a": 10, "b": 2}, {"a": 8, "b": 2}, 10) == {"a": 1}


def test_one_container_more_or_less_makes_nobody_busy() -> None:
    stocks = {"a": Stock(6, 0), "b": Stock(4, 0)}
    assert surplus(stocks, {"a": 10, "b": 10}, {"a": 5, "b": 5}, 10) == {}


@dataclass
class Part:
    demand: Demand
    prewarmed: bool
    idle: int = 0
    making: int = 0


class PoolOfNumbers(RuleBasedStateMachine):
    """Claims, finished and failed makings, and time, in any order: the ceiling holds, and nobody starves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.parts: dict[str, Part] = {}
        self.sizing = SIZING

    @initialize(
        floor=st.integers(0, 4), ceiling=st.integers(0, 8), warm=st.lists(st.booleans(), min_size=1, max_size=4)
    )
    def begin(self, floor: int, ceiling: int, warm: list[bool]) -> None:
        self.sizing = replace(SIZING, floor=floor, ceiling=ceiling)
        self.parts = {
            f"p{number}": Part(Demand.fresh(self.sizing, 0.0), prewarmed) for number, prewarmed in enumerate(warm)
        }

    def part(self, which: int) -> Part:
        return list(self.parts.values())[which % len(self.parts)]

    @rule(which=st.integers(0, 3))
    def claim(self, which: int) -> None:
        part = self.part(which)
        missed = not part.idle
        part.idle = max(0, part.idle - 1)
        part.demand = part.demand.called(self.sizing, self.now, left=part.idle, missed=missed)

    @rule(which=st.integers(0, 3))
    def finish(self, which: int) -> None:
        part = self.part(which)
        if part.making:
            part.making -= 1
            part.idle += 1

    @rule(which=st.integers(0, 3))
    def fail(self, which: int) -> None:
        part = self.part(which)
        part.making = max(0, part.making - 1)

    @rule(seconds=st.floats(0.0, 700.0))
    def age(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def keep(self) -> None:
        """What the keeper does."""
        wanted, targets = self.targets()
        for key, count in surplus(self.stocks(), wanted, targets, self.sizing.ceiling).items():
            assert 0 < count <= self.parts[key].idle
            self.parts[key].idle -= count
        for key in refills(self.stocks(), targets, self.sizing.ceiling):
            self.parts[key].making += 1
            assert self.parts[key].idle + self.parts[key].making <= targets[key]

    @rule()
    def rest(self) -> None:
        """Left alone, the pool comes to its targets and stays there."""
        for _ in range(self.sizing.ceiling + 2):
            self.keep()
            for which in range(len(self.parts)):
                while self.part(which).making:
                    self.finish(which)
        _, targets = self.targets()
        for key, part in self.parts.items():
            assert part.idle >= min(1, targets[key])
            assert abs(part.idle - targets[key]) <= 1 or part.idle > targets[key]
        before = self.stocks()
        self.keep()
        assert self.stocks() == before

    def stocks(self) -> dict[str, Stock]:
        return {key: Stock(part.idle, part.making) for key, part in self.parts.items()}

    def targets(self) -> tuple[dict[str, int], dict[str, int]]:
        for part in self.parts.values():
            part.demand = part.demand.settled(self.sizing, self.now)
        wanted = {
            key: part.demand.wanted(self.sizing, self.now, prewarmed=part.prewarmed) for key, part in self.parts.items()
        }
        wants = {
            key: Want(wanted[key], part.demand.weight(self.now), part.prewarmed, part.demand.expected(self.now))
            for key, part in self.parts.items()
        }
        return wanted, shares(wants, self.sizing.ceiling)

    @invariant()
    def never_above_the_ceiling(self) -> None:
        assert sum(part.idle + part.making for part in self.parts.values()) <= self.sizing.ceiling

    @invariant()
    def shares_are_fair(self) -> None:
        wanted, targets = self.targets()
        assert sum(targets.values()) == min(self.sizing.ceiling, sum(wanted.values()))
        assert all(targets[key] <= wanted[key] <= self.sizing.ceiling for key in self.parts)
        prewarmed = [key for key, part in self.parts.items() if part.prewarmed]
        if len(prewarmed) <= self.sizing.ceiling:
            assert all(targets[key] >= 1 for key in prewarmed)

    @invariant()
    def the_forgotten_want_nothing(self) -> None:
        for part in self.parts.values():
            if not part.prewarmed and (part.demand.last_call is None or self.now - part.demand.last_call >= 600):
                assert part.demand.wanted(self.sizing, self.now, prewarmed=False) == 0


PoolOfNumbers.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPoolOfNumbers = PoolOfNumbers.TestCase

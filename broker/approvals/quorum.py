"""Do enough people agree? Pure: it is asked when a vote comes in, and again, with what is known then, at the use.

People are counted, not keys or accounts: of one person's votes the last one stands. Each seat that a requirement asks for
is one person's, who holds its role; those beyond the roles' counts may hold any of the roles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from broker.domain.approval import Vote, VoteDecision
from broker.domain.requirement import Channel, Requirement


@dataclass(frozen=True, slots=True)
class Ballot:
    """A person's vote that stands, with what is known of the person now."""

    vote: Vote
    roles: frozenset[str]
    """Roles that the person holds now in the approval's workspace, without ``role:``."""
    why_not: str = ""
    """Why it doesn't count now, as a sentence; empty where it does."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What the ballots come to."""

    met: bool
    missing: tuple[str, ...]
    """What is still missing, a sentence each."""
    counted: tuple[Vote, ...]
    """The votes that fill the seats, by their numbers; all of them only where it is met."""


def standing(votes: Iterable[Vote]) -> list[Vote]:
    """Of each person the vote that stands: the last one, unless that took the one before back."""
    last: dict[str, Vote] = {}
    for vote in sorted(votes, key=lambda vote: vote.number):
        last[vote.person] = vote
    return [vote for vote in last.values() if vote.decision is not VoteDecision.WITHDRAW]


def tally(requirement: Requirement, ballots: Sequence[Ballot]) -> Tally:
    """Counts the ballots that approve and that count now.

    A denial isn't counted here: it ends the approval when it is cast.
    """
    valid = [item for item in ballots if not item.why_not and item.vote.decision is VoteDecision.APPROVE]
    valid = [item for item in valid if item.vote.channel in requirement.channels]
    # Those who signed first: a greedy choice by augmenting paths seats as many of them as any other choice.
    valid.sort(key=lambda item: (item.vote.channel is not Channel.CLI, item.vote.number))
    seats = _seats(requirement)
    seated = _seated(valid, seats)
    chosen = [valid[index].vote for index in seated.values()]
    signed = sum(vote.channel is Channel.CLI for vote in chosen)
    missing = list(_unfilled(seats, frozenset(seated)))
    if signed < requirement.min_signed:
        missing.append(_people(requirement.min_signed - signed, "who must sign with a key of their own"))
    met = not missing and len(chosen) == len(seats) >= 1 and len({vote.person for vote in chosen}) == len(seats)
    return Tally(met, tuple(missing), tuple(sorted(chosen, key=lambda vote: vote.number)))


def _seats(requirement: Requirement) -> list[frozenset[str]]:
    """Each seat as the roles of which its person must hold one."""
    named = [frozenset({item.role}) for item in requirement.roles for _ in range(item.people)]
    anybody = frozenset(item.role for item in requirement.roles)
    return [*named, *([anybody] * (requirement.people - len(named)))]


def _seated(ballots: Sequence[Ballot], seats: Sequence[frozenset[str]]) -> dict[int, int]:
    """Seat -> ballot, as many as can be: a maximum matching (augmenting paths)."""
    taken: dict[int, int] = {}

    def place(index: int, tried: set[int]) -> bool:
        for seat, roles in enumerate(seats):
            if seat in tried or not roles & ballots[index].roles:
                continue
            tried.add(seat)
            if seat not in taken or place(taken[seat], tried):
                taken[seat] = index
                return True
        return False

    for index in range(len(ballots)):
        place(index, set())
    return taken


def _unfilled(seats: Sequence[frozenset[str]], filled: frozenset[int]) -> Iterable[str]:
    open_seats: dict[frozenset[str], int] = {}
    for seat, roles in enumerate(seats):
        if seat not in filled:
            open_seats[roles] = open_seats.get(roles, 0) + 1
    for roles, count in open_seats.items():
        yield _people(count, f"with the role {' or '.join(sorted(roles))}")


def _people(count: int, which: str) -> str:
    return f"{count} {'person' if count == 1 else 'people'} {which}"


def possible(requirement: Requirement, people: Iterable[tuple[str, frozenset[str]]]) -> tuple[str, ...]:
    """What could never be met by these people, each with their roles; empty where they are enough.

    Args:
        requirement: what is asked for.
        people: (id, roles) of everybody who may vote now.
    """
    moment = datetime.min.replace(tzinfo=UTC)
    ballots = [
        Ballot(Vote("", number, person, "", VoteDecision.APPROVE, Channel.CLI, moment, -1), roles)
        for number, (person, roles) in enumerate(people, start=1)
    ]
    return tally(requirement, ballots).missing

"""A timeline from a running broker: what the caller may see, each entry proved to be in the log before it is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import replace

from broker.cli.remote import Remote
from broker.client import AsyncBroker, EntryFilter
from broker.errors import InvalidArgumentError
from broker.replay.casebook import Mark, moment
from broker.replay.making import extract_casebook
from broker.replay.timeline.gathering import CHANGES
from broker.replay.timeline.making import Limits, make_timeline
from broker.replay.timeline.model import Left, Timeline
from broker.replay.timeline.selecting import Selection
from broker.replay.timeline.texts import NoTexts

MOST_ENTRIES = 3_000
"""Entries that are listed at most, the newest that fit."""
_MOST_BEFORE = 500
_AT_ONCE = 8
_PEOPLE = ("approval.requested", "vote", "vote.attested", "approval.closed", "session.ended", "erased")
_STANDING = ("session.started", "frozen", "unfrozen", *CHANGES)


def timeline_of_server(remote: Remote, wanted: Selection, agent: str, person: str, limits: Limits) -> Timeline:
    """Lists what may fit, makes the timeline, proves what it shows, and makes it again of what is proved.

    Args:
        remote: how the broker is reached.
        wanted: what is asked for, but for agent and person.
        agent: by name or id; the broker finds out.
        person: by id.
        limits: how much is shown.

    Raises:
        NotFoundError: there is no checkpoint yet.
        DataLossError: an entry isn't proved (``PROOF_INVALID``), or the history isn't the one that was seen before.
        BrokerError: as the broker refuses.
    """

    async def work(broker: AsyncBroker) -> Timeline:
        checkpoint = await broker.ledger.checkpoint()
        mark = Mark(
            verdict="ok",
            why="",
            origin=checkpoint.checkpoint.origin,
            entries=0,
            head="",
            checkpoint_size=checkpoint.size,
            checkpoint_root=checkpoint.checkpoint.root.hex(),
            extract="as far as you may see",
            complete="not shown: what you may not see isn't there",
        )
        listing = _Listing(broker, agent, wanted)
        found, whose = await listing.take()
        chosen = replace(wanted, agent=whose, person=person)
        left = [Left("older entries that the broker wasn't asked for", None)] if listing.cut else []
        new = sum(seq >= checkpoint.size for seq in found)
        if new:
            left.append(Left("entries that no checkpoint covers yet: ask again in some seconds", new))
        covered = {seq: data for seq, data in found.items() if seq < checkpoint.size}
        draft = _made(covered, mark, chosen, limits)
        shown = await _proved(broker, (event.seq for event in draft.events), checkpoint.size)
        made = _made(shown, mark, chosen, limits)
        return replace(made, left_out=(*left, *made.left_out))

    return remote.run(work)


def _made(found: dict[int, bytes], mark: Mark, wanted: Selection, limits: Limits) -> Timeline:
    with extract_casebook(sorted(found.items()), mark) as casebook:
        return make_timeline(casebook, wanted, name=lambda identity: identity, texts=NoTexts(), limits=limits)


class _Listing:
    """What a broker shows of it.

    Args:
        broker: an open client.
        agent: by name or id.
        wanted: what is asked for.
    """

    def __init__(self, broker: AsyncBroker, agent: str, wanted: Selection) -> None:
        self._broker = broker
        self._agent = agent
        self._wanted = wanted
        self.cut = False
        """Is there more than was taken?"""

    async def take(self) -> tuple[dict[int, bytes], str]:
        """The entries by number, and the agent's id."""
        wanted = self._wanted
        chosen = EntryFilter(
            agent=self._agent,
            call=wanted.call,
            tool=wanted.tool if not wanted.call else "",
            workspace=wanted.workspace if not wanted.call else "",
            time_from=None if wanted.since is None else moment(wanted.since),
            time_before=None if wanted.until is None else moment(wanted.until + 1),
        )
        found, agents = await self._list(chosen, MOST_ENTRIES)
        if self._agent and len(agents) > 1:
            raise InvalidArgumentError("the broker gave entries of several agents for one", reason="PROTOCOL_ERROR")
        whose = next(iter(agents), self._agent) if self._agent else ""
        if found:
            first, last = min(found), max(found)
            between = EntryFilter(types=(*_PEOPLE, *_STANDING), first_seq=first, before_seq=last + 1)
            before = EntryFilter(types=_STANDING, before_seq=first) if first else None
            found |= (await self._list(between, MOST_ENTRIES))[0]
            found |= (await self._list(before, _MOST_BEFORE, quiet=True))[0] if before else {}
        return found, whose

    async def _list(self, chosen: EntryFilter, most: int, *, quiet: bool = False) -> tuple[dict[int, bytes], set[str]]:
        found: dict[int, bytes] = {}
        agents: set[str] = set()
        async with aclosing(self._broker.ledger.list(chosen, newest_first=True, page_size=1000)) as entries:
            async for entry in entries:
                if len(found) == most:
                    self.cut = self.cut or not quiet
                    break
                found[entry.seq] = entry.data
                agents |= {entry.agent} - {""}
        return found, agents


async def _proved(broker: AsyncBroker, numbers: Iterable[int], size: int) -> dict[int, bytes]:
    """The entries by number, each with its place in the log of that checkpoint proved."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def prove(seq: int) -> tuple[int, bytes]:
        async with turn:
            return seq, (await broker.ledger.prove(seq, size)).entry.data

    return dict(await asyncio.gather(*map(prove, numbers)))

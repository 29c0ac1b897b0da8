"""Skims an entry for what makes it like others: most say word for word what one before said, but for number, time and call.

What is skimmed holds the bytes of the members, unread. Two entries with the same ``form`` say the same in all that filing
takes from a decision, so the second needn't be read. Whatever doesn't look as usual isn't skimmed, but read as a whole.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Raw

from broker.replay.members import MOST

Form: TypeAlias = tuple[object, ...]

_NOTHING = Raw(b"")
_EMPTY = (b"", b"[]")


class _Agent(msgspec.Struct, gc=False, frozen=True):
    id: str = ""


class Ended(msgspec.Struct, gc=False, frozen=True):
    """How a call ended."""

    state: str = ""
    cause: str = ""
    exit_code: Annotated[int, Meta(gt=-MOST, lt=MOST)] | None = None


class Skimmed(msgspec.Struct, gc=False):
    """What is taken from an entry at a glance; text members that it lacks are empty."""

    type: str = ""
    ts: str = ""
    boot_id: str = ""
    call_id: str = ""
    agent: _Agent = _Agent()
    outcome: Ended = Ended()
    approval: Raw = _NOTHING
    approvals: Raw = _NOTHING
    effect: Raw = _NOTHING
    egress: Raw = _NOTHING
    policy: Raw = _NOTHING
    refused: Raw = _NOTHING
    repeated: Raw = _NOTHING
    tool: Raw = _NOTHING
    tier: Raw = _NOTHING
    workspace: Raw = _NOTHING
    workflow: Raw = _NOTHING
    model: Raw = _NOTHING
    prompt_version: Raw = _NOTHING
    feature: Raw = _NOTHING
    team: Raw = _NOTHING
    lineage: Raw = _NOTHING
    data_classes: Raw = _NOTHING

    @property
    def form(self) -> Form:
        """All that filing takes from a decision, but its number, time, boot and call; and whether it has a call."""
        return (
            self.agent.id,
            not self.call_id,
            bytes(self.policy),
            bytes(self.refused),
            bytes(self.repeated),
            bytes(self.tool),
            bytes(self.tier),
            bytes(self.workspace),
            bytes(self.workflow),
            bytes(self.model),
            bytes(self.prompt_version),
            bytes(self.feature),
            bytes(self.team),
            bytes(self.lineage),
            bytes(self.data_classes),
        )

    @property
    def plain(self) -> bool:
        """Has it no approval, effect or host?"""
        return (
            not bytes(self.approval)
            and bytes(self.approvals) in _EMPTY
            and bytes(self.effect) == b""
            and bytes(self.egress) in _EMPTY
        )


_decode = msgspec.json.Decoder(Skimmed).decode


def skim(data: bytes) -> Skimmed | None:
    """Skims an entry; ``None`` where it doesn't look as usual."""
    # Members that are skipped aren't looked at closely: text in ASCII has no malformed characters.
    if not data.isascii():
        return None
    try:
        found = _decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if found.plain else None

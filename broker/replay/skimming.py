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
_NONE = b"[]"
_BETWEEN = b"\x00"
"""Is in no JSON: so what is joined by it can be told apart."""


class _Agent(msgspec.Struct, gc=False, frozen=True):
    id: str = ""


class Ended(msgspec.Struct, gc=False, frozen=True):
    """How a call ended."""

    state: str = ""
    cause: str = ""
    exit_code: Annotated[int, Meta(gt=-MOST, lt=MOST)] | None = None


class Skimmed(msgspec.Struct, gc=False):
    """What is taken from an entry at a glance; what it lacks is empty or 0."""

    type: str = ""
    ts: str = ""
    boot_id: str = ""
    call_id: str = ""
    agent: _Agent = _Agent()
    outcome: Ended = Ended()
    workspace: str = ""
    model: str = ""
    prompt_version: str = ""
    feature: str = ""
    team: str = ""
    tier: int = 0
    policy: Raw = _NOTHING
    tool: Raw = _NOTHING
    workflow: Raw = _NOTHING
    lineage: Raw = _NOTHING
    data_classes: Raw = _NOTHING
    refused: Raw = _NOTHING
    repeated: Raw = _NOTHING
    approval: Raw = _NOTHING
    approvals: Raw = _NOTHING
    effect: Raw = _NOTHING
    egress: Raw = _NOTHING

    @property
    def form(self) -> Form:
        """All that filing takes from a decision, but its number, time, boot and call; and whether it has a call."""
        return (
            self.agent.id,
            not self.call_id,
            self.workspace,
            self.model,
            self.prompt_version,
            self.feature,
            self.team,
            self.tier,
            _BETWEEN.join(
                (
                    self.policy,
                    self.tool,
                    self.workflow,
                    self.lineage,
                    self.data_classes,
                    self.refused,
                    self.repeated,
                )
            ),
        )

    @property
    def plain(self) -> bool:
        """Has it no approval, effect or host?"""
        return (
            self.approval is _NOTHING
            and self.effect is _NOTHING
            and (self.egress is _NOTHING or bytes(self.egress) == _NONE)
            and (self.approvals is _NOTHING or bytes(self.approvals) == _NONE)
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

"""What a run on a copy came to: the effect that is to be applied, and all that was found out about it before.

Kept, encrypted, with the call from the end of its plan on. What people agree to names its digests; what is applied is
made of this again, and compared with them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from broker.domain.canonical import JsonObject, JsonValue, canonical, digest, parse_json
from broker.domain.events import Outcome
from broker.domain.outside import Step
from broker.domain.tree import Effect, members, read_effect
from broker.errors import DataLossError, InvalidArgumentError

PLANNED = -3
"""Chunk of a call's object that holds its plan."""

_OUTCOME = TypeAdapter(Outcome)
_MAX = 64 * 2**20


@dataclass(frozen=True, slots=True)
class OutsidePlan:
    """What else is known of a plan whose effect lies outside of the workspace's files."""

    tool: str
    """Under whose name its items stand: that of the tool, or of the tool whose call is taken back."""
    step: Step
    """What applies it: ``apply`` or ``undo``."""
    reversibility: str
    on_failure: str
    """``undo`` where it is taken back by itself if its end isn't known and all is as planned; else ``none``."""
    version: str
    """Of the tool whose programs run."""
    frames: str
    """Digest of the frames by which the run that applies it is handed over. It is of arguments and items, so it stays here."""
    undo_frames: str = ""
    """The same of the run that takes it back by itself; empty where none does."""


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan of one call."""

    base: str
    """The workspace's state when the copy was made."""
    selection: str
    """Digest of what the tool was given of it."""
    effect: Effect
    artifact: str
    """Address of the rollback artifact, tried and found good; empty where there is nothing to take back."""
    outcome: Outcome
    """How the run on the copy ended."""
    undoes: tuple[str, ...] = ()
    """The calls that it takes back, oldest first; empty for no undo."""
    outside: OutsidePlan | None = None
    """``None`` for an effect on the workspace's files."""

    @property
    def rehearsed(self) -> bool:
        """Was it tried whether it can be taken back?"""
        return self.outside is None or self.outside.reversibility == "exact"

    def bound(self, salt: str) -> JsonObject:
        """What people agree to besides the call's own envelope: all by which the effect is known.

        Args:
            salt: the call's own, of its envelope.
        """
        found: JsonObject = {
            "base": self.base,
            "selection": self.selection if self.base else _salted(salt, self.selection),
            "digest": self.effect.digest(salt),
            "artifact": self.artifact,
            "undoes": list(self.undoes),
        }
        if self.outside is not None:
            found["outside"] = {
                **_outside_body(self.outside),
                "frames": _salted(salt, self.outside.frames),
                "undo_frames": _salted(salt, self.outside.undo_frames),
                "undo": self.effect.inverse().digest(salt),
            }
        return found


def _outside_body(outside: OutsidePlan) -> JsonObject:
    return {
        "tool": outside.tool,
        "step": outside.step.value,
        "reversibility": outside.reversibility,
        "on_failure": outside.on_failure,
        "version": outside.version,
        "frames": outside.frames,
        "undo_frames": outside.undo_frames,
    }


def _salted(salt: str, plain: str) -> str:
    # A digest of what a call was given could be tested against guesses of it; with the call's salt it can't.
    return digest(canonical({"format": "broker.salted.v1", "salt": salt, "digest": plain}))


def encode_planned(planned: Planned) -> bytes:
    """The bytes under which a plan is kept."""
    return canonical(
        {
            "base": planned.base,
            "selection": planned.selection,
            "changes": planned.effect.body(),
            "artifact": planned.artifact,
            "undoes": list(planned.undoes),
            "outcome": _OUTCOME.dump_json(planned.outcome).decode(),
            **({} if planned.outside is None else {"outside": _outside_body(planned.outside)}),
        }
    )


def decode_planned(data: bytes) -> Planned:
    """Reads what ``encode_planned`` wrote.

    Raises:
        DataLossError: the bytes are no plan (``PLAN_UNREADABLE``).
    """
    try:
        value = members(parse_json(data, field="plan", max_bytes=_MAX))
        undoes = value["undoes"]
        if not isinstance(undoes, list):
            raise _unreadable()
        return Planned(
            _text(value["base"]),
            _text(value["selection"]),
            read_effect(value["changes"]),
            _text(value["artifact"]),
            _OUTCOME.validate_json(_text(value["outcome"])),
            tuple(_text(item) for item in undoes),
            _outside(value.get("outside")),
        )
    except (KeyError, ValueError, InvalidArgumentError) as error:
        raise _unreadable() from error


def _outside(value: JsonValue) -> OutsidePlan | None:
    if value is None:
        return None
    body = {name: _text(item) for name, item in members(value).items()}
    return OutsidePlan(
        body["tool"],
        Step(body["step"]),
        body["reversibility"],
        body["on_failure"],
        body["version"],
        body["frames"],
        body["undo_frames"],
    )


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise _unreadable()
    return value


def _unreadable() -> DataLossError:
    return DataLossError("the kept plan of a call can't be read", reason="PLAN_UNREADABLE")

"""What a start brings into force besides the policy and the tools, compared with what is on record: tiers.yaml, settings.

Whatever asks for less than before takes two people. Until they agree, what is on record goes on being in force.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from broker.domain.administration import SETTINGS
from broker.domain.canonical import JsonObject, JsonValue, canonical, digest, parse_object
from broker.domain.ports import Transaction, Vault
from broker.domain.requirement import Requirement, weaker
from broker.errors import NotFoundError
from broker.ledger.in_force import newest_digest, sealed_text
from broker.pipeline.admin_actions import Shown
from broker.specs.tiers import TierRow, Tiers, tiers_of

TOOLS_PART, SETTINGS_PART = "tools", "settings"
"""What entries call that which is in force."""
UNSAFE = ("unsafe_chat_only_quorum", "unsafe_slack_approves_tier4", "unsafe_import_over_tree")
"""Settings that weaken the two-person rule."""


_MOST_TEXT = 16 << 20
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Held:
    """A change that a start didn't bring into force, as nobody has agreed to it."""

    action: str
    parameters: JsonObject
    """Digests of what would be in force, and of what is."""
    weaker: tuple[str, ...]
    """In which respects it asks for less, a sentence each."""
    difference: tuple[str, ...]
    """All that it changes."""
    tool: str = ""
    """Name of the tool that it is about; empty for another change."""
    why: str = ""
    """Why the tool runs at a higher tier than it asks for."""

    def shown(self) -> Shown:
        """As people are asked about it."""
        return Shown(self.parameters, self.difference)


def held_change(held: tuple[Held, ...], action: str, which: str) -> Held:
    """The change of that digest which waits.

    Raises:
        NotFoundError: there is none (``NOTHING_HELD``).
    """
    for item in held:
        if item.action == action and item.parameters["digest"] == which:
            return item
    raise NotFoundError(
        f"no {action} of that digest waits for approval in this start of the broker",
        reason="NOTHING_HELD",
        hint="`broker status` says what waits, with the command that asks for it.",
    )


def hold(before: JsonObject, after: JsonObject) -> Held:
    """Another table or other settings, which wait: from what is in force to what would be."""
    less = tuple(_weaker_settings(before, after))
    rest = tuple(leaves(before, after, ""))
    parameters: JsonObject = {"digest": text_digest(after), "before": text_digest(before)}
    return Held(
        SETTINGS, parameters, less, (*(f"WIDENS, and touches the two-person rule: {item}" for item in less), *rest)
    )


def recorded_settings(tx: Transaction, vault: Vault) -> JsonObject | None:
    """What is on record as in force; ``None`` before the first start.

    Raises:
        DataLossError: it can't be read (``RECORD_DIFFERS``).
    """
    known = newest_digest(tx, "settings.changed", ("in_force", SETTINGS_PART))
    if not known:
        return None
    return parse_object(sealed_text(tx, vault, SETTINGS_PART, known), field="record", max_bytes=_MOST_TEXT)


def text_digest(text: JsonObject) -> str:
    """``sha256:`` of what is on record."""
    return digest(canonical(text))


def settings_text(tiers: Tiers, unsafe: Mapping[str, bool], folders: Mapping[str, str] = _NONE) -> JsonObject:
    """The table of tiers, the settings that weaken the rule, and the directories that workspaces are bound to."""
    table: JsonObject = tiers.model_dump(mode="json")
    text: JsonObject = {"table": table, "unsafe": {name: bool(unsafe[name]) for name in UNSAFE}}
    return {**text, "folders": dict(folders)} if folders else text


def table_of(text: JsonObject) -> Tiers:
    """The table of tiers, from what is on record.

    Raises:
        InvalidArgumentError: it is none any more (``TIERS_INVALID``).
    """
    table = text.get("table")
    return tiers_of(table if isinstance(table, dict) else {})


def unsafe_of(text: JsonObject) -> dict[str, bool]:
    """Setting that weakens the rule -> is it on, from what is on record; one that it doesn't name is off."""
    found = text.get("unsafe")
    return {name: isinstance(found, dict) and found.get(name) is True for name in UNSAFE}


def folders_of(text: JsonObject) -> dict[str, str]:
    """Workspace -> directory of the host that is its tree, from what is on record."""
    found = text.get("folders")
    return {name: path for name, path in found.items() if isinstance(path, str)} if isinstance(found, dict) else {}


def _weaker_settings(before: JsonObject, after: JsonObject) -> Iterator[str]:
    old, new = unsafe_of(before), unsafe_of(after)
    yield from (f"the setting {name} would be on" for name in UNSAFE if new[name] and not old[name])
    yield from _rebound(folders_of(before), folders_of(after))
    for row, other in zip(table_of(before).tiers, table_of(after).tiers, strict=True):
        yield from (f"tier {row.tier}: {item}" for item in _weaker_row(row, other))


def _rebound(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """Another tree takes the place of one that people have agreed to change, or calls reach what they didn't reach."""
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            now, was = after.get(name, "the broker's own tree"), before.get(name, "the broker's own tree")
            yield f"the files of workspace {name} would be {now}, and not {was}"


def _weaker_row(old: TierRow, new: TierRow) -> Iterator[str]:
    if new.irreversible and not old.irreversible:
        yield "irreversible actions are allowed"
    yield from _weaker_call(old.call_requirement(), new.call_requirement())
    less = weaker(old.workflow_requirement(), new.workflow_requirement())
    yield from (f"a workflow's approval, {item}" for item in less)
    gone = [name for name in old.must_carry if name not in new.must_carry]
    if gone:
        yield f"a call need not carry {', '.join(gone)} any more"


def _weaker_call(old: Requirement | None, new: Requirement | None) -> Iterator[str]:
    if old is not None and new is None:
        yield "nobody has to agree to a call any more"
    elif old is not None and new is not None:
        yield from (f"a call's approval, {item}" for item in weaker(old, new))


def leaves(before: JsonValue, after: JsonValue, place: str) -> Iterator[str]:
    """A sentence for each value that differs, by its place."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from leaves(before.get(name), after.get(name), f"{place}.{name}" if place else name)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from leaves(one, other, f"{place}[{index}]")
    elif before != after:
        yield f"{place}: {_words(before)} becomes {_words(after)}"


def _words(value: JsonValue) -> str:
    return "nothing" if value is None else canonical(value).decode()

"""What may be changed by whom once the founding is complete, and what is in force by the entries that were found right.

Part of ``broker.ledger.votes``, which knows the approvals. An entry that two people agreed to is bound to its approval: the
request says beforehand what the entry will say, member by member, and both must be the same.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from broker.domain import administration as action
from broker.domain.approval import ApprovalKind
from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.projection import UnexpectedEntryError, member
from broker.domain.tier import Tier
from broker.domain.tool_standing import Accepted, Registered, ToolStanding, least_tier, tools_digest
from broker.ledger.votes_reading import Asked, FindingError, part, words

CHANGES = frozenset({"spec.registered", "policy.changed", "settings.changed", "identity.issued", "heartbeat"})
"""Types of entries that say what is in force, or who is who."""

TYPE = "type"
"""Member of what a request says beforehand: the type of the entry."""

_BOUND: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "key.enrolled": (action.ENROL, ("key.id", "key.kind", "person")),
        "account.mapped": (action.MAP, ("person", "sealed.commit")),
        "account.unmapped": (action.UNMAP, ("person", "sealed.commit")),
        "unfrozen": (action.UNFREEZE, ("scope", "target")),
        "policy.changed": (action.POLICY, ("policy_digest", "before")),
        "settings.changed": (action.SETTINGS, ("in_force.settings", "before")),
        "spec.registered": (action.TOOL, ("tool.name", "tool.version", "tier", "surface")),
        "identity.issued registered": (action.ISSUE, ("kind", "lineage.owner")),
        "identity.issued certificate": (action.ISSUE, ("kind", "lineage.owner", "key_digest")),
        "identity.issued owner": (action.OWNER, ("identity", "lineage.owner")),
    }
)
"""What is done -> the administrative action, and the members that its request says beforehand."""


class Need(enum.Enum):
    """Whose agreement an entry needs."""

    NOBODY = enum.auto()
    WORD = enum.auto()
    """Nobody's, by the broker's own word: it has compared texts that the ledger has digests of only."""
    PEOPLE = enum.auto()


class InForce:
    """What is in force by all entries so far that were found right."""

    def __init__(self) -> None:
        self.tools: dict[str, ToolStanding] = {}
        self._digests = {"policy": "", "settings": ""}

    def copy(self) -> InForce:
        """The same, to go on from without changing this one."""
        made = InForce()
        made.tools, made._digests = dict(self.tools), dict(self._digests)
        return made

    def need(self, kind: str, entry: JsonObject, *, founded: bool) -> Need:
        """Whose agreement an entry of ``CHANGES`` needs.

        Raises:
            FindingError: it can't be read, or says what can't be, whoever agreed to it.
        """
        match kind:
            case "spec.registered":
                return self._tool(read_registered(entry), founded=founded)
            case "heartbeat":
                return self._start(entry, founded=founded)
            case "identity.issued":
                return Need.PEOPLE if founded else Need.NOBODY
            case "settings.changed":
                self._check_tools(entry)
                if "settings" not in part(entry, "in_force"):
                    return Need.NOBODY
                return self._other("settings", words(part(entry, "in_force"), "settings"), entry, founded=founded)
        return self._other("policy", words(entry, "policy_digest"), entry, founded=founded)

    def take(self, kind: str, entry: JsonObject, *, founded: bool) -> None:
        """Takes in an entry that was found right."""
        match kind:
            case "spec.registered":
                said = read_registered(entry)
                known = self.tools.get(said.name)
                accepted = None if known is None else known.accepted
                if not founded or said.tier == said.declared:
                    accepted = Accepted(said.tier, said.surface, said.version)
                agreed = "" if known is None else known.agreed
                if not founded or entry.get("approvals"):
                    agreed = said.surface
                self.tools[said.name] = ToolStanding(said, accepted, agreed)
            case "policy.changed":
                self._digests["policy"] = words(entry, "policy_digest")
            case "settings.changed" if "settings" in part(entry, "in_force"):
                self._digests["settings"] = words(part(entry, "in_force"), "settings")
            case "heartbeat" if not founded:
                named = {"policy": entry.get("policy_digest"), **_parts(entry)}
                self._digests.update({name: str(named[name]) for name in self._digests if named.get(name)})

    def check_founding(self, tools: str) -> None:
        """Lets a founding pass that covers the tools which are registered.

        Raises:
            FindingError: it is of other tools.
        """
        if tools and tools != tools_digest(self.tools):
            raise FindingError("founding_digest", "covers other tools than those that are registered")

    def least(self, name: str, version: str, *, founded: bool) -> int:
        """The lowest tier at which a call of that version of a tool may run."""
        known = self.tools.get(name)
        if known is None:
            return int(Tier.AUTONOMOUS if founded else Tier.INTERNAL)
        if known.last.version != version and founded:
            return int(Tier.AUTONOMOUS)
        return known.last.tier

    def _tool(self, said: Registered, *, founded: bool) -> Need:
        if said.tier < said.declared:
            raise FindingError("tier", f"{said.name} runs below tier {said.declared}, which its specification asks for")
        known = self.tools.get(said.name)
        if not founded or said.tier >= least_tier(None if known is None else known.accepted, said.surface):
            return Need.NOBODY
        return Need.PEOPLE

    def _start(self, entry: JsonObject, *, founded: bool) -> Need:
        self._check_tools(entry)
        if founded:
            named = {"policy": entry.get("policy_digest"), **_parts(entry)}
            for name, known in self._digests.items():
                if named.get(name) != known:
                    raise FindingError(f"in_force.{name}", f"is not the one that was put into force: {known}")
        return Need.NOBODY

    def _check_tools(self, entry: JsonObject) -> None:
        named = _parts(entry).get("tools")
        if named is not None and named != tools_digest(self.tools):
            raise FindingError("in_force.tools", "is not the digest of the tools that are registered")

    def _other(self, name: str, which: str, entry: JsonObject, *, founded: bool) -> Need:
        known = self._digests[name]
        if not founded or which == known:
            return Need.NOBODY
        alone = entry.get("sensitive") is False and entry.get("before") == known
        return Need.WORD if alone and "approvals" not in entry else Need.PEOPLE


def read_registered(entry: JsonObject) -> Registered:
    """The tool of ``spec.registered``.

    Raises:
        FindingError: it is none.
    """
    tool = part(entry, "tool")
    tier = entry.get("tier")
    declared = entry.get("declared", tier)
    for name, value in (("tier", tier), ("declared", declared)):
        if type(value) is not int or value not in set(Tier):
            raise FindingError(name, "is none")
    surface = entry.get("surface", "")
    if not isinstance(tier, int) or not isinstance(declared, int) or not isinstance(surface, str):
        raise FindingError("surface", "is no text")
    return Registered(words(tool, "name", "tool.name"), words(tool, "version", "tool.version"), tier, declared, surface)


def check_bound(kind: str, entry: JsonObject, asked: Asked, named: str) -> None:
    """Lets an entry pass that says what its approval's request said that it would.

    Args:
        kind: the entry's type.
        entry: the entry.
        asked: the approval.
        named: the member that names the approval.

    Raises:
        FindingError: it is about something else.
    """
    change = f" {entry.get('change')}" if kind == "identity.issued" else ""
    found = _BOUND.get(f"{kind}{change}")
    if found is None or asked.kind is not ApprovalKind.ADMINISTRATION or asked.subject != found[0]:
        raise FindingError(named, f"{asked.id} is about something else")
    if asked.act.get(TYPE) != kind:
        raise FindingError(named, f"the request of {asked.id} doesn't say that it is for this")
    for path in found[1]:
        said, wanted = _at(entry, path), asked.act.get(path)
        if type(said) is not type(wanted) or said is None or said != wanted:
            raise FindingError(path, f"is {str(said)[:200]}, and {asked.id} is about {str(wanted)[:200]}")
    if kind == "identity.issued" and change != " owner":
        _check_person(str(change), entry, asked)


def _check_person(change: str, entry: JsonObject, asked: Asked) -> None:
    """One approval registers at most one identity, and issues one certificate, of just that identity."""
    who, wanted = words(entry, "identity"), asked.act.get("identity")
    new = change == " registered"
    if wanted not in ("" if new else who, "") or (asked.made and asked.made != who):
        raise FindingError("identity", f"is {who}, and {asked.id} is about another")
    if new:
        asked.made = who


def may_go_on(kind: str, entry: JsonObject, asked: Asked) -> bool:
    """Has an approval been acted on in part only: is somebody registered, whose first certificate this is?"""
    first = kind == "identity.issued" and entry.get("change") == "certificate" and not asked.issued
    return first and bool(asked.made) and asked.made == entry.get("identity")


def check_subject(kind: str, entry: JsonObject, asked: Asked) -> None:
    """Lets an act pass that is the one which its approval was used for.

    Raises:
        FindingError: it is about something else, or of a higher tier.
    """
    workflow = entry.get("workflow")
    if kind in CHANGES:
        check_bound(kind, entry, asked, "approvals.id")
        asked.issued = asked.issued or entry.get("change") == "certificate"
        return
    if kind == "workflow.approved":
        fits = (
            asked.kind is ApprovalKind.WORKFLOW and isinstance(workflow, dict) and workflow.get("id") == asked.subject
        )
    elif asked.kind is ApprovalKind.CALL:
        fits = entry.get("call_id") == asked.subject
    else:
        fits = asked.kind is ApprovalKind.RUNBOOK
    if not fits:
        raise FindingError("approvals.id", f"{asked.id} is about something else")
    if kind == "workflow.approved" and isinstance(workflow, dict):
        told = asked.act.get("workflow.version") if asked.act.get(TYPE) == kind else None
        if not isinstance(told, str) or workflow.get("version") != told:
            why = f"is not the one that {asked.id} is about: {str(told)[:200]}"
            raise FindingError("workflow.version", why)
    if tier_of(entry) > asked.tier:
        raise FindingError("tier", f"{asked.id} was for tier {asked.tier}")


def tier_of(entry: JsonObject) -> int:
    """The tier that an entry says."""
    tier = entry.get("tier")
    # What says no tier, or none that there is, is taken for the highest.
    return tier if isinstance(tier, int) and type(tier) is int and tier in set(Tier) else int(Tier.AUTONOMOUS)


def _parts(entry: JsonObject) -> JsonObject:
    found = entry.get("in_force")
    return found if isinstance(found, dict) else {}


def _at(entry: JsonObject, path: str) -> JsonValue:
    try:
        return member(entry, *path.split("."))
    except UnexpectedEntryError:
        return None

"""What changes between two policies, in words, and what it lets happen that could not happen before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from broker.domain.reserved import ADMINISTRATION
from broker.domain.tier import APPROVAL_REQUIRED_FROM, Tier
from broker.policy.questions import OTHER
from broker.policy.rows import AGENT_ROLE, ALLOW, ANY, DENY, HUMAN_ROLE, NO_WORKSPACE, RPC, RULE_FIELDS, Grant, Rule
from broker.policy.snapshot import Snapshot
from broker.policy.widening import Cause, Flip, Found, Kind, Search, changed_rules

MAX_EXAMPLES = 3
"""Most names in one sentence."""

_ORDER = {kind: place for place, kind in enumerate(Kind)}
_VERBS = {"call": "call", "rpc": "use", "approve": "approve"}


@dataclass(frozen=True, slots=True)
class Widening:
    """Something that the new policy may allow and the old one denied, in a sentence, and the row that does it.

    ``row`` is the id of a rule, or a grant as ``g, <member>, <role>, <workspace>``.
    """

    kind: Kind
    sentence: str
    row: str


@dataclass(frozen=True, slots=True)
class PolicyDifference:
    """What changes between two policies: one sentence for each row, and what that widens."""

    rules_added: tuple[str, ...]
    rules_removed: tuple[str, ...]
    rules_changed: tuple[str, ...]
    grants_added: tuple[str, ...]
    grants_removed: tuple[str, ...]
    widens: tuple[Widening, ...]

    @property
    def sensitive(self) -> tuple[Widening, ...]:
        """What touches the two-person rule: who may approve, and what may be called at tier 4."""
        return tuple(item for item in self.widens if item.kind is not Kind.OTHER)

    @property
    def empty(self) -> bool:
        """Does no row change? Comments, line numbers and the order of rows are no change."""
        rows = (self.rules_added, self.rules_removed, self.rules_changed, self.grants_added, self.grants_removed)
        return not any(rows)


def compare(
    old: Snapshot, new: Snapshot, *, people: Sequence[str], tools: Mapping[str, Tier], workspaces: Iterable[str]
) -> PolicyDifference:
    """Compares two policies by what they decide, not only by their rows.

    Whatever a row names in neither policy is decided like everything else that none names, so the answer doesn't depend
    on who and what exists: ``people``, ``tools`` and ``workspaces`` are for examples in sentences only. A role counts as
    held by somebody even where nobody holds it yet.

    Args:
        old: the policy in force.
        new: the policy that is to replace it.
        people: who is known, as ``human:<name>`` or ``agent:<name>``.
        tools: full name of a tool that exists -> its own tier.
        workspaces: names of workspaces that exist.

    Returns:
        The difference. Where a row touches more than can be asked about in a few seconds, it is said that it may widen,
        and it counts as what it could widen at worst.
    """
    search = Search(old, new)
    words = _Words(search, people, tools, workspaces)
    before, after = {rule.id: rule for rule in old.table}, {rule.id: rule for rule in new.table}
    had, has = _grants(old), _grants(new)
    causes = [
        *(_of_rule(rule, before, gained=True) for rule in changed_rules(old.table, new.table, ALLOW)),
        *(_of_rule(rule, after, gained=False) for rule in changed_rules(new.table, old.table, DENY)),
        *(_of_grant(grant, gained=True) for key, grant in has.items() if key not in had),
        *(_of_grant(grant, gained=False) for key, grant in had.items() if key not in has),
    ]
    found = sorted(search.run(causes), key=lambda item: _ORDER[item.kind])
    return PolicyDifference(
        rules_added=tuple(f"{rule.id} is new: {_says(rule)}" for rule in new.table if rule.id not in before),
        rules_removed=tuple(f"{rule.id} is gone: {_says(rule)}" for rule in old.table if rule.id not in after),
        rules_changed=tuple(_changes(before, new.table)),
        grants_added=tuple(_holds(grant, "now holds") for key, grant in has.items() if key not in had),
        grants_removed=tuple(_holds(grant, "no longer holds") for key, grant in had.items() if key not in has),
        widens=tuple(Widening(item.kind, words.sentence(item), item.cause.row) for item in found),
    )


def _grants(snapshot: Snapshot) -> dict[tuple[str, str, str], Grant]:
    return {(grant.member, grant.role, grant.workspace): grant for grant in snapshot.grants}


def _of_rule(rule: Rule, others: Mapping[str, Rule], *, gained: bool) -> Cause:
    kind = "the deny" if rule.effect == DENY else "the rule"
    change = "changed" if rule.id in others else "is new" if gained else "is gone"
    return Cause(rule.id, f"{kind} {rule.id} {change}", rule, gained)


def _of_grant(grant: Grant, *, gained: bool) -> Cause:
    why = _holds(grant, "now holds" if gained else "no longer holds")
    return Cause(f"g, {grant.member}, {grant.role}, {grant.workspace}", why, grant, gained)


def _holds(grant: Grant, verb: str) -> str:
    member = {AGENT_ROLE: "every agent", HUMAN_ROLE: "every human"}.get(grant.member, grant.member)
    return f"{member} {verb} {grant.role}{_where(grant.workspace)}"


def _changes(before: Mapping[str, Rule], rules: Iterable[Rule]) -> Iterator[str]:
    for rule in rules:
        was = before.get(rule.id)
        if was is not None and was.values != rule.values:
            fields = zip(RULE_FIELDS[1:], was.values, rule.values, strict=True)
            changed = [f'its {name} "{one}" becomes "{other}"' for name, one, other in fields if one != other]
            yield f"{rule.id} changed: {', '.join(changed)}"


def _says(rule: Rule) -> str:
    what = f"{_VERBS[rule.action]} {_what(rule.obj, rule.action)}{_where(rule.workspace)}"
    if rule.effect == DENY:
        return (
            f'nobody may {what} ("{rule.reason}")'
            if rule.subject == ANY
            else f'{rule.subject} may not {what} ("{rule.reason}")'
        )
    tier = "" if rule.action == RPC else f" up to tier {rule.tier}"
    return f'{rule.subject} may {what}{tier} ("{rule.reason}")'


def _what(obj: str, action: str) -> str:
    if obj == ANY:
        return "any method" if action == RPC else "any tool"
    return f"any {obj}" if obj.endswith(ANY) else obj


def _where(workspace: str) -> str:
    if workspace == NO_WORKSPACE:
        return " outside workspaces"
    return " in every workspace" if workspace == ANY else f" in {workspace}"


class _Words:
    """The sentence about a find, with the names of who and what exists as examples."""

    def __init__(
        self, search: Search, people: Sequence[str], tools: Mapping[str, Tier], workspaces: Iterable[str]
    ) -> None:
        self._search = search
        named = {asker.subject for asker in search.members.askers(ANY)}
        self._people = [person for person in people if person not in named]
        # The most dangerous first: only some become examples.
        self._tools = sorted(tools, key=lambda name: (-tools[name], name))
        self._tiers = tools
        self._others = sorted(set(workspaces) - search.places.named)

    def sentence(self, found: Found) -> str:
        if found.flip is None:
            return f"it may widen more than could be worked out: {found.cause.why}"
        flip = found.flip
        tier = "" if flip.action == RPC else f" up to tier {flip.tier}"
        what = f"{self._object(flip)}{self._workspace(flip)}{tier}"
        return f"{self._who(flip)} may now {_VERBS[flip.action]} {what}: {found.cause.why}"

    def _who(self, flip: Flip) -> str:
        asker = flip.asker
        if asker.role:
            kind = asker.subject.partition(":")[0]
            holders = [name for name in self._search.holders(asker.role, flip.workspace) if name.startswith(kind)]
            return f"whoever holds {asker.role}{_examples(holders)}"
        if OTHER not in asker.subject:
            return asker.subject
        kind = asker.subject.partition(":")[0]
        return f"any {kind}{_examples([name for name in self._people if name.startswith(f'{kind}:')])}"

    def _object(self, flip: Flip) -> str:
        if OTHER not in flip.obj:
            return flip.obj
        pattern = ANY if flip.obj.startswith(OTHER) else flip.obj.replace(OTHER, ANY)
        if flip.action == RPC:
            return _what(pattern, flip.action)
        alike = [name for name in self._tools if self._search.stands_for(name, flip.action) == flip.obj]
        return f"{_what(pattern, flip.action)}{_examples([self._named(name) for name in alike])}"

    def _named(self, tool: str) -> str:
        return f"{tool} of tier 4" if self._tiers[tool] >= APPROVAL_REQUIRED_FROM else tool

    def _workspace(self, flip: Flip) -> str:
        if flip.obj == ADMINISTRATION:
            return ""
        if flip.workspace == OTHER:
            return f" in any workspace{_examples(self._others)}"
        return _where(flip.workspace)


def _examples(names: Sequence[str]) -> str:
    if not names:
        return ""
    some = "such as " if len(names) > MAX_EXAMPLES else ""
    return f" ({some}{', '.join(names[:MAX_EXAMPLES])})"

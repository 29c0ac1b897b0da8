"""Is this text a policy that may go live? Every error is a refusal, every warning something an operator should know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from broker.domain.reserved import RESERVED_OBJECTS
from broker.policy import roles
from broker.policy.rows import (
    AGENT_ROLE,
    ALLOW,
    ANY,
    APPROVE,
    CALL,
    DENY,
    HUMAN_ROLE,
    RPC,
    RULE_FIELDS,
    Grant,
    Problem,
    RowReader,
    Rule,
)
from broker.policy.text import MAX_LINE, BadLineError, Finding, Severity, check_text, fields, lines, show, split

__all__ = ["Examined", "Finding", "Severity", "examine", "lint"]

MAX_ROWS = 500_000
"""Most rows in one policy."""

_DENY_TIER = "4"

_AWAITED = frozenset({"role:approver", "role:slack-bot"})
"""Roles of the shipped policy that nobody holds until an operator says who does."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What was read from a text. Rules and grants are complete only where no finding is an error."""

    rules: tuple[Rule, ...]
    grants: tuple[Grant, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that keep the policy from going live."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The other findings."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.WARNING)


def lint(
    text: str, known_tools: frozenset[str] | None = None, known_rpcs: frozenset[str] | None = None
) -> tuple[Finding, ...]:
    """What is wrong or odd in a policy file, in the file's order; no error among it means that it may go live.

    Args:
        text: the whole file.
        known_tools: full names of the tools that exist. A row that names another is an error, a deny too: a misspelt
            deny would leave open what it was to close. ``None`` doesn't check.
        known_rpcs: full methods that the broker serves, checked in the same way.
    """
    return examine(text, known_tools, known_rpcs).findings


def examine(text: str, known_tools: frozenset[str] | None = None, known_rpcs: frozenset[str] | None = None) -> Examined:
    """Reads and checks a policy file; see ``lint``."""
    if findings := check_text(text):
        return Examined((), (), tuple(findings))
    rules, grants, findings = _read(text)
    findings += _check_rules(rules, known_tools, known_rpcs)
    findings += _check_grants(rules, grants)
    if not rules and all(finding.severity is Severity.WARNING for finding in findings):
        findings.append(Finding(1, 1, Severity.ERROR, "the policy is empty: a policy without a rule is refused"))
    return Examined(tuple(rules), tuple(grants), tuple(sorted(findings)))


def _read(text: str) -> tuple[list[Rule], list[Grant], list[Finding]]:
    rules: list[Rule] = []
    grants: list[Grant] = []
    findings: list[Finding] = []
    reader = RowReader()
    for count, (number, line) in enumerate(lines(text), start=1):
        if count > MAX_ROWS:
            findings.append(Finding(number, 1, Severity.ERROR, f"more than {MAX_ROWS} rows; no further one was read"))
            break
        if len(line) > MAX_LINE:
            message = f"the line has {len(line)} characters; the limit is {MAX_LINE}"
            findings.append(Finding(number, MAX_LINE + 1, Severity.ERROR, message))
            continue
        findings += (
            Finding(number, column, Severity.ERROR, message)
            for column, message in _read_line(number, line, reader, rules, grants)
        )
    return rules, grants, findings


def _read_line(
    number: int, line: str, reader: RowReader, rules: list[Rule], grants: list[Grant]
) -> Iterator[tuple[int, str]]:
    try:
        values = split(line)
    except BadLineError as error:
        yield error.column, error.message
        return
    problems: list[Problem]
    if values[0] == "p":
        rule, problems = reader.rule(number, values)
        if rule is not None:
            rules.append(rule)
    elif values[0] == "g":
        grant, problems = reader.grant(number, values)
        if grant is not None:
            grants.append(grant)
    else:
        # casbin skips a row of a kind that it doesn't know: a deny spelt P would vanish without a word.
        problems = [(0, f"{show(values[0])} is no kind of row: p is a rule, g grants a role, # begins a comment")]
    if not problems and '"' not in line:
        return
    located = fields(line)
    for index, message in problems:
        yield located[index].column, message
    for index, field in enumerate(located):
        if field.quoted and index != len(RULE_FIELDS) - 1:
            yield field.column, "only a reason may be quoted"


def _check_rules(
    rules: list[Rule], known_tools: frozenset[str] | None, known_rpcs: frozenset[str] | None
) -> Iterator[Finding]:
    first_by_id: dict[str, Rule] = {}
    first_by_meaning: dict[tuple[str, ...], Rule] = {}
    tools = _covered(known_tools, ".")
    known = {
        RPC: _covered(known_rpcs, "/"),
        CALL: tools,
        APPROVE: None if tools is None else tools | RESERVED_OBJECTS,
    }
    for rule in rules:
        if (first := first_by_id.setdefault(rule.id, rule)) is not rule:
            message = f"the id {rule.id} is taken by line {first.line}; each rule has its own"
            yield Finding(rule.line, 1, Severity.ERROR, message)
        meaning = (rule.subject, rule.workspace, rule.obj, rule.action, rule.effect)
        if (first := first_by_meaning.setdefault(meaning, rule)) is not rule:
            message = f"this rule says the same as {first.id} in line {first.line}, except for its tier and reason"
            yield Finding(rule.line, 1, Severity.WARNING, message)
        if rule.effect == DENY and rule.tier != _DENY_TIER:
            message = f"a deny holds at every tier, whatever its tier field says; write {_DENY_TIER}"
            yield Finding(rule.line, 1, Severity.WARNING, message)
        names = known[rule.action]
        if names is not None and rule.obj not in names:
            kind = "RPC" if rule.action == RPC else "tool"
            yield Finding(rule.line, 1, Severity.ERROR, f"{rule.id}: there is no {kind} {rule.obj}")
        # With the action approve it is what an approver's role is for, and doesn't reach the broker's own subjects.
        if rule.effect == ALLOW and rule.obj == ANY and rule.workspace == ANY and rule.action != APPROVE:
            message = f"{rule.id} allows everything of the action {rule.action} in every workspace"
            yield Finding(rule.line, 1, Severity.WARNING, message)
    if rules and all(rule.effect == DENY for rule in rules):
        yield Finding(rules[0].line, 1, Severity.WARNING, "the policy allows nothing to anybody")


def _covered(names: frozenset[str] | None, separator: str) -> frozenset[str] | None:
    if names is None:
        return None
    found = {ANY, *names}
    for name in names:
        head = name
        while separator in head:
            head = head.rpartition(separator)[0]
            found.add(f"{head}{separator}*")
    return frozenset(found)


def _check_grants(rules: list[Rule], grants: list[Grant]) -> Iterator[Finding]:
    if (cycle := roles.find_cycle(grants)) is not None:
        message = f"{cycle.member} holding {cycle.role} leads round in a circle of roles"
        yield Finding(cycle.line, 1, Severity.ERROR, message)
    elif (deep := roles.find_deep_chain(grants)) is not None:
        message = f"{deep.member} starts a chain of more than {roles.MAX_LEVELS} roles; casbin would not follow it"
        yield Finding(deep.line, 1, Severity.ERROR, message)
    first: dict[tuple[str, str, str], Grant] = {}
    for grant in grants:
        key = (grant.member, grant.role, grant.workspace)
        if (earlier := first.setdefault(key, grant)) is not grant:
            yield Finding(grant.line, 1, Severity.WARNING, f"line {earlier.line} grants the same")
    named = {rule.subject for rule in rules}
    passed_on = {grant.member for grant in grants}
    held = {grant.role for grant in grants} | {AGENT_ROLE, HUMAN_ROLE} | _AWAITED
    warned: set[str] = set()
    for grant in grants:
        if grant.role not in named and grant.role not in passed_on and grant.role not in warned:
            warned.add(grant.role)
            yield Finding(grant.line, 1, Severity.WARNING, f"{grant.role} is granted, but no rule is about it")
    for rule in rules:
        if rule.subject.startswith("role:") and rule.subject not in held and rule.subject not in warned:
            warned.add(rule.subject)
            yield Finding(rule.line, 1, Severity.WARNING, f"{rule.subject} has rules, but nobody holds it")
    yield from _check_approvers(rules, grants)


def _check_approvers(rules: list[Rule], grants: list[Grant]) -> Iterator[Finding]:
    approve = [rule for rule in rules if rule.action == APPROVE and rule.effect == ALLOW]
    for rule in approve:
        if rule.subject == HUMAN_ROLE:
            message = f"{rule.id} makes every human an approver; grant a role to those who are to approve"
            yield Finding(rule.line, 1, Severity.WARNING, message)
    members: dict[str, list[Grant]] = {}
    for grant in grants:
        members.setdefault(grant.role, []).append(grant)
    waiting = sorted({rule.subject for rule in approve})
    seen = set(waiting)
    while waiting:
        for grant in members.get(waiting.pop(), ()):
            if grant.member == AGENT_ROLE or grant.member.startswith("agent:"):
                message = f"{grant.role} lets its holders approve, but {grant.member} never may: only humans approve"
                yield Finding(grant.line, 1, Severity.WARNING, message)
            if grant.member not in seen:
                seen.add(grant.member)
                waiting.append(grant.member)

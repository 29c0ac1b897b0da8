"""The two kinds of row: a rule (``p``) and a grant of a role (``g``), and what each of their fields may hold.

    p, <id>, <subject>, <workspace>, <object>, <action>, <tier>, <effect>, <reason>
    g, <member>, <role>, <workspace>

Every field but the reason has a grammar of plain ASCII names, so nothing in a row can be an expression, a pattern other
than the wildcards named here, or a name that merely looks like another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from broker.domain.ids import NAME_PATTERN
from broker.domain.reserved import ADMINISTRATION, RESERVED_OBJECTS, is_reserved
from broker.policy.text import show

ANY = "*"
"""Every workspace, every object, or (in a deny only) every subject."""

NO_WORKSPACE = "-"
"""The workspace of an RPC that has none, and of what concerns the broker itself."""

ALLOW = "allow"
DENY = "deny"
CALL = "call"
RPC = "rpc"
APPROVE = "approve"

ACTIONS = (CALL, RPC, APPROVE)

AGENT_ROLE = "role:agent"
"""Held by every agent in every workspace, without a grant."""

HUMAN_ROLE = "role:human"
"""Held by every human in every workspace, without a grant."""

DEFAULT_DENY = "default-deny"
"""The rule of a decision that no row made."""

EVALUATION_ERROR = "evaluation-error"
"""The rule of a decision that could not be made: always a deny."""

RESERVED_IDS = frozenset({DEFAULT_DENY, EVALUATION_ERROR})

MAX_REASON = 200
"""Longest reason, in characters."""

_NAME = NAME_PATTERN.pattern
_TOOL_PART = r"[a-z][a-z0-9_-]{0,62}"
_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PERSON = re.compile(rf"(?:agent|human):{_NAME}")
_ROLE = re.compile(rf"role:{_NAME}")
_TOOL = re.compile(rf"{_TOOL_PART}(?:\.{_TOOL_PART})+")
_TOOLS = re.compile(rf"{_TOOL_PART}(?:\.{_TOOL_PART})*\.\*")
_SERVICE = r"[a-z][a-z0-9_]{0,62}(?:\.[A-Za-z][A-Za-z0-9_]{0,62}){1,8}"
_METHOD = re.compile(rf"{_SERVICE}/[A-Za-z][A-Za-z0-9_]{{0,62}}")
_METHODS = re.compile(rf"{_SERVICE}/\*")

Values: TypeAlias = "tuple[str, ...]"


@dataclass(frozen=True, slots=True)
class Rule:
    """A ``p`` row. ``tier`` stays the digit that stands in the file: casbin compares it through a function of ours."""

    line: int
    id: str
    subject: str
    workspace: str
    obj: str
    action: str
    tier: str
    effect: str
    reason: str

    @property
    def values(self) -> Values:
        """The row as casbin's ``policy_definition`` orders it."""
        return (
            self.id,
            self.subject,
            self.workspace,
            self.obj,
            self.action,
            self.tier,
            self.effect,
            self.reason,
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """A ``g`` row: ``member`` (a subject or a role) holds ``role`` in ``workspace``, or in all where it is ``*``."""

    line: int
    member: str
    role: str
    workspace: str


Problem: TypeAlias = "tuple[int, str]"
"""Index of the field (0 is ``p`` or ``g``) and what is wrong with it."""

RULE_FIELDS = ("p", "id", "subject", "workspace", "object", "action", "tier", "effect", "reason")
GRANT_FIELDS = ("g", "member", "role", "workspace")


def is_person(text: str) -> bool:
    """Is it ``agent:<name>`` or ``human:<name>``?"""
    return _PERSON.fullmatch(text) is not None


def is_workspace(text: str) -> bool:
    """Is it a workspace's name (not a wildcard, not ``-``)?"""
    return NAME_PATTERN.fullmatch(text) is not None


def is_tool(text: str) -> bool:
    """Is it a tool's full name, ``namespace.name``? No tool is in the broker's own namespace."""
    return _TOOL.fullmatch(text) is not None and not is_reserved(text)


def is_approvable(text: str) -> bool:
    """Is it something that people vote on: a tool, or one of the broker's own subjects?"""
    return text in RESERVED_OBJECTS or is_tool(text)


def is_method(text: str) -> bool:
    """Is it an RPC's full method, ``package.Service/Method``?"""
    return _METHOD.fullmatch(text) is not None


def objects_covering(obj: str, action: str) -> Values:
    """What an ``object`` field may hold to cover this tool or method: itself, each wildcard above it, ``*``.

    One of the broker's own subjects is covered by ``*`` in a deny only; see ``star_allows``.
    """
    if action == RPC:
        return (obj, f"{obj.partition('/')[0]}/*", ANY)
    if obj in RESERVED_OBJECTS:
        return (obj, ANY)
    parts = obj.split(".")
    return (obj, *(".".join(parts[:count]) + ".*" for count in range(len(parts) - 1, 0, -1)), ANY)


def star_allows(obj: str) -> bool:
    """Is ``*`` in an allow enough for it? Not for the broker's own subjects, which an allow has to name.

    A deny for ``*`` covers them too.
    """
    return obj not in RESERVED_OBJECTS


class RowReader:
    """Reads the rows of one file. It remembers which values passed: in a large policy most of them come again."""

    def __init__(self) -> None:
        self._passed: dict[str, set[str]] = {name: set() for name in _CHECKS}

    def rule(self, line: int, values: list[str]) -> tuple[Rule | None, list[Problem]]:
        """Reads the fields of a ``p`` line: a rule, or what is wrong with them."""
        problems = self._problems(values, RULE_FIELDS)
        if problems:
            return None, problems
        rule = Rule(line, *values[1:])
        problems = _check_together(rule)
        return (None, problems) if problems else (rule, [])

    def grant(self, line: int, values: list[str]) -> tuple[Grant | None, list[Problem]]:
        """Reads the fields of a ``g`` line: a grant, or what is wrong with them."""
        problems = self._problems(values, GRANT_FIELDS)
        return (None, problems) if problems else (Grant(line, *values[1:]), [])

    def _problems(self, values: list[str], names: tuple[str, ...]) -> list[Problem]:
        if len(values) != len(names):
            return [(0, _wrong_count(values, names))]
        problems = []
        for index, (name, value) in enumerate(zip(names, values, strict=True)):
            passed = self._passed[name]
            if value in passed:
                continue
            if problem := _CHECKS[name](value):
                problems.append((index, problem))
            else:
                passed.add(value)
        return problems


def _wrong_count(values: list[str], names: tuple[str, ...]) -> str:
    more = "; a reason that holds a comma must be quoted" if len(values) > len(names) and names is RULE_FIELDS else ""
    return f"a {names[0]} row has {len(names)} fields ({', '.join(names)}), this one has {len(values)}{more}"


def _check_together(rule: Rule) -> list[Problem]:
    problems = [*_check_place(rule), *_check_object(rule)]
    if rule.subject == ANY and rule.effect == ALLOW:
        everybody = "an allow for everybody (*) is refused; grant it to role:agent or role:human, or to a role"
        problems.insert(0, (2, everybody))
    if rule.action == APPROVE and (rule.subject == AGENT_ROLE or rule.subject.startswith("agent:")):
        problems.insert(0, (2, "an agent never approves; name human:<name> or a role that humans hold"))
    return problems


def _check_place(rule: Rule) -> list[Problem]:
    if rule.action == CALL and rule.workspace == NO_WORKSPACE:
        return [(3, "a call always has a workspace; - is for RPCs only")]
    if rule.action != APPROVE:
        return []
    if rule.obj == ADMINISTRATION and rule.workspace not in (NO_WORKSPACE, ANY):
        return [(3, f"{ADMINISTRATION} concerns no workspace by itself; write - or *")]
    if rule.workspace == NO_WORKSPACE and rule.obj != ADMINISTRATION and not _denies_all(rule):
        return [(3, f"with the action {APPROVE} the workspace - is for {ADMINISTRATION} only")]
    return []


def _denies_all(rule: Rule) -> bool:
    return rule.effect == DENY and rule.obj == ANY


def _check_object(rule: Rule) -> list[Problem]:
    fits = (_METHOD, _METHODS) if rule.action == RPC else (_TOOL, _TOOLS)
    if rule.obj == ANY or (rule.action == APPROVE and rule.obj in RESERVED_OBJECTS):
        return []
    if not any(pattern.fullmatch(rule.obj) for pattern in fits):
        wanted = (
            "package.Service/Method or package.Service/*" if rule.action == RPC else "namespace.name or namespace.*"
        )
        return [(4, f"with the action {rule.action} the object is {wanted} or *, not {show(rule.obj)}")]
    if rule.action != RPC and is_reserved(rule.obj):
        own = ", ".join(sorted(RESERVED_OBJECTS))
        return [(4, f"no tool is in the broker's own namespace; with the action {APPROVE} there are {own}")]
    return []


def _must_match(patterns: tuple[re.Pattern[str], ...], literals: tuple[str, ...], wanted: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value in literals or any(pattern.fullmatch(value) for pattern in patterns):
            return ""
        hint = "; expressions are refused" if "(" in value or ")" in value else ""
        return f"{show(value)} is not {wanted}{hint}"

    return check


def _check_id(value: str) -> str:
    if value in RESERVED_IDS:
        return f"the id {show(value)} is the broker's own"
    return _id_shape(value)


def _check_reason(value: str) -> str:
    if not value.strip():
        return "a rule needs a reason: it is what the refused caller reads"
    if len(value) > MAX_REASON:
        return f"the reason has {len(value)} characters; the limit is {MAX_REASON}"
    return "eval( is refused everywhere in a policy" if "eval(" in value else ""


_id_shape = _must_match((_ID,), (), "an id: 1 to 64 of a-z 0-9 . _ -, starting with a letter or digit")

_CHECKS: MappingProxyType[str, Callable[[str], str]] = MappingProxyType(
    {
        "p": _must_match((), ("p",), "p"),
        "g": _must_match((), ("g",), "g"),
        "id": _check_id,
        "subject": _must_match((_PERSON, _ROLE), (ANY,), "agent:<name>, human:<name>, role:<name> or *"),
        "member": _must_match((_PERSON, _ROLE), (), "agent:<name>, human:<name> or role:<name>"),
        "role": _must_match((_ROLE,), (), "role:<name>"),
        "workspace": _must_match((NAME_PATTERN,), (ANY, NO_WORKSPACE), "a workspace's name, * or -"),
        "object": _must_match(
            (_TOOL, _TOOLS, _METHOD, _METHODS), (ANY,), "a tool, a full method, or a wildcard of them"
        ),
        "action": _must_match((), ACTIONS, "an action: call, rpc or approve"),
        "tier": _must_match((), ("0", "1", "2", "3", "4"), "a tier: one digit from 0 to 4"),
        "effect": _must_match((), (ALLOW, DENY), "an effect: exactly allow or deny"),
        "reason": _check_reason,
    },
)

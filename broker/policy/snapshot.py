"""One checked policy, for ever the same: what decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self, TypeAlias

import structlog

from broker.domain.call import Decision, PolicyRequest
from broker.domain.canonical import digest
from broker.domain.reserved import ADMINISTRATION
from broker.domain.tier import Tier
from broker.errors import BrokerError, FieldViolation, InvalidArgumentError
from broker.policy.engine import Engine
from broker.policy.lint import Finding, examine
from broker.policy.roles import RoleGraph
from broker.policy.rows import (
    ACTIONS,
    ANY,
    APPROVE,
    CALL,
    DEFAULT_DENY,
    DENY,
    EVALUATION_ERROR,
    NO_WORKSPACE,
    RPC,
    Grant,
    Rule,
    Values,
    is_approvable,
    is_method,
    is_person,
    is_tool,
    is_workspace,
    objects_covering,
    star_allows,
)

MAX_VIOLATIONS = 20
"""Most findings that an error carries; it says how many there are."""

_SELF_TESTED_RULES = 64
_ANSWERS = 4096
"""Answers that are kept; beyond that all are forgotten at once."""
_log = structlog.get_logger(__name__)


Alike: TypeAlias = "tuple[tuple[int, ...], int, bool]"
"""What ``Snapshot.alike`` gives."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Snapshot:
    """An immutable policy. Make it with ``load``.

    A decision looks only at the shard of the question: the rows whose action, workspace (or ``*``) and object (the tool
    or method itself, a wildcard above it, or ``*``) fit, and in it at those whose subject is the asker, one of its
    roles, or ``*``. Each row lies under exactly one such key, and a row under any other key fails a condition of the
    matcher, so casbin, which evaluates the whole matcher over what is left in the file's order, answers and names the
    rule as it would over the whole policy. What a decision costs doesn't depend on how many rules there are.
    """

    digest: str
    """``sha256:`` and the digest of the file's bytes."""
    text: str
    """The file itself, for the record."""
    warnings: tuple[Finding, ...]
    """What the linter found odd."""
    table: tuple[Rule, ...]
    """All rules, in the file's order."""
    grants: tuple[Grant, ...]
    """All grants, in the file's order."""
    workspaces: frozenset[str]
    """The workspaces that a rule or a grant names."""
    _graph: RoleGraph
    _engine: Engine
    _rows: tuple[Values, ...]
    _shards: Mapping[tuple[str, str, str], Mapping[str, Sequence[int]]]
    _answers: dict[PolicyRequest, Decision] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(
        cls, text: str, *, known_tools: frozenset[str] | None = None, known_rpcs: frozenset[str] | None = None
    ) -> Self:
        """Reads, checks and tries a policy.

        Args:
            text: the whole file.
            known_tools: full names of the tools that exist; rows that name others are refused. ``None`` doesn't check.
            known_rpcs: full methods that the broker serves, checked in the same way.

        Raises:
            InvalidArgumentError: POLICY_INVALID; each violation names ``line N, column M``.
        """
        examined = examine(text, known_tools, known_rpcs)
        if examined.errors:
            raise refusal(examined.errors)
        graph = RoleGraph(examined.grants)
        snapshot = cls(
            digest=digest(text.encode("utf-8")),
            text=text,
            warnings=examined.warnings,
            table=examined.rules,
            grants=examined.grants,
            workspaces=frozenset(
                {rule.workspace for rule in examined.rules} | {grant.workspace for grant in examined.grants}
            )
            - {ANY, NO_WORKSPACE},
            _graph=graph,
            _engine=Engine(graph),
            _rows=tuple(rule.values for rule in examined.rules),
            _shards=_shard(examined.rules),
        )
        snapshot._try()
        return snapshot

    @property
    def rules(self) -> int:
        """How many rules there are."""
        return len(self.table)

    def row_text(self, rule: str) -> str:
        """The row of a rule, as the file's format has it; empty where no row has that id."""
        found = next((item for item in self.table if item.id == rule), None)
        return "" if found is None else ", ".join(("p", *found.values))

    def roles_of(self, subject: str, workspace: str) -> tuple[str, ...]:
        """The roles that a subject holds in a workspace, the built-in ones included, sorted."""
        return tuple(sorted(self._graph.closure(subject, workspace) - {subject}))

    def holds(self, subject: str, workspace: str) -> frozenset[str]:
        """The subject itself and the roles that it holds in a workspace; of a role, those that its holders hold too."""
        return self._graph.closure(subject, workspace)

    def decide(self, request: PolicyRequest) -> Decision:
        """May it? Never raises: a question that can't be evaluated is denied by the rule ``evaluation-error``.

        Any thread may ask. The answer depends on the question and this snapshot alone, and neither ever changes: so the
        answers to the last questions are kept.
        """
        try:
            check_request(request)  # equal is not the same: 1 == True == Tier(1)
            known = self._answers.get(request)
        except Exception:  # noqa: BLE001 - it is no question that could have been answered before
            return self.evaluate(request)
        if known is not None:
            return known
        decision = self.evaluate(request)
        if decision.rule != EVALUATION_ERROR:
            if len(self._answers) >= _ANSWERS:
                self._answers.clear()
            self._answers[request] = decision
        return decision

    def evaluate(self, request: PolicyRequest) -> Decision:
        """The same as ``decide``, worked out anew."""
        try:
            return self._decide(request)
        except Exception as error:  # noqa: BLE001 - the fail-closed boundary: every exception is a deny
            _log.warning("policy.evaluation_error", error=type(error).__name__, policy=self.digest)
            why = error.message if isinstance(error, BrokerError) else type(error).__name__
            return Decision(
                allowed=False,
                rule=EVALUATION_ERROR,
                reason=f"the policy could not be evaluated for this request: {why}",
                policy_digest=self.digest,
                inputs=MappingProxyType({}),
            )

    def alike(self, request: PolicyRequest) -> Alike:
        """Equal for questions that are one and the same to the matcher: the answer and the rule are then equal too.

        The rows of a shard fit the question in every condition but two, which read the tier and whether ``*`` is enough for
        the object. Tests hold it equal to ``evaluate``.

        Raises:
            InvalidArgumentError: it is no question; ``evaluate`` denies it.
        """
        check_request(request)
        closure = self._graph.closure(request.subject, request.workspace)
        return tuple(self._candidates(request, closure)), int(request.tier), star_allows(request.obj)

    def candidates(self, request: PolicyRequest) -> int:
        """How many rows casbin is asked to evaluate for a question: independent of the policy's size."""
        return len(self._candidates(request, self._graph.closure(request.subject, request.workspace)))

    def highest_tier(self, holds: frozenset[str], workspace: str, obj: str, action: str) -> int:
        """The highest tier at which an asker may do something, or -1 where it may at none.

        What a rule's tier or object can't decide is decided here in plain code, without casbin, so that it can be asked
        about an asker whom nobody is, such as the holder of one role alone. A test holds it equal to ``decide``.

        Args:
            holds: the asker and its roles there, as ``holds`` gives them.
            workspace: where.
            obj: what.
            action: what is to be done to it.
        """
        highest = -1
        for index in self._candidates(PolicyRequest("", workspace, obj, action, Tier.INTERNAL), holds):
            rule = self.table[index]
            if rule.effect == DENY:
                return -1
            if rule.obj != ANY or star_allows(obj):
                highest = max(highest, int(rule.tier))
        return highest

    def _decide(self, request: PolicyRequest) -> Decision:
        check_request(request)
        closure = self._graph.closure(request.subject, request.workspace)
        rows = tuple([self._rows[index] for index in self._candidates(request, closure)])
        allowed, row = self._engine.evaluate(
            rows,
            subject=request.subject,
            workspace=request.workspace,
            obj=request.obj,
            action=request.action,
            tier=int(request.tier),
        )
        if row is None:
            rule, reason = DEFAULT_DENY, _why_nothing_allows(request, rows)
        else:
            rule, reason = row[0], row[-1]
        inputs = {
            "subject": request.subject,
            "workspace": request.workspace,
            "object": request.obj,
            "action": request.action,
            "tier": str(int(request.tier)),
            "roles": " ".join(sorted(closure - {request.subject})),
        }
        return Decision(allowed, rule, reason, self.digest, MappingProxyType(inputs))

    def _candidates(self, request: PolicyRequest, closure: frozenset[str]) -> list[int]:
        found: list[int] = []
        for workspace in (request.workspace, ANY):
            for obj in objects_covering(request.obj, request.action):
                shard = self._shards.get((request.action, workspace, obj))
                if shard is None:
                    continue
                found += shard.get(ANY, ())
                if len(shard) < len(closure):
                    found += (index for subject in shard if subject in closure for index in shard[subject])
                else:
                    found += (index for subject in closure for index in shard.get(subject, ()))
        found.sort()
        return found

    def _try(self) -> None:
        # The last check before a policy may go live: casbin evaluates real rows of it without an error.
        for rule in self.table[:_SELF_TESTED_RULES]:
            request = PolicyRequest(
                subject=rule.subject if is_person(rule.subject) else _SELVES[rule.action],
                workspace=_tried_in(rule),
                obj=_tried_on(rule),
                action=rule.action,
                tier=Tier.INTERNAL,
            )
            decision = self.decide(request)
            if decision.rule == EVALUATION_ERROR:
                message = f"rule {rule.id} can't be evaluated: {decision.reason}"
                raise InvalidArgumentError(
                    message,
                    reason="POLICY_INVALID",
                    violations=(FieldViolation(f"line {rule.line}, column 1", decision.reason),),
                )


_SELVES = MappingProxyType({CALL: "agent:self-test", RPC: "agent:self-test", APPROVE: "human:self-test"})
_EXAMPLES = MappingProxyType({CALL: "self.test", RPC: "broker.v1.SelfTest/Test", APPROVE: "self.test"})


def _tried_in(rule: Rule) -> str:
    if rule.workspace != ANY:
        return rule.workspace
    return NO_WORKSPACE if rule.obj == ADMINISTRATION else "self-test"


def _tried_on(rule: Rule) -> str:
    if rule.obj != ANY:
        return rule.obj.replace(ANY, "self")
    return ADMINISTRATION if rule.workspace == NO_WORKSPACE and rule.action == APPROVE else _EXAMPLES[rule.action]


def check_request(request: PolicyRequest) -> None:
    """Lets a well-formed question pass.

    A role, a wildcard or a look-alike in a question must never meet its equal in a rule.

    Raises:
        InvalidArgumentError: names the attribute that is wrong.
    """
    if request.action not in ACTIONS:
        wrong = "its action is malformed"
    elif not is_person(request.subject):
        wrong = "its subject is malformed"
    elif request.action == APPROVE and not request.subject.startswith("human:"):
        wrong = "only a human approves"
    elif not _is_place(request):
        wrong = "its workspace is malformed"
    elif not _OBJECTS[request.action](request.obj):
        wrong = "its object is malformed"
    elif type(request.tier) is not Tier:
        wrong = "its tier is malformed"
    else:
        return
    raise InvalidArgumentError(wrong, reason="POLICY_REQUEST")


_OBJECTS = MappingProxyType({CALL: is_tool, RPC: is_method, APPROVE: is_approvable})


def _is_place(request: PolicyRequest) -> bool:
    if request.action == APPROVE and request.obj == ADMINISTRATION:
        # Nowhere else: who may approve in one workspace only must not approve what concerns all.
        return request.workspace == NO_WORKSPACE
    return is_workspace(request.workspace) or (request.action == RPC and request.workspace == NO_WORKSPACE)


def refusal(errors: tuple[Finding, ...]) -> InvalidArgumentError:
    """The error that a policy with these findings is refused with."""
    shown = errors[:MAX_VIOLATIONS]
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InvalidArgumentError(
        f"the policy is refused: line {first.line}: {first.message}{more}",
        reason="POLICY_INVALID",
        hint="Mend the file; `broker policy check FILE` shows each place. What was in force stays in force.",
        metadata={"errors": str(len(errors)), "errors_shown": str(len(shown))},
        violations=tuple(FieldViolation(f"line {item.line}, column {item.column}", item.message) for item in shown),
    )


def _shard(rules: Iterable[Rule]) -> Mapping[tuple[str, str, str], Mapping[str, Sequence[int]]]:
    shards: dict[tuple[str, str, str], dict[str, list[int]]] = {}
    for index, rule in enumerate(rules):
        key = (rule.action, rule.workspace, rule.obj)
        shard = shards.get(key)
        if shard is None:
            shard = shards[key] = {}
        shard.setdefault(rule.subject, []).append(index)
    return MappingProxyType(shards)


def _why_nothing_allows(request: PolicyRequest, rows: tuple[Values, ...]) -> str:
    # Without the asker's name: reasons are kept where names are not.
    where = "" if request.workspace == NO_WORKSPACE else f" in workspace {request.workspace}"
    verb = "use" if request.action == RPC else request.action
    rows = tuple(row for row in rows if row[3] != ANY or star_allows(request.obj))
    reason = f"no rule allows this caller to {verb} {request.obj}{where}"
    if rows:
        # A row that is left can only have failed on its tier.
        widest = max(rows, key=lambda row: row[5])
        reason += f" at tier {int(request.tier)}; rule {widest[0]} allows it up to tier {widest[5]}"
    return reason

"""casbin itself: the model, and one enforcer that evaluates its matcher over the rows that it is handed.

An enforcer is built once for a snapshot and never reloaded: ``load_policy`` on a live one clears the role links before
the new model is in. ``FastEnforcer`` isn't used: it skips wildcard rows.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import casbin
from casbin.model import Model

from broker.domain.tier import Tier
from broker.errors import InternalError
from broker.policy.roles import CasbinRoles, RoleGraph
from broker.policy.rows import ALLOW, ANY, Values, star_allows

MODEL = """\
[request_definition]
r = sub, dom, obj, act, tier

[policy_definition]
p = id, sub, dom, obj, act, tier, eft, reason

[role_definition]
g = _, _, _

[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))

[matchers]
m = r.act == p.act && (p.dom == "*" || r.dom == p.dom) && keyMatch(r.obj, p.obj) \
&& (p.eft == "deny" || allowReaches(r.tier, p.tier, r.obj, p.obj)) && (p.sub == "*" || g(r.sub, p.sub, r.dom))
"""
"""The model, as casbin's manual has it: RBAC with domains, deny overrides, cheap equality first and ``g()`` last."""

ALLOW_FUNCTION = "allowReaches"
"""Name of ``allow_reaches`` in the matcher."""

_EFFECT = 6

# One lock for all snapshots: casbin isn't thread-safe, and on Python 3.11 two threads that parse at a time can raise
# SystemError. A decision holds it for about a tenth of a millisecond.
_LOCK = threading.Lock()


def tier_at_most(asked: object, limit: object) -> bool:
    """Is the tier asked for within a rule's? Both are compared as numbers.

    Args:
        asked: an int from 0 to 4, neither a bool nor text.
        limit: the digit that stands in the rule.

    Raises:
        InternalError: either is anything else.
        InvalidArgumentError: ``limit`` is no tier.
    """
    if type(asked) is not int or type(limit) is not str or not Tier.INTERNAL <= asked <= Tier.AUTONOMOUS:
        raise InternalError("a tier is an int from 0 to 4 and a rule's tier is its digit", reason="POLICY_TIER")
    return asked <= Tier.parse(limit)


def allow_reaches(asked: object, limit: object, obj: str, pattern: str) -> bool:
    """Does an allow reach this far: up to the tier asked for, and, where its object is ``*``, to this object?

    Args:
        asked: as for ``tier_at_most``.
        limit: as for ``tier_at_most``.
        obj: what is asked about.
        pattern: the rule's object, which is known to cover it.

    Raises:
        InternalError: as ``tier_at_most``.
        InvalidArgumentError: as ``tier_at_most``.
    """
    return tier_at_most(asked, limit) and (pattern != ANY or star_allows(obj))


class Engine:
    """One casbin enforcer over one role graph. It holds no rules of its own: each question brings its rows."""

    def __init__(self, graph: RoleGraph) -> None:
        model = Model()
        model.load_model_from_text(MODEL)
        enforcer = casbin.Enforcer(model)
        enforcer.add_function(ALLOW_FUNCTION, allow_reaches)
        manager = CasbinRoles(graph)
        enforcer.set_named_role_manager("g", manager)
        enforcer.get_model()["g"]["g"].rm = manager
        self._enforcer = enforcer
        self._rules = enforcer.get_model()["p"]["p"]
        self._parse = enforcer._get_expression  # noqa: SLF001 - see _keep_parsed
        self._parsed: dict[str, Any] = {}
        enforcer._get_expression = self._keep_parsed  # noqa: SLF001 - see _keep_parsed

    def evaluate(
        self, rows: tuple[Values, ...], *, subject: str, workspace: str, obj: str, action: str, tier: int
    ) -> tuple[bool, Values | None]:
        """What casbin answers over these rows, in this order: allowed or not, and the row that decided, if one did.

        Raises:
            Exception: whatever the evaluation raises; the caller denies.
        """
        with _LOCK:
            self._rules.policy = rows
            try:
                allowed, row = self._enforcer.enforce_ex(subject, workspace, obj, action, tier)
            finally:
                self._rules.policy = ()
        if type(allowed) is not bool:
            raise InternalError("casbin answered neither yes nor no", reason="POLICY_MODEL")
        if allowed and (not row or row[_EFFECT] != ALLOW):
            # Such as an enforcer that somebody disabled: it allows all, and names no row.
            raise InternalError("casbin allowed without a rule that allows", reason="POLICY_MODEL")
        return allowed, row or None

    def _keep_parsed(self, matcher: str, functions: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - casbin's own
        # casbin parses the matcher again for each decision, which costs as much as evaluating five rows. The functions
        # are the same dictionary each time, so the expression may be kept. Without this hook all still works.
        expression = self._parsed.get(matcher)
        if expression is None or expression.functions is not functions:
            expression = self._parsed[matcher] = self._parse(matcher, functions)
        return expression

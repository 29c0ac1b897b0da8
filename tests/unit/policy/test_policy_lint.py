"""What the linter refuses, where it points, and what it only warns about."""

from __future__ import annotations

import pytest

from broker.errors import InvalidArgumentError
from broker.policy.lint import Severity, examine, lint
from broker.policy.snapshot import MAX_VIOLATIONS, Snapshot
from broker.policy.text import MAX_LINE

GOOD = "p, one, role:agent, demo, data.query, call, 2, allow, agents may query\n"


def errors(text: str, **known: frozenset[str]) -> list[tuple[int, int, str]]:
    return [
        (item.line, item.column, item.message)
        for item in lint(text, **known)  # type: ignore[arg-type]
        if item.severity is Severity.ERROR
    ]


def warnings(text: str) -> list[tuple[int, str]]:
    assert not errors(text)
    return [(item.line, item.message) for item in lint(text)]


def test_a_good_policy_has_no_findings() -> None:
    assert lint(GOOD) == ()


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        ("p, one, role:agent, demo, data.query, call, 2, Allow, why", 48, "exactly allow or deny"),
        ("p, one, role:agent, demo, data.query, call, 2, Deny, why", 48, "exactly allow or deny"),
        ("p, one, role:agent, demo, data.query, call, 2, , why", 48, "exactly allow or deny"),
        ("p, one, role:agent, demo, data.query, call, 10, allow, why", 45, "one digit"),
        ("p, one, role:agent, demo, data.query, call, 5, allow, why", 45, "one digit"),
        ("p, one, role:agent, demo, data.query, call, 2.0, allow, why", 45, "one digit"),
        ("p, one, role:agent, demo, data.query, call, \u0662, allow, why", 45, "one digit"),
        ("p, one, role:agent, demo, data.query, Call, 2, allow, why", 39, "call, rpc or approve"),
        ("p, one, role:agent, demo, data.query, run, 2, allow, why", 39, "call, rpc or approve"),
        ("p, one, *, demo, data.query, call, 2, allow, why", 9, "everybody"),
        ("p, one, agent, demo, data.query, call, 2, allow, why", 9, "agent:<name>"),
        ("p, one, agent:A, demo, data.query, call, 2, allow, why", 9, "agent:<name>"),
        ("p, one, agent:*, demo, data.query, call, 2, allow, why", 9, "agent:<name>"),
        ("p, one, role:agent, Demo, data.query, call, 2, allow, why", 21, "workspace"),
        ("p, one, role:agent, de*, data.query, call, 2, allow, why", 21, "workspace"),
        ("p, one, role:agent, -, data.query, call, 2, allow, why", 21, "always has a workspace"),
        ("p, one, role:agent, demo, data, call, 2, allow, why", 27, "a tool"),
        ("p, one, role:agent, demo, *.query, call, 2, allow, why", 27, "a tool"),
        ("p, one, role:agent, demo, data.q*, call, 2, allow, why", 27, "a tool"),
        ("p, one, role:agent, demo, broker.v1.Sessions/GetSession, call, 2, allow, why", 27, "namespace.name"),
        ("p, one, role:agent, demo, data.query, rpc, 2, allow, why", 27, "Service/Method"),
        ("p, one, role:agent, demo, data.query, approve, 4, allow, why", 9, "an agent never approves"),
        ("p, one, agent:ann, demo, data.query, approve, 4, deny, why", 9, "an agent never approves"),
        ("p, one, *, demo, data.query, approve, 4, allow, why", 9, "everybody"),
        ("p, one, role:lead, -, data.query, approve, 4, allow, why", 20, "for broker.admin only"),
        ("p, one, role:lead, -, *, approve, 4, allow, why", 20, "for broker.admin only"),
        ("p, one, role:lead, -, broker.workflow, approve, 4, allow, why", 20, "for broker.admin only"),
        ("p, one, role:lead, demo, broker.admin, approve, 4, allow, why", 20, "write - or *"),
        ("p, one, role:lead, demo, broker.*, approve, 4, allow, why", 26, "there are broker.admin"),
        ("p, one, role:lead, demo, broker.other, approve, 4, allow, why", 26, "there are broker.admin"),
        ("p, one, role:agent, demo, broker.admin, call, 4, allow, why", 27, "broker's own namespace"),
        ("p, one, role:agent, demo, broker.*, call, 4, deny, why", 27, "broker's own namespace"),
        ("p, One, role:agent, demo, data.query, call, 2, allow, why", 4, "an id"),
        ("p, , role:agent, demo, data.query, call, 2, allow, why", 4, "an id"),
        ("p, default-deny, role:agent, demo, data.query, call, 2, allow, why", 4, "broker's own"),
        ("p, evaluation-error, role:agent, demo, data.query, call, 2, allow, why", 4, "broker's own"),
        ("p, one, role:agent, demo, data.query, call, 2, allow, ", 55, "needs a reason"),
        ("p, one, role:agent, demo, data.query, call, 2, allow, " + "x" * 201, 55, "limit is 200"),
        ("p, one, role:agent, demo, data.query, call, 2, allow", 1, "has 9 fields"),
        ("p, one, role:agent, demo, data.query, call, 2, allow, why, though", 1, "must be quoted"),
        ("p, one, eval(r.sub == 'x'), demo, data.query, call, 2, allow, why", 9, "expressions are refused"),
        ("p, one, role:agent, demo, data.query, call, 2, allow, eval(True)", 55, "eval( is refused"),
        ("g, agent:a, role:b", 1, "has 4 fields"),
        ("g, *, role:b, demo", 4, "agent:<name>"),
        ("g, agent:a, agent:b, demo", 13, "role:<name>"),
        ("g, agent:a, role:b, *, *", 1, "has 4 fields"),
        ("P, one, role:agent, demo, data.query, call, 4, deny, why", 1, "no kind of row"),
        ("p2, one, role:agent, demo, data.query, call, 4, deny, why", 1, "no kind of row"),
        ("g2, agent:a, role:b, demo", 1, "no kind of row"),
        ("x" * (MAX_LINE + 1), MAX_LINE + 1, "the limit is"),
    ],
)
def test_a_bad_row_is_refused_where_it_is_bad(row: str, column: int, words: str) -> None:
    found = errors(f"{GOOD.replace('one', 'zero')}\n{row}\n")
    assert [(line, at) for line, at, _ in found] == [(3, column)]
    assert words in found[0][2]


def test_each_bad_field_of_a_row_is_told() -> None:
    found = errors("p, One, nobody, *, data, shout, 7, maybe, \n")
    assert [column for _, column, _ in found] == [4, 9, 20, 26, 33, 36, 43]


def test_an_id_is_taken_once() -> None:
    assert errors(GOOD + GOOD) == [(2, 1, "the id one is taken by line 1; each rule has its own")]


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n\n", "g, agent:a, role:b, demo\n"])
def test_a_policy_without_rules_is_refused(text: str) -> None:
    assert any("empty" in message for *_, message in errors(text))


@pytest.mark.parametrize("effect", ["allow", "deny"])
def test_a_row_about_a_tool_that_does_not_exist_is_an_error_whatever_its_effect(effect: str) -> None:
    known = frozenset({"data.query"})
    text = f"{GOOD}p, two, role:agent, demo, data.qurey, call, 4, {effect}, misspelt\n"
    assert errors(text, known_tools=known) == [(2, 1, "two: there is no tool data.qurey")]
    assert not errors(text.replace("qurey", "*"), known_tools=known)
    assert errors(text.replace("data.qurey", "dta.*"), known_tools=known) == [(2, 1, "two: there is no tool dta.*")]
    assert not errors(text.replace("data.qurey", "*"), known_tools=known)


def test_a_row_about_an_rpc_that_is_not_served_is_an_error() -> None:
    known = frozenset({"broker.v1.Sessions/GetSession"})
    row = "p, one, role:human, *, broker.v1.Sessions/{}, rpc, 0, allow, why\n"
    assert not errors(row.format("GetSession"), known_rpcs=known)
    assert not errors(row.format("*"), known_rpcs=known)
    assert errors(row.format("Get"), known_rpcs=known) == [(1, 1, "one: there is no RPC broker.v1.Sessions/Get")]


def test_roles_that_go_round_in_a_circle_are_refused() -> None:
    circle = "g, role:a, role:b, {}\ng, role:b, role:c, {}\ng, role:c, role:a, {}\n"
    assert any("circle" in message for *_, message in errors(GOOD + circle.format("demo", "demo", "demo")))
    assert any("circle" in message for *_, message in errors(GOOD + circle.format("demo", "*", "demo")))
    assert any("circle" in message for *_, message in errors(GOOD + "g, role:a, role:a, demo\n"))
    # Each workspace by itself is no circle: a over b here, b over a there.
    assert not errors(GOOD + circle.format("demo", "demo", "other"))


def test_a_chain_of_roles_that_casbin_would_not_follow_is_refused() -> None:
    links = [f"g, role:c{number}, role:c{number + 1}, *\n" for number in range(9)]
    assert not errors(GOOD + "".join(links[:8]))
    assert errors(GOOD + "".join(links)) == [
        (2, 1, "role:c0 starts a chain of more than 8 roles; casbin would not follow it")
    ]
    apart = [link.replace("*", f"w{number % 2}") for number, link in enumerate(links)]
    assert not errors(GOOD + "".join(apart))


def test_what_is_odd_is_a_warning() -> None:
    assert warnings(GOOD + "p, two, role:agent, demo, data.query, call, 1, allow, again\n") == [
        (2, "this rule says the same as one in line 1, except for its tier and reason")
    ]
    assert warnings(GOOD + "p, two, *, *, data.drop, call, 0, deny, never\n") == [
        (2, "a deny holds at every tier, whatever its tier field says; write 4")
    ]
    assert warnings(GOOD + "p, two, role:ghost, *, data.drop, call, 0, allow, boo\n") == [
        (2, "role:ghost has rules, but nobody holds it")
    ]
    assert warnings(GOOD + "g, agent:a, role:ghost, demo\n") == [(2, "role:ghost is granted, but no rule is about it")]
    assert warnings(GOOD + "g, agent:a, role:agent, demo\n" * 2) == [(3, "line 2 grants the same")]
    assert warnings("p, one, *, *, *, call, 4, deny, closed\n") == [(1, "the policy allows nothing to anybody")]
    assert warnings("p, one, role:agent, *, *, call, 4, allow, open\n") == [
        (1, "one allows everything of the action call in every workspace")
    ]


def test_load_raises_one_error_with_every_place() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Snapshot.load("p, one\ng, two\n")
    assert caught.value.reason == "POLICY_INVALID"
    assert [item.field for item in caught.value.violations] == ["line 1, column 1", "line 2, column 1"]
    assert caught.value.hint


def test_load_says_how_many_places_it_does_not_show() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Snapshot.load("p, one\n" * 100)
    assert len(caught.value.violations) == MAX_VIOLATIONS
    assert caught.value.metadata["errors"] == "100"
    assert "99 more" in caught.value.message


def test_comments_blank_lines_and_windows_line_ends_are_read() -> None:
    text = "# a policy\r\n\r\n   # indented\r\n" + GOOD.replace("\n", "\r\n") + "g,agent:a,role:agent,demo\r\n"
    examined = examine(text)
    assert not examined.errors
    assert [rule.line for rule in examined.rules] == [4]
    assert examined.rules[0].reason == "agents may query"
    assert [grant.workspace for grant in examined.grants] == ["demo"]


def test_a_quoted_reason_keeps_its_commas_and_quotes() -> None:
    text = GOOD.replace("agents may query", '"yes, "" quoted "" # and more"')
    assert examine(text).rules[0].reason == 'yes, " quoted " # and more'


def test_who_may_approve_is_looked_at() -> None:
    row = "p, two, {}, *, {}, approve, 4, allow, why\n"
    assert warnings(GOOD + row.format("role:human", "*")) == [
        (2, "two makes every human an approver; grant a role to those who are to approve")
    ]
    chain = GOOD + row.format("role:boss", "broker.workflow") + "g, role:lead, role:boss, *\n"
    assert warnings(chain + "g, human:bob, role:lead, demo\n") == []
    assert warnings(chain + "g, agent:ann, role:lead, demo\n") == [
        (4, "role:lead lets its holders approve, but agent:ann never may: only humans approve")
    ]
    known = frozenset({"data.query"})
    assert not errors(GOOD + row.format("role:boss", "broker.runbook"), known_tools=known)
    assert errors(GOOD + row.format("role:boss", "data.drop"), known_tools=known) == [
        (2, 1, "two: there is no tool data.drop")
    ]

"""Hostile policy files and hostile names: whatever two readers could read differently is refused."""

from __future__ import annotations

import pytest

from broker.domain.call import PolicyRequest
from broker.domain.tier import Tier
from broker.errors import InvalidArgumentError
from broker.policy.default import default_policy
from broker.policy.snapshot import Snapshot

ALLOW = "p, open, role:agent, demo, data.*, call, 2, allow, agents use data\n"
DENY = "p, shut, *, demo, data.drop, call, 4, deny, nobody drops\n"


def refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        Snapshot.load(text)
    assert caught.value.reason == "POLICY_INVALID"
    # What the message quotes is plain ASCII, so that a look-alike can't hide in it.
    assert caught.value.message.isascii()


def test_a_byte_order_mark_is_refused() -> None:
    # Read naively, it would make the first row one of an unknown kind, which casbin skips.
    refused("\ufeff" + DENY + ALLOW, "byte-order mark")


@pytest.mark.parametrize(
    "char",
    [
        "\x00", "\x07", "\x0b", "\x0c", "\x1b", "\x7f", "\x85", "\t",  # control characters
        "\r",  # a line's end for some readers
        "\u2028", "\u2029",  # line ends for str.splitlines
        "\u00a0", "\u2003", "\u3000",  # spaces that strip() takes away
        "\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad",  # shown as nothing
        "\u202e", "\u2066", "\u200f", "\u061c",  # text direction
        "\u3164", "\ufe0f", "\u034f", "\U000e0041", "\U000e0101",  # shown as nothing, by other categories
        "\ud800", "\ue000", "\U0010ffff",  # no characters at all
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["p, open", "use data", "# note"])
def test_control_invisible_and_direction_characters_are_refused_everywhere(char: str, where: str) -> None:
    text = f"# note\n{ALLOW}{DENY}"
    refused(text.replace(where, f"{where}{char}x", 1), r"U\+[0-9A-F]{4,6}")


@pytest.mark.parametrize("end", ["\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_a_row_cannot_hide_behind_another_line_end(end: str) -> None:
    # An editor shows the deny on a line of its own; one reader sees it, another takes it for part of the comment.
    refused(f"{ALLOW}# see below{end}{DENY}", "refused")
    refused(f"{ALLOW}# {end}p, more, role:agent, *, *, call, 4, allow, all\n", "refused")


def test_a_comment_is_a_whole_line() -> None:
    # The rest of a row after # is its reason, not a comment; a row after # is no row.
    policy = Snapshot.load(ALLOW.replace("agents use data", "yes # p") + "#" + DENY)
    assert [(rule.id, rule.reason) for rule in policy.table] == [("open", "yes # p")]
    refused(f"{ALLOW}p, shut, *, demo, data.drop # , call, 4, deny, why\n", "line 2")
    refused(f"{ALLOW};{DENY}", "no kind of row")
    refused(f"{ALLOW}//{DENY}", "no kind of row")


@pytest.mark.parametrize(
    "row",
    [
        'p, shut, *, demo, data.drop, call, 4, "deny", why',
        'p, shut, "*", demo, data.drop, call, 4, deny, why',
        '"p", shut, *, demo, data.drop, call, 4, deny, why',
        'p, shut, *, demo, data.drop, call, 4, deny, wh"y',
        'p, shut, *, demo, data.drop, call, 4, deny, "why',
        'p, shut, *, demo, data.drop, call, 4, deny, "why" not',
        'p, shut, *, demo, data.drop, call, 4, deny, "why\np, open2, role:agent, *, *, call, 4, allow, all"',
        'g, "agent:ann", role:agent, demo',
        'g, agent:ann, "role:agent, demo"',
    ],
)
def test_quotes_enclose_a_whole_reason_and_nothing_else(row: str) -> None:
    refused(f"{ALLOW}{row}\n", "quote|fields|kind")


@pytest.mark.parametrize("count", [0, 1, 7, 9, 10, 100])
def test_rows_with_too_few_or_too_many_fields_are_refused(count: int) -> None:
    refused(ALLOW + ", ".join(["p", *["x"] * count]) + "\n", "fields|is not|is no")


def test_a_file_that_was_cut_is_refused() -> None:
    text = ALLOW + DENY
    for length in range(1, len(text)):
        if text[:length].endswith("\n"):
            continue
        refused(text[:length], "newline")


def test_a_huge_file_is_refused_before_it_is_read() -> None:
    refused(ALLOW + "#" * (64 * 2**20) + "\n", "longer than")
    refused(ALLOW + "# " + "\u00e9" * (40 * 2**20) + "\n", "longer than")


def test_a_long_line_and_a_flood_of_errors_have_bounds() -> None:
    refused(ALLOW + "p, " * 1_000_000 + "\n", "limit is")
    with pytest.raises(InvalidArgumentError) as caught:
        Snapshot.load("p\n" * 100_000)
    assert len(caught.value.violations) == 20
    with pytest.raises(InvalidArgumentError) as caught:
        Snapshot.load("\x00" * 1_000_000)
    assert len(caught.value.violations) == 20


@pytest.mark.parametrize(
    "name",
    [
        "agent:\u0430nn",
        "agent:Ann",
        "agent:ann ",
        " agent:ann",
        "agent:ann\n",
        "agent:ann\u200b",
        "Agent:ann",
        "agent:",
        "ann",
        "agent:ann,x",
        "agent:ann/x",
        "agent:*",
        "*",
        "role:agent",
        "role:boss",
        "agent:ann:x",
        "agent:-ann",
        "human:ann",
    ],
)
def test_a_look_alike_of_a_subject_gets_nothing(name: str) -> None:
    policy = Snapshot.load(
        "p, ann, agent:ann, *, data.query, call, 4, allow, ann only\np, boss, role:boss, *, *, call, 4, allow, bosses\n"
    )
    assert policy.decide(PolicyRequest("agent:ann", "demo", "data.query", "call", Tier.INTERNAL)).allowed
    assert not policy.decide(PolicyRequest(name, "demo", "data.query", "call", Tier.INTERNAL)).allowed


@pytest.mark.parametrize("workspace", ["*", "-", "", "Demo", "demo ", "d\u0435mo", "demo\n", "demo/..", "de*"])
def test_a_look_alike_of_a_workspace_escapes_no_deny_and_gets_no_allow(workspace: str) -> None:
    policy = Snapshot.load("p, wide, role:agent, *, data.*, call, 4, allow, all\n" + DENY)
    assert not policy.decide(PolicyRequest("agent:ann", workspace, "data.drop", "call", Tier.INTERNAL)).allowed


@pytest.mark.parametrize(
    "tool",
    [
        "data.*",
        "*",
        "data.",
        "data.drop ",
        "Data.drop",
        "data.dr\u043ep",
        "data.drop\n",
        "data..drop",
        "data",
        "data.drop/x",
    ],
)
def test_a_look_alike_of_a_tool_escapes_no_deny(tool: str) -> None:
    policy = Snapshot.load(ALLOW + DENY)
    assert not policy.decide(PolicyRequest("agent:ann", "demo", tool, "call", Tier.INTERNAL)).allowed


def test_a_tool_is_no_rpc_and_an_rpc_no_tool() -> None:
    policy = Snapshot.load("p, calls, role:agent, *, *, call, 4, allow, all calls\n")
    method = "broker.v1.Administration/RevokeIdentity"
    for action in ("call", "rpc"):
        assert not policy.decide(PolicyRequest("agent:ann", "demo", method, action, Tier.INTERNAL)).allowed


@pytest.mark.parametrize(
    "operator",
    ["", "olivia, role:operator, *\ng, agent:ann", "olivia\n", "Olivia", "*", "ol\u0456via", "olivia,", "a" * 64],
)
def test_an_operators_name_cannot_smuggle_a_row_into_the_default_policy(operator: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is no name"):
        default_policy(operator)


def test_strangers_asking_leave_nothing_behind() -> None:
    # casbin's own role manager keeps a node for every name and a manager for every workspace that was asked about.
    policy = Snapshot.load(ALLOW + "g, agent:ann, role:agent, *\n")
    before = repr(policy._graph._links)
    for number in range(200):
        policy.decide(PolicyRequest(f"agent:a{number}", f"w{number}", "data.query", "call", Tier.INTERNAL))
    assert repr(policy._graph._links) == before
    assert len(policy._engine._parsed) == 1

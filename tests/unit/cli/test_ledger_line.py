"""One line per entry: what it says of real entries, and that nothing made up can break it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.cli.ledger_line import line, tone
from broker.ledger.entry import ENTRY_TYPES

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = ["agent", "tool", "policy", "refused", "repeated", "outcome", "lineage", "call_id", "tier", "rules", "tools"]
NAMES += ["egress", "egress_allowed", "old", "new", "key", "lost", "forked", "by", "approval", "approvals", "vote"]
NAMES += ["effect", "undoes", "added", "passed", "tried", "live", "rehearsed", "artifact", "workspace"]
NAMES += ["person", "people", "scope", "target", "workflow", "founding_digest", "in_force", "channel"]


@given(st.sampled_from([*sorted(ENTRY_TYPES), "made.up"]), st.dictionaries(st.sampled_from(NAMES), ANY))
def test_any_entry_has_a_line(entry_type: str, body: dict[str, object]) -> None:
    entry = {"type": entry_type, **body}
    assert isinstance(line(entry), str)
    assert tone(entry) in ("", "red", "yellow")


def test_a_refusal_says_rule_and_repetitions() -> None:
    entry = {
        "type": "decision",
        "agent": {"id": "agt_1"},
        "tool": {"name": "shell.run"},
        "refused": {"reason": "POLICY_DENIED", "rule": "demo-no-shell"},
        "repeated": {"count": 24},
    }
    assert line(entry) == "deny  shell.run: POLICY_DENIED by demo-no-shell, 24 more times  (agt_1)"
    assert tone(entry) == "red"


def test_an_outcome_says_which_limit_struck_and_by_whose_evidence() -> None:
    outcome = {"state": "FAILED", "cause": "MEMORY", "cause_source": "ENGINE", "exit_code": None}
    entry = {"type": "outcome", "call_id": "call_1", "tool": {"name": "demo.quick"}, "outcome": outcome}
    assert line(entry) == "FAILED  demo.quick, ended by MEMORY on the word of ENGINE  call_1"


def test_an_intent_says_which_hosts_the_call_may_reach() -> None:
    hosts = ["https api.example.com:443", "http a.example:80", "tcp db.example:5432", "connect b.example:443"]
    entry = {"type": "intent", "tool": {"name": "demo.fetch"}, "lineage": {"starter": "hum_1"}, "egress_allowed": hosts}
    assert line(entry) == (
        "demo.fetch, started by hum_1, may reach https api.example.com:443, http a.example:80, tcp db.example:5432"
        " and 1 more"
    )
    assert "reach" not in line({**entry, "egress_allowed": []})


def test_an_outcome_says_which_hosts_it_reached_and_what_was_refused() -> None:
    entry = {
        "type": "outcome",
        "tool": {"name": "demo.fetch"},
        "outcome": {"state": "SUCCEEDED", "cause": "TOOL", "cause_source": "ENGINE", "exit_code": 0},
        "egress": [
            {"host": "api.example.com", "port": 443, "verdict": "ALLOWED"},
            {"host": "2001:db8::1", "port": 80, "verdict": "ALLOWED"},
            {"host": "api.example.com", "port": 443, "verdict": "SECRET_ECHOED"},
            {"host": "?", "hosts": 7, "verdict": "NOT_LISTED"},
        ],
    }
    assert line(entry) == (
        "SUCCEEDED  demo.fetch, exit code 0, reached api.example.com:443, [2001:db8::1]:80,"
        " egress refused or cut: NOT_LISTED, SECRET_ECHOED"
    )


def test_an_outcome_says_what_is_kept_of_hosts_answers() -> None:
    ended = {"state": "SUCCEEDED", "cause": "TOOL", "cause_source": "ENGINE", "exit_code": 0}
    entry = {"type": "outcome", "tool": {"name": "demo.fetch"}, "outcome": ended}
    kept = {"artifact": "sha256:1", "exchanges": 3, "missed": 0, "bytes": 9, "whole": True}
    assert line({**entry, "recording": kept}).endswith(", kept 3 answers of hosts")
    assert line({**entry, "recording": {**kept, "whole": False}}).endswith(", kept 3 answers of hosts, in part")


def test_what_became_of_the_keys_and_of_lost_entries() -> None:
    old, new = "brk_1+1ab4ad3c+Ad8bSZRc", "brk_1+c2b1f00d+AVoidVoid"
    rotated = {"type": "signer.rotated", "old": old, "new": new, "by": "hum_1"}
    assert line(rotated) == "key 1ab4ad3c hands over to key c2b1f00d, by hum_1"
    revoked = {"type": "signer.revoked", "key": old, "by": "hum_1"}
    assert line(revoked) == "revoked  key 1ab4ad3c, by hum_1"
    assert tone(revoked) == "yellow"
    lost = {"type": "recovered", "lost": {"from": 7, "to": 9}, "forked": True, "by": "hum_1"}
    assert line(lost) == "entries 7 to 9 are lost, from a history that isn't this one, by hum_1"


def test_what_people_were_asked_and_said() -> None:
    asked = {
        "id": "apv_1",
        "kind": "CALL",
        "obj": "prices.set",
        "requester": "agt_1",
        "requirement": {"people": 2},
    }
    entry = {"type": "approval.requested", "call_id": "call_1", "agent": {"id": "agt_1"}, "approval": asked}
    assert line(entry) == "apv_1  CALL prices.set, asked by agt_1: 2 people needed  call_1  (agt_1)"
    vote = {"statement": '{"decision":"approve"}'}
    entry = {"type": "vote", "person": "hum_1", "approval": {"id": "apv_1", "state": "PENDING"}, "vote": vote}
    assert line(entry) == "apv_1  hum_1 says approve, then PENDING"
    attested = {**entry, "type": "vote.attested", "channel": "slack"}
    assert line(attested) == "apv_1  hum_1 says approve in slack, on a bot's word, then PENDING"
    closed = {"id": "apv_1", "kind": "CALL", "state": "DENIED", "votes": [7]}
    entry = {"type": "approval.closed", "approval": closed, "by": "hum_1", "call_id": "call_1"}
    assert line(entry) == "DENIED  apv_1, CALL, on 1 vote by hum_1  call_1"
    assert tone(entry) == "yellow"


def test_what_became_of_keys_foundings_freezes_accounts_and_workflows() -> None:
    key = {"id": "sha256:0123456789abcdef", "kind": "bot"}
    lines = {
        "key.enrolled": "key 0123456789ab of hum_1, bot, by hum_2 under apv_1",
        "key.revoked": "revoked  key 0123456789ab of hum_1, by hum_2 under apv_1",
        "account.mapped": "a chat account of hum_1, by hum_2 under apv_1",
        "account.unmapped": "a chat account of hum_1, by hum_2 under apv_1",
        "frozen": "tool shell.run, by hum_2 under apv_1",
        "unfrozen": "tool shell.run, by hum_2 under apv_1",
        "approver.accepted": "hum_1 accepts the founding aaaa",
        "founding.completed": "the founding aaaa is accepted by 3 people",
        "workflow.approved": "clean-up bbbb, tier 4, by apv_2",
        "settings.changed": "tiers cccc, by apv_2",
    }
    for entry_type, wanted in lines.items():
        entry = {
            "type": entry_type,
            "key": key,
            "person": "hum_1",
            "by": "hum_2",
            "approval": "apv_1",
            "scope": "tool",
            "target": "shell.run",
            "founding_digest": "sha256:aaaa",
            "people": ["hum_1", "hum_2", "hum_3"],
            "workflow": {"id": "clean-up", "version": "sha256:bbbb"},
            "tier": 4,
            "approvals": [{"id": "apv_2"}],
            "in_force": {"tiers": "sha256:cccc"},
        }
        assert line(entry) == wanted, entry_type


def test_an_effect_says_what_changed_and_what_it_takes_back() -> None:
    effect = {"digest": "sha256:" + "ab" * 32, "artifact": "sha256:" + "cd" * 32, "undoes": ["call_1"]}
    tool = {"name": "workspace.undo"}
    intent = {"type": "intent", "tool": tool, "lineage": {"starter": "hum_1"}, "effect": effect}
    assert line(intent) == "workspace.undo, started by hum_1, takes back call_1, effect abababababab"
    outcome = {"state": "SUCCEEDED", "cause": "TOOL", "exit_code": 0}
    counted = {**effect, "added": 6, "changed": 0, "removed": 1}
    assert line({"type": "outcome", "tool": tool, "outcome": outcome, "effect": counted}) == (
        "SUCCEEDED  workspace.undo, exit code 0, 6 added, 0 changed, 1 removed, takes back call_1, effect abababababab"
    )


def test_a_plan_says_what_takes_it_back_and_a_drill_how_many_were_good() -> None:
    effect = {"digest": "sha256:" + "ab" * 32, "artifact": "sha256:" + "cd" * 32, "undoes": []}
    plan = {"type": "plan.outcome", "tool": {"name": "files.clean_up"}, "effect": effect, "rehearsed": True}
    assert line(plan) == "files.clean_up has a plan, effect abababababab; cdcdcdcdcdcd takes it back, tried"
    begun = {"type": "plan.intent", "tool": {"name": "files.clean_up"}, "lineage": {}}
    assert line(begun) == "files.clean_up runs on a copy, started by nobody"
    drill = {"type": "undo.drill", "workspace": "shop", "by": "hum_1", "live": 5, "tried": 3, "passed": 2}
    assert line(drill) == "2 of 3 artifacts are good, of 5 live in shop, by hum_1"

"""Another policy over recorded decisions: what flips, how it is grouped, what can't be decided again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import DataLossError, InvalidArgumentError
from broker.policy.snapshot import Snapshot
from broker.policy.whatif_report import Report, parse_report, read_report
from broker.replay.asking.answer import Span
from broker.replay.naming import Names, NoNames
from broker.replay.whatif_making import Case, Rules, Tried, make_report
from broker.specs.tiers import Tiers, load_tiers
from tests.replay_decisions import ANN, BOB, NAMES, PEOPLE, POLICY, ROVER, SCOUT, START, History

TIERS = load_tiers()
NARROWER = POLICY.replace("files.*, call, 4, allow", "files.read, call, 4, allow")
WIDER = POLICY.replace(
    "p, no-shell, *, demo, shell.run, call, 4, deny", "p, shell, role:agent, demo, shell.run, call, 4, allow"
)


def report(
    history: History,
    text: str = POLICY,
    *,
    tiers: Tiers = TIERS,
    names: Names = NAMES,
    span: Span = Span(),  # noqa: B008 - frozen
    texts: Callable[[str], str | None] | None = None,
) -> Report:
    with history.casebook() as casebook:
        known = texts or {history.policy.digest: history.policy.text}.get
        case = Case(casebook, names, PEOPLE, known)
        return make_report(case, Tried(Snapshot.load(text), tiers), Rules(history.policy, TIERS), span)


def with_row(tier: int, **changes: object) -> Tiers:
    rows = list(TIERS.tiers)
    rows[tier] = rows[tier].model_copy(update=changes)
    return TIERS.model_copy(update={"tiers": tuple(rows)})


def test_what_the_policy_now_refuses_is_narrowed_and_grouped() -> None:
    history = History()
    history.ask()
    history.ask(tool="files.write", tier=2)
    history.ask(tool="files.write", tier=2)
    history.ask(ROVER, "files.write", tier=2)
    found = report(history, NARROWER)
    assert (found.widened.requests, found.narrowed.requests, found.totals.unchanged) == (0, 3, 1)
    (rule,) = found.narrowed.by_rule
    assert (rule.of, rule.requests, rule.inputs, rule.first, rule.last) == (
        "allow reads -> deny default-deny", 3, 2, 1, 3,
    )  # fmt: skip
    assert [(item.of, item.requests) for item in found.narrowed.by_agent] == [("agent:scout", 2), ("agent:rover", 1)]
    assert [(item.of, item.requests) for item in found.narrowed.by_tool] == [("files.write", 3)]
    assert found.narrowed.flips[0].first_time == "2026-03-01T12:00:01Z"


def test_what_was_refused_and_would_be_allowed_is_widened_with_its_repetitions() -> None:
    history = History()
    history.ask(tool="shell.run", times=1)
    history.ask(tool="shell.run", times=24)
    found = report(history, WIDER)
    (flip,) = found.widened.flips
    assert (flip.before, flip.after, flip.requests, flip.entries) == ("deny no-shell", "allow shell", 25, 2)
    assert (flip.agent, flip.name, found.totals.unchanged) == (SCOUT, "agent:scout", 0)


def test_a_call_that_people_agree_to_is_narrower_than_one_that_nobody_does() -> None:
    history = History()
    history.ask(tier=3)
    history.ask(tier=1)
    strict = with_row(3, call_approval=TIERS.tiers[4].call_approval)
    found = report(history, tiers=strict)
    assert [flip.after for flip in found.narrowed.flips] == ["allow reads, 2 agree"]
    assert (found.narrowed.flips[0].why, found.widened.requests) == (["2 people have to agree"], 0)
    assert found.forecast.after.total == 1


def test_fewer_people_is_widened_and_says_so() -> None:
    approval = TIERS.tiers[4].call_approval
    assert approval is not None
    three = approval.model_copy(update={"people": 3})
    history = History()
    history.ask(tier=4)
    with history.casebook() as casebook:
        case = Case(casebook, NAMES, PEOPLE, lambda _: None)
        before = Rules(history.policy, with_row(4, call_approval=three))
        found = make_report(case, Tried(history.policy, TIERS), before, Span())
    assert [flip.why for flip in found.widened.flips] == [["people: 2 agree instead of 3"]]
    assert found.control.without_text == 1


def test_a_table_that_demands_more_narrows_what_carried_less() -> None:
    history = History()
    history.ask()
    history.ask(model="model-1")
    history.ask(tier=2)
    found = report(history, tiers=with_row(1, must_carry=("model", "sources")))
    (lack,) = found.lacking.calls
    assert (found.lacking.requests, found.lacking.cut) == (lack.requests, 0)
    assert (lack.why, lack.first, lack.last, lack.requests) == ("carries no model", 0, 0, 1)
    assert found.notes == ["tier 1 newly demands sources, which no entry shows"]
    assert found.totals.unchanged == 2
    assert report(history, "p, none, role:agent, demo, x.y, call, 1, allow, r\n", tiers=TIERS).lacking.calls == []


def test_each_day_and_each_approver_but_the_agents_owner_is_counted() -> None:
    history = History()
    for day, agent in ((0, SCOUT), (0, ROVER), (2, ROVER), (2, ROVER)):
        history.ask(agent, tier=4, day=day)
    found = report(history).forecast
    assert [(item.day, item.before, item.after) for item in found.by_day] == [
        ("2026-03-01", 2, 2),
        ("2026-03-03", 2, 2),
    ]
    assert (found.days, found.after.total, found.after.mean_hundredths) == (3, 4, 133)
    # Ann owns the rover: nobody asks her about it.
    loads = {item.person: (item.after.total, item.after.busiest, item.after.busiest_day) for item in found.approvers}
    assert loads == {BOB: (4, 2, "2026-03-01"), ANN: (1, 1, "2026-03-01")}
    without_bob = POLICY.replace("g, human:bob, role:approver, demo\n", "")
    (ann, bob) = sorted(report(history, without_bob).forecast.approvers, key=lambda item: item.name)
    assert (ann.after.total, bob.before.total, bob.after.total) == (1, 4, 0)


def test_the_span_bounds_what_is_decided_again() -> None:
    history = History()
    for day in range(3):
        history.ask(tool="files.write", day=day)
    second = int((START + timedelta(hours=20)).timestamp() * 1_000_000)
    found = report(history, NARROWER, span=Span(second, second + 86_400_000_000))
    assert (found.narrowed.requests, found.narrowed.flips[0].first) == (1, 1)
    assert found.span.since == "2026-03-02T08:00:00Z"


def test_what_has_no_inputs_is_counted_and_said() -> None:
    history = History()
    history.ask()
    refused = {"tool": {"name": "?"}, "workspace": "?"}
    history.add({**refused, "refused": {"reason": "POLICY_DENIED", "rule": "x"}}, SCOUT)
    history.add({**refused, "refused": {"reason": "LINEAGE_UNPROVEN", "rule": ""}, "repeated": {"count": 4}}, SCOUT)
    history.ask()
    history.entries[-1]["policy"]["inputs"]["tier"] = "seven"
    found = report(history)
    assert [(item.why, item.requests) for item in found.undecided] == [
        ("inputs malformed", 1),
        ("another check than the policy refused it", 4),
        ("its entry doesn't say what the policy read", 1),
    ]
    assert found.totals.requests == 1


def test_a_refusal_by_another_check_is_no_answer_of_the_policys() -> None:
    history = History()
    history.ask()
    history.entries[0]["refused"] = {"reason": "LINEAGE_UNPROVEN", "rule": ""}
    found = report(history)
    assert (found.totals.requests, found.undecided[0].reason) == (0, "LINEAGE_UNPROVEN")


def test_an_unknown_name_matters_only_where_the_answer_depends_on_it() -> None:
    history = History()
    history.ask(tool="files.write")
    assert report(history, NARROWER, names=NoNames()).narrowed.requests == 1
    granted = "g, agent:x0, role:writer, demo\ng, agent:scout, role:writer, demo\n"
    assert report(history, POLICY + granted, names=NoNames()).totals.unchanged == 1
    writer = "p, writes, role:writer, demo, files.write, call, 4, allow, writers write\n"
    found = report(history, NARROWER + granted + writer, names=NoNames())
    assert [(item.why, item.requests) for item in found.undecided] == [("name not known", 1)]
    history.entries[0]["policy"]["inputs"]["subject"] = "agents are not called so"
    assert report(history, names=NoNames()).undecided[0].why == "name not known"


def test_the_record_and_its_policy_are_held_against_each_other() -> None:
    history = History()
    history.ask()
    assert (report(history).control.reproduced, report(history).control.disagree) == (1, [])
    history.ask(tool="shell.run")
    del history.entries[1]["refused"]
    history.entries[1]["policy"]["decision"] = "allow"
    (found,) = report(history).control.disagree
    assert (found.entry, found.recorded, found.policy_says) == (1, "allow no-shell", "deny no-shell")
    assert report(history, texts=lambda _: None).control.without_text == 2
    assert report(history, texts=lambda _: "no policy").control.without_text == 2
    assert report(history, texts=lambda _: WIDER).control.without_text == 2


def test_the_report_is_bound_and_reproducible(tmp_path: Path) -> None:
    history = History()
    history.ask(tool="files.write")
    found = report(history, NARROWER)
    assert found == report(history, NARROWER)
    assert (found.ledger.origin, found.ledger.checkpoint_size, found.ledger.entries) == ("brk_test", 7, 1)
    assert found.candidate.policy == Snapshot.load(NARROWER).digest
    assert found.present.policy == history.policy.digest
    path = tmp_path / "report.json"
    path.write_bytes(found.data())
    assert read_report(path) == found
    assert found.digest in found.summary()[0]
    with pytest.raises(DataLossError) as changed:
        parse_report(found.data().replace(b'"unchanged":0', b'"unchanged":1'))
    assert changed.value.reason == "WHATIF_CHANGED"
    for wrong in (b"{}", b"x", b" " * (2**20 + 1)):
        with pytest.raises(InvalidArgumentError) as refused:
            parse_report(wrong)
        assert refused.value.reason == "WHATIF_INVALID"
    with pytest.raises(InvalidArgumentError):
        read_report(tmp_path / "none")


asks = st.lists(
    st.tuples(
        st.sampled_from([SCOUT, ROVER]),
        st.sampled_from(["files.read", "files.write", "shell.run", "other.tool"]),
        st.integers(0, 4),
        st.sampled_from(["demo", "shop"]),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(asks)
def test_the_very_same_policy_flips_nothing_and_reproduces_all(items: list[tuple[str, str, int, str]]) -> None:
    history = History()
    for agent, tool, tier, workspace in items:
        history.ask(agent, tool, tier=tier, workspace=workspace)
    found = report(history)
    assert (found.widened.flips, found.narrowed.flips, found.lacking.calls, found.undecided) == ([], [], [], [])
    assert found.totals.unchanged == found.totals.requests == found.control.reproduced == len(items)
    assert found.forecast.before == found.forecast.after


@settings(deadline=None, max_examples=60)
@given(asks)
def test_what_one_policy_widens_the_way_back_narrows(items: list[tuple[str, str, int, str]]) -> None:
    there, back = History(POLICY), History(WIDER)
    for agent, tool, tier, workspace in items:
        there.ask(agent, tool, tier=tier, workspace=workspace)
        back.ask(agent, tool, tier=tier, workspace=workspace)
    widened, narrowed = report(there, WIDER).widened, report(back, POLICY).narrowed
    assert (widened.requests, widened.inputs) == (narrowed.requests, narrowed.inputs)


def test_a_mark_that_does_not_verify_stands_in_the_report() -> None:
    history = History()
    history.ask()
    with history.casebook() as casebook:
        casebook.mark = replace(casebook.mark, verdict="tampered", why="entry 0")
        case = Case(casebook, NAMES, PEOPLE, lambda _: None)
        found = make_report(case, Tried(history.policy, TIERS), Rules(None, TIERS), Span())
    assert (found.ledger.sound, found.ledger.verdict, found.present.policy) == (False, "tampered", "")
    assert found.forecast.before.total == 0

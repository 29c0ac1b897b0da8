"""A policy that touches the two-person rule goes into force as two people agreed to it, and no other does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.domain.approval import ApprovalState
from broker.errors import BrokerError
from broker.policy.whatif_report import read_report
from tests.approval_world import OPERATOR, Founded, World
from tests.served import command, ledger

pytestmark = pytest.mark.docker

APPROVER = "\ng, human:dan, role:approver, *\n"
TOOL_4 = "\np, t-more, role:agent, other, world.change, call, 4, allow, agents change that world too\n"
HARMLESS = "\np, t-less, human:dan, demo, python.run, call, 2, allow, dan calls a little\n"


def edited(state: Path, more: str) -> Path:
    """A file with further rows, beside the state directory."""
    file = state.parent / "new-policy.csv"
    file.write_text((state / "policy" / "policy.csv").read_text("utf-8") + more, "utf-8")
    return file


def apply(state: Path, file: Path, code: int, *more: str) -> dict[str, Any]:
    """Runs ``broker policy apply``, which has to end with a code."""
    result = command(state, "policy", "apply", str(file), "--as", OPERATOR, "--json", *more, check=False)
    assert result.returncode == code, f"{result.returncode}\n{result.stdout}\n{result.stderr}"
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


async def in_force(world: World) -> str:
    """Digest of the policy that decides."""
    return (await world.operator.status()).policy_digest


async def test_what_widens_nothing_that_matters_goes_into_force_at_once(founded: Founded) -> None:
    file = edited(founded.state, HARMLESS)
    with founded.serving() as world:
        async with world:
            done = apply(founded.state, file, 0)
            assert (done["state"], done["two_person_rule"]) == ("in force", [])
            assert done["difference"]["rules_added"]
            assert await in_force(world) == done["policy_digest"]


@pytest.mark.parametrize("more", [APPROVER, TOOL_4])
async def test_what_touches_the_two_person_rule_waits_for_two_people(founded: Founded, more: str) -> None:
    file = edited(founded.state, more)
    before = (founded.state / "policy" / "policy.csv").read_bytes()
    with founded.serving() as world:
        async with world:
            old = await in_force(world)
            asked = apply(founded.state, file, 4)
            assert asked["state"] == "waits for people"
            assert asked["two_person_rule"]
            assert apply(founded.state, file, 4)["approval"] == asked["approval"], "it is asked for once"
            shown = await world.operator.get_approval(asked["approval"])
            assert "!! WIDENS" in shown.rendering
            assert asked["policy_digest"] in shown.rendering.replace("\n", "").replace(" ", "")
            await world.vote("ada", shown)
            assert apply(founded.state, file, 4)["state"] == "waits for people"
            assert (founded.state / "policy" / "policy.csv").read_bytes() == before
            agreed = await world.vote("bob", shown)
            assert agreed.state is ApprovalState.APPROVED
            assert await in_force(world) == old
            done = apply(founded.state, file, 0)
            assert done["state"] == "in force"
            assert await in_force(world) == asked["policy_digest"]
            assert (await world.operator.get_approval(asked["approval"])).state is ApprovalState.USED
            # Back is no widening; forth again is, and the approval has been used.
            file.write_bytes(before)
            assert apply(founded.state, file, 0)["state"] == "in force"
            assert apply(founded.state, edited(founded.state, more), 4)["approval"] != asked["approval"]
    changes = [item for item in ledger(founded.state) if item["type"] == "policy.changed" and item.get("approvals")]
    assert [item["policy_digest"] for item in changes] == [asked["policy_digest"]]
    assert len(changes[0]["approvals"][0]["votes"]) == 2


async def test_a_request_says_what_the_broker_sees_and_not_what_the_requester_says(founded: Founded) -> None:
    text = (founded.state / "policy" / "policy.csv").read_text("utf-8") + APPROVER
    with founded.serving() as world:
        async with world:
            with pytest.raises(BrokerError) as refused:
                await world.operator.request_administration(
                    "policy.change", {"text": text, "difference": "nothing of note"}
                )
            assert refused.value.violations[0].field == "parameters.difference"
            with pytest.raises(BrokerError) as invalid:
                await world.operator.request_administration("policy.change", {"text": "nonsense"})
            assert invalid.value.reason == "POLICY_INVALID"
            asked = await world.operator.request_administration("policy.change", {"text": text})
            whole = await world.operator.get_approval(asked.name)
            assert "human:dan" in whole.rendering


async def test_a_whatif_report_is_shown_to_approvers_as_the_requesters_word(founded: Founded, tmp_path: Path) -> None:
    state, report, other = founded.state, tmp_path / "report.json", tmp_path / "other.json"
    file = edited(state, APPROVER)
    with founded.serving() as world:
        async with world:
            command(state, "replay", "whatif", "--policy", str(file), "--report", str(report))
            made = read_report(report)
            harmless = tmp_path / "harmless.csv"
            harmless.write_text(file.read_text("utf-8") + HARMLESS, "utf-8")
            command(state, "replay", "whatif", "--policy", str(harmless), "--report", str(other))
            assert apply(state, file, 2, "--whatif", str(other))["reason"] == "WHATIF_OF_ANOTHER"
            text = file.read_text("utf-8")
            for changes, reason in (
                ({"head": "00" * 32}, "WHATIF_OF_ANOTHER"),
                ({"entries": 0}, "WHATIF_OF_ANOTHER"),
                ({"entries": 10**9}, "WHATIF_OF_ANOTHER"),
                ({"origin": "brk_other"}, "WHATIF_OF_ANOTHER"),
                ({"sound": False}, "WHATIF_OF_ANOTHER"),
                ({"extract": "agent scout"}, "WHATIF_OF_ANOTHER"),
                ({"checkpoint_root": "11" * 32, "checkpoint_size": 1}, "WHATIF_OF_ANOTHER"),
            ):
                forged = made.model_copy(update={"ledger": made.ledger.model_copy(update=changes)}).sealed()
                with pytest.raises(BrokerError) as refused:
                    await world.operator.request_administration(
                        "policy.change", {"text": text, "whatif": forged.data().decode()}
                    )
                assert refused.value.reason == reason, changes
            changed = made.data().decode().replace('"unchanged":', '"unchanged":1')
            with pytest.raises(BrokerError) as told:
                await world.operator.request_administration("policy.change", {"text": text, "whatif": changed})
            assert told.value.reason == "WHATIF_CHANGED"
            asked = apply(state, file, 4, "--whatif", str(report))
            assert asked["whatif"] == made.digest
            shown = await world.operator.get_approval(asked["approval"])
            words = " ".join(shown.rendering.split())
            assert "Attached by the requester, and not checked by the broker: What-if" in words
            assert made.digest in shown.rendering.replace("\n", "").replace(" ", "")
            await world.vote("ada", shown)
            await world.vote("bob", shown)
            assert apply(state, file, 0, "--whatif", str(report))["state"] == "in force"

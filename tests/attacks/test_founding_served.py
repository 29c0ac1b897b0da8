"""An operator works on a broker while three people found its two-person rule: each change voids what was signed before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from broker.client.approval_models import Founding
from broker.domain.founding import parse_content
from broker.domain.founding_text import founding_text
from broker.errors import DataLossError, FailedPreconditionError
from broker.signing import Ed25519Signer
from tests.approval_world import APPROVERS, World, make_approval_state, tiers_with
from tests.served import OPERATOR, command, command_json, serving

pytestmark = pytest.mark.docker

PUPPET = "g, human:eve, role:approver, *\n"


def _edit_policy(state: Path) -> None:
    policy = state / "policy" / "policy.csv"
    policy.write_text(policy.read_text("utf-8") + PUPPET, "utf-8")


def _lower_tool(state: Path) -> None:
    spec = state / "tool_specs" / "world.change.yaml"
    spec.write_text(spec.read_text("utf-8").replace("tier: 4", "tier: 1"), "utf-8")


def _weaken_tiers(state: Path) -> None:
    (state / "tool_specs" / "tiers.yaml").write_text(tiers_with(cool_down="0s"), "utf-8")


def _weaken_settings(state: Path) -> None:
    path = state / "settings.yaml"
    settings = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(yaml.safe_dump({**(settings or {}), "unsafe_slack_approves_tier4": True}), "utf-8")


def _give_agent_away(state: Path) -> None:
    command(state, "identity", "owner", "scout", "--owner", "cyn")


def _issue_certificate(state: Path) -> None:
    command(state, "identity", "issue", "agent", "helper", "--owner", OPERATOR)


CHANGES: dict[str, tuple[tuple[Callable[[Path], None], str, str], ...]] = {
    # What is changed while the broker is down, what ada's client tells her of it, and what the text then shows.
    "policy": ((_edit_policy, "the policy: sha256:", PUPPET.strip()),),
    "tiers": (
        (_lower_tool, "the tools or their tiers: sha256:", "world.change: tier 1"),
        (_weaken_tiers, "the tiers or the settings that weaken the rule: sha256:", '"cool_down":0'),
        (_weaken_settings, "the tiers or the settings that weaken the rule", "unsafe_slack_approves_tier4: on"),
    ),
    "people": (
        (_give_agent_away, "is owned by human:cyn", "owned by human:cyn"),
        (_issue_certificate, "agent:helper", "agent:helper"),
    ),
}


async def enrol(world: World) -> None:
    for name in APPROVERS:
        parameters = {"person": name, "vkey": str(world.signers[name].vkey(name)), "kind": "approver"}
        await world.operator.request_administration("key.enroll", parameters)


def text_of(founding: Founding) -> str:
    return founding_text(parse_content(founding.content), founding.texts, founding.names)


async def accept(world: World, name: str) -> Founding:
    client = world.people[name]
    return await client.accept_founding(await client.show_founding(), signer=world.signers[name])


@pytest.mark.parametrize("what", CHANGES)
async def test_what_changes_while_people_accept_is_told_and_signed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    state = tmp_path / "state"
    make_approval_state(state)
    with serving(state) as served:
        async with World(served) as world:
            await enrol(world)
            shown = await world.people["ada"].get_founding()
            assert "unsafe_slack_approves_tier4: off" in text_of(shown)
            assert "world.change: tier 4" in text_of(shown)
            signers = world.signers
            assert (await accept(world, "ada")).accepted == 1
            assert (await accept(world, "bob")).accepted == 2
    for change, _, _ in CHANGES[what]:
        change(state)
    with serving(state) as served:
        async with World(served, dict(signers)) as world:
            ada = world.people["ada"]
            with pytest.raises(DataLossError) as differs:
                await ada.get_founding()
            assert differs.value.reason == "FOUNDING_DIFFERS"
            assert (await ada.newest_checkpoint()) is not None
            with pytest.raises(FailedPreconditionError) as late:
                await ada.accept_founding(shown, signer=signers["ada"])
            assert late.value.reason == "DIGEST_DIFFERS"
            now = await ada.show_founding()
            assert now.accepted == 0
            assert now.voided == ("human:ada", "human:bob")
            assert now.changes
            told = await ada.changes_since_accepted(now)
            for _, said, seen in CHANGES[what]:
                assert [item for item in told if said in item], told
                assert seen in text_of(now)
            last = await accept(world, "cyn")
            assert (last.accepted, last.complete) == (1, False)
            for name in ("ada", "bob"):
                last = await accept(world, name)
            assert (last.accepted, last.complete, last.voided) == (3, True, ())
            # What was accepted is still to be seen, whatever becomes of it later.
            assert text_of(await ada.get_founding()) == text_of(now)
    assert command_json(state, "ledger", "verify")["verdict"] == "ok"


async def test_nothing_that_two_people_do_is_prepared_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    state = tmp_path / "state"
    make_approval_state(state)
    command(state, "identity", "issue", "agent", "slack-bot", "--owner", OPERATOR)
    bot = Ed25519Signer.generate()
    refusals = {
        "key.enroll": {"person": "slack-bot", "vkey": str(bot.vkey("slack-bot")), "kind": "bot"},
        "account.map": {"service": "slack", "team": "T01", "user": "U01", "person": "ada"},
    }
    with serving(state) as served:
        async with World(served) as world:
            await enrol(world)
            for action, parameters in refusals.items():
                with pytest.raises(FailedPreconditionError) as refused:
                    await world.operator.request_administration(action, parameters)
                assert refused.value.reason == "FOUNDING_INCOMPLETE"
                assert "broker approvers founding" in refused.value.hint
            for name in APPROVERS:
                await accept(world, name)
            await world.admit_bot("slack-bot", bot, team="T01", user="U01")
    verified = command_json(state, "ledger", "verify")
    assert (verified["verdict"], verified["votes"]["found"]) == ("ok", 0)

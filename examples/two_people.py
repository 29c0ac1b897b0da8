"""The two-person rule on a service that really changes: who may decide, who may not, and what is left to prove it.

The agent ``clerk`` belongs to dan; olivia starts its session. Neither may agree to what it does. Ada, bob and cyn may: with
keys that each of them made, and that no broker has ever held.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from chat import denied_in_slack, write_bot_settings
from price_service import PriceService
from replay import Recorded, replayed
from stage import ROOT, Stage, check, console, step, tell

APPROVERS = ("ada", "bob", "cyn")
BOT = "slack-bot"
RULES = """\
p, demo-prices, agent:clerk, shop, prices.set, call, 4, allow, the clerk corrects prices once two people agree
p, demo-sponsor, role:exec-sponsor, *, broker.workflow, approve, 4, allow, the sponsor decides what agents may be used for
g, human:dan, role:exec-sponsor, *
g, agent:slack-bot, role:slack-bot, *
""" + "".join(f"g, human:{name}, role:approver, *\n" for name in (*APPROVERS, "dan", "olivia"))
"""Dan and olivia are approvers too: what keeps them out is that the call is theirs."""
PASSPHRASE = "a phrase that a person keeps in their head"  # noqa: S105 - of keys that live as long as the demo


class TwoPeople:
    """The part of the demo in which people decide."""

    def __init__(self, stage: Stage, prices: PriceService) -> None:
        self._stage = stage
        self._prices = prices
        self._homes = stage.folder / "homes"
        self._session = ""

    def prepare(self) -> None:
        """Identities, the tool and the workflow, before the broker starts."""
        step("People who may decide, an agent of dan's, a bot, and a Tier-4 tool that reaches a service outside")
        self._stage.at_once(*(("identity", "issue", "human", name) for name in ("dan", *APPROVERS)))
        agents = (("clerk", "dan"), (BOT, "olivia"))
        self._stage.at_once(*(("identity", "issue", "agent", name, "--owner", owner) for name, owner in agents))
        state = self._stage.state
        own, port = ROOT / "examples" / "tool_specs", str(self._prices.port)
        for name in ("prices.set.yaml", "prices_set.py"):
            text = (own / name).read_text("utf-8").replace("8077", port)
            (state / "tool_specs" / name).write_text(text, "utf-8")
        (state / "workflows").mkdir(exist_ok=True)
        shutil.copy(ROOT / "examples" / "workflows" / "price-corrections.yaml", state / "workflows")
        self._stage.add_rules(RULES)
        self._stage.broker("policy", "check", str(state / "policy" / "policy.csv"))
        console.print(f"the price service listens at 127.0.0.1:{port}; prices.set may reach it, and nothing else")

    def decide(self, address: str) -> None:
        """All that happens while the broker serves."""
        self._found()
        self._admit_bot()
        self._approve_workflow()
        session = self.says("olivia", "sessions", "start", "--agent", "clerk", "--workspace", "shop")
        self._session = str(session["name"])
        step("Tier 4: the clerk asks for two price changes, and both wait; the service has heard nothing")
        first, second = self._ask_for("pear", 325), self._ask_for("plum", 1)
        check(not self._prices.log, "the service was asked before anybody agreed")
        shown = self.says("ada", "approvals", "show", first["name"])
        console.print(shown["rendering"].rstrip(), markup=False, style="dim")
        self._refusals(first)
        step("A vote that was signed for one call is played in again for the other, and under another name")
        ada = Recorded("ada", self._key("ada"), PASSPHRASE)
        asyncio.run(replayed(self._stage, address, ada, voted=second["name"], other=first["name"], thief="bob"))
        step("Ada and bob agree, each with their own key; with the second vote it runs")
        self.agree(first, "dan")
        step("Cyn denies the other in Slack; one denial is enough")
        asyncio.run(denied_in_slack(self._stage, address, self.person(BOT), second["name"]))
        ended = self.says("dan", "calls", "show", second["call"])
        check(ended["state"] == "DENIED", f"the call is {ended['state']}")
        tell(f"{second['call']} is {ended['state']}")
        self._one_request()

    def record(self) -> None:
        """What an auditor finds of it, with the broker down."""
        step("An auditor checks the votes offline: signatures, keys, people, and that each act had the votes it needed")
        found = self._stage.answer("ledger", "verify")
        votes = found["votes"]
        tell(
            f"verdict {found['verdict']}: {votes['votes']} votes, {votes['signatures']} signatures verified, "
            f"{votes['acts']} acts that needed people, {votes['found']} findings"
        )
        for item in votes["attested"]:
            tell(f"entry {item['seq']}: on the word of a bot alone, not signed by {item['person']}")
        check(found["verdict"] == "ok" and not votes["found"], "the votes don't verify")
        check(votes["acts"] and votes["signatures"] > votes["votes"], "there was nothing to verify")
        check(votes["attested_count"] == 1, "the vote from Slack isn't told apart")

    def _found(self) -> None:
        step(
            "Each person makes a key of their own, and olivia enrolls its public half; three people accept the founding: "
            "the keys, and all that stands with them"
        )
        passphrase = self._homes / "passphrase"
        self._homes.mkdir()
        passphrase.touch(mode=0o600)
        passphrase.write_text(PASSPHRASE, "utf-8")
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._enroll, ("olivia", "dan", *APPROVERS)))
        founding = self.says("ada", "approvers", "founding")
        check(founding["verified"], "what the founding covers is not what its digest says")
        for line in founding["covers"].splitlines()[:12]:
            console.print(f"  {line}", markup=False, style="dim")
        tell("and further: agents and who answers for each, tools and tiers, settings, the whole policy")
        # Here each would look at all of it on a terminal, call the others, and compare their keys.
        for name in APPROVERS:
            founding = self.says(name, "approvers", "accept", "--digest", founding["digest"])
            tell(f"{name} accepts {founding['digest'][:19]}: {founding['accepted']} of {founding['needed']}")
        check(founding["complete"], "the founding is not complete")

    def _admit_bot(self) -> None:
        step(
            "From then on nothing of the kind is olivia's alone: two people agree to the bot's key, and to cyn's account"
        )
        vkey = self._new_key(BOT)
        team, user = write_bot_settings(self._stage.folder)
        for words in (
            ("approvers", "enroll", BOT, vkey, "--bot"),
            ("accounts", "map", "--team", team, "--user", user, "--person", "cyn"),
        ):
            asked = self.says("olivia", *words, expect=4)
            for name in ("ada", "bob"):
                done = self.vote(name, asked)
            check(done["state"] == "USED", f"the approval is {done['state']}")
            tell(f"{done['summary']}: {done['state']}")

    def _new_key(self, name: str) -> str:
        return str(self.says(name, "keys", "new", name)["vkey"])

    def _enroll(self, name: str) -> None:
        self.says("olivia", "approvers", "enroll", name, self._new_key(name))

    def _approve_workflow(self) -> None:
        step("Dan, an executive sponsor, approves what the agent is to be used for")
        asked = self.says("olivia", "workflows", "submit", "price-corrections", expect=4)
        done = self.vote("dan", asked)
        check(done["state"] == "USED", f"the workflow's approval is {done['state']}")
        tell(f"{done['summary']}: {done['state']}")

    def _ask_for(self, item: str, cents: int) -> dict[str, Any]:
        arguments = ("--args", f'{{"item": "{item}", "cents": {cents}}}', "--session", self._session, "-w", "shop")
        context = (
            "--workflow",
            "price-corrections",
            "--prompt-version",
            "price-corrections/3",
            "--model",
            "demo-model",
        )
        purpose = ("--purpose", f"the nightly check found {item} to be wrong", "--identity", "agent/clerk")
        call = self._stage.answer("call", "prices.set", *arguments, *context, *purpose, expect=4)["call"]
        return self.waiting(call)

    def waiting(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """The approval that a call waits for, with the call's id as ``call``."""
        name = str(call["name"]).removeprefix("calls/")
        found = self.says("ada", "approvals", "list", "--call", name)["items"]
        check(len(found) == 1, f"{len(found)} approvals wait for {name}")
        tell(f"{name} is {call['state']}: {found[0]['summary']}")
        return {**found[0], "call": name}

    def _refusals(self, approval: Mapping[str, Any]) -> None:
        digest = ("--digest", approval["rendering_digest"])
        for name, who in (("dan", "whose agent it is (a self-approval)"), ("olivia", "who started its session")):
            step(f"{name.capitalize()}, {who}, has an approver's key too, and is refused")
            refused = self.says(name, "approvals", "approve", approval["name"], *digest, expect=3)
            tell(f"{refused['reason']}: {refused['error']}")
            check(refused["reason"] == "VOTER_IN_LINEAGE", "something else refused")

    def agree(self, approval: Mapping[str, Any], watcher: str) -> None:
        """Ada and bob agree to it, and it is seen to its end by somebody whom it concerns."""
        for name, expected in (("ada", "PENDING"), ("bob", "")):
            done = self.vote(name, approval)
            tell(f"{name} approves: {done['state']}{', ' + done['missing'][0] if done['missing'] else ''}")
            check(not expected or done["state"] == expected, f"the approval is {done['state']} after {name}'s vote")
        self._stage.broker("calls", "watch", "--wait", approval["call"], env=self.person(watcher))

    def _one_request(self) -> None:
        step("The service's own log, kept outside of the broker")
        for line in self._prices.log:
            tell(line)
        tell(f"prices now: {self._prices.prices}")
        check(len(self._prices.log) == 1, f"the service had {len(self._prices.log)} requests")
        check(self._prices.prices == {"pear": 325, "plum": 400}, "the prices are others")

    def vote(self, name: str, approval: Mapping[str, Any]) -> dict[str, Any]:
        """Somebody agrees to an approval; the approval afterwards."""
        # On a terminal the whole text would be shown first; a script says by its digest which text it means.
        digest = approval["rendering_digest"]
        return self.says(name, "approvals", "approve", approval["name"], "--digest", digest)

    def says(self, name: str, *arguments: str, expect: int = 0) -> dict[str, Any]:
        """What a command answers that somebody runs."""
        return self._stage.answer(*arguments, expect=expect, env=self.person(name))

    def person(self, name: str) -> dict[str, str]:
        """What somebody has set: their certificate, and a home with their key and with what they have seen."""
        home = self._homes / name
        return {
            "BROKER_IDENTITY": f"{'agent' if name == BOT else 'human'}/{name}",
            "BROKER_KEY_PASSPHRASE_FILE": str(self._homes / "passphrase"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
        }

    def _key(self, name: str) -> Path:
        return self._homes / name / "config" / "agent-broker" / "keys" / f"{name}.pem"

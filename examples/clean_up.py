"""A clean-up that two people agreed to and that was wrong: seen beforehand to the last byte, and taken back afterwards.

The agent ``janitor`` is to remove drafts and asks for too much. Nothing outside of a sandbox happens before ada and bob have
seen the very difference; what they agreed to is what is applied, and what takes it back was tried before that.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stage import ROOT, Stage, check, console, step, tell
from two_people import TwoPeople

WORKSPACE = "shop"
TOOL = "files.clean_up"
COUNTRIES = ("LU", "CY", "MT")
RULES = (
    f"p, demo-clean-up, agent:janitor, {WORKSPACE}, {TOOL}, call, 4, allow, the janitor removes files once two agree\n"
)
_EFFECT = "WHAT IT CHANGES"


class CleanUp:
    """The part of the demo in which something goes wrong, with everybody's agreement."""

    def __init__(self, stage: Stage, people: TwoPeople, airports: Path) -> None:
        self._stage = stage
        self._people = people
        self._airports = airports
        self.folder = stage.folder / "airports"
        self._state = ""
        self._session = ""

    def prepare(self) -> None:
        """The agent, its tool, its workflow and the files, before the broker starts."""
        step("An agent that may remove files, and a folder of real ones: each country's airports, and drafts of them")
        self._stage.broker("identity", "issue", "agent", "janitor", "--owner", "dan", show=False)
        for name in ("files.clean_up.yaml", "files_clean_up.py"):
            shutil.copy(ROOT / "examples" / "tool_specs" / name, self._stage.state / "tool_specs")
        shutil.copy(ROOT / "examples" / "workflows" / "clean-up.yaml", self._stage.state / "workflows")
        self._stage.add_rules(RULES)
        self._write_files()
        for path in sorted(self._digests(self.folder)):
            tell(path)

    def go(self) -> None:
        """All that happens while the broker serves, after the founding."""
        self._bring_in()
        call = self._plan()
        self._agree(call)
        self._gone(call)
        self._take_back(call)
        self._compare()

    def _write_files(self) -> None:
        with self._airports.open(encoding="utf-8", newline="") as source:
            head, *rows = csv.reader(source)
        country = head.index("country")
        for folder, first in (("lists", 0), ("drafts", 1)):
            (self.folder / folder).mkdir(parents=True)
            for name in COUNTRIES:
                chosen = [row for row in rows if row[country] == name][first:]
                with (self.folder / folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as target:
                    csv.writer(target, lineterminator="\n").writerows([head, *chosen])
        (self.folder / "README").write_text("lists/ is what the shop sells from; drafts/ may go.\n", "utf-8")

    def _bring_in(self) -> None:
        step("Olivia brings the folder into the workspace; its state is one digest over all of it")
        tree = self._people.says("olivia", "workspaces", "import", WORKSPACE, str(self.folder))["tree"]
        self._state = str(tree["state"])
        tell(f"{tree['files']} files, state {self._state}")
        asked = self._people.says("olivia", "workflows", "submit", "clean-up", expect=4)
        done = self._people.vote("dan", asked)
        check(done["state"] == "USED", f"the workflow's approval is {done['state']}")

    def _plan(self) -> Mapping[str, Any]:
        step(
            "Tier 4: the janitor is to remove the drafts, and asks for **/*.csv. It runs on a copy; nothing has changed"
        )
        started = self._people.says("olivia", "sessions", "start", "--agent", "janitor", "--workspace", WORKSPACE)
        self._session = str(started["name"])
        approval = self.ask(TOOL, {"match": ["**/*.csv"]}, "the drafts are not needed any more")
        check(self._now() == self._state, "something was changed before anybody agreed")
        step("What ada and bob are shown: the very difference, and all of it")
        shown = str(self._people.says("ada", "approvals", "show", approval["name"])["rendering"])
        console.print(effect_of(shown), markup=False, style="dim")
        for name in COUNTRIES:
            check(f"lists/{name}.csv" in shown, f"lists/{name}.csv isn't shown")
        return approval

    def ask(self, tool: str, arguments: Mapping[str, Any], purpose: str) -> Mapping[str, Any]:
        """The janitor calls a tool at Tier 4; the approval that its call waits for."""
        workflow = ("--workflow", "clean-up", "--model", "demo-model", "--prompt-version", "clean-up/1")
        context = ("--session", self._session, "-w", WORKSPACE, "--purpose", purpose)
        given = ("--args", json.dumps(arguments), "--identity", "agent/janitor")
        asked = self._stage.answer("call", tool, *given, *context, *workflow, expect=4)
        return self._people.waiting(asked["call"])

    def _agree(self, approval: Mapping[str, Any]) -> None:
        step("Both agree all the same. What they saw is applied, whole; the tool isn't run again")
        self._people.agree(approval, "dan")

    def _gone(self, approval: Mapping[str, Any]) -> None:
        call = self._people.says("dan", "calls", "show", approval["call"])
        effect = call["outcome"]["effect"]
        check(effect["removed"] == 2 * len(COUNTRIES), f"{effect['removed']} files were removed")
        check(effect["before"] == self._state, "it was applied to another state")
        left = [item["path"] for item in self._people.says("olivia", "workspaces", "files", WORKSPACE)["items"]]
        check(left == ["README", "shop.db"], f"left are {left}")
        tell(f"{effect['removed']} files are gone, left are {' and '.join(left)}; state {effect['after']}")
        step("Was what takes it back still good? A drill puts it back in a sandbox of its own, and compares")
        self._stage.broker("undo", "drill", "--sample", "5", "-w", WORKSPACE, env=self._people.person("olivia"))

    def _take_back(self, approval: Mapping[str, Any]) -> None:
        call = str(approval["call"])
        step("The lists are missed. Olivia looks at what taking it back would do, and asks for it")
        self._stage.broker("undo", call, "--plan", env=self._people.person("olivia"))
        asked = self._people.says("olivia", "undo", call, "--purpose", "the lists were no drafts", expect=4)
        undo = self._people.waiting(asked["call"])
        step("Taking back is a call as any other: of the same tier, planned, shown, and agreed to by two people")
        self._people.agree(undo, "olivia")
        check(self._people.says("dan", "calls", "show", call)["state"] == "UNDONE", "the clean-up isn't UNDONE")

    def _compare(self) -> None:
        step("The state is the one from before, to the digest; a folder written from it has the very same files")
        after = self._now()
        tell(f"before {self._state}")
        tell(f"after  {after}")
        check(after == self._state, "the state is another")
        out = self._stage.folder / "out"
        self._people.says("olivia", "workspaces", "export", WORKSPACE, str(out))
        first, second = self._digests(self.folder), self._digests(out)
        check(first == second, "the files are others")
        for path, digest in second.items():
            tell(f"{digest[:16]}  {path}")

    def _now(self) -> str:
        return str(self._people.says("olivia", "workspaces", "show", WORKSPACE)["state"])

    @staticmethod
    def _digests(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def effect_of(rendering: str) -> str:
    """The part of an approval's text that says what is changed: from its heading to the next."""
    lines = rendering.splitlines()
    headings = [number for number, line in enumerate(lines) if line[:1].strip()]
    first = next((number for number in headings if lines[number].startswith(_EFFECT)), None)
    check(first is not None, "the text doesn't say what is changed")
    last = next((number for number in headings if number > (first or 0)), len(lines))
    return "\n".join(lines[first:last]).rstrip()

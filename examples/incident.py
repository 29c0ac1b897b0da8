"""The morning after: the wrong clean-up is found in the record, looked at, run again, tried under a stricter policy, and packed.

Nothing here asks the broker, and nothing changes anything: all of it reads the state directory, or a bundle of it.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from clean_up import TOOL, WORKSPACE
from stage import Stage, check, console, step, tell

TIGHTER = (
    f"p, no-clean-up, role:agent, {WORKSPACE}, {TOOL}, call, 4, deny, after the incident no agent removes files here\n"
)
"""A rule that would have refused it."""


class Incident:
    """The part of the demo in which a responder finds out what happened, and proves it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.bundle = stage.folder / "incident.zip"

    def go(self) -> None:
        """All of it; the broker is down."""
        call = self._find()
        self._look(call)
        self._again(call)
        self._tighter(call)
        self._pack(call)

    def _find(self) -> str:
        step("Files are said to be missing. The record is asked: what was removed, and who agreed?")
        self._stage.broker("ask", "changes", "--removed", "-w", WORKSPACE)
        found = self._stage.answer("ask", "changes", "--removed", "-w", WORKSPACE)
        check(found["mark"]["sound"], "the ledger doesn't verify")
        lines = [line["values"] for line in found["lines"] if line["values"]["tool"] == TOOL]
        check(len(lines) == 1 and len(lines[0]["approved by"]) == 2, f"found were {lines}")
        check(lines[0]["taken back by"], "it isn't said that it was taken back")
        step("The board's question: which model touched which data, by which workflow, and who approved that path?")
        self._stage.broker("ask", "paths", "--workflow", "clean-up")
        return str(lines[0]["call"])

    def _look(self, call: str) -> None:
        step("What led to it, and what came of it: in the order of causes, and as a page to pass on")
        page = self._stage.folder / "incident.html"
        self._stage.broker("replay", "timeline", "--call", call, "--html", str(page))
        text = page.read_text("utf-8")
        check("<svg" in text and call in text, "the page has no picture of the call")
        tell(f"{page.name}: {len(text) // 1024} KiB, one file")

    def _again(self, call: str) -> None:
        step(
            "Does it do so again? The same program, files and arguments in a sealed sandbox, next to nothing that is real"
        )
        self._stage.broker("replay", "rerun", call)

    def _tighter(self, call: str) -> None:
        step("Would a stricter policy have stopped it, and what else? Each recorded decision is made again under it")
        policy = self._stage.folder / "tighter.csv"
        policy.write_text((self._stage.state / "policy" / "policy.csv").read_text("utf-8") + TIGHTER, "utf-8")
        console.print(f"[dim]tighter.csv +[/] {TIGHTER.rstrip()}")
        self._stage.broker("replay", "whatif", "--policy", str(policy), "--fail-on", "widened")
        found = self._stage.answer("replay", "whatif", "--policy", str(policy))
        counted = found["narrowed"]["requests"], found["widened"]["requests"], found["narrowed"]["by_rule"][0]["first"]
        check(counted[:2] == (1, 0), f"refused and allowed instead would be {counted[:2]}")
        decision = self._stage.answer("ledger", "show", "--call", call, "--type", "decision")["items"][0]["seq"]
        check(counted[2] == decision, f"what would be refused is entry {counted[2]}, not {decision}")

    def _pack(self, call: str) -> None:
        step("The evidence is packed for somebody who trusts nobody; an answer from the bundle alone is the same")
        self._stage.broker("replay", "bundle", str(self.bundle), "--call", call, "--names", "--case", "missing lists")
        found = self._stage.answer("ask", "changes", "--removed", "--bundle", str(self.bundle))
        check([line["values"]["call"] for line in found["lines"]] == [call], "the bundle says something else")

    def doctored(self) -> Path:
        """A copy of the bundle in which fewer files were removed."""
        target = self._stage.folder / "incident-doctored.zip"
        with zipfile.ZipFile(self.bundle) as source, zipfile.ZipFile(target, "w") as copy:
            for item in source.infolist():
                data = source.read(item)
                if item.filename == "entries.jsonl":
                    check(b'"removed":6' in data, "the removal isn't in the bundle")
                    data = data.replace(b'"removed":6', b'"removed":0')
                copy.writestr(item, data)
        return target

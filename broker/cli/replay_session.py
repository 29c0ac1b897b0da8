"""``broker replay session``: the calls of a session once more, on a scratch tree, step by step or to a point."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from broker.cli.call_view import print_fields, say
from broker.cli.local import JsonOption, StateOption
from broker.cli.output import OutputModel, console, emit, printable
from broker.cli.replay_opening import Replay, run_replay
from broker.cli.replay_rerun import EXIT_CODES, ObstacleOutput, RerunOutput, render_differences, rerun_output
from broker.cli.sandbox_options import EngineOption
from broker.errors import FailedPreconditionError, InvalidArgumentError
from broker.replay.exporting import check_empty, export
from broker.replay.rerun import Verdict
from broker.replay.session import How, Scratch, Step, chosen, session_calls
from broker.settings import DEFAULT_STATE

_COLOURS = {"rerun": "green", "effect": "yellow", "state": "yellow", "left_out": "magenta"}
_SAID = {
    "rerun": "run again",
    "effect": "not run again: its recorded effect was taken",
    "state": "not run again: what differs between the recorded states was taken",
    "left_out": "left out",
}


class StepOutput(OutputModel):
    """One call. ``how`` it came about: run again, from its recorded effect or the recorded state, or left out.

    ``before`` and ``after`` are states of the scratch tree, ``recorded_before`` and ``recorded_after`` those of the workspace, where the
    call changed it; ``as_recorded`` says whether the scratch tree is in the recorded state then, and is null where it changed nothing.
    ``rerun`` is null where nothing of the call ever ran.
    """

    call: str
    tool: str
    how: Literal["rerun", "effect", "state", "left_out"]
    before: str
    after: str
    recorded_before: str
    recorded_after: str
    as_recorded: bool | None
    obstacles: list[ObstacleOutput]
    notes: list[str]
    rerun: RerunOutput | None


class ExportedOutput(OutputModel):
    """The scratch tree, written into a folder."""

    folder: str
    files: int
    bytes: int


class SessionReplayOutput(OutputModel):
    """What ``broker replay session`` prints. ``start`` and ``state`` are those of the scratch tree; empty where no call got files.

    ``verdict`` is the worst of the steps; ``whole`` says whether all calls of the session were taken.
    """

    session: str
    workspace: str
    verdict: Literal["reproduced", "differs", "cannot", "doctored"]
    whole: bool
    start: str
    state: str
    steps: list[StepOutput]
    exported: ExportedOutput | None


def session(
    name: Annotated[str, typer.Argument(metavar="SESSION", help="The session, sessions/ses_... or ses_....")],
    *,
    to: Annotated[str, typer.Option("--to", help="Stop after this call.")] = "",
    before: Annotated[str, typer.Option("--before", help="Stop before this call.")] = "",
    step: Annotated[bool, typer.Option("--step", help="Wait on the terminal after each call.")] = False,
    out: Annotated[
        Path | None, typer.Option("--export", help="A new or empty folder to write the scratch tree to at the end.")
    ] = None,
    unsafe_links: Annotated[
        bool,
        typer.Option(
            "--unsafe-links",
            help="Write links, too, that are absolute or lead out of the folder: who follows one leaves it.",
        ),
    ] = False,
    state: StateOption = DEFAULT_STATE,
    engine: EngineOption = "",
    as_json: JsonOption = False,
) -> None:
    """Run the calls of a session again, in order, on a scratch copy of the workspace: all of them, or up to a point.

    Each runs sealed, as `broker replay rerun` does it, on the tree as the calls before have left it, and its effect is put on
    that tree alone. Where one can't be run again, its recorded effect is taken, and that is said. Exit codes as for a rerun.

    Example: broker replay session ses_01jx0000000000000000000000 --before call_01jx0000000000000000000000 --export ./before
    """
    which = name.removeprefix("sessions/")
    if step and not sys.stdin.isatty():
        raise InvalidArgumentError(
            "--step waits for a person, and standard input is no terminal",
            reason="NO_TERMINAL",
            hint="Leave it out, or stop at a point with --to or --before.",
        )
    if out is not None:
        check_empty(out)

    async def work(replay: Replay) -> SessionReplayOutput:
        found = await replay.sources.store.read(lambda tx: session_calls(tx, which, replay.origin))
        calls = chosen(found, to=to.removeprefix("calls/"), before=before.removeprefix("calls/"))
        scratch = Scratch(replay.sources, replay.engine, replay.origin)
        steps: list[StepOutput] = []
        worst = Verdict.REPRODUCED
        async for item in scratch.replay(calls):
            steps.append(_step_output(item))
            worst = max(worst, _verdict(item), key=_RANK.index)
            if not as_json:
                _render_step(steps[-1], len(steps), len(calls))
            if step and len(steps) < len(calls) and not await _goes_on():
                break
        exported = None
        if out is not None and worst is not Verdict.DOCTORED:
            if not scratch.state:
                raise FailedPreconditionError(
                    f"no call of {which} up to there got files of the workspace: there is no tree to export",
                    reason="NO_TREE",
                    hint="Leave out --export.",
                )
            done = await export(replay.sources, scratch.state, out, unsafe_links=unsafe_links)
            exported = ExportedOutput(folder=str(out), files=done.files, bytes=done.bytes)
        return SessionReplayOutput(
            session=f"sessions/{which}",
            workspace=found.session.workspace,
            verdict=worst.value,
            whole=len(steps) == len(found.calls),
            start=scratch.start,
            state=scratch.state,
            steps=steps,
            exported=exported,
        )

    output = run_replay(state, engine, work)
    emit(output, as_json=as_json, render=_render)
    raise typer.Exit(EXIT_CODES[Verdict(output.verdict)])


_RANK = (Verdict.REPRODUCED, Verdict.CANNOT, Verdict.DIFFERS, Verdict.DOCTORED)
"""From good to bad."""


def _verdict(step: Step) -> Verdict:
    if step.rerun is None:
        return Verdict.REPRODUCED  # it did nothing then, and does nothing now
    differs = step.listed.after and step.how is not How.LEFT_OUT and step.after != step.listed.after
    return Verdict.DIFFERS if differs and step.rerun.verdict is Verdict.REPRODUCED else step.rerun.verdict


def _step_output(step: Step) -> StepOutput:
    listed = step.listed
    return StepOutput(
        call=f"calls/{listed.call}",
        tool=listed.tool,
        how=step.how.value,
        before=step.before,
        after=step.after,
        recorded_before=listed.before,
        recorded_after=listed.after,
        as_recorded=step.after == listed.after if listed.after else None,
        obstacles=[ObstacleOutput(reason=item.reason, what=item.what, hint=item.hint) for item in step.obstacles],
        notes=list(step.notes),
        rerun=None if step.rerun is None else rerun_output(step.rerun),
    )


async def _goes_on() -> bool:
    """Waits for a person: Enter goes on, ``q`` and the end of the input stop."""
    say("Enter goes on, q stops: ")
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def typed() -> None:
        loop.remove_reader(sys.stdin.fileno())
        line.set_result(sys.stdin.readline())

    loop.add_reader(sys.stdin.fileno(), typed)
    try:
        answer = await line
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return bool(answer) and answer.strip().lower() != "q"


def _render_step(item: StepOutput, number: int, count: int) -> None:
    verdict = "" if item.rerun is None or item.how != "rerun" else f", {item.rerun.verdict}"
    colour = "yellow" if item.rerun is not None and item.rerun.verdict == "differs" else _COLOURS[item.how]
    head = f"{number}/{count} {item.call} {item.tool}: {_SAID[item.how]}{verdict}"
    console.print(Text(printable(head), style=f"bold {colour}"))
    for obstacle in item.obstacles:
        console.print(Text(f"  {obstacle.reason}: {printable(obstacle.what)}"), soft_wrap=True)
    if item.rerun is not None:
        render_differences(item.rerun.differences)
    if item.before != item.after:
        told = {True: "as recorded", False: f"recorded was {item.recorded_after}", None: ""}[item.as_recorded]
        console.print(Text(f"  the scratch tree is in state {item.after}, {told}"), soft_wrap=True)
    for note in item.notes:
        console.print(Text(f"  {printable(note)}"), soft_wrap=True)


def _render(output: SessionReplayOutput) -> None:
    exported = output.exported
    print_fields(
        {
            "session": output.session,
            "workspace": output.workspace,
            "calls": f"{len(output.steps)}" + ("" if output.whole else ", not all of the session's"),
            "began in": output.start,
            "ended in": output.state,
            "verdict": output.verdict,
            "exported": ""
            if exported is None
            else f"{exported.files} files of {exported.bytes} bytes, in {exported.folder}",
        }
    )

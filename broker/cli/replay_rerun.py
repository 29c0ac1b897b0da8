"""``broker replay rerun``: a recorded call once more, in a sealed sandbox, and in what it differs."""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, Literal

import typer
from rich.text import Text

from broker.cli.call_view import print_fields
from broker.cli.local import JsonOption, StateOption
from broker.cli.output import OutputModel, console, emit, printable
from broker.cli.replay_opening import Replay, run_replay
from broker.cli.sandbox_options import EngineOption
from broker.domain.events import OutputFile
from broker.domain.run import StreamSummary
from broker.domain.tree import Effect, TreeFile, TreeLink
from broker.replay.difference import Difference
from broker.replay.recording import STREAMS, Ended
from broker.replay.rerun import Rerun, Verdict
from broker.replay.rerun import rerun as run_again
from broker.settings import DEFAULT_STATE

EXIT_CODES = {Verdict.REPRODUCED: 0, Verdict.DIFFERS: 20, Verdict.CANNOT: 21, Verdict.DOCTORED: 22}
"""What the verdict is to a script."""
_COLOURS = {"reproduced": "green", "differs": "yellow", "cannot": "magenta", "doctored": "red"}
_SAID = {
    "reproduced": "reproduced: the same came of the same",
    "differs": "differs",
    "cannot": "can't be run again",
    "doctored": "nothing was run: what is kept isn't what the ledger says",
}


class ObstacleOutput(OutputModel):
    """One thing without which the call can't be run again, or that was doctored."""

    reason: str
    what: str
    hint: str


class DifferenceOutput(OutputModel):
    """One thing that was otherwise. ``diff`` is a unified one of texts; ``offset`` is the first byte that differs."""

    part: str
    recorded: str
    rerun: str
    diff: list[str]
    offset: int | None


class StreamOutput(OutputModel):
    """Standard output or standard error. ``data`` is what was kept of it, in base64; ``digest`` is over all of it."""

    total_bytes: int
    kept_bytes: int
    truncated: bool
    digest: str
    data: str


class ResultFileOutput(OutputModel):
    """A result file."""

    path: str
    size: int
    digest: str


class ChangeOutput(OutputModel):
    """One path that was changed on the copy, or item that would have been changed elsewhere. Empty: nothing was, or is, there."""

    path: str
    kind: str
    before: str
    after: str


class RunEndOutput(OutputModel):
    """How a run ended. ``state`` is empty where more than the run decided it, ``effect`` null where none was kept."""

    state: str
    exit_code: int | None
    signal: int | None
    cause: str
    detail: str
    wall_s: float
    stdout: StreamOutput | None
    stderr: StreamOutput | None
    result_json: str
    files: list[ResultFileOutput]
    effect: list[ChangeOutput] | None
    warnings: list[str]


class RerunOutput(OutputModel):
    """What ``broker replay rerun`` prints. ``image``, ``runtime`` and ``frames`` are empty where nothing was run.

    ``checked`` are the parts of the record that met the ledger's commitments; ``container`` names members of the container's
    facts that are otherwise than in the envelope; ``asked`` is what the tool wanted of hosts and wasn't given.
    """

    call: str
    verdict: Literal["reproduced", "differs", "cannot", "doctored"]
    obstacles: list[ObstacleOutput]
    differences: list[DifferenceOutput]
    tool: str
    tool_version: str
    image: str
    runtime: str
    frames: str
    envelope_digest: str
    entries: list[int]
    checked: list[str]
    container: list[str]
    asked: list[str]
    notes: list[str]
    recorded: RunEndOutput | None
    rerun: RunEndOutput | None


def rerun(
    call: Annotated[str, typer.Argument(help="The call, calls/call_... or call_....")],
    *,
    state: StateOption = DEFAULT_STATE,
    engine: EngineOption = "",
    as_json: JsonOption = False,
) -> None:
    """Run a recorded call again: same image, specification, arguments and files, in a sandbox that reaches nothing.

    No host, no secret, no effect: what it would change is read from the sandbox and compared, never applied. The call's own
    entries in the ledger, and all that is kept of it, are checked first. The broker may be up or down.

    Exit code 0 where the same came of it, 20 where something differs, 21 where it can't be run again, and 22 where what is kept
    isn't what the ledger says. Example: broker replay rerun call_01jx0000000000000000000000
    """
    name = call.removeprefix("calls/")

    async def work(replay: Replay) -> Rerun:
        return await run_again(replay.sources, replay.engine, name, replay.origin)

    found = run_replay(state, engine, work)
    emit(rerun_output(found), as_json=as_json, render=_render)
    raise typer.Exit(EXIT_CODES[found.verdict])


def rerun_output(found: Rerun) -> RerunOutput:
    """The model of a rerun."""
    recording, profile = found.recording, found.profile
    return RerunOutput(
        call=f"calls/{found.call}",
        verdict=found.verdict.value,
        obstacles=[ObstacleOutput(reason=item.reason, what=item.what, hint=item.hint) for item in found.obstacles],
        differences=[difference_output(item) for item in found.differences],
        tool="" if recording is None else recording.request.tool,
        tool_version="" if recording is None else recording.request.tool_version,
        image="" if profile is None else profile.image,
        runtime="" if profile is None else profile.runtime,
        frames=found.frames,
        envelope_digest="" if recording is None else recording.row.envelope_digest,
        entries=[] if recording is None else [item.seq for item in recording.entries],
        checked=[] if recording is None else list(recording.checked),
        container=list(found.container),
        asked=[] if found.done is None else list(found.done.asked),
        notes=list(found.notes),
        recorded=None if recording is None or recording.ended is None else _run_end(recording.ended),
        rerun=None if found.done is None else _run_end(found.done.ended),
    )


def difference_output(item: Difference) -> DifferenceOutput:
    """The model of a difference."""
    return DifferenceOutput(
        part=item.part, recorded=item.recorded, rerun=item.rerun, diff=list(item.diff), offset=item.offset
    )


def _run_end(ended: Ended) -> RunEndOutput:
    outcome = ended.outcome
    return RunEndOutput(
        state="" if ended.state is None else ended.state.value,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        cause=outcome.cause.value,
        detail=outcome.detail,
        wall_s=outcome.wall_s,
        stdout=_stream(outcome.stdout, ended.output[STREAMS[0]]),
        stderr=_stream(outcome.stderr, ended.output[STREAMS[1]]),
        result_json=outcome.result_json,
        files=_files(outcome.files),
        effect=None if ended.effect is None else _changes(ended.effect),
        warnings=list(outcome.warnings),
    )


def _stream(summary: StreamSummary | None, data: bytes) -> StreamOutput | None:
    if summary is None:
        return None
    return StreamOutput(
        total_bytes=summary.total_bytes,
        kept_bytes=summary.kept_bytes,
        truncated=summary.truncated,
        digest=summary.digest,
        data=b64encode(data).decode("ascii"),
    )


def _files(files: tuple[OutputFile, ...]) -> list[ResultFileOutput]:
    return [ResultFileOutput(path=item.path, size=item.size, digest=item.digest) for item in files]


def _changes(effect: Effect) -> list[ChangeOutput]:
    return [
        ChangeOutput(path=item.path, kind=item.kind, before=_entry(item.before), after=_entry(item.after))
        for item in effect.changes
    ]


def _entry(entry: TreeFile | TreeLink | None) -> str:
    match entry:
        case None:
            return ""
        case TreeFile(content, size, mode):
            return f"{content}, {size} bytes, mode {mode:04o}"
        case TreeLink(target):
            return f"link to {target}"


def _render(output: RerunOutput) -> None:
    console.print(Text(f"{output.call}: {_SAID[output.verdict]}", style=f"bold {_COLOURS[output.verdict]}"))
    for item in output.obstacles:
        console.print(Text(f"  {item.reason}: ", style="bold").append(printable(item.what), style="default"))
        if item.hint:
            console.print(Text(f"    {printable(item.hint)}", style="dim"))
    render_differences(output.differences)
    recorded, again = output.recorded, output.rerun
    print_fields(
        {
            "tool": f"{output.tool} {output.tool_version}".strip(),
            "image": output.image,
            "runtime": output.runtime,
            "job": f"frames {output.frames}, as in the envelope {output.envelope_digest}" if output.frames else "",
            "checked": ", ".join(output.checked) + f" (entries {', '.join(map(str, output.entries))})"
            if output.checked
            else "",
            "container": f"otherwise than recorded: {', '.join(output.container)}" if output.container else "",
            "wanted of hosts": "; ".join(output.asked),
            "time": "" if recorded is None or again is None else f"{again.wall_s:.3f} s, then {recorded.wall_s:.3f} s",
            "changes": ""
            if again is None or not again.effect
            else f"{len(again.effect)} path(s), none of them applied",
        }
    )
    for note in output.notes:
        console.print(printable(note), markup=False)


def render_differences(items: list[DifferenceOutput]) -> None:
    """Prints in what two runs differ."""
    for item in items:
        console.print(Text(f"  {printable(item.part)}", style="bold"))
        console.print(Text(f"    recorded  {printable(item.recorded) or '-'}"))
        console.print(Text(f"    rerun     {printable(item.rerun) or '-'}"))
        if item.offset is not None:
            console.print(Text(f"    first differing byte: {item.offset}", style="dim"))
        for line in item.diff:
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "default")
            console.print(Text(f"    {printable(line)}", style=colour), soft_wrap=True)

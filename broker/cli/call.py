"""``broker call``: runs one tool and streams what it writes."""

from __future__ import annotations

import asyncio
import enum
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.call_view import run_output, say, summarise
from broker.cli.following import Followed, Interrupt, follow, interrupts, save_files
from broker.cli.output import emit, exit_code, report, state_exit_code
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption, WorkspaceOption
from broker.client import AsyncBroker, Call, CallContext, InputFile, Source
from broker.domain.canonical import JsonObject, parse_object
from broker.errors import BrokerError, FieldViolation, InvalidArgumentError
from broker.settings import DEFAULT_STATE

_MAX_ARGUMENTS_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Wish:
    """What the options of a command that makes a call asked for."""

    tool: str
    arguments: JsonObject
    tool_version: str = ""
    files: tuple[InputFile, ...] = ()
    request_id: str = ""
    detach: bool = False
    wait: bool = False
    timeout_s: float | None = None
    out: Path | None = None
    force: bool = False
    as_json: bool = False
    quiet: bool = False


class _How(enum.Enum):
    FOLLOWED = enum.auto()
    DETACHED = enum.auto()
    CANCELLED = enum.auto()


@dataclass
class _End:
    """How it went."""

    seen: Followed | None
    """``None`` where it was interrupted before there was a call."""
    interrupt: Interrupt
    how: _How


def call(
    tool: Annotated[str, typer.Argument(help="Tool to run, such as data.query.")],
    *,
    arguments: Annotated[
        str, typer.Option("--args", help="Arguments: a JSON object, @FILE with one, or @- for standard input.")
    ] = "{}",
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--file", "-f", help="File to give: PATH, or PATH:NAME for its name in the tool's working folder."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for result files; existing files stay unless --force.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files in --out.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the call's name and don't wait.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for approval too, instead of ending with code 4.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.001, help="Cancel the call after so many seconds.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No summary on standard error.")] = False,
    tool_version: Annotated[
        str, typer.Option("--tool-version", help="Version that is meant, sha256:...; another one is refused.")
    ] = "",
    request_id: Annotated[
        str, typer.Option("--request-id", help="The same id with the same content gives the same call, run once.")
    ] = "",
    workspace: WorkspaceOption = "",
    workflow: Annotated[str, typer.Option("--workflow", help="Workflow that it belongs to.")] = "",
    purpose: Annotated[str, typer.Option("--purpose", help="Why, in your own words; kept encrypted.")] = "",
    session: Annotated[
        str, typer.Option("--session", envvar="BROKER_SESSION", help="Session that it belongs to, sessions/....")
    ] = "",
    delegation: Annotated[
        str, typer.Option("--delegation", help="Delegation that `broker delegations sign` printed, or @FILE with it.")
    ] = "",
    model: Annotated[str, typer.Option("--model", help="Model that asks for it.")] = "",
    prompt_version: Annotated[str, typer.Option("--prompt-version", help="Version of the prompt.")] = "",
    sources: Annotated[
        list[str] | None, typer.Option("--source", help="URI that the request is based on; may be repeated.")
    ] = None,
    feature: Annotated[str, typer.Option("--feature", help="Feature for which it is counted.")] = "",
    team: Annotated[str, typer.Option("--team", help="Team for which it is counted.")] = "",
    data_classes: Annotated[
        list[str] | None, typer.Option("--data-class", help="Class of data that it touches; may be repeated.")
    ] = None,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Call a tool and stream its output.

    What the tool writes goes to standard output and standard error as it is; a summary of ours follows on standard
    error. Ctrl-C cancels the call.

    Exit codes: 0 the tool succeeded, 1 it failed or was cancelled, 2 wrong usage or arguments, 3 denied, 4 waiting for
    approval, 5 the broker can't be reached, 6 our own failure or an unknown outcome, 130 after Ctrl-C.

    Example: broker call python.run -w demo --args '{"code": "print(1)"}'

    Example: broker call data.query -w demo --file sales.csv --args @query.json --json
    """
    context = CallContext(
        workspace=workspace,
        workflow=workflow,
        purpose=purpose,
        session=session,
        delegation=_text(delegation, "--delegation").strip(),
        model=model,
        prompt_version=prompt_version,
        sources=tuple(Source(uri) for uri in sources or ()),
        feature=feature,
        team=team,
        data_classes=tuple(data_classes or ()),
    )
    wish = Wish(
        tool=tool,
        tool_version=tool_version,
        arguments=parse_object(_text(arguments, "--args"), field="arguments", max_bytes=_MAX_ARGUMENTS_BYTES),
        files=tuple(input_file(text) for text in files or ()),
        request_id=request_id,
        detach=detach,
        wait=wait,
        timeout_s=timeout,
        out=out,
        force=force,
        as_json=as_json,
        quiet=quiet,
    )
    raise typer.Exit(make(Remote(address, identity, ca, state), wish, context))


def make(remote: Remote, wish: Wish, context: CallContext) -> int:
    """Makes a call and follows it; the command's exit code.

    Raises:
        BrokerError: it could not be made or followed.
    """
    return _tell(remote.run(lambda broker: _run(broker, wish), context), wish)


async def _run(broker: AsyncBroker, wish: Wish) -> _End:
    creating: asyncio.Future[Call] | None = None
    with interrupts() as caught:
        seen: Followed | None = None
        try:
            # Uploads first, so that an interrupt in their midst leaves no call behind.
            files = [
                InputFile(item.path, await broker.upload(item.content), executable=item.executable)
                if isinstance(item.content, Path)
                else item
                for item in wish.files
            ]
            creating = asyncio.ensure_future(
                broker.create_call(
                    wish.tool,
                    wish.arguments,
                    files=files,
                    tool_version=wish.tool_version,
                    request_id=wish.request_id,
                )
            )
            seen = Followed(await asyncio.shield(creating))
            if wish.detach:
                return _End(seen, caught, _How.DETACHED)
            async with asyncio.timeout(wish.timeout_s):
                await follow(broker, seen, first_event=1, silent=wish.as_json, wait=wish.wait)
        except (asyncio.CancelledError, TimeoutError):
            if creating is None:
                return _End(None, caught, _How.CANCELLED)
            # The request is on its way: only its answer says what there is to cancel.
            seen = seen or Followed(await creating)
            await _cancel(broker, seen)
            return _End(seen, caught, _How.CANCELLED)
        except BrokenPipeError:
            if seen is not None:
                await _cancel(broker, seen)
            raise
        except BrokerError:
            if seen is not None:
                say(f"{seen.call.name} was admitted and may still run: broker calls watch {seen.call.name}")
            raise
    if not wish.as_json and not wish.quiet and seen.call.finished:
        summarise(seen.call)
    if wish.out is not None:
        await save_files(broker, seen, wish.out, force=wish.force, quiet=wish.as_json or wish.quiet)
    return _End(seen, caught, _How.FOLLOWED)


async def _cancel(broker: AsyncBroker, seen: Followed) -> None:
    try:
        seen.call = await broker.cancel_call(seen.call)
    except BrokerError:
        say(f"{seen.call.name} could not be cancelled and may still run: broker calls cancel {seen.call.name}")
        raise


def _tell(end: _End, wish: Wish) -> int:
    seen = end.seen
    if seen is None:
        say("interrupted before the call was made; nothing was run")
        return end.interrupt.exit_code
    if wish.as_json:
        emit(run_output(seen.call, seen.states, seen.saved, seen.save_error), as_json=True, render=lambda _: None)
    elif end.how is _How.DETACHED:
        sys.stdout.write(seen.call.name + "\n")
    elif end.how is _How.CANCELLED:
        why = "interrupted" if end.interrupt.number else f"not done after {wish.timeout_s} s"
        say(f"{why}: {seen.call.name} is {seen.call.state}")
    if end.interrupt.number:
        return end.interrupt.exit_code
    if end.how is _How.DETACHED:
        return 0
    if seen.save_error is not None:
        if not wish.as_json:
            report(seen.save_error, as_json=False)
        return int(exit_code(seen.save_error))
    outcome = seen.call.outcome
    missed = len(outcome.files) if outcome is not None and wish.out is None else 0
    if missed and not (wish.as_json or wish.quiet):
        say(f"{missed} result files are kept: broker calls files {seen.call.name} --out DIR")
    return int(state_exit_code(seen.call.state, outcome.cause if outcome is not None else None))


def input_file(text: str) -> InputFile:
    """Reads ``PATH`` or ``PATH:NAME``; a path that exists as it stands is never split.

    Raises:
        InvalidArgumentError: there is no such file.
    """
    path, name = Path(text), ""
    if not path.is_file():
        head, separator, tail = text.rpartition(":")
        if separator and tail:
            path, name = Path(head), tail
    if not path.is_file():
        why = f"there is no file {text!r}"
        raise InvalidArgumentError(
            f"--file: {why}", reason="FILE_UNREADABLE", violations=(FieldViolation("--file", why),)
        )
    return InputFile(name or path.name, path, executable=os.access(path, os.X_OK))


def _text(value: str, option: str) -> str:
    if not value.startswith("@"):
        return value
    try:
        return sys.stdin.read() if value == "@-" else Path(value[1:]).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = f"{value[1:]} can't be read as text: {error}"
        raise InvalidArgumentError(
            f"{option}: {why}", reason="FILE_UNREADABLE", violations=(FieldViolation(option, why),)
        ) from error

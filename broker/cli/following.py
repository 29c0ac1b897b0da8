"""Following a call from a terminal: its output as it comes, signals that cancel it, result files to disk."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker.cli.call_view import SavedOutput, say
from broker.client import AsyncBroker, Call, CallState, CompletedCall, Finished, StateChanged, Stderr, Stdout
from broker.client.blobs import safe_path
from broker.errors import BrokerError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Followed:
    """What was seen of a call so far; ``call`` is complete once its last event came."""

    call: Call
    states: list[StateChanged] = field(default_factory=list)
    saved: list[SavedOutput] = field(default_factory=list)
    save_error: BrokerError | None = None


@dataclass
class Interrupt:
    """The signal that came, if one did."""

    number: int = 0

    @property
    def exit_code(self) -> int:
        """What a shell expects of a program that a signal ended."""
        return 128 + self.number


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Cancels the present task at the first SIGINT, SIGTERM or SIGHUP; a second one ends the program at once."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    caught = Interrupt()

    def catch(number: int) -> None:
        caught.number = number
        release()
        if task is not None:
            task.cancel()

    def release() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, catch, number)
    try:
        yield caught
    finally:
        release()


async def follow(broker: AsyncBroker, seen: Followed, *, first_event: int, silent: bool, wait: bool) -> None:
    """Passes a call's output on as it comes, to its end or until it waits for approval.

    Args:
        broker: an open client.
        seen: filled as events come.
        first_event: number of the first event wanted.
        silent: keep the output for later instead of writing it.
        wait: go on waiting where the call waits for approval.

    Raises:
        BrokerError: as ``AsyncBroker.watch``.
        BrokenPipeError: nobody reads what is written.
    """
    kept: dict[bool, list[bytes]] = {True: [], False: []}
    async with broker.watch(seen.call, first_event=first_event) as events:
        async for event in events:
            match event:
                case Stdout() | Stderr():
                    to_stdout = isinstance(event, Stdout)
                    if silent:
                        kept[to_stdout].append(event.data)
                    else:
                        # In a thread: a reader that is slow must hold up neither signals nor the connection.
                        await asyncio.to_thread(_write, event.data, to_stdout=to_stdout)
                case StateChanged(state=state, detail=detail):
                    seen.states.append(event)
                    seen.call = dataclasses.replace(seen.call, state=state)
                    if state is CallState.PENDING_APPROVAL:
                        if not silent:
                            say(f"{seen.call.name} waits for approval" + (f": {detail}" if detail else ""))
                        if not wait:
                            return
                case Finished(call=call):
                    values = {item.name: getattr(call, item.name) for item in dataclasses.fields(call)}
                    seen.call = CompletedCall(**values, stdout=b"".join(kept[True]), stderr=b"".join(kept[False]))


def _write(data: bytes, *, to_stdout: bool) -> None:
    stream = (sys.stdout if to_stdout else sys.stderr).buffer
    stream.write(data)
    stream.flush()


async def save_files(broker: AsyncBroker, seen: Followed, folder: Path, *, force: bool, quiet: bool) -> None:
    """Writes a call's result files into a folder; what hinders it is kept in ``seen``, beside the call's own outcome."""
    files = seen.call.outcome.files if seen.call.outcome is not None else ()
    try:
        for file in files:
            target = safe_path(folder, file.path)
            await broker.download(file, target, overwrite=force)
            seen.saved.append(SavedOutput(path=file.path, file=str(target)))
            if not quiet:
                say(f"saved {target} ({file.size} bytes)")
    except BrokerError as error:
        seen.save_error = error

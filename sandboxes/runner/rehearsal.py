"""A job without tool and broker, gone through while there is none: a page that is shared with the waiting tool's process
costs microseconds when it is first written to, and a job writes to some two hundred.
"""

from __future__ import annotations

import os

from runner import frames, inputs
from runner.frames import Wire
from runner.light import as_json
from runner.relay import Ending, Relay, Traffic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.waiting import Tool

_ARGUMENTS = "/job/rehearsal.json"
_SAID = b"1\n"


class _Actor:
    """Stands in for a tool that has said its line."""

    def __init__(self) -> None:
        self.pid = -1
        self.failure = ""
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        os.write(stdout, _SAID)
        os.close(stdout)
        os.close(stderr)


def rehearse(work: str, wake: int, woken: int, report: Callable[[Tool, Ending], bytes]) -> None:
    """Goes through a job; nothing is left of it.

    Args:
        work: the working folder.
        wake: reading end of the pipe that says that a process has ended.
        woken: its writing end.
        report: how the end is told.
    """
    source, told = os.pipe()
    sink = os.open(os.devnull, os.O_WRONLY)
    wire = Wire(source, sink)
    script = Wire(source, told)
    header = {
        "kind": "python",
        "argv": [],
        "env": {"PATH": "/", "LANG": "C.UTF-8"},
        "listen": [],
        "wants_result": False,
    }
    script.send(frames.JOB, as_json(header))
    script.send(frames.ARGUMENTS, b"{}")
    script.send(frames.END_OF_INPUT)
    script.flush()
    kind, _, payload = wire.receive()
    inputs.read_header(kind, payload)
    inputs.read_inputs(wire, work, _ARGUMENTS)
    os.unlink(_ARGUMENTS)  # noqa: PTH108  # pathlib is slow to import
    wire.send(frames.STARTED)
    os.write(woken, b"\0")
    actor: Tool = _Actor()  # type: ignore[assignment]  # as much of one as is needed
    relay = Relay(wire, actor, wake, Traffic())
    relay.turn()
    wire.send(frames.EXIT, report(actor, Ending(0, 0.0, 0)))
    relay.rest(iter(()))
    wire.send(frames.END)
    wire.flush()
    for end in (source, told, sink):
        os.close(end)

"""Process 1: one job, from its first frame to its last."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself imports enum
import os
import resource  # noqa: F401  # os.wait4 would load it when there is a hurry

from runner import frames, inputs
from runner.frames import Refusal, Wire
from runner.light import as_json, preload, settle
from runner.relay import Ending, Relay, Traffic
from runner.waiting import InTool, Tool, set_dumpable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.tool import Program

WORK = "/work"
ARGUMENTS = "/job/arguments.json"
RESULT = "/job/result.json"
WATCHED = ("/work", "/tmp")  # noqa: S108  # the sandbox's own, gone with it
MAX_RESULT = 4 * 2**20


def serve() -> Program:
    """Runs one job, then waits until the broker hangs up.

    Returns:
        Only in the forked child of a ``python`` job: what to run.

    Raises:
        EOFError: the broker went away.
    """
    wire = Wire(0, 1)
    set_dumpable(on=False)
    # For process 1 the kernel drops signals without a handler, so Python's own handler of SIGINT must go.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Who is asked for a sign of life first has no job yet: it is warm, and so answers, once all is ready for one.
    kind, _, payload = wire.receive()
    waits = kind == frames.PING
    if waits:
        preload()
    settle()
    try:
        running = Tool(WORK, at_leisure=waits)
    except InTool as begun:
        return begun.program
    try:
        first = kind, payload
        if waits:
            from runner.rehearsal import rehearse  # noqa: PLC0415  # there is time for it only here

            rehearse(WORK, wake, woken, _report)
            running.await_rehearsal()
            inputs.answer(wire, payload)
            first = inputs.until_job(wire)
        job = inputs.read_header(*first)
        argv = [str(item) for item in job["argv"]]  # type: ignore[attr-defined]  # the broker made this JSON
        env = {str(key): str(value) for key, value in job["env"].items()}  # type: ignore[attr-defined]  # the same
        # The last frame of the input may keep us waiting: it comes once the intent is on the broker's record.
        running.prepare(str(job["kind"]), argv, env, str(job["code"]))
        came = inputs.read_inputs(wire, WORK, ARGUMENTS)
        traffic = _listen(wire, job["listen"])  # type: ignore[arg-type]  # the same
    except Refusal as refusal:
        wire.send(frames.REFUSED, frames.as_text(str(refusal)))
        wire.flush()
        raise _hung_up(wire) from None
    wire.send(frames.STARTED)
    wire.flush()  # said before it is so: who never hears of it may be sure that nothing began
    running.begin()
    relay = Relay(wire, running, wake, traffic)
    ending = relay.until_exit()
    wire.send(frames.EXIT, _report(running, ending))
    if "tree" in job:
        wire.flush()  # the search may take its time, and the tool's is over
    relay.rest(_hand_back(job, came))
    wire.send(frames.END)
    wire.flush()
    raise _hung_up(wire)


def _listen(wire: Wire, ports: list[int]) -> Traffic:
    if not ports:
        return Traffic()
    from runner.egress import Egress  # noqa: PLC0415  # most jobs need no sockets

    return Egress(wire, ports)


def _hung_up(wire: Wire) -> EOFError:
    """Drops what still comes until the broker hangs up; the error that says so."""
    try:
        while True:
            wire.received()
    except EOFError as error:
        return error


def _report(running: Tool, ending: Ending) -> bytes:
    full: dict[str, dict[str, bool]] = {}
    for path in WATCHED:
        facts = os.statvfs(path)
        full[path] = {"blocks": facts.f_bfree == 0, "inodes": facts.f_ffree == 0}
    signalled = os.WIFSIGNALED(ending.status)
    return as_json(
        {
            "exit": None if signalled else os.WEXITSTATUS(ending.status),
            "signal": os.WTERMSIG(ending.status) if signalled else None,
            "detail": running.failure[:1000],
            "cpu_s": ending.cpu_s,
            "max_rss": ending.max_rss,
            "full": full,
        }
    )


def _hand_back(job: dict[str, object], came: dict[str, dict[str, object]]) -> Iterator[tuple[int, int, bytes]]:
    """The frames of the structured result, the result files, and what the tool changed of its tree."""
    rules: dict[str, object] = job["outputs"]  # type: ignore[assignment]  # the broker made this JSON
    if job["wants_result"] or rules["patterns"]:
        yield from _collect(job, rules)
    if "tree" in job:
        from runner.tree import Tree  # noqa: PLC0415  # few jobs have one

        yield from Tree(job["tree"], came, rules["patterns"]).tell(WORK)  # type: ignore[arg-type]  # the same


def _collect(job: dict[str, object], rules: dict[str, object]) -> Iterator[tuple[int, int, bytes]]:
    from runner import outputs  # noqa: PLC0415  # many jobs leave nothing to collect

    collector = outputs.Collector(
        patterns=rules["patterns"],  # type: ignore[arg-type]  # the same
        max_files=rules["max_files"],  # type: ignore[arg-type]  # the same
        max_bytes=rules["max_bytes"],  # type: ignore[arg-type]  # the same
    )
    if job["wants_result"]:
        yield from collector.result(RESULT, MAX_RESULT)
    yield from collector.collect(WORK)
    yield from collector.finish()

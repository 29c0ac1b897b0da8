"""Process 1: one job, from its first frame to its last."""

from __future__ import annotations

import os
import select
import signal
import stat
from contextlib import suppress
from dataclasses import dataclass

from runner import frames, inputs, outputs, tool
from runner.frames import Channel, Refusal

WORK = "/work"
ARGUMENTS = "/job/arguments.json"
RESULT = "/job/result.json"
WATCHED = ("/work", "/tmp")  # noqa: S108  # the sandbox's own, gone with it
MAX_RESULT = 4 * 2**20


@dataclass
class _Ending:
    """What is known of the tool's main process once it has been reaped."""

    status: int = 0
    cpu_s: float = 0.0
    max_rss: int = 0


def serve() -> str:
    """Runs one job, then waits to be destroyed.

    Returns:
        Only in the forked child of a ``python`` job: the code to run.

    Raises:
        EOFError: the broker went away.
    """
    channel = Channel(0, 1)
    tool.set_dumpable(on=False)
    # For process 1 the kernel drops signals without a handler, so Python's own handler of SIGINT must go.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        job = inputs.read_job(channel, WORK, ARGUMENTS)
    except Refusal as refusal:
        channel.send(frames.REFUSED, str(refusal).encode(errors="backslashreplace")[: frames.PIECE])
        channel.wait_for_end()
        raise EOFError from None
    argv = [str(item) for item in job["argv"]]  # type: ignore[attr-defined]  # the broker made this JSON
    env = {str(key): str(value) for key, value in job["env"].items()}  # type: ignore[attr-defined]  # the same
    channel.send(frames.STARTED)
    if job["kind"] == "python":
        try:
            running = tool.fork_python(argv, env, WORK)
        except tool.InTool:
            return str(job["code"])
    else:
        running = tool.start_program(argv, env, WORK)
    ending = _watch(channel, running, wake)
    _report(channel, running, ending)
    _hand_back(channel, job)
    channel.send(frames.END)
    channel.wait_for_end()
    raise EOFError


def _watch(channel: Channel, running: tool.Tool, wake: int) -> _Ending:
    """Forwards output until the main process ends; then ends all others and forwards what is left in the pipes.

    Raises:
        EOFError: the broker has gone while the tool ran.
    """
    poll = select.poll()
    names = {running.stdout: frames.STDOUT, running.stderr: frames.STDERR}
    for end in names:
        os.set_blocking(end, False)
        poll.register(end, select.POLLIN)
    poll.register(wake, select.POLLIN)
    poll.register(channel.source, select.POLLIN)
    ending = _reap(running.pid)
    while ending is None:
        for end, _ in poll.poll():
            if end == wake:
                _drop(wake)
            elif end == channel.source:
                channel.check_broker()  # nobody is there any more to keep the time limit: the tool ends with us
            elif not _forward(channel, end, names[end]):
                poll.unregister(end)
        ending = _reap(running.pid)
    _end_all()
    for end, kind in names.items():
        while _forward(channel, end, kind):
            pass
        os.close(end)
    return ending


def _reap(main: int) -> _Ending | None:
    """Reaps every process that has ended; tells how the main one did, if it is among them."""
    ending = None
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return ending
        if pid == 0:
            return ending
        if pid == main:
            ending = _Ending(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _end_all() -> None:
    """Kills and reaps every other process of the sandbox."""
    while True:
        with suppress(ProcessLookupError):  # nobody is left to be killed; the dead may still wait to be reaped
            os.kill(-1, signal.SIGKILL)
        try:
            os.wait4(-1, 0)
        except ChildProcessError:
            return


def _forward(channel: Channel, end: int, kind: int) -> bool:
    """Sends what a pipe holds, up to one piece; false once there is nothing (more)."""
    try:
        piece = os.read(end, frames.PIECE)
    except BlockingIOError:
        return False
    if piece:
        channel.send(kind, piece)
    return bool(piece)


def _drop(wake: int) -> None:
    try:
        os.read(wake, frames.PIECE)
    except BlockingIOError:
        return


def _report(channel: Channel, running: tool.Tool, ending: _Ending) -> None:
    full: dict[str, dict[str, bool]] = {}
    for path in WATCHED:
        facts = os.statvfs(path)
        full[path] = {"blocks": facts.f_bfree == 0, "inodes": facts.f_ffree == 0}
    signalled = os.WIFSIGNALED(ending.status)
    channel.send_json(
        frames.EXIT,
        {
            "exit": None if signalled else os.WEXITSTATUS(ending.status),
            "signal": os.WTERMSIG(ending.status) if signalled else None,
            "detail": running.failure[:1000],
            "cpu_s": ending.cpu_s,
            "max_rss": ending.max_rss,
            "full": full,
        },
    )


def _hand_back(channel: Channel, job: dict[str, object]) -> None:
    """Sends the structured result and the result files."""
    rules: dict[str, object] = job["outputs"]  # type: ignore[assignment]  # the broker made this JSON
    collector = outputs.Collector(
        channel,
        patterns=rules["patterns"],  # type: ignore[arg-type]  # the same
        max_files=rules["max_files"],  # type: ignore[arg-type]  # the same
        max_bytes=rules["max_bytes"],  # type: ignore[arg-type]  # the same
    )
    if job["wants_result"]:
        _send_result(channel, collector)
    collector.collect(WORK)
    collector.finish()


def _send_result(channel: Channel, collector: outputs.Collector) -> None:
    folder, name = os.path.split(RESULT)
    try:
        handle = outputs.open_below(folder, [name])
    except OSError as error:
        collector.warn(f"the tool left no result: {error.strerror}")
        return
    try:
        facts = os.fstat(handle)
        size = facts.st_size
        if not stat.S_ISREG(facts.st_mode):
            collector.warn("the result was not fetched: it is no plain file")
            return
        if size > MAX_RESULT:
            collector.over(f"the result was not fetched: its {size} bytes exceed {MAX_RESULT}")
            return
        while size and (piece := os.read(handle, min(size, frames.PIECE))):
            channel.send(frames.RESULT, piece)
            size -= len(piece)
    finally:
        os.close(handle)

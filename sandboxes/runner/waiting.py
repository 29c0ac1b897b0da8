"""A tool's process, forked before its job comes, so that the job doesn't wait for the fork.

It has a session of its own, ``/dev/null`` as standard input, pipes as standard output and error, no other descriptor
once the tool begins, default signal handlers, and the highest OOM score, so that the kernel picks the tool rather than
the runner. The runner is not dumpable (its interpreter can't be read); a tool is made so again, or it couldn't open its
own ``/proc/self``.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal itself imports enum
import errno
import os
import struct
import sys

from runner import libc
from runner.light import as_json, read_json, suppress
from runner.tool import Program, prepare, rehearse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PR_SET_DUMPABLE = 4
NOT_FOUND = 127
NOT_EXECUTABLE = 126
_FIRST_FREE_FD = 3
_LENGTH = struct.Struct(">I")
_READY = b"\n"
_GO = b"\n"
_WORST_SCORE = b"1000"
_REHEARSED = (["tool"], dict.fromkeys(("PATH", "HOME", "TMPDIR", "LANG", "BROKER_ARGUMENTS"), "/"))

_prctl = libc.function("prctl")


class InTool(Exception):  # noqa: N818  # no error: it unwinds the runner's stack in the forked child
    """Raised in the child of a ``python`` job: the stack of the runner ends here, the tool's begins. Holds what it runs."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program


def set_dumpable(*, on: bool) -> None:
    """Lets others of the same user look into this process, or not.

    Raises:
        OSError: the kernel refused.
    """
    if _prctl(PR_SET_DUMPABLE, int(on), 0, 0, 0) != 0:
        raise libc.failure("prctl(PR_SET_DUMPABLE)")


class Tool:
    """A tool's process, and the reading ends of its two pipes. It waits: for ``prepare``, and then for ``begin``.

    Args:
        work: the folder that it works in.
        at_leisure: there is no job yet, so it rehearses for one.

    Raises:
        InTool: in the child, once it is to run Python.
    """

    def __init__(self, work: str, *, at_leisure: bool) -> None:
        self.failure = ""
        """Why the program could not be executed; empty when it runs."""
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        hear, self._go = os.pipe()
        self._executes = False
        self._told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _be_child(work, stdout, stderr, hear, tell, at_leisure=at_leisure)
        for end in (stdout, stderr, hear, tell):
            os.close(end)

    def await_rehearsal(self) -> None:
        """Returns once the process has rehearsed, where it was made at leisure: only then it is known to be there.

        Raises:
            EOFError: it has ended instead.
        """
        if not os.read(self._told, len(_READY)):
            raise EOFError

    def prepare(self, kind: str, argv: list[str], env: dict[str, str], code: str) -> None:
        """Lets the process do all that it can before the tool may begin: nothing of the tool's own runs.

        Raises:
            EOFError: the process has ended while it waited: the sandbox is broken.
        """
        self._executes = kind == "argv"
        job = as_json([kind, argv, env, code])
        view = memoryview(_LENGTH.pack(len(job)) + job)
        try:
            while view:
                view = view[os.write(self._go, view) :]
        except BrokenPipeError:
            raise EOFError from None

    def begin(self) -> None:
        """Lets the tool begin, once it is prepared."""
        with suppress(BrokenPipeError):  # to compile its code was too much for it: it has ended as a tool ends
            os.write(self._go, _GO)
        os.close(self._go)
        if self._executes:  # the pipe closes once the program is executed
            self.failure = os.read(self._told, 4096).decode(errors="replace")
        os.close(self._told)


def _be_child(work: str, stdout: int, stderr: int, hear: int, tell: int, *, at_leisure: bool) -> None:
    try:
        _enter(work, stdout, stderr, hear, tell)
        prepare()
        if at_leisure:
            _dress(*_REHEARSED)
            rehearse()
            os.write(tell, _READY)
        length = _LENGTH.unpack(_take(hear, _LENGTH.size))[0]
        job: Any = read_json(_take(hear, length))  # prepare wrote it
        kind, argv, env, code = job
        program = None
        if kind != "argv":
            _dress(argv, env)
            program = Program(code)
        _take(hear, len(_GO))
        if program is None:
            _execute(argv, env, tell)
        os.close(hear)
        os.close(tell)
    except BaseException:  # noqa: BLE001  # whatever it is, the runner's code must not go on here as the tool
        os._exit(NOT_EXECUTABLE)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise InTool(program)


def _dress(argv: list[str], env: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    sys.argv[:] = argv


def _enter(work: str, stdout: int, stderr: int, hear: int, tell: int) -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    first = _FIRST_FREE_FD
    for kept in sorted((hear, tell)):
        os.closerange(first, kept)
        first = kept + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
    os.chdir(work)
    os.umask(0o022)
    set_dumpable(on=True)
    with suppress(OSError):  # some runtimes have no such file
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, _WORST_SCORE)
        os.close(score)


def _take(source: int, size: int) -> bytes:
    taken = b""
    while len(taken) < size:
        piece = os.read(source, size - len(taken))
        if not piece:  # the runner has gone
            os._exit(0)
        taken += piece
    return taken


def _execute(argv: list[str], env: dict[str, str], tell: int) -> None:
    """Executes ``argv`` as written; a name without ``/`` is looked for in the tool's own ``PATH``. Never returns."""
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execvpe(argv[0], argv, env)  # noqa: S606  # no shell is the point
    except OSError as error:
        os.write(tell, f"{argv[0]!r} can't be executed: {error.strerror}".encode())
        os._exit(NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE)
    except ValueError as error:  # a NUL byte, say
        os.write(tell, f"{argv[0]!r} can't be executed: {error}".encode())
        os._exit(NOT_EXECUTABLE)

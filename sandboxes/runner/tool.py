"""Starts a tool: as a program, or as Python code in a fork of the runner.

Both kinds get a session of their own, ``/dev/null`` as standard input, pipes as standard output and error, no other
descriptor, default signal handlers, and the highest OOM score, so that the kernel picks the tool rather than the runner.
The runner is not dumpable (its interpreter can't be read); a tool is made so again, or it couldn't open its own
``/proc/self``.
"""

from __future__ import annotations

import _io
import _thread
import atexit
import ctypes
import errno
import gc
import linecache
import os
import signal
import sys
import types
import weakref
from contextlib import suppress

PR_SET_DUMPABLE = 4
CODE_NAME = "<tool>"
NOT_FOUND = 127
NOT_EXECUTABLE = 126
_NOT_FLUSHED = 120
"""The interpreter's own exit code where the standard streams can't be written out."""
_FIRST_FREE_FD = 3
_WRITERS = (_io.TextIOWrapper, _io.BufferedWriter, _io.BufferedRandom)
_PYTHON = "/usr/libexec/broker/tool-python"

_libc = ctypes.CDLL(None, use_errno=True)


class Tool:
    """A running tool: its process, and the reading ends of its two pipes."""

    def __init__(self, pid: int, stdout: int, stderr: int, failure: str = "") -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.failure = failure
        """Why the program could not be executed; empty when it runs."""


class InTool(Exception):  # noqa: N818  # no error: it unwinds the runner's stack in the forked child
    """Raised in the child of a ``python`` job: the stack of the runner ends here, the tool's begins."""


def set_dumpable(*, on: bool) -> None:
    """Lets others of the same user look into this process, or not.

    Raises:
        OSError: the kernel refused.
    """
    if _libc.prctl(PR_SET_DUMPABLE, int(on), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")


def start_program(argv: list[str], env: dict[str, str], work: str) -> Tool:
    """Executes ``argv`` as written; a name without ``/`` is looked for in the tool's own ``PATH``."""
    stdout, stdout_end = os.pipe()
    stderr, stderr_end = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _enter(stdout_end, stderr_end, work, keep=tell)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            os.execvpe(argv[0], argv, env)  # noqa: S606  # no shell is the point
        except OSError as error:
            os.write(tell, f"{argv[0]!r} can't be executed: {error.strerror}".encode())
            os._exit(NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE)
        except ValueError as error:  # a NUL byte, say
            os.write(tell, f"{argv[0]!r} can't be executed: {error}".encode())
            os._exit(NOT_EXECUTABLE)
        finally:
            os._exit(NOT_EXECUTABLE)
    for end in (stdout_end, stderr_end, tell):
        os.close(end)
    failure = os.read(told, 4096).decode(errors="replace")  # empty: the pipe closed because the program was executed
    os.close(told)
    if not failure:
        _prefer_as_victim(pid)
    return Tool(pid, stdout, stderr, failure)


def fork_python(argv: list[str], env: dict[str, str], work: str) -> Tool:
    """Forks the runner for Python code.

    Returns:
        The tool, in the runner.

    Raises:
        InTool: in the child, which is the tool from here on.
    """
    stdout, stdout_end = os.pipe()
    stderr, stderr_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(stdout_end)
        os.close(stderr_end)
        return Tool(pid, stdout, stderr)
    _enter(stdout_end, stderr_end, work)
    set_dumpable(on=True)
    _prefer_as_victim(os.getpid())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[:] = argv
    raise InTool


def be_tool(code: str) -> None:
    """Runs code as ``__main__``, and ends the process as an interpreter would. In the child of a ``python`` job only."""
    # The runner's own interpreter can't be read; what the tool starts as "this Python" is the ordinary one.
    sys.executable = sys._base_executable = os.readlink(_PYTHON)  # type: ignore[attr-defined]  # noqa: PTH115, SLF001  # pathlib is slow to import; venv and multiprocessing read the private name
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a line is seen when it is written
    sys.modules["__main__"] = types.ModuleType("__main__")
    shared = sys.modules.keys() - {"__main__"}
    _leave(_run(code), shared)


def _run(code: str) -> int:
    linecache.cache[CODE_NAME] = (len(code), None, code.splitlines(keepends=True), CODE_NAME)
    try:
        exec(compile(code, CODE_NAME, "exec", dont_inherit=True), vars(sys.modules["__main__"]))
    except SystemExit as request:
        return _exit_code(request.code)
    except BaseException as error:  # noqa: BLE001  # the interpreter's own last resort: print it and exit with 1
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        _show(error.with_traceback(trace))
        return 1
    return 0


def _leave(status: int, shared: set[str]) -> None:
    """Ends a tool in the interpreter's own order: threads, ``atexit``, what its modules hold (files are written out,
    objects finalised), the standard streams. What it shares with the runner is left alone: to take that apart would
    touch, and so copy, every page of it.
    """
    try:
        if threading := sys.modules.get("threading"):
            threading._shutdown()  # noqa: SLF001  # as the interpreter does
    except BaseException as error:  # noqa: BLE001  # an interrupt, say: the interpreter too prints it and goes on
        _show(error)
    if _thread._count():  # noqa: SLF001  # daemon threads go on: only the interpreter itself can stop them
        sys.exit(status)
    atexit._run_exitfuncs()  # noqa: SLF001  # as the interpreter does
    _flush()
    _write_files()
    alive = _mark(sys.modules.get("__main__"))
    for name in sys.modules.keys() - shared:
        del sys.modules[name]
    gc.collect()
    if probe := alive():  # something else holds on to the tool's names, such as a signal handler
        for holder in gc.get_referrers(probe):
            if isinstance(holder, dict):
                holder.update((key, None) for key in list(holder) if key != "__builtins__")
        gc.collect()
    _libc.exit(status if _flush() else _NOT_FLUSHED)


def _write_files() -> None:
    """Writes out every file that the tool left open: a collection may close a file's inner layer before its outer one,
    with what that still holds. What is shared with the runner is frozen, and not among these objects.
    """
    for item in gc.get_objects():
        if issubclass(type(item), _WRITERS):  # by its type: an object may lie about its class
            with suppress(Exception):  # closed already, or its disk is full: its own end would say no more
                item.flush()


def _mark(main: object) -> weakref.ref[_Probe]:
    """Lays something among the tool's names that tells whether they are still held by anybody."""
    probe = _Probe()
    if isinstance(main, types.ModuleType):
        vars(main)[""] = probe
    return weakref.ref(probe)


def _exit_code(code: object) -> int:
    """What ``sys.exit`` makes of its argument."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    with suppress(Exception):  # nobody is left to be told
        sys.stdout.flush()
        sys.stderr.write(f"{code}\n")
    return 1


def _flush() -> bool:
    """Writes the standard streams out; false where that failed."""
    good = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception as error:  # noqa: BLE001  # the tool may have put anything there
            good = False
            with suppress(Exception):
                _show(error)
    return good


class _Probe:
    """Lives as long as the names that it lies among."""

    __slots__ = ("__weakref__",)


def _exit_code(code: object) -> int:
    """What ``sys.exit`` makes of its argument."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    try:
        sys.stdout.flush()
        print(code, file=sys.stderr)  # noqa: T201  # the tool's own words
    except Exception:  # noqa: BLE001  # nobody is left to be told
        return 1
    return 1


def _flush() -> bool:
    good = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception as error:  # noqa: BLE001  # the tool may have put anything there
            good = False
            if stream is not sys.stderr:
                with suppress(Exception):
                    _show(error)
    return good


def _show(error: BaseException) -> None:
    """Prints an uncaught exception as the tool itself has arranged, else as usual, with its lines of code."""
    if sys.excepthook is not sys.__excepthook__:
        sys.excepthook(type(error), error, error.__traceback__)
        return
    import traceback  # noqa: PLC0415  # the interpreter's own printer doesn't know code that is in no file

    traceback.print_exception(error)


def _enter(stdout: int, stderr: int, work: str, keep: int = -1) -> None:
    """In the child: a session, descriptors and signal handlers of its own."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    highest = os.sysconf("SC_OPEN_MAX")
    os.closerange(_FIRST_FREE_FD, max(keep, _FIRST_FREE_FD))
    os.closerange(max(keep + 1, _FIRST_FREE_FD), highest)
    os.chdir(work)
    os.umask(0o022)


def _prefer_as_victim(pid: int) -> None:
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as score:  # noqa: PTH123  # pathlib is slow to import
            score.write("1000")
    except OSError:
        # The program has ended already, or is one that can't be read: then it keeps the runner's own score.
        return

"""A Python tool, in the process that waited for it: runs its code as an interpreter would, and ends as one."""

from __future__ import annotations

import _io
import _thread
import atexit
import gc
import os
import sys
from _weakref import ref

from runner import libc
from runner.light import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CODE_NAME = "<tool>"
_NOT_FLUSHED = 120
"""The interpreter's own exit code where the standard streams can't be written out."""
_WRITERS = (_io.TextIOWrapper, _io.BufferedWriter, _io.BufferedRandom)
_HOME = "/usr/libexec/broker"
_PYTHON = f"{_HOME}/tool-python"
_REHEARSAL = """\
def work(items):
    return {name: f"{value}" for name, value in items}

try:
    work([("a", 1)])["b"]
except KeyError:
    print(end="")
"""

_end = libc.function("exit")


def prepare() -> None:
    """Does what can be done before the code is known."""
    # The runner's own interpreter can't be read; what the tool starts as "this Python" is the ordinary one.
    sys.executable = sys._base_executable = os.readlink(_PYTHON)  # type: ignore[attr-defined]  # noqa: PTH115, SLF001  # pathlib is slow to import; venv and multiprocessing read the private name
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a line is seen when it is written
    # The tool finds nothing of the runner.
    sys.path.remove(_HOME)
    for name in [name for name in sys.modules if name.partition(".")[0] == "runner"]:
        del sys.modules[name]


def rehearse() -> None:
    """Goes the whole way, but for the end of the process, with a tool that does nothing to speak of: touches, and so
    copies, the pages that every tool needs. There are some two hundred, and each costs microseconds when it is first
    written to.
    """
    finders = sys.meta_path[:]
    program = Program(_REHEARSAL)
    _run(program)
    _wind_up(program.shared)
    sys.meta_path[:] = finders
    del program
    gc.freeze()  # what is here now is no tool's: the end of one looks at its own objects alone


class Program:
    """A tool's code, ready to run as a fresh ``__main__``. To make one runs nothing of it."""

    def __init__(self, code: str) -> None:
        sys.modules["__main__"] = type(sys)("__main__")
        self.shared = sys.modules.keys() - {"__main__"}
        """The names of the modules that aren't the tool's own."""
        self.code: Any = None
        """Compiled; ``None`` where that failed."""
        self.error: BaseException | None = None
        """Why it can't be compiled."""
        _lend_lines(code)
        try:
            self.code = compile(code, CODE_NAME, "exec", dont_inherit=True)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the tool fails with it once it may begin
            self.error = error.with_traceback(None)


def be_tool(program: Program) -> None:
    """Runs a program, and ends the process as an interpreter would. In the child of a ``python`` job only."""
    _leave(_run(program), program.shared)


def _run(program: Program) -> int:
    if program.error:
        _show(program.error)
        return 1
    try:
        exec(program.code, vars(sys.modules["__main__"]))
    except SystemExit as request:
        return _exit_code(request.code)
    except BaseException as error:  # noqa: BLE001  # the interpreter's own last resort: print it and exit with 1
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        _show(error.with_traceback(trace))
        return 1
    return 0


def _lend_lines(code: str) -> None:
    """Lets tracebacks show the lines of code that is in no file; where nobody asks, their module isn't imported."""
    entry = (len(code), None, code.splitlines(keepends=True), CODE_NAME)
    if linecache := sys.modules.get("linecache"):
        linecache.cache[CODE_NAME] = entry
    else:
        sys.meta_path.insert(0, _Lender(entry))


class _Lender:
    """Waits in the import system until somebody wants lines of code."""

    def __init__(self, entry: object) -> None:
        self._entry = entry

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ANN401  # as the import system has it
        """How the module of lines is found, which is then given ours."""
        if name != "linecache":
            return None
        sys.meta_path.remove(self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in sys.meta_path)))
        execute = spec.loader.exec_module  # type: ignore[union-attr]  # every loader has it

        def execute_and_lend(module: Any) -> None:  # noqa: ANN401  # as above
            execute(module)
            module.cache[CODE_NAME] = self._entry

        spec.loader.exec_module = execute_and_lend  # type: ignore[union-attr, method-assign]  # as above
        return spec


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
    _wind_up(shared)
    _end(status if _flush() else _NOT_FLUSHED)


def _wind_up(shared: set[str]) -> None:
    """Writes out and takes apart what the tool's own modules hold."""
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


def _write_files() -> None:
    """Writes out every file that the tool left open: a collection may close a file's inner layer before its outer one,
    with what that still holds. What is shared with the runner is frozen, and not among these objects.
    """
    for item in gc.get_objects():
        if issubclass(type(item), _WRITERS):  # by its type: an object may lie about its class
            with suppress(Exception):  # closed already, or its disk is full: its own end would say no more
                item.flush()


def _mark(main: object) -> ref[_Probe]:
    """Lays something among the tool's names that tells whether they are still held by anybody."""
    probe = _Probe()
    if isinstance(main, type(sys)):
        vars(main)[""] = probe
    return ref(probe)


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
    """Writes the standard streams out; false where that failed."""
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
    try:
        import traceback  # noqa: PLC0415  # the interpreter's own printer doesn't know code that is in no file

        traceback.print_exception(error)
    except Exception:  # noqa: BLE001  # the tool has left no descriptor, or nothing to import with
        sys.__excepthook__(type(error), error, error.__traceback__)

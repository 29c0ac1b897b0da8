"""Power loss: what is left of files when every write is thrown away that no sync followed.

A real program runs under ``strace``; its system calls, in their order, are the record. For a cut at any moment the files
are then put together again from what had been synced before: content by ``fsync`` of the file, a new name by ``fsync`` of
its directory. The disk that this models is crueller than most: nothing reaches it unasked.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,unlink,rename"
_FORBIDDEN = "writev,pwritev,pwritev2,fallocate,copy_file_range,sendfile,renameat,renameat2,link,linkat"
_LINE = re.compile(r"(\d+) +(.*)")
_UNFINISHED = re.compile(r"(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)$")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)(<.*>)?( .*)?$")
_ARGUMENT = re.compile(r'(?:^|, )(?:(\d+)<((?:\\x[0-9a-f]{2})*)>|"((?:\\x[0-9a-f]{2})*)"(?:\.\.\.)?|([^,]+))')
_WHOLE = str(1 << 20)


@dataclass(frozen=True, slots=True)
class Step:
    """One system call that succeeded: what it did to which file, or the text that it told (``told``)."""

    call: str
    path: Path | None = None
    data: bytes = b""
    offset: int = 0
    told: str = ""


@dataclass(slots=True)
class _File:
    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    named: bool = False
    """Would its directory show it after a power loss?"""


def record(command: Sequence[str], folder: Path, trace: Path) -> list[Step]:
    """Runs a program to its end and gives what it did to the files of a folder, and what it wrote to standard output."""
    subprocess.run(
        ["strace", "-f", "-y", "-xx", "-s", _WHOLE, "-e", f"trace={_CALLS},{_FORBIDDEN}", "-o", str(trace), *command],
        check=True,
        capture_output=True,
        timeout=240,
    )
    return [
        step
        for step in _steps(trace)
        if step.told or (step.path is not None and step.path.parent == folder) or step.path == folder
    ]


def after_power_loss(steps: Sequence[Step], before: Path, folder: Path, into: Path) -> None:
    """Makes the folder anew as it would be found: ``before`` is a copy of it from the start, ``steps`` came since then."""
    files = {path.name: _File(bytearray(path.read_bytes()), path.read_bytes(), named=True) for path in before.iterdir()}
    gone: set[str] = set()
    for step in steps:
        if step.path == folder:
            if step.call in {"fsync", "fdatasync"}:
                for name in gone:
                    files.pop(name, None)
                gone.clear()
                for file in files.values():
                    file.named = True
        elif step.path is not None:
            _apply(step, files, gone)
    if into.exists():
        shutil.rmtree(into)
    into.mkdir()
    for name, file in files.items():
        if file.named and not name.endswith("-shm"):  # SQLite makes it anew, and never trusts an old one
            (into / name).write_bytes(file.durable)


def _apply(step: Step, files: dict[str, _File], gone: set[str]) -> None:
    name = step.path.name if step.path is not None else ""
    file = files.setdefault(name, _File())
    match step.call:
        case "pwrite64":
            file.content.extend(bytes(max(0, step.offset - len(file.content))))
            file.content[step.offset : step.offset + len(step.data)] = step.data
        case "ftruncate":
            file.content.extend(bytes(max(0, step.offset - len(file.content))))
            del file.content[step.offset :]
        case "fsync" | "fdatasync":
            file.durable = bytes(file.content)
        case "unlink":
            gone.add(name)
        case "openat":
            gone.discard(name)
        case _:
            message = f"{step.call} on {name} is not modelled"
            raise NotImplementedError(message)


def _steps(trace: Path) -> Iterator[Step]:
    begun: dict[str, str] = {}
    for raw in trace.read_text("ascii").splitlines():
        found = _LINE.match(raw)
        if found is None:
            continue
        thread, text = found[1], found[2]
        if (part := _UNFINISHED.match(text)) is not None:
            begun[thread] = f"{part[1]}({part[2]}"
            continue
        if (part := _RESUMED.match(text)) is not None:
            text = begun.pop(thread) + part[2]
        if (call := _CALL.match(text)) is not None and int(call[3]) >= 0:
            yield from _step(call[1], call[2], call[4] or "")


def _step(call: str, text: str, result: str) -> Iterator[Step]:
    arguments = list(_ARGUMENT.finditer(text))
    if call == "openat":
        if "O_CREAT" in text:
            yield Step(call, Path(_text(result.strip("<>"))))
    elif call in {"unlink", "rename"}:
        yield Step(call, Path(_text(arguments[0][3])))
    elif call == "write" and arguments[0][1] == "1":
        yield Step("told", told=_bytes(arguments[1][3]).decode())
    else:
        path = Path(_text(arguments[0][2] or ""))
        if call == "pwrite64":
            yield Step(call, path, _bytes(arguments[1][3]), int(arguments[3][4]))
        elif call == "ftruncate":
            yield Step(call, path, offset=int(arguments[1][4]))
        else:
            yield Step(call, path)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _text(text: str) -> str:
    return _bytes(text).decode()

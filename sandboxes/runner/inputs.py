"""Reads a job and puts its files in place."""

from __future__ import annotations

import os
import stat

from runner import frames
from runner.frames import Refusal, Wire
from runner.light import read_json

MAX_DEPTH = 32
MAX_NAME = 255
MAX_PATH = 1024
C1_CONTROLS = range(0x7F, 0xA0)


def split_path(path: str) -> list[str]:
    """The components of a relative path.

    Raises:
        Refusal: it is absolute, has an empty, ``.`` or ``..`` component, control characters, or is too long or deep.
    """
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise Refusal("a path must be relative, without empty, '.' or '..' parts")
    if any(ord(char) < ord(" ") or ord(char) in C1_CONTROLS for char in path):
        raise Refusal("a path has no control characters")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise Refusal("a path must be valid UTF-8") from None
    if len(parts) > MAX_DEPTH or max(sizes) > MAX_NAME or sum(sizes) + len(parts) > MAX_PATH:
        raise Refusal(f"a path has at most {MAX_DEPTH} parts of {MAX_NAME} bytes, and {MAX_PATH} bytes in all")
    return parts


def until_job(wire: Wire) -> tuple[int, bytes]:
    """Answers pings until another frame comes, as type and payload.

    Raises:
        EOFError: the broker has gone.
    """
    while True:
        kind, _, payload = wire.receive()
        if kind != frames.PING:
            return kind, payload
        answer(wire, payload)


def answer(wire: Wire, ping: bytes) -> None:
    """Gives the sign of life that a ping asks for."""
    wire.send(frames.PONG, ping)
    wire.flush()


def read_header(kind: int, payload: bytes) -> dict[str, object]:
    """The job's header, from the first frame of a job.

    Raises:
        Refusal: it is another frame.
    """
    if kind != frames.JOB:
        raise Refusal(f"frame {kind:#x} where the job was due")
    job: dict[str, object] = read_json(payload)  # type: ignore[assignment]  # the broker made this JSON
    return job


def read_inputs(wire: Wire, work: str, arguments_path: str) -> dict[str, dict[str, object]]:
    """Takes frames up to the end of input; returns the header of every file and link by its path, once all of them lie in
    place.

    Raises:
        Refusal: a frame that has no place here, or a file that can't be put into the working folder.
        EOFError: the broker has gone.
    """
    came: dict[str, dict[str, object]] = {}
    linked = False
    root = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    arguments = os.open(arguments_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    try:
        while True:
            kind, _, payload = wire.receive()
            if kind == frames.ARGUMENTS:
                _write(arguments, payload, "the arguments")
            elif kind == frames.FILE_BEGIN and not linked:  # so that no file is ever written through a link
                header: dict[str, object] = read_json(payload)  # type: ignore[assignment]  # the same
                _receive_file(wire, root, header)
                came[str(header["path"])] = header
            elif kind == frames.LINK:
                header = read_json(payload)  # type: ignore[assignment]  # the same
                _make_link(root, header)
                came[str(header["path"])] = header
                linked = True
            elif kind == frames.END_OF_INPUT:
                return came
            else:
                raise Refusal(f"frame {kind:#x} where a file was due")
    finally:
        os.close(arguments)
        os.close(root)


def _receive_file(wire: Wire, root: int, header: dict[str, object]) -> None:
    path = str(header["path"])
    exact = "mode" in header  # else it is an ordinary file, and what the tool's user usually gets
    mode = 0o600 if exact else 0o755 if header["executable"] else 0o644
    parts = split_path(path)
    try:
        target = _create(root, parts, mode)
    except OSError as error:
        raise Refusal(f"{path!r} can't be made: {error.strerror}") from None
    try:
        while True:
            kind, _, payload = wire.receive()
            if kind == frames.FILE_END:
                if exact:
                    os.fchmod(target, int(header["mode"]))  # type: ignore[call-overload]  # the broker made this JSON
                return
            if kind != frames.FILE_DATA:
                raise Refusal(f"frame {kind:#x} in the middle of a file")
            _write(target, payload, repr(path))
    finally:
        os.close(target)


def _make_link(root: int, header: dict[str, object]) -> None:
    path = str(header["path"])
    parts = split_path(path)
    try:
        folder = _folder(root, parts[:-1])
        try:
            os.symlink(str(header["target"]).encode(), parts[-1], dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise Refusal(f"{path!r} can't be made: {error.strerror}") from None


def _create(root: int, parts: list[str], mode: int) -> int:
    """Opens a new file below ``root``, following no link on the way."""
    folder = _folder(root, parts[:-1])
    try:
        return os.open(parts[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=folder)
    finally:
        os.close(folder)


def _folder(root: int, parts: list[str]) -> int:
    """Opens a folder below ``root``, made where it isn't there, following no link on the way."""
    folder = os.dup(root)
    try:
        for part in parts:
            try:
                os.mkdir(part, 0o755, dir_fd=folder)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
    except OSError:
        os.close(folder)
        raise
    return folder


def _write(target: int, data: bytes, name: str) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(target, view) :]
    except OSError as error:
        raise Refusal(f"{name} doesn't fit into the sandbox: {error.strerror}") from None

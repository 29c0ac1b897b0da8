"""Files on their way: uploads in pieces with a digest, downloads that resume and are checked, and safe places for them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path, PurePosixPath

import grpc

from broker.client import convert
from broker.client.first_status import FirstStatus
from broker.client.models import Blob, OutputFile
from broker.client.retry import may_retry
from broker.client.transport import Deadline, Transport
from broker.client.wire import resource
from broker.errors import ConflictError, DataLossError, FieldViolation, InvalidArgumentError
from broker.v1 import blob_pb2, tool_broker_pb2

CHUNK_BYTES = 2**20
"""Longest piece of an upload, by the wire's contract."""


async def upload(
    transport: Transport,
    source: Path | bytes | AsyncIterable[bytes],
    data_classes: tuple[str, ...],
    timeout_s: float | None,
) -> Blob:
    """Sends a file and checks that the broker keeps the very bytes. Never tried again by itself.

    Raises:
        InvalidArgumentError: the path can't be read.
        DataLossError: the broker keeps something else than was sent.
        BrokerError: the broker's refusal (quota, size), or the transport's failure.
    """
    deadline = Deadline(transport.timeouts.transfer_s if timeout_s is None else timeout_s)
    header = blob_pb2.BlobHeader(size=-1, data_classes=data_classes)
    if isinstance(source, bytes):
        header.size, header.digest = len(source), f"sha256:{hashlib.sha256(source).hexdigest()}"
        pieces = _of_bytes(source)
    elif isinstance(source, Path):
        header.size = _size(source)
        pieces = _of_path(source)
    else:
        pieces = _of_iterable(source)
    sent, size = hashlib.sha256(), 0
    await transport.ready(deadline)
    rpc = transport.tools.UploadBlob(timeout=deadline.remaining())
    status = FirstStatus(rpc)
    try:
        # A write that fails says only that the broker has ended the upload; the answer below says why.
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            async with aclosing(pieces):
                await rpc.write(tool_broker_pb2.UploadBlobRequest(header=header))
                async for piece in pieces:
                    sent.update(piece)
                    size += len(piece)
                    await rpc.write(tool_broker_pb2.UploadBlobRequest(chunk=piece))
            await rpc.done_writing()
        blob = convert.blob(await rpc)
    except grpc.aio.AioRpcError as error:
        raise transport.error(status.error or error) from error
    finally:
        rpc.cancel()
    _check(blob.name, size, sent.hexdigest(), blob.size, blob.digest)
    return blob


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return status.st_size if path.is_file() else -1


def _unreadable(path: Path, error: OSError) -> InvalidArgumentError:
    why = f"{path} can't be read: {error.strerror}"
    return InvalidArgumentError(
        why, reason="FILE_UNREADABLE", hint="Check the path.", violations=(FieldViolation("file", why),)
    )


async def _of_bytes(data: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


async def _of_path(path: Path) -> AsyncGenerator[bytes, None]:
    try:
        file = await asyncio.to_thread(path.open, "rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        while True:
            try:
                piece = await asyncio.to_thread(file.read, CHUNK_BYTES)
            except OSError as error:
                raise _unreadable(path, error) from error
            if not piece:
                return
            yield piece


async def _of_iterable(source: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    async for data in source:
        async for piece in _of_bytes(data):
            yield piece


async def read(
    transport: Transport, blob: Blob | OutputFile | str, timeout_s: float | None
) -> AsyncGenerator[bytes, None]:
    """The bytes of a blob, in pieces; a broken connection is taken up again where it broke.

    Size and digest are checked after the last piece, so use nothing of it before the end. A blob given by its bare name
    has neither, and then only the order of the pieces is checked.

    Raises:
        DataLossError: pieces are missing, or size or digest differ.
        BrokerError: the broker's refusal, or a connection that stays away for longer than the retry policy bears.
    """
    deadline = Deadline(transport.timeouts.transfer_s if timeout_s is None else timeout_s)
    name = blob if isinstance(blob, str) else blob.name if isinstance(blob, Blob) else blob.blob
    expected = None if isinstance(blob, str) else blob
    seen, offset, failures = hashlib.sha256(), 0, 0
    while True:
        await transport.ready(deadline)
        request = tool_broker_pb2.DownloadBlobRequest(name=resource("blobs", name), offset=offset)
        rpc = transport.tools.DownloadBlob(request, timeout=deadline.remaining())
        try:
            async for response in rpc:
                if response.offset != offset:
                    raise _lost(name, f"byte {offset} was to come, and byte {response.offset} came")
                seen.update(response.chunk)
                offset, failures = offset + len(response.chunk), 0
                if expected is not None and offset > expected.size:
                    raise _lost(name, f"it has {expected.size} bytes, and more came")
                yield response.chunk
            break
        except grpc.aio.AioRpcError as error:
            failure = transport.error(error)
            failures += 1
            pause = transport.retry.pause(failures, failure)
            if not may_retry(failure) or failures >= transport.retry.attempts or pause >= deadline.remaining():
                raise failure from error
        finally:
            rpc.cancel()
        await asyncio.sleep(pause)
    if expected is not None:
        _check(name, offset, seen.hexdigest(), expected.size, expected.digest)


async def save(pieces: AsyncIterator[bytes], target: Path, *, overwrite: bool) -> Path:
    """Writes a download to ``target``: all of it, checked, or nothing.

    Raises:
        ConflictError: ``target`` exists, and ``overwrite`` wasn't asked for.
        InvalidArgumentError: its folder can't be written to.
    """
    handle, part = await asyncio.to_thread(_begin, target, overwrite=overwrite)
    try:
        with os.fdopen(handle, "wb") as file:
            async for piece in pieces:
                await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(_place, part, target, overwrite=overwrite)
    except OSError as error:
        raise _not_writable(target, error) from error
    finally:
        # Not in a thread: a cancelled task must clean up too, and must not wait for it.
        part.unlink(missing_ok=True)
    return target


def _begin(target: Path, *, overwrite: bool) -> tuple[int, Path]:
    if not overwrite and os.path.lexists(target):
        raise _exists(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=".broker-", suffix=".part", dir=target.parent)
    except OSError as error:
        raise _not_writable(target, error) from error
    return handle, Path(part)


def _place(part: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        part.replace(target)
        return
    try:
        # A link, unlike a rename, fails where something has appeared in the meantime.
        target.hardlink_to(part)
    except FileExistsError as error:
        raise _exists(target) from error


def _not_writable(target: Path, error: OSError) -> InvalidArgumentError:
    return InvalidArgumentError(f"{target} can't be written: {error.strerror}", reason="NOT_WRITABLE")


def _exists(target: Path) -> ConflictError:
    return ConflictError(
        f"{target} exists already", reason="FILE_EXISTS", hint="Choose another place, or ask to overwrite (--force)."
    )


def safe_path(folder: Path, path: str) -> Path:
    """Where a result file goes inside ``folder``, by its path relative to the tool's working folder.

    The path comes from a container, so it is checked here again, whatever the broker did before.

    Raises:
        DataLossError: the path is absolute, climbs out, holds control characters, or leads through a link.
    """
    pure = PurePosixPath(path)
    parts = pure.parts
    odd = any(part == ".." or part != part.strip() or not part.isprintable() or "\\" in part for part in parts)
    if not parts or pure.is_absolute() or odd:
        raise _unsafe(path)
    place = folder
    for part in parts:
        place = place / part
        if place.is_symlink():
            raise _unsafe(path)
    return place


def _unsafe(path: str) -> DataLossError:
    return DataLossError(
        f"the result file {path!r} has an unsafe path and was not written",
        reason="UNSAFE_PATH",
        hint="Fetch it by its blob.",
    )


def _check(name: str, size: int, hexdigest: str, expected_size: int, expected_digest: str) -> None:
    if size != expected_size:
        raise _lost(name, f"{expected_size} bytes were to come, and {size} came")
    if f"sha256:{hexdigest}" != expected_digest:
        raise _lost(name, "its digest is another")


def _lost(name: str, why: str) -> DataLossError:
    return DataLossError(
        f"{name} is not what it should be: {why}",
        reason="BLOB_MISMATCH",
        hint="Transfer it again; if it happens twice, ask the operator.",
    )

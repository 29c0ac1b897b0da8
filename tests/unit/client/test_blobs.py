"""Files on their way: pieces, digests, resume, and safe places."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc import StatusCode

from broker.client import AsyncBroker, Blob, InputFile, OutputFile
from broker.client.blobs import CHUNK_BYTES, safe_path
from broker.errors import ConflictError, DataLossError, InvalidArgumentError, ResourceExhaustedError
from broker.v1 import blob_pb2, tool_broker_pb2
from tests.fake_broker import FakeBroker, Refuse, call

AWAY = Refuse(StatusCode.UNAVAILABLE, "Socket closed")
DATA = b"0123456789"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def keep(requests: list[tool_broker_pb2.UploadBlobRequest]) -> blob_pb2.Blob:
    data = b"".join(item.chunk for item in requests[1:])
    return blob_pb2.Blob(name="blobs/blob_1", size=len(data), digest=digest(data))


def pieces(*chunks: object, start: int = 0) -> list[object]:
    result = []
    for chunk in chunks:
        if isinstance(chunk, bytes):
            result.append(tool_broker_pb2.DownloadBlobResponse(offset=start, chunk=chunk))
            start += len(chunk)
        else:
            result.append(chunk)
    return result


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def blob(data: bytes = DATA) -> Blob:
    return Blob("blobs/blob_1", len(data), digest(data), None, None)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
async def test_uploads_go_in_pieces_of_a_mebibyte(
    fake: FakeBroker, broker: AsyncBroker, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * size)
    fake.script.on("UploadBlob", keep)
    result = await broker.upload(path, data_classes=["public"])
    [requests] = fake.script.sent("UploadBlob")
    assert result.size == requests[0].header.size == size
    assert list(requests[0].header.data_classes) == ["public"]
    assert max((len(item.chunk) for item in requests[1:]), default=0) <= CHUNK_BYTES


async def test_bytes_are_announced_with_their_digest(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("UploadBlob", keep)
    await broker.upload(DATA)
    [requests] = fake.script.sent("UploadBlob")
    assert requests[0].header.digest == digest(DATA)


async def test_an_iterator_of_unknown_size_can_be_uploaded(fake: FakeBroker, broker: AsyncBroker) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"a" * (CHUNK_BYTES + 5)
        yield b"b"

    fake.script.on("UploadBlob", keep)
    assert (await broker.upload(source())).size == CHUNK_BYTES + 6
    [requests] = fake.script.sent("UploadBlob")
    assert requests[0].header.size == -1


async def test_an_upload_of_which_something_else_is_kept_is_data_loss(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("UploadBlob", blob_pb2.Blob(name="blobs/b", size=len(DATA), digest=digest(b"other")))
    with pytest.raises(DataLossError):
        await broker.upload(DATA)


async def test_an_upload_that_is_refused_midway_says_why_and_is_not_repeated(
    fake: FakeBroker, broker: AsyncBroker
) -> None:
    full = Refuse(StatusCode.RESOURCE_EXHAUSTED, "quota", reason="BLOB_QUOTA", retry_after_s=0.001)
    fake.script.on("UploadBlobEarly", full)
    with pytest.raises(ResourceExhaustedError) as caught:
        await broker.upload(b"x" * (16 * CHUNK_BYTES))
    assert caught.value.reason == "BLOB_QUOTA"
    assert not fake.script.sent("UploadBlob")


async def test_an_upload_over_a_broken_connection_is_not_repeated(fake: FakeBroker, broker: AsyncBroker) -> None:
    fake.script.on("UploadBlob", AWAY)
    with pytest.raises(Exception, match="broke"):
        await broker.upload(DATA)
    assert len(fake.script.sent("UploadBlob")) == 1


async def test_a_file_that_is_not_there_is_named(broker: AsyncBroker, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await broker.upload(tmp_path / "absent")
    assert "absent" in str(caught.value)


async def test_files_of_a_call_are_uploaded_first(fake: FakeBroker, broker: AsyncBroker, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(DATA)
    fake.script.on("UploadBlob", keep)
    fake.script.on("CreateToolCall", call("QUEUED"))
    await broker.create_call(
        "python.run", {}, files=[InputFile("in.csv", path), InputFile("b", blob(), executable=True)]
    )
    files = fake.script.sent("CreateToolCall")[0].tool_call.files
    assert [(item.path, item.blob, item.executable) for item in files] == [
        ("in.csv", "blobs/blob_1", False),
        ("b", "blobs/blob_1", True),
    ]
    assert len(fake.script.sent("UploadBlob")) == 1


async def test_a_file_that_cannot_be_uploaded_makes_no_call(
    fake: FakeBroker, broker: AsyncBroker, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgumentError):
        await broker.create_call("python.run", {}, files=[InputFile("x", tmp_path / "absent")])
    assert not fake.script.sent("CreateToolCall")


async def test_a_download_goes_on_where_it_broke(fake: FakeBroker, broker: AsyncBroker, tmp_path: Path) -> None:
    fake.script.on("DownloadBlob", pieces(b"0123", AWAY), pieces(b"456", AWAY, start=4), pieces(b"789", start=7))
    target = await broker.download(blob(), tmp_path / "new" / "file")
    assert target.read_bytes() == DATA
    assert [item.offset for item in fake.script.sent("DownloadBlob")] == [0, 4, 7]


@pytest.mark.parametrize(
    "answer",
    [
        pieces(b"01234567x9"),
        pieces(b"01234"),
        pieces(b"0123456789", b"more"),
        pieces(b"0123", b"456789", start=1),
        pieces(b"0123") + pieces(b"456789", start=5),
    ],
    ids=["altered", "short", "long", "starts late", "gap"],
)
async def test_a_download_that_is_not_the_file_leaves_nothing(
    fake: FakeBroker, broker: AsyncBroker, tmp_path: Path, answer: list[object]
) -> None:
    fake.script.on("DownloadBlob", answer)
    with pytest.raises(DataLossError):
        await broker.download(blob(), tmp_path / "file")
    assert names(tmp_path) == []


async def test_a_result_file_is_checked_too(fake: FakeBroker, broker: AsyncBroker, tmp_path: Path) -> None:
    fake.script.on("DownloadBlob", pieces(b"other"))
    with pytest.raises(DataLossError):
        await broker.download(OutputFile("r", "blobs/blob_1", 5, digest(b"right")), tmp_path / "r")


async def test_an_existing_file_stays(fake: FakeBroker, broker: AsyncBroker, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"mine")
    fake.script.on("DownloadBlob", pieces(DATA))
    with pytest.raises(ConflictError):
        await broker.download(blob(), target)
    assert target.read_bytes() == b"mine"
    await broker.download(blob(), target, overwrite=True)
    assert target.read_bytes() == DATA


async def test_a_file_that_appears_meanwhile_stays(fake: FakeBroker, broker: AsyncBroker, tmp_path: Path) -> None:
    target = tmp_path / "file"

    def answer(_: object) -> list[object]:
        target.write_bytes(b"mine")
        return pieces(DATA)

    fake.script.on("DownloadBlob", answer)
    with pytest.raises(ConflictError):
        await broker.download(blob(), target)
    assert target.read_bytes() == b"mine"
    assert names(tmp_path) == [target.name]


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "a/../../x", "", ".", "a/\x1b[2J", "a\\b", "out/ x", "a/..", "\u202ex"]
)
def test_unsafe_result_paths_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataLossError):
        safe_path(tmp_path, path)


def test_a_result_path_never_leads_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out").symlink_to(tmp_path)
    with pytest.raises(DataLossError):
        safe_path(tmp_path / "in", "out/file")


def test_a_plain_result_path_stays_inside(tmp_path: Path) -> None:
    assert safe_path(tmp_path, "out/a b/r.csv") == tmp_path / "out" / "a b" / "r.csv"

"""Nobody approves what they can't see: an input file is shown whole, or the call is refused with its field."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from broker.domain.call import InputFile
from broker.domain.canonical import digest
from broker.domain.ports import VaultRow
from broker.errors import InvalidArgumentError
from broker.pipeline.approving import MAX_SHOWN_FILE, shown_files

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Kept:
    """Blobs by their ids."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = {f"blob_{number}": content for number, content in enumerate(contents)}
        self.files = tuple(InputFile(f"{which}.txt", which) for which in self.contents)
        self.rows = tuple(
            VaultRow(which, "agt_1", "blob", b"", NOW, None, size=len(data), digest=digest(data))
            for which, data in self.contents.items()
        )

    async def content(self, row: VaultRow) -> AsyncIterator[bytes]:
        yield self.contents[row.id]


async def shown(kept: Kept) -> list[Any]:
    return await shown_files(cast("Any", kept), kept.files, kept.rows)


async def test_text_is_shown_whole() -> None:
    first, second = await shown(Kept(b"one\n", "zwei \u00fc".encode()))
    assert (first["shown"], first["text"], first["path"]) == ("text", "one\n", "blob_0.txt")
    assert second["text"] == "zwei \u00fc"


@pytest.mark.parametrize(
    "contents",
    [(b"", b"\xff\xfe"), (b"", b"x" * (MAX_SHOWN_FILE + 1)), (*(b"x" * MAX_SHOWN_FILE for _ in range(16)), b"y")],
    ids=["binary", "long", "many"],
)
async def test_what_cannot_be_shown_is_refused_with_its_field(contents: tuple[bytes, ...]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await shown(Kept(*contents))
    assert caught.value.reason == "FILE_NOT_SHOWN"
    assert caught.value.violations[0].field == f"tool_call.files[{len(contents) - 1}]"

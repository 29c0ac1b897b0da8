"""The rollback artifact of a call: the pre-image of all that it changes, in one stream that the vault encrypts.

    4 bytes   length of the manifest, big-endian
    manifest  RFC 8785: format, call, workspace, base state, the changes
    content   of each file that is changed or removed, of items that lie elsewhere both sides, in the order of their
              digests; each digest once

Read back, every file is held to its digest: an artifact is whole or it is refused.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from broker.domain.canonical import canonical, parse_object
from broker.domain.outside import of_outside
from broker.domain.tree import Effect, TreeFile, read_effect
from broker.errors import DataLossError, InvalidArgumentError

FORMAT = "broker.rollback.v1"
"""First field of every manifest; another set of fields gets another name."""

KIND = "rollback"
"""An artifact's kind in the vault."""

MAX_MANIFEST = 16 * 2**20
"""Bytes of the longest manifest."""

_LENGTH = struct.Struct(">I")

Keep: TypeAlias = Callable[[AsyncIterator[bytes]], Awaitable[tuple[str, int]]]
"""Stores a stream, and returns the digest of its bytes and their number."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artifact takes back: the effect of a call on a workspace whose state was ``base``."""

    call: str
    workspace: str
    base: str
    effect: Effect

    @property
    def contents(self) -> dict[str, int]:
        """``sha256:`` digest -> bytes of each content that lies in the artifact, in the order in which they lie."""
        # What a tool's own programs take back they find by what was left there; files of a tree lie in the tree.
        both = of_outside(self.effect)
        sides = (side for change in self.effect.changes for side in (change.before, change.after if both else None))
        return dict(sorted({side.digest: side.size for side in sides if isinstance(side, TreeFile)}.items()))

    def encode(self) -> bytes:
        """Its RFC 8785 bytes."""
        return canonical(
            {
                "format": FORMAT,
                "call": self.call,
                "workspace": self.workspace,
                "base": self.base,
                "changes": self.effect.body(),
            }
        )


async def pack(manifest: Manifest, content: Callable[[str], AsyncIterator[bytes]]) -> AsyncGenerator[bytes, None]:
    """The artifact's bytes, in pieces.

    Args:
        manifest: what it takes back.
        content: gives the bytes of a file by its digest.

    Raises:
        InvalidArgumentError: the manifest is too long (``ARTIFACT_TOO_LARGE``).
        BrokerError: whatever ``content`` raises.
    """
    head = manifest.encode()
    if len(head) > MAX_MANIFEST:
        raise InvalidArgumentError(
            f"the list of what the call changes has {len(head)} bytes, and a rollback artifact holds {MAX_MANIFEST}",
            reason="ARTIFACT_TOO_LARGE",
            hint="Change fewer paths in one call.",
        )
    yield _LENGTH.pack(len(head)) + head
    for digest in manifest.contents:
        async for piece in content(digest):
            yield piece


async def unpack(stream: AsyncIterator[bytes], keep: Keep) -> Manifest:
    """Reads an artifact, and hands each file's content to ``keep``.

    Args:
        stream: the artifact's bytes, in pieces of any size.
        keep: stores a stream, and returns its digest and how many bytes it had.

    Raises:
        DataLossError: it is no artifact, ends too early or goes on too long, or a file isn't what its digest says
            (``ARTIFACT_DAMAGED``).
    """
    source = _Source(stream)
    (length,) = _LENGTH.unpack(await source.exactly(_LENGTH.size))
    if length > MAX_MANIFEST:
        raise _damaged("its manifest is longer than any")
    manifest = _manifest(await source.exactly(length))
    for digest, size in manifest.contents.items():
        found, kept = await keep(source.portion(size))
        if (found, kept) != (digest, size):
            raise _damaged(f"a file of {size} bytes is not the one that its digest says")
    if await source.more():
        raise _damaged("there is more in it than its manifest says")
    return manifest


def _manifest(data: bytes) -> Manifest:
    try:
        value = parse_object(data, field="manifest", max_bytes=MAX_MANIFEST)
        if value.get("format") != FORMAT:
            raise _damaged(f"its format is not {FORMAT}")
        call, workspace, base = (value.get(name) for name in ("call", "workspace", "base"))
        if not (isinstance(call, str) and isinstance(workspace, str) and isinstance(base, str)):
            raise _damaged("its manifest doesn't say whose it is")
        manifest = Manifest(call, workspace, base, read_effect(value.get("changes")))
    except InvalidArgumentError as error:
        raise _damaged("its manifest can't be read") from error
    if manifest.encode() != data:
        raise _damaged("its manifest is not in canonical form")
    return manifest


class _Source:
    """A stream of pieces, read by numbers of bytes."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._left = b""

    async def _some(self, most: int) -> bytes:
        while not self._left:
            try:
                self._left = await anext(self._stream)
            except StopAsyncIteration:
                return b""
        piece, self._left = self._left[:most], self._left[most:]
        return piece

    async def exactly(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            piece = await self._some(size - len(found))
            if not piece:
                raise _damaged("it ends too early")
            found += piece
        return bytes(found)

    async def portion(self, size: int) -> AsyncGenerator[bytes, None]:
        while size:
            piece = await self._some(size)
            if not piece:
                raise _damaged("it ends too early")
            size -= len(piece)
            yield piece

    async def more(self) -> bool:
        return bool(await self._some(1))


def _damaged(why: str) -> DataLossError:
    return DataLossError(
        f"the rollback artifact can't be used: {why}",
        reason="ARTIFACT_DAMAGED",
        hint="The call can't be undone from it; its entry in the ledger says what it was.",
    )

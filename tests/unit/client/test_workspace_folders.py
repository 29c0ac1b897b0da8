"""Folders in the client: what a broker sends of a tree is written only where it is sound, and known to be whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from broker.client.workspace_folders import Export, Source
from broker.domain.tree import Entry, TreeFile, TreeLink
from broker.domain.tree_stream import Announced, Piece, Total
from broker.errors import BrokerError, DataLossError
from broker.rpc import tree_wire
from broker.v1 import workspaces_pb2 as pb

Message = pb.ExportWorkspaceResponse


def entry(data: bytes, mode: int = 0o644) -> TreeFile:
    return TreeFile(f"sha256:{sha256(data).hexdigest()}", len(data), mode)


ONE, TWO = b"one", b"two two"
TREE: Mapping[str, Entry] = {"a/one": entry(ONE, 0o600), "b": TreeLink("a/one"), "two": entry(TWO, 0o755)}


def piece(item: Piece) -> pb.TreePiece:
    if isinstance(item, bytes):
        return pb.TreePiece(data=item)
    return pb.TreePiece(entry=tree_wire.entry_message(item.path, item.entry))


def messages(
    listing: Mapping[str, Entry] = TREE, items: list[Piece] | None = None, total: Total | None = None
) -> list[Message]:
    sent = items if items is not None else whole()
    return [
        Message(header=pb.ExportHeader(state="sha256:1")),
        *(Message(listing=part) for part in tree_wire.listings(listing)),
        Message(pieces=pb.TreePieces(pieces=[piece(item) for item in sent[:2]])),
        Message(pieces=pb.TreePieces(pieces=[piece(item) for item in sent[2:]])),
        Message(end=tree_wire.end_message(total or Total.of(listing))),
    ]


def whole() -> list[Piece]:
    return [
        Announced("a/one", TREE["a/one"]),
        ONE,
        Announced("b", TREE["b"]),
        Announced("two", TREE["two"]),
        TWO[:3],
        TWO[3:],
    ]


def write(sent: list[Message], folder: Path, *, unsafe_links: bool = False) -> Total:
    rest: Iterator[Message] = iter(sent)
    export = Export("sales", lambda: next(rest, None), lambda *_: None)
    return export.write(folder, unsafe_links=unsafe_links)


def test_a_whole_tree_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert write(messages(), folder) == Total.of(TREE)
    assert (folder / "a" / "one").read_bytes() == ONE
    assert (folder / "two").read_bytes() == TWO
    assert (folder / "two").stat().st_mode & 0o777 == 0o755
    assert (folder / "b").readlink() == Path("a/one")


_BROKEN: dict[str, Callable[[], list[Message]]] = {
    "no end": lambda: messages()[:-1],
    "no end within a file": lambda: messages(items=whole()[:-1])[:-1],
    "an end within a file": lambda: messages(items=whole()[:-1]),
    "a file less": lambda: messages(items=whole()[:3], total=Total.of({key: TREE[key] for key in ("a/one", "b")})),
    "a file more": lambda: messages(items=[*whole(), Announced("x", TreeLink("a"))]),
    "other bytes": lambda: messages(items=[Announced("a/one", TREE["a/one"]), b"eno", *whole()[2:]]),
    "more bytes": lambda: messages(items=[Announced("a/one", TREE["a/one"]), b"one and more", *whole()[2:]]),
    "another mode": lambda: messages(items=[Announced("a/one", entry(ONE, 0o644)), *whole()[1:]]),
    "another link": lambda: messages(items=[*whole()[:2], Announced("b", TreeLink("two")), *whole()[3:]]),
    "another mode than was listed, and a total that agrees": lambda: messages(
        items=[Announced("a/one", entry(ONE, 0o777)), *whole()[1:]],
        total=Total.of({**TREE, "a/one": entry(ONE, 0o777)}),
    ),
    "twice": lambda: messages(items=[*whole(), *whole()[:2]]),
    "another total": lambda: messages(total=Total.of({})),
    "a list with a path twice": lambda: [*messages()[:2], *messages()[1:]],
}


@pytest.mark.parametrize("which", _BROKEN)
def test_what_is_not_the_whole_tree_is_said_to_be_none(tmp_path: Path, which: str) -> None:
    with pytest.raises(DataLossError) as caught:
        write(_BROKEN[which](), tmp_path / "out")
    assert caught.value.reason == "EXPORT_INCOMPLETE"
    assert not (tmp_path / "out" / "b").is_symlink()  # links come last, so none of a tree that isn't whole


_DISORDER: dict[str, Callable[[], list[Message]]] = {
    "nothing": list,
    "no header": lambda: messages()[1:],
    "two headers": lambda: [*messages()[:2], messages()[0], *messages()[2:]],
    "a list among the pieces": lambda: [*messages()[:3], messages()[1], *messages()[3:]],
    "more after the end": lambda: [*messages(), messages()[1]],
    "an empty message": lambda: [*messages()[:2], Message(), *messages()[2:]],
    "bytes first": lambda: messages(items=[b"x", *whole()]),
}


@pytest.mark.parametrize("which", _DISORDER)
def test_what_is_out_of_order_is_no_export(tmp_path: Path, which: str) -> None:
    with pytest.raises(BrokerError) as caught:
        write(_DISORDER[which](), tmp_path / "out")
    assert caught.value.reason in {"PROTOCOL_ERROR", "EXPORT_INCOMPLETE"}


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a/one/below", ""])
def test_no_path_leads_out_whoever_sends_it(tmp_path: Path, path: str) -> None:
    listing = {**TREE, path: entry(b"x")}
    items: list[Piece] = [*whole(), Announced(path, entry(b"x")), b"x"]
    with pytest.raises(BrokerError):
        write(messages(listing, items), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "a/../../x"])
def test_a_link_that_leads_out_is_written_only_where_it_is_asked_for(tmp_path: Path, target: str) -> None:
    listing: Mapping[str, Entry] = {"l": TreeLink(target)}
    sent = messages(listing, [Announced("l", TreeLink(target))])
    with pytest.raises(BrokerError):
        write(sent, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write(sent, tmp_path / "out", unsafe_links=True)
    assert os.readlink(tmp_path / "out" / "l") == target  # noqa: PTH115 - the very text


async def test_a_folder_comes_in_order_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "none" / "within").mkdir(parents=True)
    (tmp_path / "b" / "c" / "f").write_bytes(b"12")
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "z").symlink_to("/nowhere")
    source = Source(tmp_path)
    found = [item async for item in source.pieces()]
    assert [item.path if isinstance(item, Announced) else item for item in found] == ["a", "b/c/f", b"12", "z"]
    assert source.empty == ("none/within",)


async def test_a_folder_that_cannot_be_a_tree_brings_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BrokerError) as caught:
        _ = [item async for item in Source(tmp_path).pieces()]
    assert caught.value.reason == "FOLDER_UNFIT"

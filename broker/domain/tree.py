"""What a workspace's tree holds, and what changes one state of it into another. Pure.

A state is a set of paths, each a file or a symbolic link; folders are what paths imply, so a folder without anything in
it is no part of a state. Of a file's mode the nine permission bits count. A digest of a state is that of its root object
(``broker.workspace.nodes``), which holds 32 random bytes: it tells nothing to who doesn't have the tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from broker.domain.canonical import MAX_SAFE_INTEGER, JsonObject, JsonValue, canonical, digest
from broker.domain.paths import check_path
from broker.errors import DataLossError, FieldViolation, InvalidArgumentError

FORMAT = "broker.effect.v1"
"""First field of every effect; another set of fields gets another name."""

PERMISSIONS = 0o777
"""The bits of a mode that a state keeps."""

MAX_TARGET = 4095
"""Bytes that a link's target has at most."""

STAGED = ".broker-staged-"
"""How a name begins, at the top of a folder of the host, in which the broker gets ready what it is about to put there."""

RESERVED = ".broker-restore"
"""Name at a tree's top that no tree may have: the broker's own, in the sandbox in which files are put back."""

OUTSIDE = ".broker-outside"
"""Another: what is changed elsewhere stands below it in an effect, so that no path of a tree is the same."""

_KEPT_NAMES = frozenset({RESERVED, OUTSIDE})

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file: ``sha256:`` digest of its bytes, how many they are, and its permission bits."""

    digest: str
    size: int
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class TreeLink:
    """A symbolic link, and the text that it points to; never followed by the broker."""

    target: str


Entry: TypeAlias = TreeFile | TreeLink


@dataclass(frozen=True, slots=True)
class Change:
    """One path, before and after; ``None`` where it isn't there. The two differ."""

    path: str
    before: Entry | None
    after: Entry | None

    @property
    def kind(self) -> str:
        """``added``, ``removed``, ``changed`` (bytes or target), ``mode`` (nothing but the mode) or ``type``."""
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        if isinstance(self.before, TreeFile) and isinstance(self.after, TreeFile):
            return "mode" if self.before.digest == self.after.digest else "changed"
        return "changed" if type(self.before) is type(self.after) else "type"


@dataclass(frozen=True, slots=True)
class Effect:
    """What a run wants to change: one change a path, in the order of the paths' UTF-8 bytes."""

    changes: tuple[Change, ...]

    @classmethod
    def of(cls, changes: Iterable[Change]) -> Effect:
        """An effect of changes in any order."""
        return cls(tuple(sorted(changes, key=lambda change: change.path.encode())))

    @classmethod
    def between(cls, before: Mapping[str, Entry], after: Mapping[str, Entry]) -> Effect:
        """What makes ``after`` of ``before``."""
        paths = {*before, *after}
        found = (Change(path, before.get(path), after.get(path)) for path in paths)
        return cls.of(change for change in found if change.before != change.after)

    @property
    def paths(self) -> frozenset[str]:
        """What it touches."""
        return frozenset(change.path for change in self.changes)

    def inverse(self) -> Effect:
        """What takes it back."""
        return Effect(tuple(Change(change.path, change.after, change.before) for change in self.changes))

    def renames(self) -> dict[str, str]:
        """New path -> old path, where a file went and one of the same bytes came; each path once, in order."""
        gone: dict[str, list[str]] = {}
        for change in self.changes:
            if change.after is None and isinstance(change.before, TreeFile) and change.before.size:
                gone.setdefault(change.before.digest, []).append(change.path)
        found: dict[str, str] = {}
        for change in self.changes:
            if change.before is None and isinstance(change.after, TreeFile) and gone.get(change.after.digest):
                found[change.path] = gone[change.after.digest].pop(0)
        return found

    def body(self) -> list[JsonValue]:
        """The changes as JSON; ``read_effect`` reads them back."""
        return [
            {"path": change.path, "before": entry_body(change.before), "after": entry_body(change.after)}
            for change in self.changes
        ]

    def digest(self, salt: str) -> str:
        """``sha256:`` over the RFC 8785 form of the changes and ``salt``, 64 hexadecimal digits of the call's own: without
        it nobody can test the digest against guesses.
        """
        return digest(canonical({"format": FORMAT, "salt": salt, "changes": self.body()}))


def entry_body(entry: Entry | None) -> JsonValue:
    """An entry as JSON."""
    match entry:
        case None:
            return None
        case TreeFile(content, size, mode):
            return {"file": content, "size": size, "mode": mode}
        case TreeLink(target):
            return {"link": target}


def read_entry(value: JsonValue) -> Entry | None:
    """An entry from ``entry_body``.

    Raises:
        DataLossError: it is none.
    """
    match value:
        case None:
            return None
        case {"file": str(content), "size": int(size), "mode": int(mode), **more} if (
            _SHA256.fullmatch(content)
            and size >= 0
            and 0 <= mode <= PERMISSIONS
            and not isinstance(size, bool)
            and not isinstance(mode, bool)
            and not more
        ):
            return TreeFile(content, size, mode)
        case {"link": str(target), **more} if not more:
            return TreeLink(target)
        case _:
            raise DataLossError("an entry of a tree can't be read", reason="TREE_DAMAGED")


def read_effect(value: JsonValue) -> Effect:
    """An effect from ``Effect.body``.

    Raises:
        DataLossError: it is none, its paths are out of order, or a change changes nothing.
    """
    if not isinstance(value, list):
        raise DataLossError("an effect can't be read", reason="TREE_DAMAGED")
    changes = []
    for item in value:
        if not isinstance(item, dict) or set(item) != {"path", "before", "after"} or not isinstance(item["path"], str):
            raise DataLossError("an effect can't be read", reason="TREE_DAMAGED")
        changes.append(Change(item["path"], read_entry(item["before"]), read_entry(item["after"])))
    paths = [change.path.encode() for change in changes]
    if paths != sorted(set(paths)) or any(change.before == change.after for change in changes):
        raise DataLossError("an effect can't be read: its changes are out of order", reason="TREE_DAMAGED")
    return Effect(tuple(changes))


def check_change(change: Change, field: str) -> None:
    """Lets a change pass that a state can take: it comes from a sandbox or a client.

    Args:
        change: as it came.
        field: what to name in the refusal.

    Raises:
        InvalidArgumentError: ``PATH_INVALID``: its path is none; ``ENTRY_INVALID``: what shall be there can't be.
    """
    check_path(change.path, field)
    check_not_reserved(change.path, field)
    match change.after:
        case TreeFile(content, size, mode):
            fits = bool(_SHA256.fullmatch(content)) and 0 <= size <= MAX_SAFE_INTEGER and 0 <= mode <= PERMISSIONS
            wrong = "" if fits else "is no file with a digest, a size and permission bits"
        case TreeLink(target):
            wrong = bad_target(target)
        case None:
            wrong = "" if change.before is not None else "neither was there nor shall be"
    if wrong:
        raise InvalidArgumentError(
            f"{change.path!a} {wrong}", reason="ENTRY_INVALID", violations=(FieldViolation(field, wrong),)
        )


def reserved(path: str) -> bool:
    """Does a path lie where no tree may have one?"""
    top = path.split("/", 1)[0]
    return top in _KEPT_NAMES or top.startswith(STAGED)


def check_not_reserved(path: str, field: str) -> None:
    """Lets a path pass that a tree may have.

    Raises:
        InvalidArgumentError: it is, or lies in, ``RESERVED``, ``OUTSIDE`` or a name that begins with ``STAGED`` (``PATH_INVALID``).
    """
    if reserved(path):
        wrong = f"begins with {path.split('/', 1)[0]}, a name that the broker keeps for itself"
        raise InvalidArgumentError(
            f"the path {path!a} {wrong}",
            reason="PATH_INVALID",
            violations=(FieldViolation(field, wrong),),
            hint="Give it another name.",
        )


def bad_target(target: str) -> str:
    """Why a link can't be kept that has this target; empty where it can."""
    if any("\ud800" <= char <= "\udfff" for char in target):
        return "is a link to a name that isn't UTF-8"
    if not target or "\0" in target or len(target.encode()) > MAX_TARGET:
        return f"is a link whose target doesn't have 1 to {MAX_TARGET} bytes without NUL"
    return ""


def members(value: JsonValue) -> JsonObject:
    """A JSON object.

    Raises:
        DataLossError: it is none.
    """
    if not isinstance(value, dict):
        raise DataLossError("what is kept of an effect can't be read", reason="TREE_DAMAGED")
    return value

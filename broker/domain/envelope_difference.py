"""Which fields of two envelopes differ: what a refusal names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

import msgspec

MAX_NAMED = 8
"""So many fields a refusal names."""
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_BARE = re.compile(r"[A-Za-z0-9_./@+-]{1,200}")
_MAX_KEY = 60


def difference(old: bytes, new: bytes) -> list[tuple[str, object, object]]:
    """The fields in which two envelopes differ, in the order of their names.

    A field is named by its path, such as ``container.user``, ``run.argv[1]``, ``files[data/in.csv].digest`` (elements that
    have a path go by it) or ``arguments["a b"]``; a path has no comma. Of a part that only one of them has, the whole part
    is named. Lists of different lengths, or in another order, differ as a whole.

    Returns:
        Path, value in ``old``, value in ``new``; ``None`` where there is none.

    Raises:
        ValueError: one of them isn't a JSON object.
    """
    return list(_differences("", _read(old), _read(new)))


def named(fields: list[tuple[str, object, object]]) -> str:
    """The paths of the first ``MAX_NAMED``, with commas between them: the metadata ``fields`` of a refusal."""
    return ",".join(path for path, _, _ in fields[:MAX_NAMED])


def _read(data: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"no envelope: {error}"
        raise ValueError(message) from error


def _differences(path: str, old: object, new: object) -> Iterator[tuple[str, object, object]]:
    before, after = _parts(old), _parts(new)
    in_list = isinstance(old, list)
    if type(old) is not type(new) or before is None or after is None or (in_list and _are_apart(before, after)):
        if type(old) is not type(new) or old != new:
            yield path, old, new
        return
    for key in sorted(before.keys() | after.keys(), key=str):
        where = path + _step(key, first=not path, in_list=in_list)
        if key not in before or key not in after:
            yield where, before.get(key), after.get(key)
        else:
            yield from _differences(where, before[key], after[key])


def _are_apart(before: Mapping[str | int, object], after: Mapping[str | int, object]) -> bool:
    """Whether two lists can't be told apart element by element: other numbers of them, or the same in another order."""
    if before.keys() == after.keys():
        return list(before) != list(after)
    return any(isinstance(key, int) for key in before.keys() ^ after.keys())


def _parts(value: object) -> Mapping[str | int, object] | None:
    """What a value is made of, by name; ``None`` where it has no parts."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, list):
        return None
    paths = [item.get("path") if isinstance(item, dict) else None for item in value]
    texts = [path for path in paths if isinstance(path, str)]
    if len(set(texts)) == len(value):
        return dict(zip(texts, value, strict=True))
    return dict(enumerate(value))


def _step(key: str | int, *, first: bool, in_list: bool) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    if not in_list and _PLAIN.fullmatch(key):
        return key if first else f".{key}"
    if _BARE.fullmatch(key):
        return f"[{key}]"
    cut = key if len(key) <= _MAX_KEY else f"{key[:_MAX_KEY]}..."
    return f"[{json.dumps(cut)}]".replace(",", "\\u002c")

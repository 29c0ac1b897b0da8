"""Trees, effects and what is kept of them, made up by hypothesis."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping

from hypothesis import strategies as st

from broker.domain.tree import Effect, Entry, TreeFile, TreeLink

CONTENTS = (b"", b"a", b"a\n", b"b\n", b"a\nb\n", b"\x00", b"\xff", bytes(range(256)))
"""What files hold; few, so that two of them often hold the same."""


def address(data: bytes) -> str:
    """The digest of a file's bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


BY_DIGEST: Mapping[str, bytes] = {address(data): data for data in CONTENTS}

files = st.builds(
    lambda data, mode: TreeFile(address(data), len(data), mode),
    st.sampled_from(CONTENTS),
    st.sampled_from((0o644, 0o755, 0, 0o777)),
)
links = st.builds(TreeLink, st.sampled_from(("a", "../x", "\u202e", "a\nb")))
entries: st.SearchStrategy[Entry] = files | links
paths = st.sampled_from(("a", "b", "c", "d/e", "d/f", "d/g/h", "\u65e5", "\U0001f600", "\uffee"))
trees = st.dictionaries(paths, entries, max_size=6)
effects = st.builds(Effect.between, trees, trees)


async def content(digest: str) -> AsyncIterator[bytes]:
    """A file's bytes, one by one: pieces may have any size."""
    for byte in BY_DIGEST[digest]:
        yield bytes([byte])


def applied(tree: Mapping[str, Entry], effect: Effect) -> dict[str, Entry]:
    """A tree as an effect makes it; fails where the effect starts from something else."""
    made = dict(tree)
    for change in effect.changes:
        assert made.get(change.path) == change.before, change
        if change.after is None:
            del made[change.path]
        else:
            made[change.path] = change.after
    return made

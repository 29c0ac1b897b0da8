"""Where links of a tree lead. Pure."""

from __future__ import annotations

from collections.abc import Mapping

_MOST_LINKS = 40  # after so many the kernel gives up, too


def leaves(path: str, links: Mapping[str, str]) -> bool:
    """Does a link lead out of its tree, by itself or through other links of the tree?

    One that leads nowhere, or in a circle, doesn't.

    Args:
        path: of the link.
        links: path -> target, of all links of the tree.
    """
    at = path.split("/")[:-1]
    waiting = _parts(links[path])
    if waiting is None:
        return True
    followed = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            if not at:
                return True
            at.pop()
            continue
        at.append(part)
        target = links.get("/".join(at))
        if target is None:
            continue
        followed += 1
        inner = _parts(target)
        if inner is None:
            return True
        if followed > _MOST_LINKS:
            return False
        at.pop()
        waiting.extend(inner)
    return False


def _parts(target: str) -> list[str] | None:
    """The parts of a target, the first one last; ``None`` where it is absolute."""
    if target.startswith("/"):
        return None
    return [part for part in reversed(target.split("/")) if part not in {"", "."}]

"""Names of people and agents, which no ledger holds: from the state directory or from texts in a bundle, while there are any."""

from __future__ import annotations

from typing import Protocol

from broker.domain.ids import ID_PATTERN


class Names(Protocol):
    """By whose word an id has a name."""

    def name(self, identity: str) -> str:
        """``agent:<name>`` or ``human:<name>``; empty where it isn't known or has been erased."""

    def find(self, name: str) -> str:
        """The id of an agent or human, by id, by name, or by ``agent:<name>`` and ``human:<name>``; empty for nobody."""


class NoNames:
    """Nobody's name is known; ids are found as they are."""

    def name(self, identity: str) -> str:  # noqa: ARG002 - the protocol's
        """Empty."""
        return ""

    def find(self, name: str) -> str:
        """The id itself."""
        return name if ID_PATTERN.fullmatch(name) else ""


class KnownNames:
    """Names by id, as somebody has read them.

    Args:
        names: id -> ``agent:<name>`` or ``human:<name>``.
    """

    def __init__(self, names: dict[str, str]) -> None:
        self._names = dict(names)
        self._ids: dict[str, str] = {}
        for identity, name in names.items():
            self._ids[name] = identity
            # A human before an agent of the same name: who means the agent says so.
            short = name.partition(":")[2]
            if name.startswith("human:") or short not in self._ids:
                self._ids[short] = identity

    def name(self, identity: str) -> str:
        """The name; empty where it isn't known."""
        return self._names.get(identity, "")

    def find(self, name: str) -> str:
        """The id; empty where nobody has that name."""
        return name if name in self._names else self._ids.get(name, "")

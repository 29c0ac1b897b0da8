"""What is known of calls and votes besides the ledger, which holds no text: from a state directory, a bundle, or nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from broker.domain.canonical import canonical
from broker.errors import DataLossError
from broker.ledger.verify_bundle import Archive, Fault
from broker.replay.members import part, text
from broker.replay.timeline.model import CallTexts, Kept


class Texts(Protocol):
    """Where texts are."""

    def calls(self, calls: Iterable[str]) -> Mapping[str, CallTexts]:
        """What is kept of calls, by id; those of which nothing can be known are missing."""

    def votes(self, votes: Iterable[tuple[str, int]]) -> Mapping[tuple[str, int], str]:
        """Why people voted as they did, by approval and the vote's number there; those that aren't kept are missing."""


class NoTexts:
    """Nothing is at hand."""

    def calls(self, calls: Iterable[str]) -> Mapping[str, CallTexts]:  # noqa: ARG002 - the protocol's
        """Nothing."""
        return {}

    def votes(self, votes: Iterable[tuple[str, int]]) -> Mapping[tuple[str, int], str]:  # noqa: ARG002 - the protocol's
        """Nothing."""
        return {}


class DisclosedTexts:
    """Texts of approvals as a bundle discloses them; the bundle's verifier holds each to what the entries commit to.

    Args:
        path: a bundle that ``open_packed`` could read.

    Raises:
        DataLossError: it can't be read (``BUNDLE_UNREADABLE``).
    """

    def __init__(self, path: Path) -> None:
        self._calls: dict[str, CallTexts] = {}
        self._votes: dict[tuple[str, int], str] = {}
        self.names: dict[str, str] = {}
        """Names of people and agents by id, as those were shown them who decided."""
        try:
            archive = Archive(str(path))
            with closing(archive.zip):
                for member in archive.members:
                    if member.startswith("approvals/"):
                        self._take(json.loads(archive.read(member)))
        except (Fault, OSError, ValueError, EOFError, RuntimeError, NotImplementedError, RecursionError) as error:
            raise DataLossError(
                f"{path} can't be read as a bundle: {error}",
                reason="BUNDLE_UNREADABLE",
                hint="Get it again from who made it.",
            ) from error

    def calls(self, calls: Iterable[str]) -> Mapping[str, CallTexts]:
        """What people were shown of calls."""
        return {call: self._calls[call] for call in calls if call in self._calls}

    def votes(self, votes: Iterable[tuple[str, int]]) -> Mapping[tuple[str, int], str]:
        """Their reasons."""
        return {vote: self._votes[vote] for vote in votes if vote in self._votes}

    def _take(self, disclosed: Any) -> None:  # noqa: ANN401 - whatever lies there
        if not isinstance(disclosed, dict):
            return
        approval = text(disclosed, "approval")
        for number, said in part(disclosed, "votes").items():
            if number.isdecimal() and isinstance(said, dict):
                self._votes[approval, int(number)] = text(said, "reason")
        envelope = json.loads(text(disclosed, "envelope") or "{}")
        if not isinstance(envelope, dict):
            return
        self._name(envelope)
        call = part(envelope, "call")
        name = text(call, "call_id")
        if name:
            files = tuple(text(item, "path") for item in call.get("files") or () if isinstance(item, dict))
            arguments = canonical(part(call, "arguments")).decode()
            self._calls[name] = CallTexts(Kept.KEPT, text(envelope, "purpose"), arguments, files=files)

    def _name(self, envelope: dict[str, Any]) -> None:
        agent = text(part(part(envelope, "call"), "lineage"), "agent")
        for identity, name in part(envelope, "people").items():
            if isinstance(name, str) and name != identity:
                self.names[identity] = f"{'agent' if identity == agent else 'human'}:{name}"

"""What a tool finds on its sandbox's loopback in a rerun: never a host. Which gate it is, ``choosing`` decides."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from broker.domain.run import EgressVerdict
from broker.sandbox.egress.recorded import RecordedGate
from broker.sandbox.egress.refusal import RefusedError
from broker.sandbox.engine import PROXY_PORT, Duplex, EgressGate

_MOST_HEAD = 16 * 1024
"""Bytes of a request's head that are read before it is answered."""
_SHOWN = 200
_MOST_ASKED = 64
"""Requests that are told of one by one."""


class SealedGate(EgressGate, Protocol):
    """A gate of a rerun: it reaches nobody."""

    @property
    def answers(self) -> bool:
        """Whether it serves answers that were recorded."""

    def asked(self) -> tuple[str, ...]:
        """What the tool wanted and wasn't given, a line each, visible and cut; at most 64."""

    def told(self) -> tuple[str, ...]:
        """What a reader should know of what it was given, a sentence each."""


@dataclass(slots=True)
class RefusingGate:
    """Implements ``SealedGate``: HTTP is answered with 502 and a plain sentence, and every other connection is closed."""

    _asked: list[str] = field(default_factory=list)

    @property
    def answers(self) -> bool:
        """It serves none."""
        return False

    def asked(self) -> tuple[str, ...]:
        """See ``SealedGate.asked``."""
        return tuple(self._asked)

    def told(self) -> tuple[str, ...]:
        """Nothing was given."""
        return ()

    async def serve(self, listener: int, stream: Duplex) -> None:
        """See ``EgressGate.serve``."""
        with suppress(ConnectionError):
            if listener == PROXY_PORT:
                self._note(await _first_line(stream))
                refused = RefusedError(
                    EgressVerdict.UNREACHABLE,
                    "this is a rerun of a recorded call: it reaches nobody, and no answer was kept",
                    status=HTTPStatus.BAD_GATEWAY,
                )
                await stream.write(refused.answer())
            else:
                self._note(f"a connection to port {listener}")
            await stream.end()

    def _note(self, what: str) -> None:
        if len(self._asked) < _MOST_ASKED:
            self._asked.append(what)


@dataclass(frozen=True, slots=True)
class AnsweringGate:
    """Implements ``SealedGate``: gives the answers that were recorded, each once, and nothing else."""

    gate: RecordedGate

    @property
    def answers(self) -> bool:
        """It serves those that were recorded."""
        return True

    def asked(self) -> tuple[str, ...]:
        """See ``SealedGate.asked``."""
        report = self.gate.report
        missed = [f"{item.what}: {item.why}" for item in (*report.not_recorded, *report.refused)]
        missed += [f"{report.more_not_recorded} more"] if report.more_not_recorded else []
        return tuple(missed[:_MOST_ASKED])

    def told(self) -> tuple[str, ...]:
        """See ``SealedGate.told``."""
        report = self.gate.report
        found = [f"{len(report.served)} request(s) got the answers that were recorded."] if report.served else []
        other = sum(not item.same_body for item in report.served)
        found += [f"{other} of them had another body than the recorded one."] if other else []
        found += [f"{len(report.not_asked)} recorded request(s) were not made again."] if report.not_asked else []
        return tuple(found)

    async def serve(self, listener: int, stream: Duplex) -> None:
        """See ``EgressGate.serve``."""
        await self.gate.serve(listener, stream)


async def _first_line(stream: Duplex) -> str:
    """Reads the head of a request; gives its first line as a person can read it, without what may be secret in it."""
    head = bytearray()
    while b"\r\n\r\n" not in head and len(head) < _MOST_HEAD:
        piece = await stream.read()
        if not piece:
            break
        head += piece
    line = bytes(head).partition(b"\r\n")[0].decode("ascii", "backslashreplace")
    words = line.split(" ")
    target = words[1].partition("?")[0] if len(words) > 1 else ""
    text = f"{words[0]} {target}"
    return "".join(char if char.isprintable() else "?" for char in text)[:_SHOWN]

"""A refusal on the way out, and how the tool reads it."""

from __future__ import annotations

import json
from http import HTTPStatus

from broker.domain.run import EgressRule, EgressVerdict

VERDICT_HEADER = "Broker-Verdict"
"""Carries the verdict in every answer that is the broker's own; a host's header of that name is dropped."""


class RefusedError(Exception):
    """What a tool wanted isn't done, or is cut.

    Args:
        verdict: goes into the record and into the answer.
        message: a sentence for a person; holds no secret and nothing of the broker's host.
        status: of the answer, where the tool still can be answered.
        hint: what to do next.
        rule: the rule that was meant, where one names this host and port.
    """

    def __init__(
        self,
        verdict: EgressVerdict,
        message: str,
        *,
        status: HTTPStatus = HTTPStatus.FORBIDDEN,
        hint: str = "",
        rule: EgressRule | None = None,
    ) -> None:
        super().__init__(message)
        self.verdict = verdict
        self.message = message
        self.status = status
        self.hint = hint
        self.rule = rule

    def answer(self, *, head_only: bool = False) -> bytes:
        """The whole HTTP answer; it ends the connection. ``head_only`` where a HEAD is answered."""
        return own_answer(self.verdict.value, self.message, self.status, hint=self.hint, head_only=head_only)


def own_answer(verdict: str, message: str, status: HTTPStatus, *, hint: str = "", head_only: bool = False) -> bytes:
    """A whole HTTP answer of the broker's own; it ends the connection. ``head_only`` where a HEAD is answered."""
    told = {"verdict": verdict, "message": message, "hint": hint}
    body = json.dumps({key: value for key, value in told.items() if value}).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"{VERDICT_HEADER}: {verdict}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    return head if head_only else head + body


def malformed(message: str, hint: str = "") -> RefusedError:
    """What the tool sent can't be passed on."""
    return RefusedError(EgressVerdict.MALFORMED, message, status=HTTPStatus.BAD_REQUEST, hint=hint)


def bad_host(message: str) -> RefusedError:
    """What the host sent can't be passed on."""
    return RefusedError(EgressVerdict.MALFORMED, message, status=HTTPStatus.BAD_GATEWAY)


def mismatch(message: str, hint: str = "") -> RefusedError:
    """What the tool names isn't what the rule names, or two names of the host disagree."""
    return RefusedError(EgressVerdict.MISMATCH, message, hint=hint)


def unreachable(message: str, status: HTTPStatus = HTTPStatus.BAD_GATEWAY, *, hint: str = "") -> RefusedError:
    """The host can't be reached, doesn't prove itself, or broke off."""
    return RefusedError(EgressVerdict.UNREACHABLE, message, status=status, hint=hint)


def limit(message: str, status: HTTPStatus = HTTPStatus.FORBIDDEN) -> RefusedError:
    """A bound is reached."""
    return RefusedError(EgressVerdict.LIMIT, message, status=status)

"""``--since`` and ``--until``: a time, or how long ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from broker.cli.durations import parse_duration
from broker.errors import FieldViolation, InvalidArgumentError
from broker.replay.asking.answer import Span

SinceOption = Annotated[
    str, typer.Option("--since", help="From then on: 2026-01-31, 2026-01-31T09:30:00Z, or how long ago, such as 7d.")
]
UntilOption = Annotated[str, typer.Option("--until", help="Before then; in the same forms.")]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def span_of(since: str, until: str) -> Span:
    """From when to when, as the options say it.

    Raises:
        InvalidArgumentError: one is no time (``TIME_INVALID``), or the end is before the beginning.
    """
    now = datetime.now(UTC)
    first = moment_of(since, option="--since", now=now) if since else 0
    last = moment_of(until, option="--until", now=now) if until else Span().until
    if last <= first:
        raise _invalid("--until", "is not after --since")
    return Span(first, last)


def moment_of(text: str, *, option: str, now: datetime) -> int:
    """A moment in microseconds since 1970: a date or a time (UTC where it says nothing else), or how long ago it was.

    Raises:
        InvalidArgumentError: it is none (``TIME_INVALID``).
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = now - parse_duration(text, option=option)
        except (InvalidArgumentError, OverflowError) as error:
            raise _invalid(option, f"{text[:40]!a} is neither a time such as 2026-01-31T09:30:00Z nor 7d") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return (moment.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)
    except OverflowError as error:
        raise _invalid(option, f"{text[:40]!a} is in no year from 1 to 9999 in UTC") from error


def _invalid(option: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{option} {why}", reason="TIME_INVALID", violations=(FieldViolation(option, why),))

"""``broker sessions``: a human starts an agent's work, or registers when it may start by itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from broker.cli.call_view import print_fields, print_table, short_time
from broker.cli.durations import parse_duration
from broker.cli.output import OutputModel, emit
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.client import AsyncBroker, Schedule, Session
from broker.errors import FieldViolation, InvalidArgumentError
from broker.settings import DEFAULT_STATE

app = typer.Typer(no_args_is_help=True, help="Start, end and list sessions of agents.")

SessionArgument = Annotated[str, typer.Argument(help="The session, sessions/ses_... or ses_....")]
RequiredWorkspace = Annotated[
    str, typer.Option("--workspace", "-w", envvar="BROKER_WORKSPACE", help="Workspace that it is valid in.")
]
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 1440


class SessionOutput(OutputModel):
    """A session; ``schedule`` is empty where a human started it, ``ended`` is null while it is open."""

    name: str
    agent: str
    workspace: str
    starter: str
    schedule: str
    created: datetime | None
    expires: datetime | None
    ended: datetime | None


class SessionsOutput(OutputModel):
    """Sessions, newest first."""

    items: list[SessionOutput]


class ScheduleOutput(OutputModel):
    """When an agent may start sessions by itself, in UTC; days are 1 (Monday) to 7, none is each day."""

    name: str
    agent: str
    workspace: str
    weekdays: list[int]
    from_minute: int
    until_minute: int
    session_ttl_s: float
    expires: datetime | None
    registrar: str


def _output(session: Session) -> SessionOutput:
    return SessionOutput(
        name=session.name,
        agent=session.agent,
        workspace=session.workspace,
        starter=session.starter,
        schedule=session.schedule,
        created=session.created,
        expires=session.expires,
        ended=session.ended,
    )


@app.command()
def start(
    *,
    agent: Annotated[str, typer.Option("--agent", help="The agent, by name.")],
    workspace: RequiredWorkspace,
    ttl: Annotated[str, typer.Option("--ttl", help="How long it lasts, at most 24h: 90s, 30m, 8h. Default: 8h.")] = "",
    schedule: Annotated[
        str, typer.Option("--schedule", help="For an agent that starts it itself: under which schedule.")
    ] = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Start a session for an agent, under your own certificate: you answer for what it does in it.

    Example: broker sessions start --agent reporter -w sales --ttl 8h --identity human/ada
    """
    ttl_s = parse_duration(ttl, option="--ttl").total_seconds() if ttl else None
    session = Remote(address, identity, ca, state).run(
        lambda broker: broker.start_session(agent, workspace, ttl_s=ttl_s, schedule=schedule)
    )
    emit(_output(session), as_json=as_json, render=_render)


@app.command()
def end(
    session: SessionArgument,
    *,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """End a session: calls that name it are refused from then on.

    Example: broker sessions end ses_01jx0000000000000000000000
    """
    ended = Remote(address, identity, ca, state).run(lambda broker: broker.end_session(session))
    emit(_output(ended), as_json=as_json, render=_render)


@app.command()
def show(
    session: SessionArgument,
    *,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Show a session.

    Example: broker sessions show ses_01jx0000000000000000000000
    """
    found = Remote(address, identity, ca, state).run(lambda broker: broker.get_session(session))
    emit(_output(found), as_json=as_json, render=_render)


@app.command("list")
def list_sessions(
    *,
    agent: Annotated[str, typer.Option("--agent", help="The agent, by name.")] = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """List sessions, newest first: an agent's own, or those that you started.

    Example: broker sessions list --agent reporter
    """

    async def work(broker: AsyncBroker) -> SessionsOutput:
        return SessionsOutput(items=[_output(item) async for item in broker.list_sessions(agent)])

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render_list)


@app.command("schedule")
def create_schedule(
    *,
    agent: Annotated[str, typer.Option("--agent", help="The agent, by name.")],
    workspace: RequiredWorkspace,
    until: Annotated[str, typer.Option("--for", help="How long the schedule itself counts: 8h, 30d.")],
    window: Annotated[
        str, typer.Option("--window", help="Daily window in UTC, HH:MM-HH:MM. Default: the whole day.")
    ] = "00:00-24:00",
    days: Annotated[str, typer.Option("--days", help="Days, such as mon,tue,fri. Default: each day.")] = "",
    ttl: Annotated[str, typer.Option("--ttl", help="How long each session lasts at the most: 90s, 30m, 8h.")] = "8h",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Register when an agent may start sessions by itself; you are the starter of each.

    Example: broker sessions schedule --agent nightly -w sales --window 01:00-03:00 --days mon,tue --for 30d
    """
    first, last = _window(window)
    life = parse_duration(until, option="--for")
    ttl_s = parse_duration(ttl, option="--ttl").total_seconds()
    weekdays = _weekdays(days)

    async def work(broker: AsyncBroker) -> Schedule:
        return await broker.create_schedule(
            agent,
            workspace,
            session_ttl_s=ttl_s,
            expires=datetime.now(UTC) + life,
            weekdays=weekdays,
            from_minute=first,
            until_minute=last,
        )

    made = Remote(address, identity, ca, state).run(work)
    output = ScheduleOutput(
        name=made.name,
        agent=made.agent,
        workspace=made.workspace,
        weekdays=list(made.weekdays),
        from_minute=made.from_minute,
        until_minute=made.until_minute,
        session_ttl_s=made.session_ttl_s,
        expires=made.expires,
        registrar=made.registrar,
    )
    emit(output, as_json=as_json, render=_render_schedule)


def _weekdays(text: str) -> tuple[int, ...]:
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in _DAYS]
    if unknown:
        raise _wrong("--days", f"{unknown[0]!r} is none of {', '.join(_DAYS)}")
    return tuple(sorted({_DAYS.index(word) + 1 for word in words}))


def _window(text: str) -> tuple[int, int]:
    first, separator, last = text.partition("-")
    start_minute, end_minute = _minute(first), _minute(last)
    if not separator or start_minute is None or end_minute is None or start_minute >= end_minute:
        raise _wrong("--window", f"{text!r} is no window such as 01:00-03:30 within one day")
    return start_minute, end_minute


def _minute(text: str) -> int | None:
    hours, separator, minutes = text.partition(":")
    digits = len(hours) == len(minutes) == 2 and (hours + minutes).isascii() and (hours + minutes).isdigit()
    if not (separator and digits) or int(minutes) >= 60:
        return None
    total = int(hours) * 60 + int(minutes)
    return total if total <= _DAY_MINUTES else None


def _wrong(option: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{option}: {why}", reason="SCHEDULE_INVALID", violations=(FieldViolation(option, why),)
    )


def _render(item: SessionOutput) -> None:
    print_fields(
        {
            "session": item.name,
            "agent": item.agent,
            "workspace": item.workspace,
            "starter": item.starter,
            "schedule": item.schedule,
            "created": short_time(item.created),
            "expires": short_time(item.expires),
            "ended": short_time(item.ended),
        }
    )


def _render_list(output: SessionsOutput) -> None:
    rows = [
        [item.name, item.agent, item.workspace, short_time(item.created), "ended" if item.ended else ""]
        for item in output.items
    ]
    print_table(["session", "agent", "workspace", "created", ""], rows)


def _render_schedule(item: ScheduleOutput) -> None:
    print_fields(
        {
            "schedule": item.name,
            "agent": item.agent,
            "workspace": item.workspace,
            "days": ", ".join(_DAYS[day - 1] for day in item.weekdays) or "each day",
            "window": f"{item.from_minute // 60:02}:{item.from_minute % 60:02}"
            f" to {item.until_minute // 60:02}:{item.until_minute % 60:02} UTC",
            "expires": short_time(item.expires),
            "registrar": item.registrar,
        }
    )

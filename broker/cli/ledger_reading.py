"""``broker ledger show`` and ``tail``: entries as they are recorded, from a file or from a running broker."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.ledger_line import line, tone
from broker.cli.output import OutputModel, console, emit, errors, printable
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.client import AsyncBroker, EntryFilter, LedgerEntry
from broker.domain.canonical import JsonObject
from broker.errors import DataLossError, FieldViolation, InvalidArgumentError
from broker.ledger.encoding import NotCanonicalError, decode
from broker.ledger.reader import LedgerFile, open_ledger
from broker.ledger.source import Row, UnreadableError
from broker.settings import DEFAULT_STATE, StatePaths

_TO_MILLISECONDS = 23
"""Characters of a time that are shown."""

FileArgument = Annotated[
    Path | None, typer.Argument(help="A database file or a copy of one; default: broker.db of the state directory.")
]
FromOption = Annotated[int, typer.Option("--from", min=0, help="Start at this entry.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Most entries to print.")]
TypeOption = Annotated[str, typer.Option("--type", help="Only entries of this type, such as intent.")]
CallOption = Annotated[str, typer.Option("--call", help="Only entries about this call, such as call_01...")]
AgentOption = Annotated[str, typer.Option("--agent", help="Only entries about this agent, by id or by name.")]


class EntryOutput(OutputModel):
    """One entry: its number, its hash, and its members as recorded."""

    seq: int
    leaf: str
    entry: JsonObject


class ShowOutput(OutputModel):
    """Entries of a ledger, unverified. ``next_seq`` goes on where the limit cut; ``incomplete`` says what may lack.

    ``file`` is empty where a running broker was asked.
    """

    file: str
    items: tuple[EntryOutput, ...]
    next_seq: int | None
    incomplete: str


class TailOutput(OutputModel):
    """Entries, oldest first, unverified. With ``--follow`` one such object comes for each entry, on a line of its own."""

    items: tuple[EntryOutput, ...]


def show(
    *,
    file: FileArgument = None,
    state: StateOption = DEFAULT_STATE,
    first: FromOption = 0,
    limit: LimitOption = 100,
    entry_type: TypeOption = "",
    call: CallOption = "",
    server: Annotated[
        bool, typer.Option("--server", help="Ask the running broker, which shows what you may see, not the file.")
    ] = False,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print entries as they are recorded. Names, purposes and arguments are not in them, only commitments.

    This doesn't verify: run `broker ledger verify` first, or `broker ledger prove` for a single entry.

    Example: broker ledger show --type intent --limit 10
    """
    call = call.removeprefix("calls/")
    if not server:
        path = file or StatePaths(state).database
        with open_ledger(path) as ledger:
            output = _from_file(ledger, first, limit, entry_type, call)
        emit(output, as_json=as_json, render=_render_show)
        return
    if file is not None:
        why = "can't be given with --server: the broker has the ledger"
        raise InvalidArgumentError(f"FILE {why}", reason="USAGE", violations=(FieldViolation("FILE", why),))
    chosen = EntryFilter(types=(entry_type,) if entry_type else (), call=call, first_seq=first)

    async def work(broker: AsyncBroker) -> ShowOutput:
        items: list[EntryOutput] = []
        async for entry in broker.ledger.list(chosen, page_size=min(limit + 1, 1000)):
            if len(items) == limit:
                return ShowOutput(file="", items=tuple(items), next_seq=entry.seq, incomplete="")
            items.append(entry_output(entry))
        return ShowOutput(file="", items=tuple(items), next_seq=None, incomplete="")

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render_show)


def tail(
    *,
    count: Annotated[int, typer.Option("--lines", "-n", min=0, max=10_000, help="How many of the last entries.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new entry, until Ctrl-C.")] = False,
    entry_type: TypeOption = "",
    agent: AgentOption = "",
    call: CallOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Print the last entries of a running broker's ledger that you may see, and with --follow each new one.

    Example: broker ledger tail --follow --type decision
    """
    chosen = EntryFilter(types=(entry_type,) if entry_type else (), agent=agent, call=call)

    async def work(broker: AsyncBroker) -> None:
        last: list[LedgerEntry] = []
        if count:
            async for entry in broker.ledger.list(chosen, newest_first=True, page_size=min(count, 1000)):
                last.append(entry)
                if len(last) == count:
                    break
        last.reverse()
        if last or not follow:
            emit(TailOutput(items=tuple(map(entry_output, last))), as_json=as_json, render=_render_tail)
        if follow:
            await _follow(broker, chosen, last, as_json=as_json)

    Remote(address, identity, ca, state).run(work)


async def _follow(broker: AsyncBroker, chosen: EntryFilter, last: list[LedgerEntry], *, as_json: bool) -> None:
    first = last[-1].seq + 1 if last else await _end(broker)
    wanted = EntryFilter(types=chosen.types, agent=chosen.agent, call=chosen.call, first_seq=first)
    while True:
        async with aclosing(broker.ledger.watch(wanted)) as entries:
            async for entry in entries:
                emit(TailOutput(items=(entry_output(entry),)), as_json=as_json, render=_render_tail)


async def _end(broker: AsyncBroker) -> int:
    """The number after the last entry that the caller may see."""
    async with aclosing(broker.ledger.list(newest_first=True, page_size=1)) as entries:
        async for entry in entries:
            return entry.seq + 1
    return 0


def entry_output(entry: LedgerEntry) -> EntryOutput:
    """An entry as commands print it."""
    return EntryOutput(seq=entry.seq, leaf=entry.leaf.hex(), entry=entry.body)


def _from_file(ledger: LedgerFile, first: int, limit: int, entry_type: str, call: str) -> ShowOutput:
    items: list[EntryOutput] = []
    next_seq: int | None = None
    try:
        for row in ledger.rows(first):
            item = _row_output(row)
            if (entry_type and item.entry.get("type") != entry_type) or (call and item.entry.get("call_id") != call):
                continue
            if len(items) == limit:
                next_seq = item.seq
                break
            items.append(item)
    except (UnreadableError, NotCanonicalError) as error:
        raise DataLossError(
            f"an entry of {ledger.path} can't be read: {error}",
            reason="LEDGER_UNREADABLE",
            hint="Run `broker ledger verify` on the file: it names the place.",
        ) from error
    return ShowOutput(file=str(ledger.path), items=tuple(items), next_seq=next_seq, incomplete=ledger.incomplete)


def _row_output(row: Row) -> EntryOutput:
    if not isinstance(row.seq, int) or not isinstance(row.leaf, bytes) or not isinstance(row.data, bytes):
        raise UnreadableError(f"a column of entry {row.seq} has a wrong type")
    return EntryOutput(seq=row.seq, leaf=row.leaf.hex(), entry=decode(row.data))


def _render_show(output: ShowOutput) -> None:
    if output.incomplete:
        errors.print(f"incomplete: {output.incomplete}", markup=False, style="bold red", soft_wrap=True)
    _print(output.items)
    if output.next_seq is not None:
        console.print(f"more from entry {output.next_seq} on: --from {output.next_seq}", style="dim")


def _render_tail(output: TailOutput) -> None:
    _print(output.items)


def _print(items: tuple[EntryOutput, ...]) -> None:
    for item in items:
        entry = item.entry
        head = f"{item.seq:>6}  {str(entry.get('ts', ''))[:_TO_MILLISECONDS]}  {entry.get('type', '')!s:<19}"
        console.print(printable(f"{head}  {line(entry)}"), markup=False, soft_wrap=True, style=tone(entry))

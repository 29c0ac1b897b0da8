"""What the commands of ``broker replay`` and ``broker ask`` read: a state directory's ledger or a bundle, verified as it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.ledger_place import checkpoints_of, ledger_of, reading_progress
from broker.cli.local import Local, open_local
from broker.cli.output import OutputModel, console
from broker.domain.ports import Transaction
from broker.errors import DataLossError, InvalidArgumentError
from broker.ledger.bundle_texts import NamedTexts, kept_texts
from broker.ledger.held import Held, read_folder
from broker.ledger.source_kinds import open_source
from broker.ledger.verifier import Known
from broker.replay.casebook import Casebook, Mark
from broker.replay.making import open_casebook
from broker.replay.naming import KnownNames, Names
from broker.replay.packed import open_packed, policy_in_bundle

BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", help="Read this evidence bundle instead of the state directory; no broker is needed."),
]


class MarkOutput(OutputModel):
    """What is known of the entries that an answer comes from. ``sound`` says whether they verify.

    ``verdict`` and ``why`` are those of ``broker ledger verify``; ``changed`` means that the ledger is not the one that was
    read before. ``head`` and ``checkpoint_root`` are hexadecimal; the votes were checked up to entry ``votes_checked``.
    """

    sound: bool
    verdict: str
    why: str
    origin: str
    entries: int
    head: str
    checkpoint_size: int
    checkpoint_root: str
    votes_checked: int
    extract: str
    complete: str


@dataclass(frozen=True, slots=True)
class Case:
    """What is open: the casebook, the names, and the state directory where it is one."""

    casebook: Casebook
    names: Names
    local: Local | None
    """``None`` for a bundle: then nothing but what is in the bundle can be had."""
    policy_text: Callable[[str], str | None]
    """Digest -> text of a policy; ``None`` where it isn't kept."""

    def who(self, identity: str) -> str:
        """How a person or agent is shown: the name where there is one, else the id."""
        return self.names.name(identity) or identity

    def named(self, option: str, name: str) -> str:
        """The id of somebody whom an option names.

        Raises:
            InvalidArgumentError: nobody has that name (``IDENTITY_UNKNOWN``).
        """
        found = self.names.find(name)
        if not found:
            raise InvalidArgumentError(
                f"{option}: nobody is known as {name[:80]!a}",
                reason="IDENTITY_UNKNOWN",
                hint="See who there is with `broker identity list`; in a bundle only ids may be known.",
            )
        return found


@contextmanager
def open_case(state: Path, bundle: Path | None, *, as_json: bool) -> Iterator[Case]:
    """Opens what there is to read; the ledger is verified on the way, and what comes of it is the casebook's mark.

    Raises:
        BrokerError: there is no such state directory or bundle, or it can't be read at all.
    """
    with ExitStack() as stack:
        progress = stack.enter_context(reading_progress("reading and verifying entries", as_json=as_json))
        if bundle is not None:
            casebook, names = stack.enter_context(open_packed(bundle))
            yield Case(casebook, names, None, partial(policy_in_bundle, bundle))
            return
        local = stack.enter_context(open_local(state))
        # The checkpoints first: a ledger that grows meanwhile is never behind them.
        held: tuple[Held, ...] = read_folder(checkpoints_of(state))
        how = ledger_of(state)
        casebook = stack.enter_context(
            open_casebook(
                lambda: open_source(how), Known(held=held, votes=True), local.paths.casebook, progress=progress
            )
        )
        yield Case(casebook, KnownNames(local.read(_names)), local, partial(_policy_text, local))


def mark_output(mark: Mark) -> MarkOutput:
    """A mark as it is printed."""
    return MarkOutput(
        sound=mark.sound,
        verdict=mark.verdict,
        why=mark.why,
        origin=mark.origin,
        entries=mark.entries,
        head=mark.head,
        checkpoint_size=mark.checkpoint_size,
        checkpoint_root=mark.checkpoint_root,
        votes_checked=mark.votes_checked,
        extract=mark.extract,
        complete=mark.complete,
    )


def render_mark(mark: MarkOutput) -> None:
    """Prints what the answer rests on; loudly where it rests on nothing."""
    if not mark.sound:
        console.print(f"DOESN'T VERIFY: {mark.verdict}", style="bold red", end=" ")
        console.print(mark.why, markup=False, soft_wrap=True)
        console.print("  what is shown may be wrong: see `broker ledger verify`", style="red", soft_wrap=True)
        return
    part = f", an extract ({mark.extract}): {mark.complete}" if mark.extract else ""
    reach = f"a signed checkpoint of {mark.checkpoint_size}" if mark.checkpoint_size else "no checkpoint"
    text = f"{mark.verdict}: {mark.entries} entries of {mark.origin}{part}, {reach}"
    console.print(text, markup=False, style="dim", soft_wrap=True)


def check_sound(mark: Mark) -> None:
    """Lets pass what verifies.

    Raises:
        DataLossError: ``LEDGER_UNSOUND``: it doesn't; says how.
    """
    if not mark.sound:
        raise DataLossError(
            f"the ledger doesn't verify: {mark.verdict}, {mark.why}",
            reason="LEDGER_UNSOUND",
            hint="Run `broker ledger verify`, and keep the ledger as it is.",
        )


def _policy_text(local: Local, digest: str) -> str | None:
    def work(tx: Transaction) -> str | None:
        named = NamedTexts(policy={digest.removeprefix("sha256:")})
        texts = kept_texts(tx, local.vault, named, {"policy": [], "specs": []})
        return next((data.decode() for _, data in texts), None)

    return local.read(work)


def _names(tx: Transaction) -> dict[str, str]:
    # An erased name has given way to its id.
    return {item.id: f"{item.kind}:{item.name}" for item in tx.identities.all() if item.name != item.id}

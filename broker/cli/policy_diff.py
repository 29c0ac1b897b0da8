"""``broker policy diff``: what another policy file would change, in words, and what it would widen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from broker.cli.output import OutputModel, console, emit
from broker.cli.policy import Json, local_catalogue
from broker.policy.difference import PolicyDifference, compare
from broker.policy.live import read_snapshot
from broker.policy.snapshot import Snapshot
from broker.policy.widening import Kind
from broker.rpc.methods import served_methods
from broker.settings import DEFAULT_STATE, StatePaths

MAX_LINES = 200
"""Most lines of one kind that are printed for a person; it is said how many more there are."""

WIDENS_SENSITIVELY = 1
"""Exit code where somebody may approve, or call at tier 4, what they could not."""


class WideningOutput(OutputModel):
    """Something that the new policy allows and the old one denies.

    ``kind`` is ``approver``, ``tier4-call`` or ``other``; ``row`` is a rule's id, or a grant's text.
    """

    kind: str
    sentence: str
    row: str


class DiffOutput(OutputModel):
    """What changes from the policy in force to another: one sentence for each row, and what that widens.

    ``sensitive`` says whether anything touches the two-person rule (``approver`` or ``tier4-call``).
    """

    file: str
    old_digest: str
    new_digest: str
    rules_added: list[str]
    rules_removed: list[str]
    rules_changed: list[str]
    grants_added: list[str]
    grants_removed: list[str]
    widens: list[WideningOutput]
    sensitive: bool


def diff(
    file: Annotated[Path, typer.Argument(help="The policy file that is to replace the one in force.")],
    state: Annotated[
        Path, typer.Option("--state", envvar="BROKER_STATE", help="State directory of the broker.")
    ] = DEFAULT_STATE,
    as_json: Json = False,
) -> None:
    """Say in words what a policy file would change in the state directory's policy, and what it would widen.

    It changes nothing. Exit code 0: nobody could approve, or call at tier 4, what they can't now; 1: somebody could, or
    that can't be ruled out; 2: the file may not go live.

    Example: broker policy diff new-policy.csv
    """
    catalogue = local_catalogue(state)
    old = read_snapshot(StatePaths(state).policy / "policy.csv")
    new = read_snapshot(file, known_tools=frozenset(catalogue.names), known_rpcs=served_methods())
    tiers = {tool.spec.name: tool.spec.risk for tool in catalogue.all()}
    output = diff_output(file, old, new, compare(old, new, people=(), tools=tiers, workspaces=()))
    emit(output, as_json=as_json, render=render_diff)
    if output.sensitive:
        raise typer.Exit(WIDENS_SENSITIVELY)


def diff_output(file: Path, old: Snapshot, new: Snapshot, found: PolicyDifference) -> DiffOutput:
    """A difference as it is printed."""
    return DiffOutput(
        file=str(file),
        old_digest=old.digest,
        new_digest=new.digest,
        rules_added=list(found.rules_added),
        rules_removed=list(found.rules_removed),
        rules_changed=list(found.rules_changed),
        grants_added=list(found.grants_added),
        grants_removed=list(found.grants_removed),
        widens=[WideningOutput(kind=item.kind.value, sentence=item.sentence, row=item.row) for item in found.widens],
        sensitive=bool(found.sensitive),
    )


def render_diff(output: DiffOutput) -> None:
    """Prints a difference for a person: a line for each row, then what is widened, then a verdict."""
    for mark, style, sentences in (
        ("+ rule ", "green", output.rules_added),
        ("- rule ", "red", output.rules_removed),
        ("~ rule ", "yellow", output.rules_changed),
        ("+ grant ", "green", output.grants_added),
        ("- grant ", "red", output.grants_removed),
    ):
        _lines(mark, style, sentences)
    for title, style, sensitive in (("WIDENS (two-person rule) ", "bold red", True), ("WIDENS ", "yellow", False)):
        chosen = [item.sentence for item in output.widens if (item.kind != Kind.OTHER.value) is sensitive]
        _lines(title, style, chosen)
    console.print(_verdict(output), soft_wrap=True)


def _lines(mark: str, style: str, sentences: Sequence[str]) -> None:
    for sentence in sentences[:MAX_LINES]:
        console.print(Text.assemble((mark, style), sentence), soft_wrap=True)
    if len(sentences) > MAX_LINES:
        console.print(Text.assemble((mark, style), f"... and {len(sentences) - MAX_LINES} more"))


def _verdict(output: DiffOutput) -> Text:
    if output.sensitive:
        return Text("It touches the two-person rule: who may approve, or what may be called at tier 4.", "bold red")
    if output.widens:
        return Text("It widens what may be done, but neither who may approve nor what may be called at tier 4.")
    return Text("It widens nothing.", "green")

"""What a tool specification says of its effects, held together: which fields need or exclude each other. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from broker.domain.spec_egress import Problem, SpecEgress
from broker.domain.spec_outside import SpecOutside
from broker.domain.spec_parts import Run, SpecWorkspace


@dataclass(frozen=True, slots=True)
class Effects:
    """The fields of a specification that say what a call changes, and whether that can be taken back."""

    effects: str
    reversibility: str
    workspace: SpecWorkspace | None
    outside: SpecOutside | None
    egress: tuple[SpecEgress, ...]

    @property
    def writes(self) -> tuple[str, ...]:
        """Patterns of the workspace's paths that it may change."""
        return () if self.workspace is None else self.workspace.writes


def effect_conflicts(spec: Effects, *, run: Run, answers: bool) -> Iterator[Problem]:
    """What doesn't fit together.

    Args:
        spec: the fields about effects.
        run: how the tool runs.
        answers: does it declare a result or result files?
    """
    if spec.effects == "outside":
        yield from _outside(spec) if spec.outside is None else _with_programs(spec, spec.outside, run, answers=answers)
        return
    if spec.outside is not None:
        yield ("outside",), "needs `effects: outside` beside it"
    if spec.effects == "none":
        yield from _none(spec)
    else:
        yield from _workspace(spec)


def _none(spec: Effects) -> Iterator[Problem]:
    if spec.writes:
        yield ("workspace", "writes"), "needs `effects: workspace` beside it"
    if spec.reversibility != "no_effect":
        yield ("reversibility",), "must be `no_effect` for a tool without effects"


def _workspace(spec: Effects) -> Iterator[Problem]:
    if not spec.writes:
        yield ("effects",), "needs the paths that it may change in `workspace.writes`"
    if spec.reversibility != "exact":
        yield ("reversibility",), "must be `exact` for a tool with `effects: workspace`"
    if spec.egress:
        # What reaches a host has an effect there which no diff shows, and could carry the files away.
        yield ("egress",), "must be empty for a tool with `effects: workspace`: it runs without hosts and secrets"
    for number, rule in enumerate(spec.egress):
        if rule.secret is not None:
            yield ("egress", number, "secret"), "a tool with `effects: workspace` gets no secret"


def _outside(spec: Effects) -> Iterator[Problem]:
    if spec.reversibility == "no_effect":
        yield (
            ("reversibility",),
            "must be `irreversible` for a tool with `effects: outside` and no programs in `outside`",
        )
    elif spec.reversibility != "irreversible":
        yield ("outside",), f"is needed for `{spec.reversibility}`: the programs that plan it and take it back"
    if spec.writes:
        yield ("workspace", "writes"), "needs programs in `outside` beside it"


def _with_programs(spec: Effects, outside: SpecOutside, run: Run, *, answers: bool) -> Iterator[Problem]:
    if spec.reversibility not in ("exact", "compensable"):
        yield ("reversibility",), "must be `exact` or `compensable` for a tool with programs in `outside`"
    if spec.reversibility == "exact" and outside.rehearse is None:
        yield ("outside", "rehearse"), "is needed for `exact`: what was never tried counts for nothing"
    if run.python is None or run.python.file is None or run.python.args:
        yield ("run",), "must be a Python file without `args` for a tool with programs in `outside`"
    if spec.workspace is not None and spec.egress:
        # Where it fails half-way, what it did to a copy is nothing, and what it did to a host is not: it does the one or the other.
        yield ("egress",), "must be empty for a tool with programs in `outside` that works on its workspace's files"
    for number, rule in enumerate(spec.egress):
        if rule.record:
            # Its call is several runs, which may lie days and starts of the broker apart.
            yield (
                ("egress", number, "record"),
                "can't be kept of a tool with programs in `outside`: its call is several runs",
            )
    if answers:
        yield (
            ("outside",),
            "is of tools without `result` and `files.outputs`: what comes out of their programs are items",
        )

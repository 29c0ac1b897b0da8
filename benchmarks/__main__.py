"""Runs one benchmark by its name. A benchmark is a module here with ``measure() -> Report``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

import structlog

from benchmarks.report import Report, print_json, print_table

BENCHMARKS: Mapping[str, str] = MappingProxyType(
    {
        "call": "one call through the whole broker beside the same container by the docker command",
        "directory": "a directory of the host with 50,000 files: looked at again, and ten files put there",
        "ledger": "appends beside bare commits on both databases, verification and proofs at a million entries",
        "policy": "one decision at 1,000, 10,000 and 100,000 rules, beside casbin as its manual says, and loading",
        "replay": "a what-if over a million recorded decisions, beside casbin alone, and questions to a million entries",
        "sandbox": "warm, cold, burst and sustained calls beside docker run, docker exec and the engine's floor",
        "undo": "ten files changed and taken back in trees of 1,000 and 50,000, beside cp -a and git stash",
    },
)
"""Name of a benchmark, which is the name of its module here, and what it measures."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a benchmark, or lists them; returns the exit code: 0, 1 where a target was missed, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Runs one benchmark.")
    choices = [*sorted(BENCHMARKS), "all"]
    parser.add_argument("name", nargs="?", choices=choices, help="which, or all; without it they are listed")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object; a missed target isn't an error then"
    )
    options = parser.parse_args(arguments)
    if options.name is None:
        for name, summary in BENCHMARKS.items():
            print(f"{name:10} {summary}")
        return 0
    # Standard output is the report's alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    names = sorted(BENCHMARKS) if options.name == "all" else [options.name]
    met = [_run(name, as_json=options.json) for name in names]
    return 0 if all(met) or options.json else 1


def _run(name: str, *, as_json: bool) -> bool:
    # Imported only now: a benchmark may need what another doesn't, such as a container engine's client.
    report = cast("Report", importlib.import_module(f"benchmarks.{name}").measure())
    if as_json:
        print_json(report)
    else:
        print_table(report)
    return all(measure.met for measure in report.measures)


if __name__ == "__main__":
    sys.exit(main())

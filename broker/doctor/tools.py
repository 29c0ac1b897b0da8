"""Tool specifications: are they valid, and which images do they need?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from broker.doctor.finding import Finding, fail, ok, warn
from broker.errors import BrokerError
from broker.settings import StatePaths
from broker.specs.lint import Loaded, load_paths
from broker.specs.shipped import shipped_folder


@dataclass(frozen=True, slots=True)
class Tools:
    """Names of the tools and of the images they need. ``names`` is ``None`` where not all specs could be read."""

    names: frozenset[str] | None
    images: frozenset[str]
    findings: tuple[Finding, ...]


def judge_specs(loaded: tuple[Loaded, ...]) -> Tools:
    """Would the broker take these specifications? One fault anywhere refuses them all."""
    specs = [item.spec for item in loaded if item.spec is not None]
    images = frozenset(spec.image for spec in specs)
    errors = [str(error) for item in loaded for error in item.errors]
    warnings = [str(finding) for item in loaded for finding in item.findings if finding.warning]
    if errors:
        found = f"{errors[0]} ({len(errors)} in all)"
        return Tools(None, images, (fail("tools", found, "broker tools lint shows each with its place."),))
    names = frozenset(spec.name for spec in specs)
    if not names:
        return Tools(names, images, (fail("tools", "there is no tool", "Install the broker again."),))
    told = ", ".join(sorted(names))
    if warnings:
        return Tools(names, images, (warn("tools", f"{told}; {warnings[0]}", "broker tools lint shows all."),))
    return Tools(names, images, (ok("tools", told),))


def probe_tools(state: Path) -> Tools:
    """Reads the shipped specifications and the operator's own."""
    own = StatePaths(state).tool_specs
    try:
        folders = [shipped_folder(), *([own] if own.is_dir() else [])]
    except BrokerError as error:
        return Tools(None, frozenset(), (fail("tools", error.message, error.hint),))
    return judge_specs(load_paths(folders))

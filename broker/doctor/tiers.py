"""The operator's table of tiers and workflows: would the broker start with them?"""

from __future__ import annotations

from pathlib import Path

from broker.doctor.finding import Finding, fail, ok
from broker.errors import BrokerError
from broker.settings import Settings, StatePaths
from broker.specs.tiers import TIERS_FILE, load_tiers
from broker.specs.workflows import load_workflows


def probe_tiers(state: Path, settings: Settings) -> Finding:
    """Reads the table as the broker does at its start."""
    folder = StatePaths(state).tool_specs
    try:
        load_tiers(
            folder if folder.is_dir() else None,
            chat_only_allowed=settings.unsafe_chat_only_quorum,
            slack_allowed=settings.unsafe_slack_approves_tier4,
        )
    except BrokerError as error:
        return fail("tiers", _first(error), error.hint)
    own = folder / TIERS_FILE
    return ok("tiers", f"{own}" if own.is_file() else "the shipped table")


def probe_workflows(state: Path) -> Finding:
    """Reads the workflows as the broker does at its start."""
    try:
        found = load_workflows(StatePaths(state).workflows)
    except BrokerError as error:
        return fail("workflows", _first(error), error.hint)
    return ok("workflows", ", ".join(found) or "there is none")


def _first(error: BrokerError) -> str:
    if not error.violations:
        return error.message
    first = error.violations[0]
    return f"{first.field}: {first.description} ({len(error.violations)} in all)"

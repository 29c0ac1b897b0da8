"""All checks in their order. One that breaks is itself a finding: a doctor that falls silent helps nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from broker.doctor import directory, documents, engine, folders, handshake, listeners, machine, tiers, tools, trees
from broker.doctor.finding import Finding, fail
from broker.errors import BrokerError, InvalidArgumentError
from broker.sandbox.address import engine_address
from broker.sandbox.facts import EngineFacts, ask_engine
from broker.settings import DEFAULT_STATE, Settings, StatePaths


@dataclass
class Place:
    """What is examined: this machine, and a state directory on it. Each fact is gathered once."""

    state: Path = DEFAULT_STATE
    expect_running: bool = False
    """Is it wrong if no broker runs?"""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @cached_property
    def settings(self) -> tuple[Settings, Finding]:
        """The settings, and what is to be said of them."""
        return documents.probe_settings(self.state)

    @cached_property
    def running(self) -> directory.Running:
        """The broker that runs on the state directory, if any."""
        return directory.find_running(self.state)

    @cached_property
    def ledger(self) -> tuple[datetime | None, tuple[Finding, ...]]:
        """The time of the last ledger entry, and what is to be said of the ledger."""
        return documents.probe_ledger(self.state, self.now)

    @cached_property
    def tools(self) -> tools.Tools:
        """The tools that the broker would offer."""
        return tools.probe_tools(self.state)

    @cached_property
    def engine(self) -> EngineFacts | Finding:
        """What the engine says of itself; a finding where none answers."""
        try:
            return ask_engine(engine_address(self.settings[0].engine))
        except BrokerError as error:
            return engine.judge_absence(error.message)

    @property
    def initialised(self) -> bool:
        """Is there a state directory?"""
        return self.state.is_dir()


def _check_engine(place: Place) -> Iterable[Finding]:
    facts = place.engine
    return (facts,) if isinstance(facts, Finding) else engine.judge_engine(facts)


def _check_images(place: Place) -> Iterable[Finding]:
    facts = place.engine
    # Without an engine there is nothing to say of images: the engine's own finding says it all.
    return () if isinstance(facts, Finding) else (engine.judge_images(facts, place.tools.images),)


def _check_clock(place: Place) -> Iterable[Finding]:
    facts = place.engine
    skew = None if isinstance(facts, Finding) else (facts.system_time - datetime.now(UTC)).total_seconds()
    return machine.judge_clock(
        place.now, ledger=place.ledger[0], engine_skew_s=skew, monotonic=machine.has_monotonic_clock()
    )


def _check_running(place: Place) -> Iterable[Finding]:
    yield directory.judge_running(place.running, expected=place.expect_running)
    if place.running.locked and place.running.address:
        ca = StatePaths(place.state).ca_certificate
        yield handshake.judge(place.running.address, problem=handshake.probe(place.running.address, ca))


def _check_listeners(place: Place) -> Iterable[Finding]:
    return listeners.check_listeners(place.settings[0], running=place.running.locked)


def _check_policy(place: Place) -> Iterable[Finding]:
    return (documents.probe_policy(place.state, place.tools.names),) if place.initialised else ()


def _check_certificates(place: Place) -> Iterable[Finding]:
    return documents.probe_certificates(place.state, place.now) if place.initialised else ()


def _check_tiers(place: Place) -> Iterable[Finding]:
    return (tiers.probe_tiers(place.state, place.settings[0]),) if place.initialised else ()


def _check_workflows(place: Place) -> Iterable[Finding]:
    return (tiers.probe_workflows(place.state),) if place.initialised else ()


def _check_trees(place: Place) -> Iterable[Finding]:
    return (trees.probe_folder(place.state, place.settings[0]),) if place.initialised else ()


def _check_folders(place: Place) -> Iterable[Finding]:
    return (
        folders.probe_folders(place.state, place.settings[0], running=place.running.locked) if place.initialised else ()
    )


CHECKS: Mapping[str, Callable[[Place], Iterable[Finding]]] = MappingProxyType(
    {
        "python": lambda _: (machine.probe_python(),),
        "engine": _check_engine,
        "images": _check_images,
        "clock": _check_clock,
        "disk": lambda place: (machine.probe_disk(place.state),),
        "settings": lambda place: (place.settings[1],),
        "listeners": _check_listeners,
        "tools": lambda place: place.tools.findings,
        "tiers": _check_tiers,
        "workflows": _check_workflows,
        "state": lambda place: (directory.probe_presence(place.state),),
        "permissions": lambda place: directory.probe_permissions(place.state),
        "workspaces": _check_trees,
        "folders": _check_folders,
        "certificates": _check_certificates,
        "policy": _check_policy,
        "ledger": lambda place: place.ledger[1],
        "running": _check_running,
    }
)
"""Name -> check. A check gives one finding or more; none where it has nothing to look at."""


def examine(place: Place, only: Iterable[str] = ()) -> tuple[Finding, ...]:
    """Runs the checks, all or the named ones, in their order.

    Raises:
        InvalidArgumentError: a name is no check's (``CHECK_UNKNOWN``).
    """
    wanted = tuple(only) or tuple(CHECKS)
    for name in wanted:
        if name not in CHECKS:
            raise InvalidArgumentError(
                f"there is no check {name!r}", reason="CHECK_UNKNOWN", hint=f"Checks: {', '.join(CHECKS)}"
            )
    findings: list[Finding] = []
    for name in (name for name in CHECKS if name in wanted):
        try:
            findings.extend(CHECKS[name](place))
        except Exception as error:  # noqa: BLE001 -- the fail-closed boundary: a check that breaks has not passed
            findings.append(fail(name, f"the check itself failed: {error!r}", "Look at what it names, then report it."))
    return tuple(findings)

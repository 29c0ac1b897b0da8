"""Whether a sandbox holds, from what was seen inside it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from broker.domain.canonical import JsonObject
from broker.sandbox.probe_files import FILE_RULES
from broker.sandbox.probe_judging import Expected, Holds, Probe
from broker.sandbox.probe_limits import LIMIT_RULES
from broker.sandbox.probe_reach import REACH_RULES
from broker.sandbox.probe_rights import RIGHT_RULES


def judge(seen: JsonObject, expected: Expected) -> tuple[Probe, ...]:
    """Every probe, in the order in which a person should read them."""
    return tuple(rule(seen, expected) for rule in (*RIGHT_RULES, *FILE_RULES, *REACH_RULES, *LIMIT_RULES))


def unfit(probes: Iterable[Probe]) -> bool:
    """Whether something that must hold doesn't."""
    return any(probe.must and probe.holds is Holds.NO for probe in probes)

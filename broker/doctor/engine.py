"""The container engine: does it answer, is it new enough, does it enforce limits, has it the sandbox images?"""

from __future__ import annotations

from collections.abc import Iterable

from broker.doctor.finding import Finding, fail, ok, warn
from broker.sandbox.capabilities import missing
from broker.sandbox.facts import EngineFacts

OLDEST_API = (1, 41)
"""Docker 20.10."""


def judge_absence(why: str) -> Finding:
    """No engine answers."""
    mend = (
        "Start it, or install one: scripts/engine.sh does both for root on Debian, and says what to do elsewhere. "
        "Another address: DOCKER_HOST, or engine in settings.yaml."
    )
    return fail("engine", why, mend)


def judge_engine(facts: EngineFacts) -> tuple[Finding, ...]:
    """Version, and what keeps a container's limits and system calls in bounds."""
    api = ".".join(map(str, facts.api_version))
    found = f"Docker Engine {facts.version}, API {api}, {facts.storage_driver}, at {facts.address}"
    if facts.api_version < OLDEST_API:
        findings = [fail("engine", found, "The API must be 1.41 or newer: install Docker Engine 20.10 or newer.")]
    else:
        findings = [ok("engine", found)]
    if facts.cgroup_version in (1, 2):
        findings.append(ok("cgroups", f"version {facts.cgroup_version}"))
    else:
        mend = "Without cgroups no limit holds: mount /sys/fs/cgroup, then restart the engine."
        findings.append(fail("cgroups", "the engine names no cgroup version", mend))
    if not facts.seccomp:
        mend = "Use a kernel and an engine with seccomp: without it a tool may make every system call."
        findings.append(fail("seccomp", "the engine filters no system calls", mend))
    else:
        findings.append(ok("seccomp", "the engine filters system calls"))
    findings.extend(_judge_runtimes(facts))
    findings.extend(_judge_warnings(facts.warnings))
    return tuple(findings)


def _judge_runtimes(facts: EngineFacts) -> Iterable[Finding]:
    """Under which runtimes tools may run, and what each leaves out; a tool that names none gets the engine's default."""
    if facts.default_runtime in facts.unknown_runtimes:
        mend = (
            "Tools that name no runtime are refused. Make runc, crun or runsc the engine's default, or name one of them "
            "in every tool spec."
        )
        yield fail("runtimes", f"the engine's default runtime {facts.default_runtime!r} keeps nobody knows what", mend)
    for runtime in facts.runtimes:
        lacks = "; ".join(missing(runtime)) or "keeps every limit"
        default = " (the default)" if runtime.runtime == facts.default_runtime else ""
        yield ok("runtimes", f"{runtime.runtime}{default}: {lacks}")


def _judge_warnings(warnings: Iterable[str]) -> Iterable[Finding]:
    """What the engine itself warns of: a limit that it can't keep is grave, all else is worth a look."""
    for warning in warnings:
        text = warning.removeprefix("WARNING: ")
        lowered = text.lower()
        if any(words in lowered for words in ("no memory limit", "no swap limit", "no pids limit", "no cpu cfs quota")):
            mend = (
                "Enable this cgroup controller (kernel command line: cgroup_enable=memory swapaccount=1), then reboot."
            )
            yield fail("cgroups", text, mend)
        else:
            yield warn("engine", text, "The engine's own warning; see its documentation.")


def judge_images(facts: EngineFacts, wanted: frozenset[str]) -> Finding:
    """Has the engine an image for each that the tools name?

    Args:
        facts: what the engine has.
        wanted: names that tool specs give in ``image``.
    """
    current = {image.name for image in facts.images if image.current}
    missing = sorted(wanted - current)
    if missing:
        return fail("images", f"the engine has no image for: {', '.join(missing)}", "Build them: make images")
    return ok("images", ", ".join(sorted(current & wanted)) or "none is needed")

"""Which limits a container runtime keeps, as measured; a limit that it ignores is refused, never assumed.

A runtime is known by the program that the engine starts for it, not by the name that somebody gave it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from broker.domain.run import Limits, Profile
from broker.errors import FailedPreconditionError
from broker.sandbox.engine import Capabilities

_LINUX = frozenset({"runc", "crun", "io.containerd.runc.v1", "io.containerd.runc.v2"})
"""Programs that build a container of the kernel's own parts: all limits are the kernel's."""
_GVISOR = frozenset({"runsc", "io.containerd.runsc.v1"})
_OWN_KERNEL_BYTES = 48 * 2**20
"""What a sandbox with a kernel of its own needs to start a tool at all; its kernel takes 20 MiB of them."""
_OLD_SHIM = "io.containerd.runtime.v1.linux"
"""Lets runc do the work, on engines of 2020."""


def runtime_capabilities(name: str, info: Mapping[str, object]) -> Capabilities:
    """What a runtime of an engine does.

    Args:
        name: the engine's name for it; empty takes the engine's default.
        info: the engine's answer to ``GET /info``.

    Raises:
        FailedPreconditionError: the engine has no such runtime (``RUNTIME_MISSING``), or this broker doesn't know what
            it keeps (``RUNTIME_UNSUPPORTED``).
    """
    listing = info.get("Runtimes")
    runtimes = listing if isinstance(listing, Mapping) else {}
    chosen = name or str(info.get("DefaultRuntime") or "")
    if chosen not in runtimes:
        has = ", ".join(sorted(map(str, runtimes))) or "none"
        raise FailedPreconditionError(
            f"the engine has no container runtime {chosen!r}; it has: {has}",
            reason="RUNTIME_MISSING",
            hint="Register it with the engine (docs/sandbox.md says how), or name one that it has.",
            metadata={"runtime": chosen},
        )
    entry = runtimes[chosen]
    facts = entry if isinstance(entry, Mapping) else {}
    program = PurePosixPath(str(facts.get("path") or facts.get("runtimeType") or chosen)).name
    arguments = facts.get("runtimeArgs")
    return program_capabilities(chosen, program, tuple(map(str, arguments)) if isinstance(arguments, list) else ())


def known_runtimes(info: Mapping[str, object]) -> tuple[tuple[Capabilities, ...], tuple[str, ...]]:
    """All runtimes that an engine names, by name: those that this broker can use, and the names of the others."""
    listing = info.get("Runtimes")
    known, unknown = [], []
    for name in sorted(map(str, listing)) if isinstance(listing, Mapping) else ():
        try:
            known.append(runtime_capabilities(name, info))
        except FailedPreconditionError:
            unknown.append(name)
    return tuple(known), tuple(unknown)


def program_capabilities(name: str, program: str, arguments: Sequence[str]) -> Capabilities:
    """What the program of a runtime does when it is started with these arguments.

    Raises:
        FailedPreconditionError: this broker doesn't know the program (``RUNTIME_UNSUPPORTED``).
    """
    if program in _LINUX or program == _OLD_SHIM:
        return Capabilities(name)
    if program in _GVISOR:
        return _gvisor(name, arguments)
    raise FailedPreconditionError(
        f"nobody has measured which limits the container runtime {name!r} (program {program!r}) keeps",
        reason="RUNTIME_UNSUPPORTED",
        hint="Use runc, crun or runsc.",
        metadata={"runtime": name},
    )


def check_profile(capabilities: Capabilities, profile: Profile) -> None:
    """Refuses a profile with a limit that the runtime doesn't keep.

    Raises:
        FailedPreconditionError: the first such limit, and what to do about it (``LIMIT_UNSUPPORTED``).
    """
    for limit, kept, advice in _limits(capabilities, profile.limits):
        if not kept:
            raise FailedPreconditionError(
                f"the container runtime {capabilities.runtime!r} doesn't keep the limit {limit!r}",
                reason="LIMIT_UNSUPPORTED",
                hint=advice,
                metadata={"limit": limit, "runtime": capabilities.runtime},
            )


def missing(capabilities: Capabilities) -> tuple[str, ...]:
    """What a runtime doesn't do, as words of a person; empty where all holds."""
    words = {
        "memory": "no limit on memory",
        "processes": "no limit on processes",
        "cpu": "no limit on processor time",
        "disk": "no limit on bytes in files",
        "inodes": "no limit on the number of files",
        "open_files": "no limit on open files",
        "counters": "the engine's counters include the runtime's own use",
        "oom_events": "no word of processes killed for memory",
        "isolated_runner": "the tool can reach the runner, so what the runner reports is the sandbox's word",
    }
    return tuple(text for field, text in words.items() if not getattr(capabilities, field))


def _gvisor(name: str, arguments: Sequence[str]) -> Capabilities:
    """The runtime of gVisor, runsc, measured at release 20221219 on the ptrace platform.

    It passes over ``nr_inodes``. The engine's limit on processes would strike its own threads and end the sandbox; the
    resource limit of the user holds instead (``docker_config``), and the runner's own filter keeps a tool from making the
    user namespace that would lift it. It doesn't hide a process's open files.
    """
    cgroups = not _given(arguments, "ignore-cgroups")
    return dataclasses.replace(
        Capabilities(name),
        memory=cgroups,
        cpu=cgroups,
        inodes=False,
        counters=False,
        isolated_runner=False,
    )


def _given(arguments: Sequence[str], flag: str) -> bool:
    """Whether a flag is on, as Go's flags are written; the last one counts."""
    on = False
    for argument in arguments:
        name, given, value = argument.lstrip("-").partition("=")
        if name == flag and argument.startswith("-"):
            on = not given or value.lower() in {"1", "t", "true"}
    return on


def _limits(capabilities: Capabilities, limits: Limits) -> tuple[tuple[str, bool, str], ...]:
    """Name as in a tool spec, whether it is kept or not asked for, and what to do where it isn't."""
    other = "Choose another runtime for this tool, such as runc."
    fits = capabilities.counters or limits.memory_bytes >= _OWN_KERNEL_BYTES
    room = (
        other if fits else f"Its own kernel counts too: give it {_OWN_KERNEL_BYTES // 2**20} MiB or more. Or: {other}"
    )
    return (
        ("memory", capabilities.memory and fits, room),
        ("processes", capabilities.processes, other),
        ("cpu", capabilities.cpu, other),
        ("disk", capabilities.disk, other),
        (
            "inodes",
            capabilities.inodes or not limits.inodes,
            "Set the limit `inodes: 0` (not limited; memory still bounds the files), or choose another runtime.",
        ),
        ("open_files", capabilities.open_files, other),
    )

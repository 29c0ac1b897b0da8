"""Probes of a sandbox's limits: is what was asked for what holds inside? Pure."""

from __future__ import annotations

from broker.domain.canonical import JsonObject
from broker.sandbox.docker_config import JOB_BYTES, SHM_BYTES
from broker.sandbox.probe_judging import Expected, Probe, cut, holds, object_at, text_at, words_at

_CORES_OFF = 0.01


def _memory(seen: JsonObject, expected: Expected) -> Probe:
    groups, limit = words_at(seen, "cgroup"), str(expected.profile.limits.memory_bytes)
    memory, swap = groups.get("memory"), groups.get("swap")
    fits = memory == limit and swap in {limit, "0", None}
    return Probe(
        "limit_memory",
        holds(fits if memory else None),
        must=expected.capabilities.memory,
        seen=f"{memory} of {limit} bytes, with swap {swap or 'not shown'}" if memory else "not shown inside",
        why="Without it a tool takes the host's memory, and the kernel ends whomever it likes.",
    )


def _processes(seen: JsonObject, expected: Expected) -> Probe:
    made, limit = seen.get("processes"), expected.profile.limits.processes
    return Probe(
        "limit_processes",
        holds(made <= limit if isinstance(made, int) else None),
        must=expected.capabilities.processes,
        seen=f"{made} more could be made under a limit of {limit}",
        why="A fork bomb fills the host's process table.",
    )


def _processor(seen: JsonObject, expected: Expected) -> Probe:
    groups, cores = words_at(seen, "cgroup"), expected.profile.limits.cpu_cores
    quota, _, period = (groups.get("cpu_quota") or "").partition(" ")
    share = _share(quota, period or groups.get("cpu_period") or "")
    return Probe(
        "limit_cpu",
        holds(abs(share - cores) < _CORES_OFF if share is not None else None),
        must=expected.capabilities.cpu,
        seen=f"{share} of {cores} cores" if share is not None else "not shown inside",
        why="Without it one tool starves the broker and all other calls.",
    )


def _disk(seen: JsonObject, expected: Expected) -> Probe:
    room = object_at(seen, "room")
    wanted = {"/work": expected.profile.limits.disk_bytes, "/job": JOB_BYTES, "/dev/shm": SHM_BYTES}  # noqa: S108  # inside
    sizes = {path: object_at(room, path).get("bytes") for path in wanted}
    known = all(isinstance(size, int) for size in sizes.values())
    return Probe(
        "limit_disk",
        holds(all(sizes[path] == size for path, size in wanted.items()) if known else None),
        must=expected.capabilities.disk,
        seen=cut(", ".join(f"{path} {sizes[path]} of {size} bytes" for path, size in wanted.items())),
        why="Files lie in memory: without sizes they take the host's.",
    )


def _inodes(seen: JsonObject, expected: Expected) -> Probe:
    found, limit = object_at(object_at(seen, "room"), "/work").get("inodes"), expected.profile.limits.inodes
    held = found == limit if isinstance(found, int) and limit else False if isinstance(found, int) else None
    return Probe(
        "limit_inodes",
        holds(held),
        must=expected.capabilities.inodes,
        seen=f"{found} of {limit}" if limit else "not limited: the runtime can't, memory still bounds it",
        why="A million empty files take the kernel's memory.",
    )


def _resources(seen: JsonObject, expected: Expected) -> Probe:
    limits = object_at(seen, "rlimits")
    wanted = {"NOFILE": expected.profile.limits.open_files, "CORE": 0, "MSGQUEUE": 0, "RTPRIO": 0, "NICE": 0}
    off = [
        f"{name} {limits.get(name)} instead of {value}" for name, value in wanted.items() if limits.get(name) != value
    ]
    raised = text_at(seen, "raised")
    if raised == "ok":
        off.append("the hard limit on open files can be raised")
    return Probe(
        "limit_resources",
        holds(not off if limits else None),
        must=expected.capabilities.open_files,
        seen=cut(", ".join(off) or (f"open files {limits.get('NOFILE')}, no core files, no message queues")),
        why="Open files, queues and real-time priority are the host's too.",
    )


def _share(quota: str, period: str) -> float | None:
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


LIMIT_RULES = (_memory, _processes, _processor, _disk, _inodes, _resources)

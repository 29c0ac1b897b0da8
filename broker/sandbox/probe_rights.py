"""Probes of what a process in a sandbox may do: its user, its rights, its namespaces, its runner. Pure."""

from __future__ import annotations

from broker.domain.canonical import JsonObject
from broker.sandbox.probe_judging import Expected, Probe, cut, holds, refused, text_at, words_at

_NOBODY = "65534"
_CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")


def _user(seen: JsonObject, _: Expected) -> Probe:
    status = words_at(seen, "status")
    ids = [word for key in ("Uid", "Gid", "Groups") for word in (status.get(key) or "").split()]
    return Probe(
        "user",
        holds(all(word == _NOBODY for word in ids) if "Uid" in status and "Gid" in status else None),
        must=True,
        seen="; ".join(f"{key} {' '.join(status.get(key, '?').split()) or 'none'}" for key in ("Uid", "Gid", "Groups")),
        why="Root inside is root to every mistake of the kernel, and owns the image's files.",
    )


def _capabilities(seen: JsonObject, _: Expected) -> Probe:
    status = words_at(seen, "status")
    sets = {name: status[name] for name in _CAPABILITY_SETS if name in status}
    shown = ", ".join(f"{name} {value}" for name, value in sets.items()) or "none shown"
    known = {"CapPrm", "CapEff", "CapBnd"} <= sets.keys()
    return Probe(
        "capabilities",
        holds(not any(value.strip("0") for value in sets.values()) if known else None),
        must=True,
        seen=shown,
        why="Each capability is a piece of root's power over the kernel.",
    )


def _no_new_privileges(seen: JsonObject, _: Expected) -> Probe:
    said = words_at(seen, "status").get("NoNewPrivs") or text_at(seen, "no_new_privileges")
    return Probe(
        "no_new_privileges",
        holds(said == "1" if said else None),
        must=True,
        seen=f"no_new_privs is {said or 'not shown'}",
        why="Without it a program with setuid bits or file capabilities gives its rights to the tool.",
    )


def _seccomp(seen: JsonObject, _: Expected) -> Probe:
    status = words_at(seen, "status")
    mode, filters = status.get("Seccomp"), status.get("Seccomp_filters")
    return Probe(
        "seccomp",
        holds(mode == "2" if mode else None),
        must=True,
        seen=f"mode {mode or 'not shown'}{f', {filters} filters' if filters else ''}",
        why="The filter keeps rarely used system calls, where most kernel holes are, from the tool.",
    )


def _becoming_root(seen: JsonObject, _: Expected) -> Probe:
    return refused("becoming_root", words_at(seen, "becoming_root"), "A tool that becomes root outgrows its user.")


def _setuid_programs(seen: JsonObject, _: Expected) -> Probe:
    found = seen.get("setuid_programs")
    names = [str(name) for name in found] if isinstance(found, list) else None
    return Probe(
        "setuid_programs",
        holds(None if names is None else not names),
        must=True,
        seen=cut(", ".join(names) if names else "none" if names is not None else "not looked"),
        why="Such a program runs as its owner, should no_new_privs ever be missing.",
    )


def _namespaces(seen: JsonObject, expected: Expected) -> Probe:
    inside, boot = words_at(seen, "namespaces"), (text_at(seen, "boot") or "").strip()
    apart: bool | None = None
    if not expected.capabilities.counters:
        apart, text = True, "the sandbox has a kernel of its own"
    elif not boot or not expected.host.boot:
        text = "the kernel's boot id can't be read on both sides"
    elif boot != expected.host.boot:
        apart, text = True, "the engine runs on another kernel than this broker"
    elif not any(name in inside and name in expected.host.namespaces for name in _NAMESPACES):
        text = "can't be read"
    else:
        shared = [name for name in _NAMESPACES if inside.get(name, "?") == expected.host.namespaces.get(name)]
        apart = not shared
        own = ", ".join(name for name in _NAMESPACES if name in inside)
        text = f"shared with the host: {', '.join(shared)}" if shared else f"of its own: {own}"
    return Probe(
        "namespaces",
        holds(apart),
        must=True,
        seen=text,
        why="A shared namespace shows the host's processes, network, mounts or shared memory to the tool.",
    )


def _new_namespaces(seen: JsonObject, _: Expected) -> Probe:
    why = "A user namespace of its own gives a tool root's system calls, and lifts limits that count by user."
    return refused("new_namespaces", words_at(seen, "new_namespaces"), why)


def _entering(seen: JsonObject, _: Expected) -> Probe:
    answers = {name: answer for name, answer in words_at(seen, "calls").items() if name.startswith("setns ")}
    return refused("entering_namespaces", answers, "A tool that enters another namespace has left its own.")


def _runner_looked_into(seen: JsonObject, expected: Expected) -> Probe:
    why = "Who writes into the runner's stream or memory can forge what a call is said to have done."
    must = expected.capabilities.isolated_runner
    return refused("runner_isolated", words_at(seen, "runner"), why, must=must)


def _runner_signals(_: JsonObject, expected: Expected) -> Probe:
    survived = expected.runner_survived
    words = {True: "process 1 outlived all of them", False: "process 1 died", None: "not tried"}
    return Probe(
        "runner_signals",
        holds(survived),
        must=expected.capabilities.isolated_runner,
        seen=words[survived],
        why="A tool that kills the runner turns its own failure into one of ours.",
    )


RIGHT_RULES = (
    _user,
    _capabilities,
    _no_new_privileges,
    _seccomp,
    _becoming_root,
    _setuid_programs,
    _namespaces,
    _new_namespaces,
    _entering,
    _runner_looked_into,
    _runner_signals,
)

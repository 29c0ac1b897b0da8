"""Probes of what a sandbox shows as files: its mounts, its devices, and the kernel's own. Pure."""

from __future__ import annotations

from broker.domain.canonical import JsonObject
from broker.sandbox.probe_judging import (
    Expected,
    Probe,
    cut,
    holds,
    picked,
    refused,
    text_at,
    words_at,
)

_NO_PROGRAMS = frozenset({"/job", "/dev/shm", "/dev/mqueue"})  # noqa: S108  # inside the sandbox
_WRITABLE = _NO_PROGRAMS | {"/work", "/tmp"}  # noqa: S108  # inside the sandbox
_ENGINES_FILES = frozenset({"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"})
_PLAIN_DEVICES = frozenset(
    f"/dev/{name}" for name in ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts/ptmx", "console"]
)
_EMULATED_DEVICES = frozenset({"/dev/fuse", "/dev/net/tun"})
_KERNEL_KINDS = frozenset(
    {"tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs", "rootfs", "securityfs", "ramfs"}
)
"""File systems that hold nothing of the host's disks."""
_MOUNT_CALLS = ("mount", "bind mount", "remount", "umount2", "pivot_root")


def _mount_calls(seen: JsonObject, _: Expected) -> Probe:
    why = "Who mounts can lay files over the runner's, or take a mask off the kernel's."
    return refused("mounting", picked(seen, _MOUNT_CALLS), why)


def _root(seen: JsonObject, _: Expected) -> Probe:
    return refused("root_read_only", words_at(seen, "root"), "A writable root would let a tool change its own image.")


def _writable(seen: JsonObject, _: Expected) -> Probe:
    found = _mounts(seen)
    places = [place for place, _, written in found if written == "ok"]
    surplus = [place for place in places if place not in _WRITABLE]
    return Probe(
        "writable_mounts",
        holds(not surplus if found else None),
        must=True,
        seen=cut(f"not expected: {', '.join(surplus)}" if surplus else ", ".join(sorted(places)) or "none shown"),
        why="What is written elsewhere is outside the limits on bytes and files.",
    )


def _mount_options(seen: JsonObject, expected: Expected) -> Probe:
    found = _mounts(seen)
    lacking = []
    for place, options, _ in found:
        if place in _WRITABLE:
            wanted = {"nosuid", "nodev"} | ({"noexec"} if place in _NO_PROGRAMS else set())
            lacking += [f"{place} without {option}" for option in sorted(wanted - options)]
    return Probe(
        "mount_options",
        holds(not lacking if found else None),
        must=expected.capabilities.counters,
        seen=cut(", ".join(lacking) or ("nosuid, nodev; noexec where no program belongs" if found else "none shown")),
        why="Programs with another user's rights, device files and programs have no place in these folders.",
    )


def _host_files(seen: JsonObject, _: Expected) -> Probe:
    listing = seen.get("mounts")
    entries = [entry for entry in listing if isinstance(entry, dict)] if isinstance(listing, list) else []
    foreign = []
    for entry in entries:
        place, kind = str(entry.get("place")), str(entry.get("kind"))
        if place != "/" and place not in _ENGINES_FILES and kind not in _KERNEL_KINDS:
            foreign.append(f"{place} ({kind})")
    return Probe(
        "host_files",
        holds(not foreign if entries else None),
        must=True,
        seen=cut(", ".join(foreign) or ("nothing but the engine's own small files" if entries else "none shown")),
        why="A folder of the host that is mounted inside is a way out.",
    )


def _engine_socket(seen: JsonObject, _: Expected) -> Probe:
    table = seen.get("sockets")
    there = [path for path, is_there in table.items() if is_there is not False] if isinstance(table, dict) else None
    return Probe(
        "engine_socket",
        holds(None if there is None else not there),
        must=True,
        seen=cut(", ".join(there) if there else "absent" if there is not None else "not looked"),
        why="Who reaches the engine's socket is root on the host.",
    )


def _devices(seen: JsonObject, expected: Expected) -> Probe:
    listing = seen.get("devices")
    allowed = _PLAIN_DEVICES if expected.capabilities.counters else _PLAIN_DEVICES | _EMULATED_DEVICES
    entries = [entry for entry in listing if isinstance(entry, dict)] if isinstance(listing, list) else []
    odd = [str(it.get("path")) for it in entries if it.get("kind") != "character" or it.get("path") not in allowed]
    return Probe(
        "devices",
        holds(not odd if entries else None),
        must=True,
        seen=cut(f"not expected: {', '.join(odd)}" if odd else f"{len(entries)} harmless ones" if entries else "none"),
        why="A device file is a door to the kernel's drivers, or to the host's disks.",
    )


def _mknod(seen: JsonObject, expected: Expected) -> Probe:
    answer = text_at(seen, "mknod")
    why = "Who makes device files needs no one to lay them out."
    return refused("making_devices", {"mknod": answer} if answer else {}, why, must=expected.capabilities.counters)


def _kernel_files(seen: JsonObject, _: Expected) -> Probe:
    why = "Such a file changes the whole machine: its core handler, its power, its network."
    return refused("kernel_files", words_at(seen, "kernel_files"), why)


def _cgroup_files(seen: JsonObject, _: Expected) -> Probe:
    why = "Who writes these lifts their own limits, or names a program that the host then runs."
    return refused("cgroup_files", words_at(seen, "cgroup_files"), why)


def _masked(seen: JsonObject, _: Expected) -> Probe:
    table = words_at(seen, "masked")
    bare = [path for path, state in table.items() if state == "readable"]
    return Probe(
        "masked_paths",
        holds(not bare if table else None),
        must=True,
        seen=cut(f"readable: {', '.join(bare)}" if bare else "absent or empty" if table else "not looked"),
        why="These files tell of the host's memory, keys, timers, power use and firmware.",
    )


def _mounts(seen: JsonObject) -> list[tuple[str, frozenset[str], str]]:
    """Place, options and what became of writing, of each mount."""
    listing = seen.get("mounts")
    found = []
    for entry in listing if isinstance(listing, list) else ():
        if isinstance(entry, dict):
            options = entry.get("options")
            words = frozenset(map(str, options)) if isinstance(options, list) else frozenset()
            found.append((str(entry.get("place")), words, str(entry.get("written"))))
    return found


FILE_RULES = (
    _mount_calls,
    _root,
    _writable,
    _mount_options,
    _host_files,
    _engine_socket,
    _devices,
    _mknod,
    _kernel_files,
    _cgroup_files,
    _masked,
)

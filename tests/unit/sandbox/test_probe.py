"""What the probes make of what was seen inside a sandbox; a hole that is shown must be found."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from broker.domain.canonical import JsonObject
from broker.domain.run import Limits, Profile
from broker.errors import FailedPreconditionError, UnavailableError
from broker.sandbox.engine import Capabilities
from broker.sandbox.images import SandboxImage
from broker.sandbox.probe import find_image, host_facts, read_seen
from broker.sandbox.probe_judging import Expected, Holds, HostFacts, Probe
from broker.sandbox.probe_plan import plan
from broker.sandbox.probe_rules import judge, unfit

LIMITS = Limits(processes=16)
PROFILE = Profile("sha256:00", LIMITS)
HOST = HostFacts("boot", {name: f"{name}:[1]" for name in ("cgroup", "ipc", "mnt", "net", "pid", "uts", "user")})
RUNC = Expected(PROFILE, Capabilities("runc"), HOST, runner_survived=True)
GVISOR = replace(
    RUNC,
    profile=replace(PROFILE, limits=replace(LIMITS, inodes=0)),
    capabilities=Capabilities("runsc", inodes=False, counters=False, isolated_runner=False),
    runner_survived=False,
)


def mount(place: str, kind: str, *options: str, written: str = "EROFS") -> dict[str, object]:
    return {"place": place, "kind": kind, "options": list(options), "written": written}


TMPFS = ("rw", "nosuid", "nodev")
SEEN: dict[str, Any] = {
    "status": {
        "Uid": "65534\t65534\t65534\t65534",
        "Gid": "65534\t65534\t65534\t65534",
        "Groups": "65534",
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16),
        "NoNewPrivs": "1",
        "Seccomp": "2",
        "Seccomp_filters": "2",
    },
    "no_new_privileges": "1",
    "becoming_root": {"setuid": "EPERM", "setgid": "EPERM"},
    "setuid_programs": [],
    "boot": "boot\n",
    "namespaces": {name: f"{name}:[2]" for name in ("cgroup", "ipc", "mnt", "net", "pid", "uts")},
    "new_namespaces": {"user": "EPERM", "net": "EPERM"},
    "mounts": [
        mount("/", "overlay", "ro"),
        mount("/proc", "proc", *TMPFS, written="ENOENT"),
        mount("/work", "tmpfs", *TMPFS, written="ok"),
        mount("/tmp", "tmpfs", *TMPFS, written="ok"),  # noqa: S108  # inside the sandbox
        mount("/job", "tmpfs", *TMPFS, "noexec", written="ok"),
        mount("/dev/shm", "tmpfs", *TMPFS, "noexec", written="ok"),  # noqa: S108  # likewise
        mount("/etc/hostname", "ext4", "ro", written="EACCES"),
        mount("/proc/keys", "tmpfs", "rw", written="device"),
    ],
    "root": {"/": "EROFS", "/etc": "EROFS"},
    "devices": [{"path": "/dev/null", "kind": "character", "opened": "ok"}],
    "mknod": "EPERM",
    "kernel_files": {"/proc/sys/kernel/core_pattern": "EACCES", "/proc/sysrq-trigger": "ENOENT"},
    "cgroup_files": {"memory.max": "ENOENT"},
    "masked": {"/proc/kcore": "absent", "/proc/keys": "empty", "/sys/firmware": "EACCES"},
    "sockets": {"/run/docker.sock": False},
    "network": {"interfaces": ["lo"], "routes": [], "servers": [], "reached": {"tcp 1.1.1.1:443": "ENETUNREACH"}},
    "families": {
        "AF_ALG": "EAFNOSUPPORT",
        "AF_PACKET": "EPERM",
        "AF_VSOCK": "EAFNOSUPPORT",
        "raw IP": "EPERM",
        "raw IPv6": "EPERM",
    },
    "runner": {"fd": "EACCES", "mem": "EACCES", "attach": "EPERM"},
    "calls": {
        **dict.fromkeys(("add_key", "keyctl", "request_key", "bpf", "perf_event_open", "userfaultfd"), "EPERM"),
        **dict.fromkeys(("mount", "umount2", "reboot", "kexec_load", "setns mnt"), "EPERM"),
        "io_uring_setup": "ENOSYS",
    },
    "cgroup": {
        "memory": str(LIMITS.memory_bytes),
        "swap": "0",
        "processes": "17",
        "cpu_quota": "100000",
        "cpu_period": "100000",
    },
    "rlimits": {"NOFILE": LIMITS.open_files, "NPROC": 9999, "CORE": 0, "MSGQUEUE": 0, "RTPRIO": 0, "NICE": 0},
    "raised": "not allowed to raise maximum limit",
    "processes": 15,
    "room": {
        "/work": {"bytes": LIMITS.disk_bytes, "inodes": LIMITS.inodes},
        "/job": {"bytes": 34 * 2**20, "inodes": 64},
        "/dev/shm": {"bytes": 8 * 2**20, "inodes": 0},  # noqa: S108  # inside the sandbox
    },
}


def changed(change: Callable[[dict[str, Any]], object]) -> JsonObject:
    seen = copy.deepcopy(SEEN)
    change(seen)
    return seen


def found(seen: JsonObject, expected: Expected = RUNC) -> dict[str, Probe]:
    probes = judge(seen, expected)
    names = [item.name for item in probes]
    assert len(names) == len(set(names))
    return {item.name: item for item in probes}


def test_a_sandbox_as_it_should_be_holds_in_all() -> None:
    probes = found(SEEN)
    assert {item.holds for item in probes.values()} == {Holds.YES}
    assert not unfit(probes.values())
    assert all(item.seen and item.why.endswith(".") for item in probes.values())


HOLES: dict[str, Callable[[dict[str, Any]], object]] = {
    "user": lambda seen: seen["status"].update(Uid="65534 0 65534 65534"),
    "capabilities": lambda seen: seen["status"].update(CapBnd="0000000000000400"),
    "no_new_privileges": lambda seen: seen["status"].update(NoNewPrivs="0"),
    "seccomp": lambda seen: seen["status"].update(Seccomp="0"),
    "becoming_root": lambda seen: seen["becoming_root"].update(setuid="ok"),
    "setuid_programs": lambda seen: seen["setuid_programs"].append("/bin/su"),
    "namespaces": lambda seen: seen["namespaces"].update(net="net:[1]"),
    "new_namespaces": lambda seen: seen["new_namespaces"].update(user="ok"),
    "entering_namespaces": lambda seen: seen["calls"].update({"setns mnt": "EINVAL"}),
    "runner_isolated": lambda seen: seen["runner"].update(fd="ok"),
    "mounting": lambda seen: seen["calls"].update({"bind mount": "ok"}),
    "root_read_only": lambda seen: seen["root"].update({"/etc": "ok"}),
    "writable_mounts": lambda seen: seen["mounts"].append(mount("/srv", "tmpfs", *TMPFS, written="ok")),
    "mount_options": lambda seen: seen["mounts"][4]["options"].remove("noexec"),
    "host_files": lambda seen: seen["mounts"].append(mount("/host", "ext4", "ro")),
    "engine_socket": lambda seen: seen["sockets"].update({"/run/docker.sock": True}),
    "devices": lambda seen: seen["devices"].append({"path": "/dev/sda", "kind": "block", "opened": "EACCES"}),
    "making_devices": lambda seen: seen.update(mknod="ok"),
    "kernel_files": lambda seen: seen["kernel_files"].update({"/proc/sysrq-trigger": "ok"}),
    "cgroup_files": lambda seen: seen["cgroup_files"].update({"memory.max": "ok"}),
    "masked_paths": lambda seen: seen["masked"].update({"/proc/kcore": "readable"}),
    "network_interfaces": lambda seen: seen["network"]["interfaces"].append("eth0"),
    "connections": lambda seen: seen["network"]["reached"].update({"tcp 1.1.1.1:443": "ECONNREFUSED"}),
    "raw_sockets": lambda seen: seen["families"].update(AF_PACKET="ok"),
    "af_alg": lambda seen: seen["families"].update(AF_ALG="ok"),
    "af_vsock": lambda seen: seen["families"].update(AF_VSOCK="ok"),
    "keyrings": lambda seen: seen["calls"].update(request_key="ENOKEY"),
    "kernel_probes": lambda seen: seen["calls"].update(bpf="EINVAL"),
    "io_uring": lambda seen: seen["calls"].update(io_uring_setup="ok"),
    "administration": lambda seen: seen["calls"].update(reboot="EINVAL"),
    "limit_memory": lambda seen: seen["cgroup"].update(memory="9223372036854771712"),
    "limit_processes": lambda seen: seen.update(processes=17),
    "limit_cpu": lambda seen: seen["cgroup"].update(cpu_quota="200000"),
    "limit_disk": lambda seen: seen["room"]["/work"].update(bytes=2**40),
    "limit_inodes": lambda seen: seen["room"]["/work"].update(inodes=2**20),
    "limit_resources": lambda seen: seen.update(raised="ok"),
}


@pytest.mark.parametrize(("name", "hole"), HOLES.items(), ids=HOLES)
def test_a_hole_is_found(name: str, hole: Callable[[dict[str, Any]], object]) -> None:
    probes = found(changed(hole))
    assert {item.name for item in probes.values() if item.holds is not Holds.YES} == {name}
    assert probes[name].holds is Holds.NO
    assert unfit(probes.values())


def test_every_probe_has_a_hole() -> None:
    assert set(HOLES) | {"runner_signals"} == set(found(SEEN))
    dead = found(SEEN, replace(RUNC, runner_survived=False))
    assert (dead["runner_signals"].holds, unfit(dead.values())) == (Holds.NO, True)


@pytest.mark.parametrize("seen", [{}, dict.fromkeys(SEEN), {name: ["?"] for name in SEEN}, {"status": {"Uid": 7}}])
def test_what_is_missing_or_nonsense_is_never_a_yes(seen: JsonObject) -> None:
    probes = found(seen, replace(RUNC, runner_survived=None))
    assert [item.name for item in probes.values() if item.holds is Holds.YES] == []


def test_what_a_runtime_is_declared_not_to_do_makes_no_sandbox_unfit() -> None:
    def as_gvisor(seen: dict[str, Any]) -> None:
        seen["runner"]["fd"] = seen["mknod"] = "ok"
        seen["room"]["/work"]["inodes"] = 0
        seen["cgroup"] = dict.fromkeys(seen["cgroup"])
        seen["devices"].append({"path": "/dev/net/tun", "kind": "character", "opened": "ok"})
        for entry in seen["mounts"]:
            entry["options"] = [word for word in entry["options"] if word not in {"nosuid", "nodev"}]
        del seen["status"]["NoNewPrivs"], seen["status"]["CapAmb"], seen["boot"]

    probes = found(changed(as_gvisor), GVISOR)
    no = {item.name for item in probes.values() if item.holds is Holds.NO}
    assert no == {"runner_isolated", "runner_signals", "mount_options", "making_devices", "limit_inodes"}
    assert {item.name for item in probes.values() if item.holds is Holds.UNKNOWN} == {"limit_memory", "limit_cpu"}
    assert not unfit(probes.values())
    assert unfit(found(changed(as_gvisor), RUNC).values())


def test_cgroup_version_2_says_the_processor_share_in_one_line() -> None:
    seen = changed(lambda it: it["cgroup"].update(cpu_quota="50000 100000", cpu_period=None))
    half = replace(RUNC, profile=replace(PROFILE, limits=replace(LIMITS, cpu_cores=0.5)))
    assert found(seen, half)["limit_cpu"].holds is Holds.YES
    unlimited = changed(lambda it: it["cgroup"].update(cpu_quota="max 100000", cpu_period=None))
    assert found(unlimited)["limit_cpu"].holds is not Holds.YES


def test_namespaces_are_compared_on_the_same_kernel_only() -> None:
    other = replace(RUNC, host=replace(HOST, boot="another"))
    same_numbers = changed(lambda seen: seen["namespaces"].update(HOST.namespaces))
    assert found(same_numbers)["namespaces"].holds is Holds.NO
    assert found(same_numbers, other)["namespaces"].holds is Holds.YES
    assert found(same_numbers, replace(RUNC, host=HostFacts()))["namespaces"].holds is Holds.UNKNOWN


def test_long_answers_are_cut() -> None:
    seen = changed(lambda it: it.update(setuid_programs=["/bin/" + "x" * 1000]))
    assert len(found(seen)["setuid_programs"].seen) == 300


IMAGES = (
    SandboxImage("python", f"sha256:{'a' * 64}", "1", 1, current=True),
    SandboxImage("python", f"sha256:{'b' * 64}", "2", 1, current=False),
)


@pytest.mark.parametrize(
    ("name", "number"), [("python", 0), ("sha256:" + "a" * 64, 0), ("b" * 12, 1), ("sha256:" + "b" * 20, 1)]
)
def test_an_image_is_found_by_name_or_digest(name: str, number: int) -> None:
    assert find_image(IMAGES, name) is IMAGES[number]


@pytest.mark.parametrize("name", ["node", "", "b" * 11, "c" * 12, "sha256:"])
def test_an_image_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        find_image(IMAGES, name)
    assert caught.value.reason == "IMAGE_MISSING"


@pytest.mark.parametrize("output", [b"", b"[]", b"{", b'{"a": NaN}', b"\xff", b"x" * 2**21])
def test_what_the_script_prints_is_read_strictly(output: bytes) -> None:
    with pytest.raises(UnavailableError) as caught:
        read_seen(output)
    assert caught.value.reason == "PROBE_FAILED"
    assert read_seen(json.dumps(SEEN).encode()) == SEEN


def test_the_plan_names_what_the_rules_ask_for() -> None:
    asked = json.loads(plan(17))
    assert asked["most"] == 17
    for machine in ("x86_64", "aarch64"):
        assert {"mount", "unshare", "setns", "io_uring_setup", "keyctl", "ptrace"} <= asked["calls"][machine].keys()
    assert host_facts().namespaces

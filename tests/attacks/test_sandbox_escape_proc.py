"""A hostile tool looks for the host in what it can see: /proc, /sys, devices, mounts, cgroups, left-open sockets."""

from __future__ import annotations

from typing import Any

import pytest

from broker.sandbox.engine import Engine
from tests.attacks.sandbox_probes import probed
from tests.sandbox_support import argv, run

pytestmark = pytest.mark.docker

_SETTINGS = (
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/kernel/kptr_restrict",
    "/proc/sys/kernel/yama/ptrace_scope",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/fs/suid_dumpable",
    "/proc/sys/fs/mqueue/queues_max",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/ping_group_range",
    "/proc/irq/default_smp_affinity",
    "/proc/bus/pci/devices",
    "/proc/kmsg",
    "/proc/mtrr",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/ksm/run",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/security/apparmor/.load",
    "/sys/kernel/debug/x",
    "/sys/kernel/tracing/trace",
    "/sys/power/state",
    "/sys/module/kernel/parameters/panic",
    "/sys/class/net/lo/mtu",
    "/sys/devices/system/cpu/cpu1/online",
    "/sys/fs/bpf/x",
    "/sys/fs/cgroup/x",
    "/sys/fs/cgroup/release_agent",
    "/sys/fs/cgroup/memory/release_agent",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "/sys/fs/cgroup/pids/pids.max",
    "/sys/fs/cgroup/devices/devices.allow",
    "/sys/fs/cgroup/cgroup.procs",
    "/sys/fs/cgroup/cgroup.subtree_control",
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/pids.max",
    "/sys/firmware/x",
)
_ALWAYS_THERE = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/overcommit_memory",
    "/sys/class/net/lo/mtu",
)
_MASKED = (
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/latency_stats",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/acpi",
    "/proc/asound",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
_ROOTS = (
    "/etc/passwd",
    "/etc/shadow",
    "/usr/x",
    "/x",
    "/root/x",
    "/var/spool/x",
    "/var/x",
    "/run/x",
    "/dev/x",
    "/opt/x",
)
_OWN = ("uid_map", "gid_map", "setgroups", "oom_score_adj", "attr/current", "attr/exec", "attr/fscreate")

_GIVEN = f"SETTINGS, MASKED, ROOTS = {_SETTINGS!r}, {_MASKED!r}, {_ROOTS!r}\n"
_ASK = (
    _GIVEN
    + r"""
for path in SETTINGS + ROOTS:
    attempt(f"write {path}", lambda: open(path, "wb", 0))

def contents(path):
    if os.path.isdir(path):
        return sorted(os.listdir(path))
    with open(path, "rb") as file:
        return len(file.read(64))
for path in MASKED:
    try:
        found[f"read {path}"] = contents(path)
    except OSError as error:
        found[f"read {path}"] = name_of(error.errno)

def put(path, text):
    with open(path, "wb", 0) as file:
        file.write(text)
attempt("own uid_map", lambda: put("/proc/self/uid_map", b"0 65534 1"))
attempt("own gid_map", lambda: put("/proc/self/gid_map", b"0 65534 1"))
attempt("own setgroups", lambda: put("/proc/self/setgroups", b"allow"))
attempt("own oom_score_adj", lambda: put("/proc/self/oom_score_adj", b"-1000"))
attempt("own attr/current", lambda: put("/proc/self/attr/current", b"unconfined"))
attempt("own attr/exec", lambda: put("/proc/self/attr/exec", b"exec unconfined"))
attempt("own attr/fscreate", lambda: put("/proc/self/attr/fscreate", b"unconfined"))

found["open for writing"], seen = [], 0
for top in ("/proc/sys", "/proc/fs", "/proc/irq", "/proc/bus", "/proc/tty", "/proc/driver", "/sys"):
    for folder, folders, names in os.walk(top):
        for name in names:
            path, seen = f"{folder}/{name}", seen + 1
            if os.access(path, os.W_OK):
                found["open for writing"].append(path)
        if os.access(folder, os.W_OK):
            found["open for writing"].append(folder)
found["looked at"] = seen
attempt("new cgroup", lambda: os.mkdir("/sys/fs/cgroup/mine"))
attempt("new cgroup of pids", lambda: os.mkdir("/sys/fs/cgroup/pids/mine"))

found["devices"] = sorted(
    (path, stat.S_ISBLK(facts.st_mode), os.major(facts.st_rdev), os.minor(facts.st_rdev))
    for folder, _, names in os.walk("/dev") for name in names
    for path in [f"{folder}/{name}"] for facts in [os.lstat(path)]
    if stat.S_ISBLK(facts.st_mode) or stat.S_ISCHR(facts.st_mode)
)
attempt("/dev/tty", lambda: os.open("/dev/tty", os.O_RDWR))
for path in ("/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/fuse", "/dev/net/tun", "/dev/kvm", "/dev/vda", "/dev/sda",
             "/dev/loop-control", "/dev/mapper/control", "/dev/uinput", "/dev/vsock", "/dev/vhost-net", "/dev/rtc0"):
    attempt(path, lambda: os.open(path, os.O_RDONLY))

found["mounts"] = []
for line in open("/proc/self/mountinfo"):
    before, _, after = line.partition(" - ")
    place, options = before.split()[4:6]
    kind, _, inner = after.split()
    rules = os.statvfs(place)
    found["mounts"].append([place, kind, options.split(","), inner.split(","), os.access(place, os.W_OK), os.path.isdir(place)])

found["pids"] = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
found["self"] = os.getpid()
found["host"] = os.uname().nodename
found["cgroup"] = open("/proc/self/cgroup").read()
found["cgroup paths"] = [line.rstrip().split(":", 2)[2] for line in open("/proc/self/cgroup")]
found["sockets"] = [line.split()[7:] for line in open("/proc/net/unix").readlines()[1:]]
found["kernel addresses"] = sorted({line.split()[0] for line in open("/proc/kallsyms")})[-1:] if os.path.exists("/proc/kallsyms") else []

for name in ("fd", "fdinfo", "map_files", "task/1/fd", "ns", "cwd/.", "root/."):
    attempt(f"list /proc/1/{name}", lambda: os.listdir(f"/proc/1/{name}") if name != "ns" else os.readlink("/proc/1/ns/mnt"))
for name in ("exe", "cwd", "root", "task/1/exe", "task/1/cwd"):
    attempt(f"follow /proc/1/{name}", lambda: os.readlink(f"/proc/1/{name}"))
for name in ("mem", "environ", "maps", "smaps", "numa_maps", "auxv", "stack", "syscall", "pagemap", "io", "personality",
             "exe", "task/1/mem", "task/1/environ", "task/1/maps"):
    attempt(f"read /proc/1/{name}", lambda: open(f"/proc/1/{name}", "rb", 0).read(1))
for name in ("mem", "clear_refs", "comm", "oom_score_adj", "oom_adj", "coredump_filter", "timerslack_ns", "uid_map", "attr/exec",
             "sched", "autogroup", "task/1/comm"):
    attempt(f"write /proc/1/{name}", lambda: put(f"/proc/1/{name}", b"1"))
"""
)
found = probed(_ASK)


@pytest.mark.parametrize("path", _SETTINGS)
def test_writing_a_setting_of_the_kernel(found: dict[str, Any], path: str) -> None:
    refused = {"EACCES", "EPERM", "EROFS"} | (set() if path in _ALWAYS_THERE else {"ENOENT", "ENOTDIR"})
    assert found[f"write {path}"] in refused


def test_finding_a_writable_file_below_proc_and_sys(found: dict[str, Any]) -> None:
    assert found["looked at"] > 1000
    assert found["open for writing"] == []


@pytest.mark.parametrize("path", _ROOTS)
def test_writing_outside_the_writable_folders(found: dict[str, Any], path: str) -> None:
    assert found[f"write {path}"] in {"EROFS", "EACCES"}


@pytest.mark.parametrize("path", _MASKED)
def test_reading_what_is_masked(found: dict[str, Any], path: str) -> None:
    assert found[f"read {path}"] in (0, [], "ENOENT", "EACCES", "EPERM")


@pytest.mark.parametrize("name", _OWN)
def test_changing_its_own_confinement(found: dict[str, Any], name: str) -> None:
    assert found[f"own {name}"] in {"EPERM", "EACCES", "EINVAL", "ENOENT"}


def test_making_a_cgroup(found: dict[str, Any]) -> None:
    assert found["new cgroup"] in {"EACCES", "EROFS", "EPERM"}
    assert found["new cgroup of pids"] in {"EACCES", "EROFS", "EPERM", "ENOENT"}


def test_the_cgroups_of_the_host_are_out_of_sight(found: dict[str, Any]) -> None:
    assert set(found["cgroup paths"]) == {"/"}


def test_devices_other_than_the_harmless_ones(found: dict[str, Any]) -> None:
    harmless = {
        "null": (1, 3),
        "zero": (1, 5),
        "full": (1, 7),
        "random": (1, 8),
        "urandom": (1, 9),
        "tty": (5, 0),
        "pts/ptmx": (5, 2),
    }
    expected = {(f"/dev/{name}", False, *numbers) for name, numbers in harmless.items()}
    assert {tuple(device) for device in found["devices"]} == expected


@pytest.mark.parametrize(
    "path",
    [
        "/dev/mem",
        "/dev/kmem",
        "/dev/port",
        "/dev/kmsg",
        "/dev/fuse",
        "/dev/net/tun",
        "/dev/kvm",
        "/dev/vda",
        "/dev/sda",
    ],
)
def test_opening_a_device_of_the_host(found: dict[str, Any], path: str) -> None:
    assert found[path] == "ENOENT"


def test_a_terminal_to_type_into(found: dict[str, Any]) -> None:
    assert found["/dev/tty"] == "ENXIO"


def test_nothing_of_the_host_is_mounted(found: dict[str, Any]) -> None:
    kinds = {"overlay", "proc", "tmpfs", "devpts", "sysfs", "cgroup", "cgroup2", "mqueue"}
    others = {place: options for place, kind, options, _, _, _ in found["mounts"] if kind not in kinds}
    assert set(others) <= {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}
    assert [place for place, options in others.items() if "rw" in options] == []


def test_the_root_is_read_only(found: dict[str, Any]) -> None:
    [options] = [options for place, _, options, _, _, _ in found["mounts"] if place == "/"]
    assert "ro" in options


def test_the_only_writable_mounts_are_sized(found: dict[str, Any]) -> None:
    writable = {
        place: {*options, *inner}
        for place, _, options, inner, able, folder in found["mounts"]
        if "rw" in options and able and folder
    }
    assert set(writable) == {"/work", "/tmp", "/job", "/dev/shm", "/dev/mqueue"}  # noqa: S108  # inside the sandbox
    del writable["/dev/mqueue"]  # closed by a limit on queues
    for options in writable.values():
        assert {"nosuid", "nodev"} <= options
        assert any(option.startswith("size=") for option in options)


def test_the_hosts_processes(found: dict[str, Any]) -> None:
    assert found["pids"] == [1, found["self"]]


def test_the_hosts_name(found: dict[str, Any]) -> None:
    assert found["host"] == "sandbox"


def test_unix_sockets_of_somebody_else(found: dict[str, Any]) -> None:
    assert found["sockets"] == []


def test_addresses_of_the_kernel(found: dict[str, Any]) -> None:
    assert set("".join(found["kernel addresses"])) <= {"0"}


@pytest.mark.parametrize("what", ["list", "follow", "read", "write"])
def test_looking_into_process_1(found: dict[str, Any], what: str) -> None:
    tried = {name: value for name, value in found.items() if name.startswith(f"{what} /proc/1/")}
    assert len(tried) >= 5
    assert {name: value for name, value in tried.items() if value not in {"EACCES", "EPERM", "ENOENT"}} == {}
    assert "EACCES" in tried.values()


async def test_the_engines_socket_is_nowhere(engine: Engine) -> None:
    names = (
        "(",
        "-name",
        "docker*.sock",
        "-o",
        "-name",
        "containerd*.sock",
        "-o",
        "-name",
        "podman*",
        "-o",
        "-type",
        "s",
        ")",
    )
    done = await run(engine, argv("find", "/", "-path", "/proc/[0-9]*", "-prune", "-o", *names, "-print"))
    assert done.text == ""
    look = "find / -path '/proc/[0-9]*' -prune -o -print | wc -l"
    assert int((await run(engine, argv("sh", "-c", look))).text) > 10_000

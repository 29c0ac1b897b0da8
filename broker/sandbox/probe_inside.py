"""Looks at a sandbox from within, and prints what it saw as one JSON object; sent as a tool's code, never imported.

It judges nothing: ``probe_rules`` does. It needs Python's standard library alone, and uses ``ctypes`` where there is one.
What to look for is in the call's arguments (``probe_plan``). An attempt that was refused is written as the error's name, such as ``EPERM``; one that wasn't as ``ok``.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import stat
import sys
from collections.abc import Callable, Iterable

try:
    import ctypes
except ImportError:  # a slim interpreter: what needs it stays unknown
    ctypes = None  # type: ignore[assignment]

MANY = 2000
PLAN = json.loads(open(os.environ.get("BROKER_ARGUMENTS", "/dev/stdin")).read())  # noqa: PTH123, SIM115


def name_of(number: int | None) -> str:
    """The name of an error number."""
    return errno.errorcode.get(number or 0, f"error {number}")


def tried(action: Callable[[], object]) -> str:
    """What became of an attempt."""
    try:
        action()
    except OSError as error:
        return name_of(error.errno)
    except ValueError as error:  # resource limits say so
        return str(error)[:80]
    return "ok"


def text(path: str, limit: int = 65536) -> str | None:
    """The beginning of a file, or nothing where it can't be read."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # what is loaded here is kept small
            return file.read(limit).decode("utf-8", "replace")
    except OSError:
        return None


def opened(path: str, flags: int) -> str:
    """Whether a file can be opened; nothing is written, and nothing is made or cut."""
    return tried(lambda: os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)))


def call(name: str, *arguments: object) -> str | None:
    """What a system call answers; nothing where it can't be made."""
    number = PLAN["calls"].get(os.uname().machine, {}).get(name)
    if ctypes is None or number is None:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    answer = libc.syscall(ctypes.c_long(number), *arguments)
    return name_of(ctypes.get_errno()) if answer == -1 else "ok"


def aside(action: Callable[[], object]) -> object:
    """Does something in a child, so that what it changes is gone with it."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        try:
            os.write(writer, json.dumps(action()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        found = answers.read()
    os.waitpid(child, 0)
    return json.loads(found) if found else None


def status() -> dict[str, str]:
    """The process's own status, as far as it is about rights."""
    wanted = ("Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp")
    lines = (text("/proc/self/status") or "").splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key: value.strip() for key, _, value in pairs if key.startswith(wanted)}


def no_new_privileges() -> str | None:
    """What prctl says, for kernels whose status doesn't."""
    if ctypes is None:
        return None
    return str(ctypes.CDLL(None, use_errno=True).prctl(39, 0, 0, 0, 0))


def mounts() -> list[dict[str, object]]:
    """Every mount, its options, and whether a file can be made in it."""
    found: list[dict[str, object]] = []
    for line in (text("/proc/self/mounts") or "").splitlines()[:MANY]:
        parts = line.split(" ")
        if len(parts) > 3:
            place = parts[1].encode().decode("unicode_escape")
            options = [word for word in parts[3].split(",") if "dir=" not in word]
            found.append({"place": place, "kind": parts[2], "options": options, "written": written(place)})
    return found


def written(place: str) -> str:
    """Makes a file in a folder, and takes it away."""
    if stat.S_ISCHR(os.stat(place).st_mode):  # noqa: PTH116  # what is loaded here is kept small
        return "device"  # an engine hides a file behind /dev/null
    if not os.path.isdir(place):  # noqa: PTH112  # what is loaded here is kept small
        return opened(place, os.O_WRONLY)
    path = f"{place}/.probe-{os.getpid()}"
    answer = opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    if answer == "ok":
        os.unlink(path)  # noqa: PTH108  # what is loaded here is kept small
    return answer


def devices() -> list[dict[str, str]]:
    """Every device file, and whether it opens."""
    found = []
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = f"{folder}/{name}"
            mode = os.lstat(path).st_mode
            if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
                kind = "block" if stat.S_ISBLK(mode) else "character"
                found.append({"path": path, "kind": kind, "opened": opened(path, os.O_RDWR)})
    return found[:MANY]


def device_made(path: str) -> str:
    """Whether a device file can be made; it is taken away."""
    answer = tried(lambda: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5)))
    if answer == "ok":
        os.unlink(path)  # noqa: PTH108  # what is loaded here is kept small
    return answer


def masked() -> dict[str, str]:
    """Of each path that an engine hides: absent, empty, refused, or what kind of thing can be read."""
    found = {}
    for path in PLAN["masked"]:
        try:
            listing = os.listdir(path) if os.path.isdir(path) else (text(path, 16) or "")  # noqa: PTH112, PTH208
        except OSError as error:
            found[path] = name_of(error.errno)
        else:
            exists = os.path.exists(path)  # noqa: PTH110  # what is loaded here is kept small
            found[path] = "readable" if listing else "empty" if exists else "absent"
    return found


def setuid_programs() -> list[str]:
    """Programs that would give another user's rights."""
    found = []
    for top in ("/bin", "/etc", "/home", "/opt", "/root", "/sbin", "/srv", "/usr", "/var"):
        for folder, _, names in os.walk(top):
            for name in names:
                path = f"{folder}/{name}"
                mode = os.lstat(path).st_mode
                if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                    found.append(path)
    return found[:MANY]


def namespaces() -> dict[str, str]:
    """Names of the namespaces that the process is in."""
    names = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
    found = {}
    for name in names:
        try:
            found[name] = os.readlink(f"/proc/self/ns/{name}")  # noqa: PTH115  # what is loaded here is kept small
        except OSError:
            continue
    return found


def network() -> dict[str, object]:
    """Interfaces, routes, name servers, and what becomes of attempts to reach somebody."""
    lines = (text("/proc/net/dev") or "").splitlines()[2:]
    routes = [line for line in (text("/proc/net/route") or "").splitlines()[1:] if line.strip()]
    six = [line for line in (text("/proc/net/ipv6_route") or "").splitlines() if line and not line.endswith(" lo")]
    reached = {}
    for family, address, port in PLAN["addresses"]:
        for kind, word in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
            reached[f"{word} {address}:{port}"] = connected(family, kind, address, port)
    servers = [
        line.split()[1] for line in (text("/etc/resolv.conf") or "").splitlines() if line.startswith("nameserver ")
    ]
    interfaces = [line.partition(":")[0].strip() for line in lines]
    return {"interfaces": interfaces, "routes": routes + six, "servers": servers, "reached": reached}


def connected(family: int, kind: int, address: str, port: int) -> str:
    """Connects and sends a byte."""

    def action() -> None:
        with socket.socket(family, kind) as link:
            link.settimeout(2)
            link.connect((address, port))
            link.send(b"x")

    return tried(action)


def families() -> dict[str, str]:
    """Which kinds of sockets can be made."""
    wanted = {
        "AF_ALG": (38, socket.SOCK_SEQPACKET, 0),
        "AF_PACKET": (17, socket.SOCK_RAW, 3),
        "AF_VSOCK": (40, socket.SOCK_STREAM, 0),
        "raw IP": (socket.AF_INET, socket.SOCK_RAW, 1),
        "raw IPv6": (socket.AF_INET6, socket.SOCK_RAW, 58),
    }
    return {name: tried(lambda it=it: socket.socket(*it).close()) for name, it in wanted.items()}  # type: ignore[misc]


def runner() -> dict[str, str | None]:
    """What a tool can do to process 1, from a child as a tool would be."""
    if os.getpid() == 1:
        return {}
    found: dict[str, str | None] = {
        "fd": opened("/proc/1/fd/1", os.O_WRONLY),
        "mem": opened("/proc/1/mem", os.O_RDWR),
        "environ": opened("/proc/1/environ", os.O_RDONLY),
        "maps": opened("/proc/1/maps", os.O_RDONLY),
        "root": tried(lambda: os.listdir("/proc/1/root")),  # noqa: PTH208  # what is loaded here is kept small
        "cwd": tried(lambda: os.listdir("/proc/1/cwd")),  # noqa: PTH208  # what is loaded here is kept small
        "attach": call("ptrace", 16, 1, 0, 0),
        "seize": call("ptrace", 0x4206, 1, 0, 0),
    }
    if ctypes is not None:
        vector = (ctypes.c_size_t * 2)(id(found), 8)
        found["process_vm_readv"] = call("process_vm_readv", 1, vector, 1, vector, 1, 0)
    return found


def system_calls() -> dict[str, str | None]:
    """System calls that a tool has no business with; each is made so that it would change nothing of note."""
    if ctypes is None:
        return {}
    room = ctypes.create_string_buffer(256)
    nothing = ctypes.c_void_p()
    found = {
        "add_key": call("add_key", b"user", b"probe", b"x", 1, -1),
        "keyctl": call("keyctl", 0, -1, 0),
        "request_key": call("request_key", b"user", b"probe", nothing, 0),
        "bpf": call("bpf", 0, nothing, 0),
        "perf_event_open": call("perf_event_open", room, 0, -1, -1, 0),
        "userfaultfd": call("userfaultfd", 0),
        "io_uring_setup": call("io_uring_setup", 1, room),
        "open_by_handle_at": call("open_by_handle_at", -100, room, 0),
        "kexec_load": call("kexec_load", 0, 0, nothing, 0),
        "reboot": call("reboot", 0, 0, 0, nothing),
        "init_module": call("init_module", nothing, 0, nothing),
        "sethostname": call("sethostname", b"probe", 5),
        "clock_settime": call("clock_settime", 0, nothing),
        "swapon": call("swapon", b"/work", 0),
        "acct": call("acct", nothing),
        "syslog": call("syslog", 3, room, 256),
        "mount": call("mount", b"none", b"/tmp", b"tmpfs", 0, nothing),
        "bind mount": call("mount", b"/etc", b"/tmp", nothing, 4096, nothing),
        "remount": call("mount", nothing, b"/", nothing, 32, nothing),
        "umount2": call("umount2", b"/job", 2),
        "pivot_root": call("pivot_root", b"/work", b"/work"),
    }
    for name in ("mnt", "pid", "user"):
        found[f"setns {name}"] = entered(f"/proc/1/ns/{name}") or entered(f"/proc/self/ns/{name}")
    return found


def entered(path: str) -> str | None:
    """Whether a namespace can be entered; nothing where it can't be opened."""
    try:
        link = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return call("setns", link, 0)
    finally:
        os.close(link)


def new_namespaces() -> dict[str, str | None]:
    """Which namespaces can be made, each in a child of its own."""
    return {
        name: str(answer) if (answer := aside(lambda flag=flag: call("unshare", flag))) else None  # type: ignore[misc]
        for name, flag in PLAN["namespaces"].items()
    }


def processes(most: int) -> int:
    """How many processes there can be beside this one; all of them end with their pipe."""
    reader, writer = os.pipe()
    made: list[int] = []
    try:
        while len(made) < most:
            child = os.fork()
            if not child:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
            made.append(child)
    except OSError:
        pass
    os.close(writer)
    for child in made:
        os.waitpid(child, 0)
    os.close(reader)
    return len(made)


def rlimits(names: Iterable[str]) -> dict[str, int]:
    """Hard limits, and whether they can be raised."""
    found = {}
    for name in names:
        found[name] = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]
    return found


def raised() -> str:
    """Whether the hard limit on open files can be raised."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return str(aside(lambda: tried(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1)))))


def room(path: str) -> dict[str, int]:
    """How much fits into a file system."""
    facts = os.statvfs(path)
    return {"bytes": facts.f_blocks * facts.f_frsize, "inodes": facts.f_files}


def look() -> dict[str, object]:
    """Everything."""
    groups = {
        name: [text(f"/sys/fs/cgroup/{path}") for path in paths if path] for name, paths in PLAN["cgroup"].items()
    }
    return {
        "status": status(),
        "no_new_privileges": no_new_privileges(),
        "becoming_root": aside(lambda: {"setuid": tried(lambda: os.setuid(0)), "setgid": tried(lambda: os.setgid(0))}),
        "setuid_programs": setuid_programs(),
        "boot": text("/proc/sys/kernel/random/boot_id"),
        "namespaces": namespaces(),
        "new_namespaces": new_namespaces(),
        "mounts": mounts(),
        "root": {path: written(path) for path in ("/", "/etc", "/usr/bin", "/var", "/root", "/home")},
        "devices": devices(),
        "mknod": device_made("/work/.probe"),
        "kernel_files": {path: opened(path, os.O_WRONLY) for path in PLAN["kernel_files"]},
        "cgroup_files": cgroup_writes(),
        "masked": masked(),
        "sockets": {path: os.path.lexists(path) for path in PLAN["sockets"]},
        "network": network(),
        "families": families(),
        "runner": aside(runner),
        "calls": aside(system_calls),
        "cgroup": {name: next((found.strip() for found in values if found), None) for name, values in groups.items()},
        "rlimits": rlimits(("NOFILE", "NPROC", "CORE", "MSGQUEUE", "MEMLOCK", "RTPRIO", "NICE")),
        "raised": raised(),
        "processes": processes(PLAN["most"]),
        "room": {path: room(path) for path in ("/work", "/tmp", "/job", "/dev/shm")},  # noqa: S108  # inside the sandbox
    }


def cgroup_writes() -> dict[str, str]:
    """Whether a limit could be lifted, or a program of the host's be named."""
    return {path: opened(f"/sys/fs/cgroup/{path}", os.O_WRONLY) for path in PLAN["cgroup_files"]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look()))

"""A hostile tool asks the kernel for more than it was given: privileges, namespaces, mounts, modules, keys, odd sockets."""

from __future__ import annotations

from typing import Any

import pytest

from broker.domain.run import EndCause
from broker.sandbox.engine import Engine
from tests.attacks.sandbox_probes import probe, probed
from tests.sandbox_support import argv, facts, run

pytestmark = pytest.mark.docker

_NAMESPACES = ("user", "mount", "net", "pid", "ipc", "uts", "cgroup")

# The numbers of clone flags, families and commands are those of the kernel's own headers.
_ASK = r"""
status = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))
found["status"] = {key: value.split() for key, value in status.items()}
attempt("setuid", lambda: os.setuid(0))
attempt("setgid", lambda: os.setgid(0))
attempt("setgroups", lambda: os.setgroups([0]))
attempt("chroot", lambda: os.chroot("/tmp"))
attempt("block device", lambda: os.mknod("/tmp/disk", 0o60600, os.makedev(8, 0)))
attempt("memory device", lambda: os.mknod("/tmp/mem", 0o20600, os.makedev(1, 1)))
attempt("null device", lambda: os.mknod("/tmp/null", 0o20600, os.makedev(1, 3)))

for name, number in {"kernel": 0x1DE784, "new": 0}.items():
    call("keyctl", number, 0, 0, 0, 0, say=f"keyctl {name}")
call("add_key", b"user", b"left", b"x", 1, -4)
call("request_key", b"user", b"left", 0, -4)
call("bpf", 0, ctypes.create_string_buffer(128), 128)
call("bpf", 5, ctypes.create_string_buffer(128), 128, say="bpf load")
call("perf_event_open", ctypes.create_string_buffer(b"\0\0\0\0\x70", 112), 0, -1, -1, 0)
call("userfaultfd", 0)
call("userfaultfd", 1, say="userfaultfd user mode")
for name in ("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "lookup_dcookie",
             "fanotify_init", "fsopen", "open_tree", "move_mount", "mount_setattr", "vhangup"):
    call(name, 0, 0, 0, 0, 0)
call("syslog", 3, ctypes.create_string_buffer(64), 64)
call("mount", b"none", b"/tmp", b"tmpfs", 0, 0)
call("mount", b"/", b"/tmp", 0, 4096, 0, say="mount --bind")
call("mount", 0, b"/", 0, 4096 | 32, 0, say="remount rw")
call("umount2", b"/proc/keys", 2)
call("pivot_root", b"/tmp", b"/tmp")
call("reboot", 0xFEE1DEAD - 2**32, 672274793, 0)  # ctrl-alt-del off: harmless where it works
call("swapon", b"/tmp/none", 0)
call("swapoff", b"/tmp/none")
call("acct", b"/tmp/none")
call("quotactl", 0x80000100, 0, 0, 0)
call("settimeofday", struct.pack("qq", 0, 0), 0)
call("clock_settime", 0, struct.pack("qq", 0, 0))
call("adjtimex", struct.pack("I", 1) + bytes(256))
call("sethostname", b"mine", 4)
call("setdomainname", b"mine", 4)
call("iopl", 3)
call("ioperm", 0x80, 1, 1)
call("personality", 0x0040000, say="personality without random addresses")
call("personality", 0x0400000, say="personality with readable code")

handle = struct.pack("Ii", 8, 1) + struct.pack("II", 2, 0)  # inode 2: the root of the host's file system ("shocker")
call("open_by_handle_at", os.open("/etc/hostname", os.O_RDONLY), handle, os.O_RDONLY)

flags = {"user": 0x10000000, "mount": 0x00020000, "net": 0x40000000, "pid": 0x20000000, "ipc": 0x08000000,
         "uts": 0x04000000, "cgroup": 0x02000000}
for name, flag in flags.items():
    call("unshare", flag, say=f"unshare {name}")
    if call("clone", flag | signal.SIGCHLD, 0, 0, 0, 0, say=f"clone {name}") == 0:
        os._exit(0)
    wish = struct.pack("8Q", flag, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    if call("clone3", wish, len(wish), say=f"clone3 {name}") == 0:
        os._exit(0)
for name in sorted(os.listdir("/proc/self/ns")):
    attempt(f"open /proc/1/ns/{name}", lambda: os.open(f"/proc/1/ns/{name}", os.O_RDONLY))
    call("setns", os.open(f"/proc/self/ns/{name}", os.O_RDONLY), 0, say=f"setns {name}")

AF_ALG, AF_RDS, AF_TIPC, SOCK_SEQPACKET = 38, 21, 30, 5
def alg():
    with socket.socket(AF_ALG, SOCK_SEQPACKET) as made:
        made.bind(("hash", "sha256"))
attempt("AF_ALG", alg)
attempt("AF_VSOCK", lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
attempt("AF_VSOCK datagram", lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_DGRAM))
attempt("AF_KCM", lambda: socket.socket(41, SOCK_SEQPACKET))
call("io_uring_setup", 4, ctypes.create_string_buffer(120))
attempt("AF_PACKET", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("AF_PACKET datagram", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM))
attempt("AF_XDP", lambda: socket.socket(44, socket.SOCK_RAW))
attempt("AF_RDS", lambda: socket.socket(AF_RDS, SOCK_SEQPACKET))
attempt("AF_TIPC", lambda: socket.socket(AF_TIPC, SOCK_SEQPACKET))
attempt("raw ICMP", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
attempt("raw IP", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
attempt("raw ICMPv6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6))

def netlink(kind, body):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as made:
        made.bind((0, 0))
        made.send(struct.pack("IHHII", 16 + len(body), kind, 0x1 | 0x4 | 0x400, 1, 0) + body)
        number = -struct.unpack_from("i", made.recv(4096), 16)[0]
        if number:
            raise OSError(number, "netlink")
name = struct.pack("HH", 11, 3) + b"dummy0\0\0"
kind = struct.pack("HHHH", 16, 18, 10, 1) + b"dummy\0\0\0"
attempt("netlink new link", lambda: netlink(16, struct.pack("BxHiII", 0, 0, 0, 0, 0) + name + kind))
attempt("netlink new address", lambda: netlink(20, struct.pack("BBBBI", 2, 24, 0, 0, 1) + struct.pack("HH4B", 8, 2, 10, 9, 9, 9)))
attempt("netlink new route", lambda: netlink(24, struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0) + struct.pack("HHI", 8, 4, 1)))
"""
found = probed(_ASK)


@pytest.mark.parametrize("kind", ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
def test_no_capability_is_held_or_can_be_gained(found: dict[str, Any], kind: str) -> None:
    assert int(found["status"][kind][0], 16) == 0


def test_no_new_privileges_can_be_had_from_a_program(found: dict[str, Any]) -> None:
    assert found["status"]["NoNewPrivs"] == ["1"]


def test_the_seccomp_filter_is_on(found: dict[str, Any]) -> None:
    assert found["status"]["Seccomp"] == ["2"]


def test_every_identity_is_nobody(found: dict[str, Any]) -> None:
    assert found["status"]["Uid"] == found["status"]["Gid"] == ["65534"] * 4
    assert found["status"]["Groups"] in ([], ["65534"])


@pytest.mark.parametrize("name", ["setuid", "setgid", "setgroups"])
def test_becoming_root(found: dict[str, Any], name: str) -> None:
    assert found[name] == "EPERM"


def test_chroot(found: dict[str, Any]) -> None:
    assert found["chroot"] == "EPERM"


@pytest.mark.parametrize("name", ["block device", "memory device", "null device"])
def test_making_a_device(found: dict[str, Any], name: str) -> None:
    assert found[name] == "EPERM"


@pytest.mark.parametrize("name", ["keyctl kernel", "keyctl new", "add_key", "request_key"])
def test_keyrings_that_no_namespace_divides(found: dict[str, Any], name: str) -> None:
    assert found[name] == "EPERM"


@pytest.mark.parametrize("name", ["bpf", "bpf load"])
def test_loading_a_bpf_program(found: dict[str, Any], name: str) -> None:
    assert found[name] == "EPERM"


def test_performance_counters(found: dict[str, Any]) -> None:
    assert found["perf_event_open"] == "EPERM"


@pytest.mark.parametrize("name", ["userfaultfd", "userfaultfd user mode"])
def test_faults_that_the_tool_would_answer(found: dict[str, Any], name: str) -> None:
    assert found[name] == "EPERM"


@pytest.mark.parametrize("name", ["kexec_load", "kexec_file_load"])
def test_another_kernel(found: dict[str, Any], name: str) -> None:
    assert found[name] == "EPERM"


@pytest.mark.parametrize("name", ["init_module", "finit_module", "delete_module"])
def test_kernel_modules(found: dict[str, Any], name: str) -> None:
    assert found[name] == "EPERM"


@pytest.mark.parametrize(
    "name", ["mount", "mount --bind", "remount rw", "fsopen", "open_tree", "move_mount", "mount_setattr"]
)
def test_mounting(found: dict[str, Any], name: str) -> None:
    assert found[name] == "EPERM"


def test_taking_a_mask_off(found: dict[str, Any]) -> None:
    assert found["umount2"] == "EPERM"


def test_pivot_root(found: dict[str, Any]) -> None:
    assert found["pivot_root"] == "EPERM"


def test_reboot(found: dict[str, Any]) -> None:
    assert found["reboot"] == "EPERM"


@pytest.mark.parametrize("name", ["swapon", "swapoff", "acct", "quotactl"])
def test_swap_accounting_and_quota(found: dict[str, Any], name: str) -> None:
    assert found[name] == "EPERM"


@pytest.mark.parametrize("name", ["settimeofday", "clock_settime", "adjtimex"])
def test_setting_the_clock(found: dict[str, Any], name: str) -> None:
    assert found[name] == "EPERM"


@pytest.mark.parametrize("name", ["sethostname", "setdomainname"])
def test_changing_the_hostname(found: dict[str, Any], name: str) -> None:
    assert found[name] == "EPERM"


@pytest.mark.parametrize("name", ["iopl", "ioperm"])
def test_raw_ports(found: dict[str, Any], name: str) -> None:
    assert found[name] in {"EPERM", "ENOSYS"}  # there are none on aarch64


@pytest.mark.parametrize("name", ["personality without random addresses", "personality with readable code"])
def test_a_personality_that_makes_exploits_easier(found: dict[str, Any], name: str) -> None:
    assert found[name] == "EPERM"


def test_the_kernels_log(found: dict[str, Any]) -> None:
    assert found["syslog"] == "EPERM"


@pytest.mark.parametrize("name", ["fanotify_init", "lookup_dcookie", "vhangup"])
def test_calls_that_only_an_administrator_needs(found: dict[str, Any], name: str) -> None:
    assert found[name] in {"EPERM", "ENOSYS"}


def test_a_file_of_the_host_by_its_handle(found: dict[str, Any]) -> None:
    assert found["open_by_handle_at"] == "EPERM"


@pytest.mark.parametrize("name", _NAMESPACES)
def test_unshare(found: dict[str, Any], name: str) -> None:
    assert found[f"unshare {name}"] == "EPERM"


@pytest.mark.parametrize("name", _NAMESPACES)
def test_clone_into_a_new_namespace(found: dict[str, Any], name: str) -> None:
    assert found[f"clone {name}"] == "EPERM"
    assert found[f"clone3 {name}"] in {"ENOSYS", "EPERM"}  # its flags lie where no filter can read them


def test_setns_into_a_namespace(found: dict[str, Any]) -> None:
    tried = {name: value for name, value in found.items() if name.startswith("setns ")}
    assert len(tried) >= 8
    assert set(tried.values()) == {"EPERM"}


def test_the_namespaces_of_process_1(found: dict[str, Any]) -> None:
    tried = {name: value for name, value in found.items() if name.startswith("open /proc/1/ns/")}
    assert len(tried) >= 8
    assert set(tried.values()) == {"EACCES"}


def test_a_socket_to_the_kernels_cryptography(found: dict[str, Any]) -> None:
    assert found["AF_ALG"] in {"EPERM", "EAFNOSUPPORT"}


@pytest.mark.parametrize("name", ["AF_VSOCK", "AF_VSOCK datagram"])
def test_a_socket_to_the_hypervisor(found: dict[str, Any], name: str) -> None:
    assert found[name] in {"EPERM", "EAFNOSUPPORT"}


def test_a_ring_that_makes_system_calls_past_the_filter(found: dict[str, Any]) -> None:
    assert found["io_uring_setup"] in {"EPERM", "ENOSYS"}


@pytest.mark.parametrize("name", ["AF_PACKET", "AF_PACKET datagram", "AF_XDP"])
def test_packets_below_the_network(found: dict[str, Any], name: str) -> None:
    assert found[name] in {"EPERM", "EAFNOSUPPORT"}


@pytest.mark.parametrize("name", ["AF_RDS", "AF_TIPC", "AF_KCM"])
def test_families_whose_modules_would_be_loaded(found: dict[str, Any], name: str) -> None:
    assert found[name] in {"EPERM", "EAFNOSUPPORT"}


@pytest.mark.parametrize("name", ["raw ICMP", "raw IP", "raw ICMPv6"])
def test_raw_sockets(found: dict[str, Any], name: str) -> None:
    assert found[name] in {"EPERM", "EAFNOSUPPORT"}  # the last where the host has no IPv6


@pytest.mark.parametrize("name", ["link", "address", "route"])
def test_changing_the_network_by_netlink(found: dict[str, Any], name: str) -> None:
    assert found[f"netlink new {name}"] == "EPERM"


_OTHER_CALLS = r"""
import mmap
X32 = 0x40000000

def entered_by_int80(number):
    '''Calls the kernel as a program of 32 bits does; the filter must know these numbers too.'''
    code = b"\x53\xb8" + struct.pack("I", number) + b"\x31\xdb\x31\xc9\x31\xd2\x31\xf6\x31\xff\xcd\x80\x5b\xc3"
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()

def in_a_child(action):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(action()).encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 64)
    return name_of(-int(said)) if said else f"signal {os.waitpid(child, 0)[1] & 0x7f}"

if platform.machine() == "x86_64":
    for name, number in {"mount": 21, "keyctl": 288, "unshare": 310, "bpf": 357}.items():
        found[f"int 0x80 {name}"] = in_a_child(lambda: entered_by_int80(number))
    for name, number in {"mount": 165, "keyctl": 250, "unshare": 272, "bpf": 321}.items():
        value = libc.syscall(ctypes.c_long(X32 | number), ctypes.c_long(0x10000000), 0, 0, 0, 0)
        found[f"x32 {name}"] = "done" if value >= 0 else name_of(ctypes.get_errno())
"""


async def test_the_same_calls_by_another_door(engine: Engine) -> None:
    found = await probe(engine, _OTHER_CALLS)
    assert set(found.values()) <= {"EPERM", "ENOSYS", "signal 11", "signal 31"}, found


async def test_no_setuid_program_is_left_in_the_image(engine: Engine) -> None:
    done = await run(engine, argv("find", "/", "-xdev", "-type", "f", "(", "-perm", "/6000", "-o", "-name", "su", ")"))
    assert [line for line in done.text.split() if not line.endswith("/su")] == []
    assert done.text.split()  # the search saw something


async def test_no_program_of_the_image_carries_capabilities(engine: Engine) -> None:
    code = (
        "found['looked at'] = 0\nfound['with'] = []\n"
        "for folder, _, names in os.walk('/usr'):\n"
        "    for name in names:\n"
        "        path = f'{folder}/{name}'\n"
        "        if not os.path.islink(path):\n"
        "            found['looked at'] += 1\n"
        "            if 'security.capability' in os.listxattr(path): found['with'].append(path)\n"
    )
    found = await facts(engine, code)
    assert found["with"] == []
    assert found["looked at"] > 1000  # type: ignore[operator]  # a number, from the code above


async def test_a_bad_system_call_ends_nothing_but_itself(engine: Engine) -> None:
    code = "import ctypes\nlibc = ctypes.CDLL(None)\nfor number in range(460, 4096): libc.syscall(number, -1, -1, -1, -1, -1, -1)\nprint('there')"
    done = await run(engine, argv("python3", "-c", code))
    assert (done.text, done.ended.exit_code, done.ended.cause) == ("there\n", 0, EndCause.TOOL)

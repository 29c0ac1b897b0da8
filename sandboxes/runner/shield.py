"""A system call filter of our own, upon the engine's: it only takes away, and holds for every process of the sandbox.

Engines differ in what their own filter leaves open, and old ones leave much: sockets to the machine's hypervisor, which
no network namespace holds back, the kernel's ciphers, io_uring. A runtime with a kernel of its own may pass over the
engine's filter: there a user namespace would lift the limit on processes.
"""

import errno
import os
import struct

from runner import libc

_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _AND, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
_FAMILIES = (1, 2, 10, 16)  # unix, IPv4, IPv6, netlink: no others
_NAMESPACES = 0x7E020000
_NEW_TIME = 0x80
_KINDS, _CHARACTER, _BLOCK = 0o170000, 0o020000, 0o060000
_SET_SECCOMP, _FILTER, _NO_NEW_PRIVILEGES = 22, 2, 38
_OTHER_MACHINE = 0x40000000  # x32: the same numbers with a bit on top

_MACHINES = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "socketpair": 53, "clone": 56, "syslog": 103, "mknod": 133, "mknodat": 259, "unshare": 272,
            "setns": 308, "add_key": 248, "request_key": 249, "keyctl": 250, "perf_event_open": 298,
            "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425,
            "io_uring_enter": 426, "io_uring_register": 427, "clone3": 435, "setpriority": 141, "sched_setparam": 142,
            "sched_setscheduler": 144, "sched_setaffinity": 203, "ioprio_set": 251, "prlimit64": 302,
            "sched_setattr": 314,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "socketpair": 199, "clone": 220, "syslog": 116, "mknodat": 33, "unshare": 97, "setns": 268,
            "add_key": 217, "request_key": 218, "keyctl": 219, "perf_event_open": 241, "process_vm_readv": 270,
            "process_vm_writev": 271, "bpf": 280, "userfaultfd": 282, "io_uring_setup": 425, "io_uring_enter": 426,
            "io_uring_register": 427, "clone3": 435, "setpriority": 140, "sched_setparam": 118,
            "sched_setscheduler": 119, "sched_setaffinity": 122, "ioprio_set": 30, "prlimit64": 261,
            "sched_setattr": 274,
        },
    ),
}  # fmt: skip
_NEVER = {
    **dict.fromkeys(
        ("setns", "add_key", "request_key", "keyctl", "perf_event_open", "process_vm_readv", "process_vm_writev", "bpf",
         "userfaultfd", "syslog"), errno.EPERM
    ),
    # Programs take these two answers for an older kernel, and do without.
    **dict.fromkeys(("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3"), errno.ENOSYS),
}  # fmt: skip
_WITH_FLAGS = {"clone": (0, _NAMESPACES), "unshare": (0, _NAMESPACES | _NEW_TIME)}
_DEVICES = {"mknod": 1, "mknodat": 2}
_OF_PROCESS = ("prlimit64", "sched_setparam", "sched_setscheduler", "sched_setaffinity", "sched_setattr")
_OF_USER = {"setpriority": 2, "ioprio_set": 3}
"""A tool has the runner's user, so the kernel would let it change process 1, alone or as one of all of that user."""


def raise_shield() -> None:
    """Installs the filter for this process and all that come from it.

    Raises:
        OSError: the kernel refuses, or the machine isn't known: then no tool may run here.
    """
    program = libc.FilterProgram(assemble(os.uname().machine))
    prctl = libc.function("prctl")
    if prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or prctl(_SET_SECCOMP, _FILTER, program.head, 0, 0):
        raise libc.failure("the system call filter can't be installed")


def assemble(machine: str) -> bytes:
    """The filter's program for a kind of machine.

    Raises:
        OSError: nobody wrote its numbers down.
    """
    if machine not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no system call filter for {machine}")
    code, numbers = _MACHINES[machine]
    steps = [
        _step(_LOAD, _MACHINE),
        _step(_JUMP_EQUAL, code, yes=1),
        _step(_RETURN, _KILL),  # calls of another kind of machine have other numbers
        _step(_LOAD, _NUMBER),
        _step(_JUMP_SET, _OTHER_MACHINE, no=1),
        _step(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for name, number in numbers.items():
        body = _rule(name)
        steps += [_step(_JUMP_EQUAL, number, no=len(body)), *body]
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def _rule(name: str) -> list[bytes]:
    """What happens to one system call; every way through it returns."""
    if name in _NEVER:
        return [_step(_RETURN, _ERRNO | _NEVER[name])]
    if name in _WITH_FLAGS:
        argument, flags = _WITH_FLAGS[name]
        checks = [_step(_JUMP_SET, flags, no=1), _step(_RETURN, _ERRNO | errno.EPERM)]
    elif name in _OF_PROCESS:
        argument = 0
        checks = [_step(_JUMP_EQUAL, 1, no=1), _step(_RETURN, _ERRNO | errno.EPERM)]
    elif name in _OF_USER:
        argument = 0
        refused = _step(_RETURN, _ERRNO | errno.EPERM)
        checks = [_step(_JUMP_EQUAL, _OF_USER[name], no=1), refused]
        checks += [_step(_LOAD, _ARGUMENTS + 8), _step(_JUMP_EQUAL, 1, no=1), refused]
    elif name in _DEVICES:
        argument = _DEVICES[name]
        checks = [
            _step(_AND, _KINDS),
            _step(_JUMP_EQUAL, _CHARACTER, yes=1),
            _step(_JUMP_EQUAL, _BLOCK, no=1),
            _step(_RETURN, _ERRNO | errno.EPERM),
        ]
    else:
        argument = 0
        ahead = range(len(_FAMILIES), 0, -1)
        checks = [_step(_JUMP_EQUAL, family, yes=left) for family, left in zip(_FAMILIES, ahead, strict=True)]
        checks.append(_step(_RETURN, _ERRNO | errno.EAFNOSUPPORT))
    return [_step(_LOAD, _ARGUMENTS + 8 * argument), *checks, _step(_RETURN, _ALLOW)]


def _step(operation: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", operation, yes, no, value)

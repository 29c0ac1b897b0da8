"""The runner's system call filter, step by step as a kernel walks through it."""

from __future__ import annotations

import errno
import socket
import stat
import struct
from types import ModuleType

import pytest

ALLOW = "allow"
KILL = "kill"
X86, ARM = 0xC000003E, 0xC00000B7
MACHINES = {"x86_64": X86, "aarch64": ARM}


@pytest.fixture(scope="module")
def shield(runner: dict[str, ModuleType]) -> ModuleType:
    """The module that makes the filter."""
    return runner["shield"]


def walk(program: bytes, machine: int, number: int, *arguments: int) -> str | int:
    """What the filter answers to a system call: allow, kill, or an error number."""
    given = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number, machine, 0, *(value & 2**64 - 1 for value in given))
    steps = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    while True:
        operation, yes, no, value = steps[at]
        at += 1
        match operation:
            case 0x20:
                accumulator = struct.unpack_from("<I", data, value)[0]
            case 0x54:
                accumulator &= value
            case 0x15:
                at += yes if accumulator == value else no
            case 0x45:
                at += yes if accumulator & value else no
            case 0x06:
                verdicts: dict[int, str | int] = {0x7FFF0000: ALLOW, 0x80000000: KILL}
                return verdicts.get(value, int(value & 0xFFFF))
            case _:
                raise AssertionError(operation)


def numbers(shield: ModuleType, machine: str) -> dict[str, int]:
    found: dict[str, int] = shield._MACHINES[machine][1]  # the table is what is tested
    return found


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["setns", "keyctl", "add_key", "request_key", "bpf", "userfaultfd", "syslog"])
def test_calls_that_are_always_refused(shield: ModuleType, machine: str, name: str) -> None:
    number = numbers(shield, machine)[name]
    assert walk(shield.assemble(machine), MACHINES[machine], number) == errno.EPERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["io_uring_setup", "io_uring_enter", "io_uring_register", "clone3"])
def test_calls_that_look_absent(shield: ModuleType, machine: str, name: str) -> None:
    number = numbers(shield, machine)[name]
    assert walk(shield.assemble(machine), MACHINES[machine], number) == errno.ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ["socket", "socketpair"])
def test_kinds_of_sockets(shield: ModuleType, machine: str, name: str) -> None:
    program, number = shield.assemble(machine), numbers(shield, machine)[name]
    for family in range(64):
        usual = family in {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, 16}
        expected = ALLOW if usual else errno.EAFNOSUPPORT
        assert walk(program, MACHINES[machine], number, family) == expected, family
        # The kernel takes the lower half of the argument only, and so must the filter.
        assert walk(program, MACHINES[machine], number, family | 1 << 40) == expected, family


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_new_namespaces(shield: ModuleType, machine: str, flag: int) -> None:
    program, found = shield.assemble(machine), numbers(shield, machine)
    for name in ("clone", "unshare"):
        assert walk(program, MACHINES[machine], found[name], flag | 17) == errno.EPERM
        assert walk(program, MACHINES[machine], found[name], 0x400) == ALLOW
    assert walk(program, MACHINES[machine], found["unshare"], 0x80) == errno.EPERM
    assert walk(program, MACHINES[machine], found["clone"], 0x3D0F00) == ALLOW  # a thread


@pytest.mark.parametrize(
    ("machine", "name", "place"), [("x86_64", "mknod", 1), ("x86_64", "mknodat", 2), ("aarch64", "mknodat", 2)]
)
def test_device_files(shield: ModuleType, machine: str, name: str, place: int) -> None:
    program, number = shield.assemble(machine), numbers(shield, machine)[name]
    for kind, expected in (
        (stat.S_IFCHR, errno.EPERM),
        (stat.S_IFBLK, errno.EPERM),
        (stat.S_IFIFO, ALLOW),
        (stat.S_IFREG, ALLOW),
        (stat.S_IFSOCK, ALLOW),
        (0, ALLOW),
    ):
        arguments = [0] * place + [kind | 0o644]
        assert walk(program, MACHINES[machine], number, *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_everything_else_is_the_engines_business(shield: ModuleType, machine: str) -> None:
    program, named = shield.assemble(machine), set(numbers(shield, machine).values())
    others = set(range(500)) - named
    assert {walk(program, MACHINES[machine], number) for number in others} == {ALLOW}


def test_calls_of_another_kind_of_machine(shield: ModuleType) -> None:
    assert walk(shield.assemble("x86_64"), 0x40000003, 41, 40) == KILL
    assert walk(shield.assemble("x86_64"), X86, 41 | 0x40000000, 40) == errno.ENOSYS
    with pytest.raises(OSError, match="no system call filter"):
        shield.assemble("s390x")


def test_no_jump_leads_out_of_the_program(shield: ModuleType) -> None:
    for machine in MACHINES:
        steps = list(struct.iter_unpack("<HBBI", shield.assemble(machine)))
        for at, (operation, yes, no, _) in enumerate(steps):
            if operation in {0x15, 0x45}:
                assert at + 1 + max(yes, no) < len(steps)

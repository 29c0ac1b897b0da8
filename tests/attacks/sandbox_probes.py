"""What the attacks on the sandbox share: code that tries something inside and tells how it was refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from broker.domain.run import Limits
from broker.sandbox.engine import Engine
from tests.sandbox_support import LIMITS, argv, docker_engine, python, run

ENGINES = {"docker": docker_engine}
"""The engines that are attacked."""
KINDS = ("python", "argv")
"""A fork of the runner, and a program of its own: an attack may pass in one and fail in the other."""
DONE = "done"
"""What ``found`` says of an attempt that nothing refused."""

PREAMBLE = '''\
import ctypes, errno, json, os, platform, signal, socket, stat, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
found = {}

def name_of(number):
    return errno.errorcode.get(number, str(number))

def attempt(name, action):
    """Tells what an action ended with: "done", or the name of the error."""
    try:
        action()
    except OSError as error:
        found[name] = name_of(error.errno)
    else:
        found[name] = "done"

NUMBERS = {  # the system calls without a function in libc, on x86_64 and on aarch64
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "clock_settime": (227, 112),
    "clone": (56, 220), "clone3": (435, 435), "delete_module": (176, 106), "fanotify_init": (300, 262),
    "finit_module": (313, 273), "fsopen": (430, 430), "init_module": (175, 105), "io_uring_setup": (425, 425),
    "ioperm": (173, None), "iopl": (172, None), "ioprio_set": (251, 30), "kcmp": (312, 272),
    "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219), "lookup_dcookie": (212, 18),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429), "move_pages": (279, 239),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "perf_event_open": (298, 241),
    "personality": (135, 92), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41), "process_madvise": (440, 440), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60), "reboot": (169, 142),
    "request_key": (249, 218), "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268),
    "settimeofday": (164, 170), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116),
    "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282), "vhangup": (153, 58),
}
ARM = platform.machine() == "aarch64"

def call(name, *arguments, say=""):
    """Makes a system call by its number; tells "done", or the name of the error."""
    number = NUMBERS[name][ARM]
    if number is None:
        found[say or name] = "ENOSYS"
        return -1
    ctypes.set_errno(0)
    value = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    found[say or name] = "done" if value >= 0 else name_of(ctypes.get_errno())
    return value
'''


async def probe(engine: Engine, code: str, kind: str = "python", limits: Limits = LIMITS) -> dict[str, Any]:
    """Runs code that fills ``found`` by ``attempt`` and ``call``, in a fork of the runner or as a program."""
    whole = f"{PREAMBLE}\n{code}\nprint(json.dumps(found))"
    job = python(whole) if kind == "python" else argv("python3", "-c", whole)
    done = await run(engine, job, limits)
    assert done.ended.exit_code == 0, (done.ended, done.stderr.decode())
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def probed(code: str, limits: Limits = LIMITS) -> Callable[..., object]:
    """A fixture of a module: what one container of each engine and kind of job found; a test for each attack reads it."""

    async def ask(name: str, kind: str) -> Mapping[str, Any]:
        async with ENGINES[name]() as engine:
            return await probe(engine, code, kind, limits)

    params = [(name, kind) for name in ENGINES for kind in KINDS]

    @pytest.fixture(scope="module", params=params, ids=["-".join(param) for param in params])
    def found(request: pytest.FixtureRequest) -> Mapping[str, Any]:
        return asyncio.run(ask(*request.param))

    return found

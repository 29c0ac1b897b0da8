"""A hostile tool looks for a way out of its container; the shipped image, the real engine."""

from __future__ import annotations

import json

import pytest

from broker.sandbox.engine import Engine
from tests.sandbox_support import argv, facts, python, run

pytestmark = pytest.mark.docker

STATUS = (
    "status = dict(line.rstrip().split(':\\t', 1) for line in open('/proc/self/status') if ':\\t' in line)\n"
    "found = {key: status[key].strip() for key in status}"
)
TRY = (
    "def attempt(name, action):\n"
    "    try:\n"
    "        value = action()\n"
    "    except OSError as error:\n"
    "        found[name] = error.strerror or type(error).__name__\n"
    "    else:\n"
    "        found[name] = 'open'\n"
)


@pytest.mark.parametrize("kind", ["python", "argv"])
async def test_no_capabilities_no_new_privileges_seccomp_filter(engine: Engine, kind: str) -> None:
    code = f"import json\n{STATUS}\nprint(json.dumps(found))"
    done = await run(engine, python(code) if kind == "python" else argv("python3", "-c", code))
    status = json.loads(done.stdout)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Gid"].split() == ["65534"] * 4
    assert status["Groups"] in {"", "65534"}


async def test_no_setuid_program_is_left_in_the_image(engine: Engine) -> None:
    done = await run(engine, argv("find", "/", "-xdev", "-perm", "/6000", "-type", "f"))
    assert done.text == ""


async def test_becoming_root(engine: Engine) -> None:
    code = f"{TRY}attempt('setuid', lambda: os.setuid(0))\nattempt('setgid', lambda: os.setgid(0))\nattempt('chroot', lambda: os.chroot('/tmp'))"
    assert set((await facts(engine, code)).values()) == {"Operation not permitted"}


async def test_new_user_namespace(engine: Engine) -> None:
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "found['unshare'] = libc.unshare(0x10000000)\nfound['mount'] = libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)"
    )
    assert await facts(engine, code) == {"unshare": -1, "mount": -1}


async def test_writing_outside_the_writable_folders(engine: Engine) -> None:
    places = ["/etc/passwd", "/usr/x", "/x", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/x", "/dev/x"]
    code = f"{TRY}for place in {places}:\n    attempt(place, lambda: open(place, 'w'))"
    found = await facts(engine, code)
    assert set(found) == set(places)
    assert "open" not in found.values()


async def test_the_only_writable_mounts_are_sized(engine: Engine) -> None:
    code = (
        "for line in open('/proc/self/mounts'):\n"
        "    _, place, _, options = line.split()[:4]\n"
        "    if 'rw' in options.split(',') and os.path.isdir(place) and os.access(place, os.W_OK):\n"
        "        found[place] = options.split(',')"
    )
    found = await facts(engine, code)
    assert set(found) == {"/work", "/tmp", "/job", "/dev/shm", "/dev/mqueue"}  # noqa: S108  # inside the sandbox
    del found["/dev/mqueue"]  # closed by another limit, tested below
    for options in found.values():
        assert isinstance(options, list)
        assert {"nosuid", "nodev"} <= set(options)
        assert any(option.startswith("size=") for option in options)


async def test_dev_cannot_be_written_to(engine: Engine) -> None:
    code = f"{TRY}attempt('file', lambda: open('/dev/file', 'w'))\nattempt('mknod', lambda: os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0)))"
    assert set(await facts(engine, code)) == {"file", "mknod"}
    assert "open" not in (await facts(engine, code)).values()


async def test_shared_memory_is_small_and_message_queues_closed(engine: Engine) -> None:
    code = (
        "import ctypes\nfacts = os.statvfs('/dev/shm')\nfound['shm'] = facts.f_blocks * facts.f_frsize\n"
        "libc = ctypes.CDLL(None, use_errno=True)\nfound['mq'] = libc.mq_open(b'/q', os.O_CREAT | os.O_RDWR, 0o600, None)"
    )
    assert await facts(engine, code) == {"shm": 8 * 2**20, "mq": -1}


async def test_no_network_but_loopback(engine: Engine) -> None:
    code = "import socket\nfound['interfaces'] = [name for _, name in socket.if_nameindex()]\nfound['routes'] = len(open('/proc/net/route').readlines()) - 1"
    assert await facts(engine, code) == {"interfaces": ["lo"], "routes": 0}


@pytest.mark.parametrize("target", ["169.254.169.254", "172.17.0.1", "10.0.0.1", "192.0.2.1"])
async def test_hidden_egress_by_address(engine: Engine, target: str) -> None:
    code = f"import socket\n{TRY}attempt('tcp', lambda: socket.create_connection(({target!r}, 80), 3))\nattempt('udp', lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ({target!r}, 53)))"
    assert set((await facts(engine, code)).values()) == {"Network is unreachable"}


async def test_hidden_egress_by_name(engine: Engine) -> None:
    code = f"import socket\n{TRY}attempt('dns', lambda: socket.getaddrinfo('example.org', 80))"
    assert (await facts(engine, code))["dns"] != "open"


async def test_sockets_below_and_beside_the_network(engine: Engine) -> None:
    code = (
        f"import socket\n{TRY}"
        "attempt('packet', lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))\n"
        "attempt('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))\n"
        "attempt('vsock', lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).connect((2, 22)))"
    )
    found = await facts(engine, code)
    assert set(found) == {"packet", "raw", "vsock"}
    assert "open" not in found.values()


async def test_the_engines_socket_is_absent(engine: Engine) -> None:
    done = await run(engine, argv("find", "/", "-xdev", "-name", "docker*.sock"))
    assert done.text == ""
    found = await facts(
        engine,
        "found['there'] = [p for p in ('/var/run/docker.sock', '/run/docker.sock', '/run/containerd') if os.path.exists(p)]",
    )
    assert found == {"there": []}


async def test_the_host_is_not_seen_through_proc(engine: Engine) -> None:
    code = "found['pids'] = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())\nfound['self'] = os.getpid()\nfound['host'] = os.uname().nodename"
    found = await facts(engine, code)
    assert found["pids"] == [1, found["self"]]
    assert found["host"] == "sandbox"


async def test_no_device_but_the_harmless_ones(engine: Engine) -> None:
    found = await facts(
        engine,
        "import stat\nfound['devices'] = sorted(n for n in os.listdir('/dev') if stat.S_ISBLK(os.lstat('/dev/' + n).st_mode) or stat.S_ISCHR(os.lstat('/dev/' + n).st_mode))",
    )
    assert found["devices"] == ["full", "null", "random", "tty", "urandom", "zero"]


async def test_system_calls_that_the_filter_refuses(engine: Engine) -> None:
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "numbers = {'keyctl': 250, 'add_key': 248, 'bpf': 321, 'kexec_load': 246, 'init_module': 175, 'pivot_root': 155, 'open_by_handle_at': 304, 'userfaultfd': 323}\n"
        "for name, number in numbers.items():\n    found[name] = libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno()"
    )
    for name, (value, error) in (await facts(engine, code)).items():  # type: ignore[misc]  # pairs, from the code above
        assert (value, error) == (-1, 1), name  # EPERM


async def test_nothing_is_left_for_the_next_call(engine: Engine) -> None:
    leave = (
        "import os\nfor place in ('/work/left', '/tmp/left', '/dev/shm/left', '/job/left'):\n    open(place, 'w').close()\n"
        "if os.fork() == 0:\n    os.setsid()\n    import time\n    time.sleep(600)"
    )
    assert (await run(engine, python(leave))).ended.exit_code == 0
    look = "found['left'] = sorted(os.listdir('/work') + os.listdir('/tmp') + os.listdir('/dev/shm'))\nfound['job'] = os.listdir('/job')\nfound['pids'] = len([n for n in os.listdir('/proc') if n.isdigit()])"
    assert await facts(engine, look) == {"left": [], "job": ["arguments.json"], "pids": 2}

"""A hostile tool leaves something behind for whoever is called next: nothing of it may be there."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from broker.sandbox.engine import Engine
from tests.attacks.sandbox_probes import DONE, ENGINES, KINDS, probe
from tests.sandbox_support import python, run

pytestmark = pytest.mark.docker

_PLACES = (
    "/work/left",
    "/tmp/left",  # noqa: S108  # inside the sandbox
    "/dev/shm/left",  # noqa: S108  # the same
    "/job/left",
    "/work/.bashrc",
    "/work/.profile",
    "/work/.config/python/usercustomize.py",
    "/work/.ssh/authorized_keys",
    "/work/.cache/pip/left",
)
_REFUSED_PLACES = (
    "/etc/cron.d/left",
    "/var/spool/cron/crontabs/left",
    "/etc/profile.d/left.sh",
    "/etc/ld.so.preload",
    "/usr/lib/python3/dist-packages/left.pth",
    "/usr/local/bin/python3",
    "/root/.bashrc",
    "/run/left",
    "/var/tmp/left",  # noqa: S108  # the same
    "/dev/mqueue/left",
)

_GIVEN = f"PLACES, REFUSED = {_PLACES!r}, {_REFUSED_PLACES!r}\n"
_LEAVE = (
    _GIVEN
    + r"""
def leave(path):
    if path in PLACES:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write("left")
for path in PLACES + REFUSED:
    attempt(path, lambda: leave(path))
key = 0x1EF7
libc.shmat.restype = ctypes.c_void_p
found["shm"] = libc.shmget(key, ctypes.c_size_t(4096), 0o1600)
ctypes.memmove(libc.shmat(found["shm"], None, 0), b"left", 4)
found["sem"] = libc.semget(key, 1, 0o1600)
found["msg"] = libc.msgget(key, 0o1600)
found["sent"] = libc.msgsnd(found["msg"], struct.pack("q4s", 1, b"left"), 4, 0)
ctypes.CDLL("libpthread.so.0").sem_open.restype = ctypes.c_void_p
found["named semaphore"] = ctypes.CDLL(None).sem_open(b"/left", os.O_CREAT, 0o600, 1) != 0
memory = os.memfd_create("left")
os.write(memory, b"left")
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\0left")
abstract.listen()
port = socket.create_server(("127.0.0.1", 4711))
by_path = socket.socket(socket.AF_UNIX)
by_path.bind("/tmp/left.sock")
by_path.listen()
call("add_key", b"user", b"left", b"left", 4, -4)
call("sethostname", b"left", 4)
os.nice(5)
os.umask(0)
reading, writing = os.pipe()
def stay(name):
    os.write(writing, b"x")
    while True:
        signal.pause()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        stay("double fork")
    os._exit(0)
if os.fork() == 0:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stay("nohup")
subprocess.Popen(["sh", "-c", "nohup sleep 600 >/dev/null 2>&1 & echo x"], stdout=writing, start_new_session=True)
seen = b""
while len(seen) < 3:
    seen += os.read(reading, 1)
found["processes"] = len([name for name in os.listdir("/proc") if name.isdigit()])
found["open files"] = os.listdir("/proc/self/fd")
"""
)

_LOOK = (
    _GIVEN
    + r"""
found["places"] = [path for path in PLACES + REFUSED if os.path.lexists(path) and path != "/usr/local/bin/python3"]
found["folders"] = {path: sorted(os.listdir(path)) for path in ("/work", "/tmp", "/dev/shm", "/dev/mqueue", "/job", "/var/tmp")}
found["anywhere"] = subprocess.run(
    r"find / -path '/proc/[0-9]*' -prune -o \( -name left -o -name 'left.*' -o -name usercustomize.py \) -print 2>/dev/null",
    shell=True, capture_output=True, text=True
).stdout.split()
found["used"] = {path: os.statvfs(path).f_files - os.statvfs(path).f_ffree for path in ("/work", "/tmp", "/dev/shm")}
key = 0x1EF7
for name, action in {
    "shm": lambda: libc.shmget(key, ctypes.c_size_t(4096), 0o600),
    "sem": lambda: libc.semget(key, 1, 0o600),
    "msg": lambda: libc.msgget(key, 0o600),
}.items():
    ctypes.set_errno(0)
    found[name] = "done" if action() >= 0 else name_of(ctypes.get_errno())
    found[f"all {name}"] = len(open(f"/proc/sysvipc/{name}").readlines()) - 1
found["named semaphore"] = bool(ctypes.CDLL(None).sem_open(b"/left", 0))
attempt("abstract socket", lambda: socket.socket(socket.AF_UNIX).connect("\0left"))
attempt("socket by path", lambda: socket.socket(socket.AF_UNIX).connect("/tmp/left.sock"))
attempt("port", lambda: socket.create_connection(("127.0.0.1", 4711), 3))
found["sockets"] = len(open("/proc/net/unix").readlines()) - 1
found["ports"] = len(open("/proc/net/tcp").readlines()) - 1
found["host"] = os.uname().nodename
found["processes"] = sorted(open(f"/proc/{name}/comm").read().strip() for name in os.listdir("/proc") if name.isdigit())
found["pid"] = os.getpid()
found["nice"] = os.getpriority(os.PRIO_PROCESS, 0)
mask = os.umask(0o022)
found["umask"] = mask
call("keyctl", 0, -4, 0, 0, 0)
found["keys"] = len(open("/proc/keys").readlines()) if os.path.exists("/proc/keys") else 0
found["environment"] = sorted(os.environ)
"""
)


async def _one_after_another(name: str, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    async with ENGINES[name]() as engine:
        return await probe(engine, _LEAVE, kind), await probe(engine, _LOOK, kind)


_PARAMS = [(name, kind) for name in ENGINES for kind in KINDS]


@pytest.fixture(scope="module", params=_PARAMS, ids=["-".join(param) for param in _PARAMS])
def runs(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the first run says that it left, and what the next one saw."""
    return asyncio.run(_one_after_another(*request.param))


@pytest.mark.parametrize("place", _PLACES)
def test_a_file_left_where_writing_works(runs: tuple[dict[str, Any], dict[str, Any]], place: str) -> None:
    left, seen = runs
    assert left[place] == DONE
    assert place not in seen["places"]


@pytest.mark.parametrize("place", _REFUSED_PLACES)
def test_a_file_left_where_others_would_run_it(runs: tuple[dict[str, Any], dict[str, Any]], place: str) -> None:
    left, seen = runs
    assert left[place] in {"EROFS", "EACCES", "ENOENT", "EMFILE", "EPERM"}
    assert place not in seen["places"]


def test_a_file_left_anywhere(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, seen = runs
    folders = seen["folders"]
    assert folders.pop("/job") == ["arguments.json"]
    assert set(map(tuple, folders.values())) == {()}
    assert seen["anywhere"] == []
    assert set(seen["used"].values()) == {1}  # the folder itself


def test_shared_memory_left(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    left, seen = runs
    assert left["shm"] >= 0
    assert (seen["shm"], seen["all shm"]) == ("ENOENT", 0)


def test_a_semaphore_left(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    left, seen = runs
    assert left["sem"] >= 0
    assert (seen["sem"], seen["all sem"]) == ("ENOENT", 0)


def test_a_named_semaphore_left(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    left, seen = runs
    assert left["named semaphore"]
    assert not seen["named semaphore"]


def test_a_message_left_in_a_queue(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    left, seen = runs
    assert (left["msg"] >= 0, left["sent"]) == (True, 0)
    assert (seen["msg"], seen["all msg"]) == ("ENOENT", 0)


def test_sockets_left_listening(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, seen = runs
    assert (seen["abstract socket"], seen["port"], seen["socket by path"]) == ("ECONNREFUSED", "ECONNREFUSED", "ENOENT")
    assert (seen["sockets"], seen["ports"]) == (0, 0)


def test_processes_left_running(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    left, seen = runs
    assert left["processes"] >= 5
    assert len(seen["processes"]) == 2, seen["processes"]
    assert seen["pid"] < 20


def test_a_key_left_in_a_keyring(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    left, seen = runs
    assert left["add_key"] == "EPERM"
    assert (seen["keyctl"], seen["keys"]) == ("EPERM", 0)


def test_a_changed_name_of_the_host(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    left, seen = runs
    assert left["sethostname"] == "EPERM"
    assert seen["host"] == "sandbox"


def test_changed_manners_of_processes(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, seen = runs
    assert (seen["nice"], seen["umask"]) == (0, 0o022)


def test_nothing_is_left_in_the_environment(runs: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, seen = runs
    assert not {name for name in seen["environment"] if "LEFT" in name.upper()}
    assert {"PATH", "HOME", "TMPDIR", "BROKER_ARGUMENTS"} <= set(seen["environment"])


async def test_two_sandboxes_at_once_share_nothing(engine: Engine) -> None:
    meet = (
        "import fcntl, json, os, socket, sys, time\nname = sys.argv[0]\nbegun = time.time()\n"
        "server = socket.socket(socket.AF_UNIX)\nserver.bind('\\0meeting')\nserver.listen()\nserver.setblocking(False)\n"
        "door = socket.create_server(('127.0.0.1', 4712))\ndoor.setblocking(False)\n"
        "open('/dev/shm/' + name, 'w').close()\nopen('/tmp/' + name, 'w').close()\nmet = set()\n"
        "lock = open('/etc/passwd')\n"
        "try: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError: met.add('lock')\n"
        "while time.time() < begun + 1.5:\n"
        "    for listening in (server, door):\n"
        "        try: listening.accept(); met.add('connection')\n        except BlockingIOError: pass\n"
        "    met |= {item for item in os.listdir('/dev/shm') + os.listdir('/tmp') if item != name}\n"
        "    met |= {pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) not in (1, os.getpid())}\n"
        "print(json.dumps([sorted(met), begun, time.time()]))"
    )
    both = await asyncio.gather(*(run(engine, python(meet, argv=(name,))) for name in ("first", "second")))
    (first, first_begun, first_end), (second, second_begun, second_end) = (json.loads(done.stdout) for done in both)
    assert max(first_begun, second_begun) < min(first_end, second_end), "they never were there at the same time"
    assert (first, second) == ([], [])

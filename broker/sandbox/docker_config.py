"""From a profile to what the Docker Engine API is asked for: the hardening, in one place."""

from __future__ import annotations

from collections.abc import Mapping

from broker.domain.canonical import JsonObject, JsonValue
from broker.domain.run import Limits, Profile
from broker.sandbox.engine import LABEL_INSTANCE, Capabilities

USER = "65534:65534"
WORK = "/work"
ARGUMENTS_PATH = "/job/arguments.json"
RESULT_PATH = "/job/result.json"
SHM_BYTES = 8 * 2**20
JOB_BYTES = 34 * 2**20
"""Size of ``/job``: the longest arguments, the longest result, and some room."""
_JOB_INODES = 64
_SHM_INODES = 256
_TMP_SHARE = 4
_TMP_MAX = 64 * 2**20
_TMP_MIN = 2**20
_TMP_INODES_MIN = 64
_OOM_SCORE = 500
_LOCKED_BYTES = 64 * 2**10
_RUNNER = "/usr/libexec/broker/runner/start.py"
_READABLE_PYTHON = "/usr/libexec/broker/tool-python"
_OWN_THREADS = 256
_THREADS_PER_PROCESS = 8
_PRIVATE_CGROUPS_SINCE = (1, 41)

TOOL_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": WORK,
    "TMPDIR": "/tmp",  # noqa: S108  # the sandbox's own, gone with it
    "LANG": "C.UTF-8",
    "BROKER_ARGUMENTS": ARGUMENTS_PATH,
}
"""What every tool finds in its environment; ``BROKER_RESULT`` besides where a result is wanted. A job can't change it."""


def tool_environment(extra: Mapping[str, str], *, wants_result: bool) -> dict[str, str]:
    """The whole environment of a tool, and nothing else."""
    result = {"BROKER_RESULT": RESULT_PATH} if wants_result else {}
    return {**extra, **TOOL_ENVIRONMENT, **result}


def has_private_cgroups(api_version: str) -> bool:
    """Whether an engine with this API version can give a container a cgroup namespace of its own."""
    return tuple(int(part) for part in api_version.split(".")) >= _PRIVATE_CGROUPS_SINCE


def container_config(
    instance: str, profile: Profile, api_version: str, capabilities: Capabilities | None = None
) -> JsonObject:
    """The body of ``POST /containers/create``.

    Args:
        instance: the label's value: whose container it is.
        profile: what it is made under; its limits have passed ``check_profile``.
        api_version: of the engine, such as ``1.41``.
        capabilities: of the profile's runtime; without them it is taken for one that keeps everything.
    """
    runtime = capabilities or Capabilities(profile.runtime)
    limits = profile.limits
    host: JsonObject = {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        # No seccomp entry: the engine's own default profile holds, with the fixes of its updates. Nor are masked paths
        # given: the engine's own list holds, and it grows with its updates.
        "SecurityOpt": ["no-new-privileges:true"],
        "PidsLimit": _pids(limits, runtime),
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": int(limits.cpu_cores * 1e9),
        "OomKillDisable": False,
        "OomScoreAdj": _OOM_SCORE,
        "Tmpfs": tmpfs(limits),
        # A namespace of its own without the engine's /dev/shm, which knows no limit on files: ours is among the tmpfs.
        "IpcMode": "none",
        "ShmSize": SHM_BYTES,  # of no use there; given, so that the engine's settings have no say in what it reports
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        "Init": False,
        "Ulimits": _ulimits(limits, runtime),
    }
    if profile.runtime:
        host["Runtime"] = profile.runtime
    if has_private_cgroups(api_version):
        host["CgroupnsMode"] = "private"
    body: JsonObject = {
        "Image": profile.image,
        "User": USER,
        "Hostname": "sandbox",
        "WorkingDir": WORK,
        "Env": [],
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Tty": False,
        "NetworkDisabled": True,
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {LABEL_INSTANCE: instance},
        "HostConfig": host,
    }
    if not runtime.isolated_runner:
        # Such a runtime refuses to start the interpreter that nobody may read, and it wouldn't help.
        body["Entrypoint"] = [_READABLE_PYTHON, "-I", _RUNNER]
    return body


def _pids(limits: Limits, runtime: Capabilities) -> int:
    """The engine's own limit on processes: the tool's and the runner, where it counts those.

    A runtime that runs a kernel of its own in the sandbox dies where its own threads strike it (30 of them, and 5 for each
    process, have been seen): there it is a backstop far off, and ``nproc`` is the limit.
    """
    if _has_own_kernel(runtime):
        return _OWN_THREADS + _THREADS_PER_PROCESS * limits.processes
    return limits.processes + 1


def _ulimits(limits: Limits, runtime: Capabilities) -> list[JsonValue]:
    values = {
        "nofile": limits.open_files,
        "core": 0,
        "msgqueue": 0,  # /dev/mqueue stays writable on a read-only root
        "memlock": _LOCKED_BYTES,
        "rtprio": 0,
        "nice": 0,
    }
    if _has_own_kernel(runtime):
        values["nproc"] = limits.processes + 1
    return [{"Name": name, "Soft": value, "Hard": value} for name, value in values.items()]


def _has_own_kernel(runtime: Capabilities) -> bool:
    """Whether the sandbox has a kernel of its own: its counters then aren't the host's, and ``nproc`` counts its processes
    alone. Under the host's kernel ``nproc`` counts a user's processes across all containers.
    """
    return not runtime.counters


def tmpfs(limits: Limits) -> JsonObject:
    """Path -> mount options of the writable folders; only ``/work`` and ``/tmp`` may hold programs.

    Where ``limits.inodes`` is 0 the number of files in ``/work``, ``/tmp`` and ``/dev/shm`` isn't limited.
    """
    tmp_bytes = min(max(limits.disk_bytes // _TMP_SHARE, _TMP_MIN), _TMP_MAX)
    owner = "nosuid,nodev,mode=0700,uid=65534,gid=65534"
    work, tmp, shm = f"size={limits.disk_bytes}", f"size={tmp_bytes}", f"size={SHM_BYTES}"
    if limits.inodes:
        work += f",nr_inodes={limits.inodes}"
        tmp += f",nr_inodes={max(limits.inodes // _TMP_SHARE, _TMP_INODES_MIN)}"
        shm += f",nr_inodes={_SHM_INODES}"
    return {
        WORK: f"rw,exec,{owner},{work}",
        "/tmp": f"rw,exec,{owner},{tmp}",  # noqa: S108  # inside the sandbox
        "/job": f"rw,noexec,{owner},size={JOB_BYTES},nr_inodes={_JOB_INODES}",
        "/dev/shm": f"rw,noexec,{owner},{shm}",  # noqa: S108  # likewise
    }

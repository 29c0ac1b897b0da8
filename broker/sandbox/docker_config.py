"""From a profile to what the Docker Engine API is asked for: the hardening, in one place."""

from __future__ import annotations

from collections.abc import Mapping

from broker.domain.canonical import JsonObject
from broker.domain.run import Limits, Profile
from broker.sandbox.engine import LABEL_CALL, LABEL_INSTANCE

USER = "65534:65534"
WORK = "/work"
ARGUMENTS_PATH = "/job/arguments.json"
RESULT_PATH = "/job/result.json"
SHM_BYTES = 8 * 2**20
JOB_BYTES = 34 * 2**20
"""Size of ``/job``: the longest arguments, the longest result, and some room."""
_JOB_INODES = 64
_TMP_SHARE = 4
_TMP_MAX = 64 * 2**20
_TMP_MIN = 2**20
_TMP_INODES_MIN = 64
_OOM_SCORE = 500
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


def container_config(instance: str, call_id: str, profile: Profile, api_version: str) -> JsonObject:
    """The body of ``POST /containers/create``."""
    limits = profile.limits
    host: JsonObject = {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        # No seccomp entry: the engine's own default profile holds, with the fixes of its updates.
        "SecurityOpt": ["no-new-privileges:true"],
        "PidsLimit": limits.processes + 1,  # the runner is one of them
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": int(limits.cpu_cores * 1e9),
        "OomKillDisable": False,
        "OomScoreAdj": _OOM_SCORE,
        "Tmpfs": tmpfs(limits),
        "ShmSize": SHM_BYTES,
        "IpcMode": "private",
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        "Init": False,
        "Ulimits": [
            {"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files},
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "msgqueue", "Soft": 0, "Hard": 0},  # /dev/mqueue stays writable on a read-only root
        ],
    }
    if has_private_cgroups(api_version):
        host["CgroupnsMode"] = "private"
    return {
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
        "Labels": {LABEL_INSTANCE: instance, LABEL_CALL: call_id},
        "HostConfig": host,
    }


def tmpfs(limits: Limits) -> JsonObject:
    """Path -> mount options of the writable folders; only ``/work`` and ``/tmp`` may hold programs."""
    tmp_bytes = min(max(limits.disk_bytes // _TMP_SHARE, _TMP_MIN), _TMP_MAX)
    tmp_inodes = max(limits.inodes // _TMP_SHARE, _TMP_INODES_MIN)
    owner = "nosuid,nodev,mode=0700,uid=65534,gid=65534"
    return {
        WORK: f"rw,exec,{owner},size={limits.disk_bytes},nr_inodes={limits.inodes}",
        "/tmp": f"rw,exec,{owner},size={tmp_bytes},nr_inodes={tmp_inodes}",  # noqa: S108  # inside the sandbox
        "/job": f"rw,noexec,{owner},size={JOB_BYTES},nr_inodes={_JOB_INODES}",
    }

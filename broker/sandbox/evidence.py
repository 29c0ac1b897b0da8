"""What the host itself can say of a container while it lives: its cgroup's counters and its writable folders.

Only where the engine runs on this host and its processes can be seen; else everything is unknown (``None``), never
guessed. Both cgroup versions are read.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_FOLDERS = ("work", "tmp")
_PLACES = (
    "memory/docker/{}",
    "memory/system.slice/docker-{}.scope",
    "system.slice/docker-{}.scope",
    "docker/{}",
)
"""Of cgroup v1 and v2, as the engine makes them by itself or has systemd make them."""
_V1_MEMORY = ("memory.max_usage_in_bytes", "memory.oom_control")
_V2_MEMORY = ("memory.peak", "memory.events")
_V1_FILES = (*(("memory", name) for name in _V1_MEMORY), ("pids", "pids.events"))
_V2_FILES = (*_V2_MEMORY, "pids.events")
_MAX_TEXT = 64 * 1024
_NS = 1e9
_US = 1e6


@dataclass(frozen=True, slots=True)
class Counters:
    """One reading; ``None`` is unknown."""

    cpu_s: float | None = None
    memory_peak_bytes: int | None = None
    oom_kills: int | None = None
    forks_refused: int | None = None
    disk_full: bool | None = None
    inodes_full: bool | None = None


def find_process(container_id: str, cgroups: Path = _CGROUPS) -> int:
    """A process of a container of an engine on this host, found by where engines put cgroups; 0: look elsewhere.

    Args:
        container_id: the engine's id.
        cgroups: where the host's cgroups are seen.
    """
    for place in _PLACES:
        first = _text(f"{cgroups}/{place.format(container_id)}/cgroup.procs").partition("\n")[0]
        if first.isdigit():
            return int(first)
    return 0


class HostEvidence:
    """Reads the counters of one container; opens them when it is made, for a call waits while they are read.

    Args:
        pid: process id of the container's process 1, in this host's numbering.
        container_id: the engine's id; a process whose cgroup doesn't name it is somebody else, and not read.
        proc: where the host's processes are seen.
        cgroups: where the host's cgroups are seen.
    """

    def __init__(self, pid: int, container_id: str, *, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> None:
        self._folders: list[int] = []
        self._files: dict[str, int] = {}
        v1, v2 = _cgroups_of(container_id, _text(f"{proc}/{pid}/cgroup"), cgroups)
        self._is_v1 = "memory" in v1
        if "cpuacct" in v1:
            self._open_file(v1["cpuacct"], "cpuacct.usage")
        elif v2:
            self._open_file(v2, "cpu.stat")
        if self._is_v1:
            for controller, name in _V1_FILES:
                self._open_file(v1.get(controller), name)
        else:
            for name in _V2_FILES:
                self._open_file(v2, name)
        if v1 or v2:
            self._open_folders(f"{proc}/{pid}/root")

    def sample(self) -> Counters:
        """Reads everything now."""
        disk, inodes = self._full()
        peak, kills = _V1_MEMORY if self._is_v1 else _V2_MEMORY
        return Counters(
            cpu_s=self.cpu_s(),
            memory_peak_bytes=self._number(peak),
            oom_kills=self._keyed(kills, "oom_kill"),
            forks_refused=self._keyed("pids.events", "max"),
            disk_full=disk,
            inodes_full=inodes,
        )

    def cpu_s(self) -> float | None:
        """The processor time so far, in seconds."""
        if "cpuacct.usage" in self._files:
            return _scaled(self._number("cpuacct.usage"), _NS)
        return _scaled(self._keyed("cpu.stat", "usage_usec"), _US)

    def close(self) -> None:
        """Lets go of the container's folders and counters."""
        self._close_folders()
        while self._files:
            os.close(self._files.popitem()[1])

    def _open_file(self, folder: str | None, name: str) -> None:
        if folder is not None:
            with suppress(OSError):  # this kernel doesn't have it: unknown
                self._files[name] = os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)

    def _open_folders(self, root: str) -> None:
        for name in _FOLDERS:
            try:
                self._folders.append(os.open(f"{root}/{name}", os.O_PATH | os.O_DIRECTORY))
            except OSError:
                self._close_folders()
                return

    def _close_folders(self) -> None:
        while self._folders:
            os.close(self._folders.pop())

    def _full(self) -> tuple[bool | None, bool | None]:
        if not self._folders:
            return None, None
        facts = [os.fstatvfs(folder) for folder in self._folders]
        return any(item.f_bfree == 0 for item in facts), any(item.f_ffree == 0 for item in facts)

    def _number(self, name: str) -> int | None:
        text = self._read(name).strip()
        return int(text) if text.isdigit() else None

    def _keyed(self, name: str, key: str) -> int | None:
        for line in self._read(name).splitlines():
            found, _, value = line.partition(b" ")
            if found == key.encode() and value.strip().isdigit():
                return int(value)
        return None

    def _read(self, name: str) -> bytes:
        """A counter as it is now; nothing where it is unknown, or its cgroup is gone."""
        file = self._files.get(name)
        try:
            return b"" if file is None else os.pread(file, _MAX_TEXT, 0)
        except OSError:
            return b""


def _cgroups_of(container_id: str, listing: str, cgroups: Path) -> tuple[dict[str, str], str | None]:
    """The folders of a process's cgroups of version 1, by controller, and of version 2; none that are another's."""
    v1: dict[str, str] = {}
    v2: str | None = None
    for line in listing.splitlines():
        _, controllers, path = line.split(":", 2)
        if container_id not in path or ".." in path.split("/"):
            continue
        for controller in controllers.split(","):
            if controller:
                v1[controller] = f"{cgroups}/{controller}/{path.lstrip('/')}"
            else:
                v2 = f"{cgroups}/{path.lstrip('/')}"
    return v1, v2


def _text(path: str) -> str:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(file, _MAX_TEXT).decode("ascii")
    except (OSError, UnicodeDecodeError):
        return ""
    finally:
        os.close(file)


def _scaled(value: int | None, unit: float) -> float | None:
    return None if value is None else value / unit

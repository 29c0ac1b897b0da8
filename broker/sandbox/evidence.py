"""What the host itself can say of a container while it lives: its cgroup's counters and its writable folders.

Only where the engine runs on this host and its processes can be seen; else everything is unknown (``None``), never
guessed. Both cgroup versions are read.
"""

from __future__ import annotations

import os
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
        first = _text(cgroups / place.format(container_id) / "cgroup.procs").partition("\n")[0]
        if first.isdigit():
            return int(first)
    return 0


class HostEvidence:
    """Reads the counters of one container.

    Args:
        pid: process id of the container's process 1, in this host's numbering.
        container_id: the engine's id; a process whose cgroup doesn't name it is somebody else, and not read.
        proc: where the host's processes are seen.
        cgroups: where the host's cgroups are seen.
    """

    def __init__(self, pid: int, container_id: str, *, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> None:
        self._folders: list[int] = []
        self._v1: dict[str, Path] = {}
        self._v2: Path | None = None
        for line in _text(proc / str(pid) / "cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if container_id not in path or ".." in path.split("/"):
                continue
            for controller in controllers.split(","):
                if controller:
                    self._v1[controller] = cgroups / controller / path.lstrip("/")
                else:
                    self._v2 = cgroups / path.lstrip("/")
        if self._v1 or self._v2:
            self._open_folders(proc / str(pid) / "root")

    def sample(self) -> Counters:
        """Reads everything now."""
        disk, inodes = self._full()
        if "memory" in self._v1:
            return Counters(
                cpu_s=self.cpu_s(),
                memory_peak_bytes=_number(self._v1["memory"], "memory.max_usage_in_bytes"),
                oom_kills=_keyed(self._v1["memory"], "memory.oom_control", "oom_kill"),
                forks_refused=_keyed(self._v1.get("pids"), "pids.events", "max"),
                disk_full=disk,
                inodes_full=inodes,
            )
        return Counters(
            cpu_s=self.cpu_s(),
            memory_peak_bytes=_number(self._v2, "memory.peak"),
            oom_kills=_keyed(self._v2, "memory.events", "oom_kill"),
            forks_refused=_keyed(self._v2, "pids.events", "max"),
            disk_full=disk,
            inodes_full=inodes,
        )

    def cpu_s(self) -> float | None:
        """The processor time so far, in seconds."""
        if "cpuacct" in self._v1:
            return _scaled(_number(self._v1["cpuacct"], "cpuacct.usage"), _NS)
        return _scaled(_keyed(self._v2, "cpu.stat", "usage_usec"), _US)

    def close(self) -> None:
        """Lets go of the container's folders."""
        while self._folders:
            os.close(self._folders.pop())

    def _open_folders(self, root: Path) -> None:
        for name in _FOLDERS:
            try:
                self._folders.append(os.open(root / name, os.O_PATH | os.O_DIRECTORY))
            except OSError:
                self.close()
                return

    def _full(self) -> tuple[bool | None, bool | None]:
        if not self._folders:
            return None, None
        facts = [os.fstatvfs(folder) for folder in self._folders]
        return any(item.f_bfree == 0 for item in facts), any(item.f_ffree == 0 for item in facts)


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def _number(folder: Path | None, name: str) -> int | None:
    text = _text(folder / name).strip() if folder else ""
    return int(text) if text.isdigit() else None


def _keyed(folder: Path | None, name: str, key: str) -> int | None:
    for line in _text(folder / name).splitlines() if folder else ():
        found, _, value = line.partition(" ")
        if found == key and value.strip().isdigit():
            return int(value)
    return None


def _scaled(value: int | None, unit: float) -> float | None:
    return None if value is None else value / unit

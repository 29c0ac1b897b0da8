"""What a container is, as its engine reports it: all that decides what a job in it can do, in words of no engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from broker.domain.canonical import MAX_SAFE_INTEGER, JsonObject, JsonValue, canonical

_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Mount:
    """Something that lies at ``target`` instead of the image's own files."""

    target: str
    kind: str
    """``tmpfs``, ``bind``, ``volume``, ..."""
    source: str = ""
    """Path on the host, or name of the volume; of a ``tmpfs`` there is none."""
    options: tuple[str, ...] = ()
    """Sorted."""


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A resource limit of process 1 and its children."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Cpu:
    """Processor time. ``nano`` are billionths of a core, quota and period microseconds; 0 or empty: not given."""

    nano: int = 0
    quota: int = 0
    period: int = 0
    shares: int = 0
    cores: str = ""
    """The cores that it may use."""


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Whose each namespace is: ``private``, ``none``, ``host``, ``container:ID``; empty where the engine can't say."""

    pid: str = "private"
    ipc: str = "private"
    uts: str = "private"
    cgroup: str = ""
    user: str = "engine"
    """``engine``: as the engine does it for all containers."""


@dataclass(frozen=True, slots=True)
class Security:
    """What the kernel keeps from process 1 and its children."""

    no_new_privileges: bool = False
    seccomp: str = "engine"
    """``engine`` (its own profile), ``unconfined``, or the ``sha256:`` digest of a profile that was given."""
    apparmor: str = "engine"
    """``engine`` (its own profile, or none where the host has no AppArmor), or the name of another."""
    options: tuple[str, ...] = ()
    """Whatever else was asked for, sorted."""
    unmasked_paths: tuple[str, ...] = ()
    """What every engine hides of ``/proc`` and ``/sys``, and this container shows."""
    writable_paths: tuple[str, ...] = ()
    """What every engine makes read-only there, and this container may write."""


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """One container. Sizes in bytes; of a limit, 0 is "none".

    An engine makes it in two ways: from a profile, of a container that is to be (``Engine.expected_facts``), and from its
    own report on one that is there (``Lease.observe``). The two are equal, or somebody has changed something.
    """

    image: str
    """Digest of the image that it was made from."""
    runtime: str = ""
    argv: tuple[str, ...] = ()
    """Of process 1."""
    user: str = ""
    groups: tuple[str, ...] = ()
    """Further groups, sorted."""
    hostname: str = ""
    working_dir: str = ""
    environment_names: tuple[str, ...] = ()
    """Of process 1, sorted; one that is given twice is there twice."""
    environment_digest: str = ""
    """``sha256:`` of the canonical list of its entries, ``NAME=value``, sorted."""
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    security: Security = Security()
    read_only_root: bool = False
    mounts: tuple[Mount, ...] = ()
    """Sorted by target."""
    devices: tuple[str, ...] = ()
    network_mode: str = ""
    networks: tuple[str, ...] = ()
    """Names of the networks that it is on, sorted."""
    namespaces: Namespaces = Namespaces()
    memory_bytes: int = 0
    memory_swap_bytes: int = 0
    """Memory and swap together; -1 where the host can't limit swap."""
    processes: int = 0
    cpu: Cpu = Cpu()
    shm_bytes: int = 0
    ulimits: tuple[Ulimit, ...] = ()
    """Sorted by name."""
    oom_kill_disabled: bool = False
    oom_score: int = 0
    log_driver: str = ""
    restart: str = ""
    auto_remove: bool = False
    init: bool = False
    """Whether a process of the engine's stands before the runner."""
    healthcheck: tuple[str, ...] = ()
    """What the engine runs in it by itself; ``NONE`` is nothing."""
    exec_sessions: int = 0
    """Processes that somebody has started in it from outside."""
    other: tuple[tuple[str, str], ...] = ()
    """Whatever else the engine reports that is set: its own name for it, and the value as text. Sorted."""

    def json(self) -> JsonObject:
        """The section ``container`` of an envelope; has RFC 8785 bytes whatever the engine reported."""
        return {
            "image": self.image,
            "runtime": self.runtime,
            "argv": list(self.argv),
            "user": self.user,
            "groups": list(self.groups),
            "hostname": self.hostname,
            "working_dir": self.working_dir,
            "environment": {"names": list(self.environment_names), "digest": self.environment_digest},
            "capabilities": {"added": list(self.cap_add), "dropped": list(self.cap_drop)},
            "privileged": self.privileged,
            "security": {
                "no_new_privileges": self.security.no_new_privileges,
                "seccomp": self.security.seccomp,
                "apparmor": self.security.apparmor,
                "options": list(self.security.options),
                "unmasked_paths": list(self.security.unmasked_paths),
                "writable_paths": list(self.security.writable_paths),
            },
            "read_only_root": self.read_only_root,
            "mounts": [
                {"path": item.target, "kind": item.kind, "source": item.source, "options": ",".join(item.options)}
                for item in self.mounts
            ],
            "devices": list(self.devices),
            "network": {"mode": self.network_mode, "joined": list(self.networks)},
            "namespaces": {
                "pid": self.namespaces.pid,
                "ipc": self.namespaces.ipc,
                "uts": self.namespaces.uts,
                "cgroup": self.namespaces.cgroup,
                "user": self.namespaces.user,
            },
            "memory_bytes": _number(self.memory_bytes),
            "memory_swap_bytes": _number(self.memory_swap_bytes),
            "processes": _number(self.processes),
            "cpu": {
                "nano": _number(self.cpu.nano),
                "quota": _number(self.cpu.quota),
                "period": _number(self.cpu.period),
                "shares": _number(self.cpu.shares),
                "cores": self.cpu.cores,
            },
            "shm_bytes": _number(self.shm_bytes),
            "ulimits": {item.name: {"soft": _number(item.soft), "hard": _number(item.hard)} for item in self.ulimits},
            "oom_kill_disabled": self.oom_kill_disabled,
            "oom_score": _number(self.oom_score),
            "log_driver": self.log_driver,
            "restart": self.restart,
            "auto_remove": self.auto_remove,
            "init": self.init,
            "healthcheck": list(self.healthcheck),
            "exec_sessions": self.exec_sessions,
            "other": dict(self.other),
        }


@lru_cache(_REMEMBERED)
def facts_bytes(facts: ContainerFacts) -> bytes:
    """The RFC 8785 bytes of ``facts.json()``; made once for the facts of each profile."""
    return canonical(facts.json())


def _number(value: int) -> JsonValue:
    # An engine may report an integer that not every reader of JSON reads as the same number.
    return value if abs(value) <= MAX_SAFE_INTEGER else str(value)

"""The state directory: is it there, is it private, does a broker use it?"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from broker.doctor.finding import Finding, fail, ok, warn
from broker.errors import BrokerError
from broker.settings import StatePaths, load_settings

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Node:
    """A file or directory as the file system describes it."""

    path: Path
    mode: int
    owner: int
    """User id."""
    directory: bool


def judge_presence(root: Path, *, exists: bool, missing: tuple[str, ...]) -> Finding:
    """A state directory is whole or absent; half of one is never silently completed.

    Args:
        root: the state directory.
        exists: is it there, as a directory?
        missing: files that every state directory has and this one lacks.
    """
    if not exists:
        return warn("state", f"{root} does not exist", f"Make it: broker init --state {root}")
    if missing:
        return fail(
            "state",
            f"{root} lacks {', '.join(missing)}",
            "Restore the directory from a backup. An interrupted `broker init` with no calls yet: remove it, start anew.",
        )
    return ok("state", f"{root} is complete")


def probe_presence(state: Path) -> Finding:
    """Looks for what ``broker init`` makes."""
    paths = StatePaths(state)
    try:
        elsewhere = bool(load_settings(state).database)
    except BrokerError:
        elsewhere = False
    needed = (
        *(() if elsewhere else (paths.database,)),
        paths.ca_certificate,
        paths.ca_key,
        paths.server_certificate,
        paths.server_key,
        paths.vault_key,
        paths.policy,
    )
    missing = tuple(str(path.relative_to(state)) for path in needed if not path.exists())
    return judge_presence(state, exists=state.is_dir(), missing=missing)


def judge_permissions(nodes: Iterable[Node], *, user: int) -> tuple[Finding, ...]:
    """The directory is for its owner alone (0700), and so is every key (0600).

    Args:
        nodes: the state directory and the secrets in it.
        user: the user id that would run the broker.
    """
    findings = []
    count = 0
    for node in nodes:
        count += 1
        wanted = "0700" if node.directory else "0600"
        if node.mode & _OTHERS:
            found = f"{node.path} is open to others (mode {stat.S_IMODE(node.mode):04o})"
            findings.append(fail("permissions", found, f"chmod {wanted} {node.path}; then ask who may have read it."))
        elif node.owner not in (user, 0):
            found = f"{node.path} belongs to user {node.owner}, not to {user}"
            findings.append(fail("permissions", found, f"chown {user} {node.path}"))
    return tuple(findings) or (ok("permissions", f"{count} directories and secrets are private"),)


def _secrets(paths: StatePaths) -> Iterable[Path]:
    yield paths.root
    yield from (paths.ca_key, paths.server_key, paths.vault_key, paths.database)
    yield from sorted(paths.root.glob("broker.db-*"))
    yield from sorted(paths.root.rglob("*.key"))
    yield from (paths.next_checkpoint_key, paths.checkpoint_passphrase)
    yield from sorted(paths.identities.rglob("key.pem"))


def probe_permissions(state: Path) -> tuple[Finding, ...]:
    """Of the state directory, the keys in it, and the database; links are followed, as the broker follows them."""
    if not state.is_dir():
        return ()
    nodes = []
    for path in dict.fromkeys(_secrets(StatePaths(state))):
        if path.exists():
            status = path.stat()
            nodes.append(Node(path, status.st_mode, status.st_uid, stat.S_ISDIR(status.st_mode)))
    return judge_permissions(nodes, user=os.geteuid())


@dataclass(frozen=True, slots=True)
class Running:
    """The broker that holds a state directory's lock; ``info`` is its ``serve.json``, empty where it can't be read."""

    locked: bool
    info: dict[str, str]

    @property
    def address(self) -> str:
        """Where it listens; empty where it doesn't say."""
        return self.info.get("address", "")


def find_running(state: Path) -> Running:
    """Asks the lock, which the system drops with its holder; ``serve.json`` alone may be left from a crash."""
    paths = StatePaths(state)
    info: dict[str, str] = {}
    if paths.socket_info.is_file():
        try:
            loaded = json.loads(paths.socket_info.read_text("utf-8"))
        except ValueError:
            loaded = None
        if isinstance(loaded, dict):
            info = {str(key): str(value) for key, value in loaded.items()}
    return Running(locked=_is_locked(paths.lock), info=info)


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def judge_running(running: Running, *, expected: bool) -> Finding:
    """Does a broker run on this state directory, and should one?"""
    if not running.locked:
        if expected:
            return fail("running", "no broker runs on this state directory", "Start it: broker serve")
        return ok("running", "no broker runs on this state directory")
    if not running.info:
        return warn(
            "running",
            "a process holds serve.lock, but serve.json says nothing of it",
            "Wait a moment if it has just been started; otherwise look for its process: fuser serve.lock",
        )
    if reason := running.info.get("not_serving"):
        return fail(
            "running",
            f"a broker runs at {running.address}, and serves nobody: {reason}",
            "Look at its log, and at `broker ledger verify`; docs/checkpoints.md says what to do.",
        )
    told = ", ".join(f"{key} {value}" for key, value in sorted(running.info.items()))
    return ok("running", f"a broker runs: {told}")

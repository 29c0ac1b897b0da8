"""What a broker holds of its state directory while it serves: the lock, the certificates, and where it listens."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.errors import FailedPreconditionError
from broker.rpc.administration import Boot
from broker.rpc.server import TlsFiles
from broker.settings import Settings, StatePaths


def tls_files(paths: StatePaths) -> TlsFiles:
    """Reads the listener's certificates.

    Raises:
        FailedPreconditionError: ``CERTIFICATES_MISSING``.
    """
    try:
        return TlsFiles(
            server_key=paths.server_key.read_bytes(),
            server_chain=paths.server_certificate.read_bytes(),
            client_ca=paths.ca_certificate.read_bytes(),
        )
    except OSError as error:
        raise FailedPreconditionError(
            f"the listener's certificates can't be read: {error.strerror} ({error.filename})",
            reason="CERTIFICATES_MISSING",
            hint="`broker init` makes them; there is no listener without them.",
        ) from error


def workspaces_folder(paths: StatePaths, settings: Settings) -> Path:
    """Where what workspaces' trees consist of is kept."""
    return Path(settings.workspaces_dir) if settings.workspaces_dir else paths.workspaces


@contextmanager
def only_broker(paths: StatePaths) -> Iterator[None]:
    """Holds the state directory's lock until the block ends, so that one broker serves it.

    Raises:
        FailedPreconditionError: ``STATE_MISSING``, ``ALREADY_SERVING``.
    """
    if not (paths.database.is_file() or paths.ca_certificate.is_file()):  # with PostgreSQL there is no such file
        raise FailedPreconditionError(
            f"{paths.root} is not a state directory", reason="STATE_MISSING", hint="Make one with: broker init"
        )
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedPreconditionError(
                f"another broker serves {paths.root}",
                reason="ALREADY_SERVING",
                hint="Stop it first, or give this one a state directory of its own.",
            ) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def announced(paths: StatePaths, address: str, boot: Boot, *, not_serving: str = "") -> Iterator[None]:
    """Says in the state directory where the broker listens, so that commands find it, and why it refuses, if it does."""
    info = {"address": address, "pid": os.getpid(), "boot_id": boot.boot_id, "started": boot.started.isoformat()}
    if not_serving:
        info["not_serving"] = not_serving
    draft = paths.socket_info.with_suffix(".new")
    draft.write_text(json.dumps(info) + "\n", "utf-8")
    draft.chmod(0o600)
    draft.replace(paths.socket_info)
    try:
        yield
    finally:
        paths.socket_info.unlink(missing_ok=True)

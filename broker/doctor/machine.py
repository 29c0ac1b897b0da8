"""The machine itself: Python, disk, clock."""

from __future__ import annotations

import shutil
import ssl
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from broker.doctor.finding import Finding, fail, ok, warn

OLDEST_PYTHON = (3, 11)
OLDEST_OPENSSL = (3, 0)
DISK_FAIL_BYTES = 128 * 2**20
DISK_WARN_BYTES = 2 * 2**30
CLOCK_FLOOR = datetime(2026, 1, 1, tzinfo=UTC)
"""This software is younger than that: a clock that says otherwise is wrong."""
CLOCK_SKEW_WARN_S = 5.0


def judge_python(version: tuple[int, int, int], openssl: tuple[int, int, int], openssl_text: str) -> Finding:
    """Python and the OpenSSL that it was built with."""
    found = f"Python {'.'.join(map(str, version))}, {openssl_text}"
    if version[:2] < OLDEST_PYTHON:
        return fail("python", found, "Install Python 3.11 or newer, then run scripts/setup.sh.")
    if openssl[:2] < OLDEST_OPENSSL:
        return warn("python", found, "OpenSSL before 3.0 gets no security fixes: use a Python built with a newer one.")
    return ok("python", found)


def probe_python() -> Finding:
    """Of the interpreter that runs this."""
    version = sys.version_info
    openssl = ssl.OPENSSL_VERSION_INFO
    return judge_python(
        (version.major, version.minor, version.micro), (openssl[0], openssl[1], openssl[2]), ssl.OPENSSL_VERSION
    )


def judge_disk(path: Path, free_bytes: int) -> Finding:
    """Room for the ledger and the vault, which only grow until retention ends."""
    found = f"{free_bytes / 2**30:.1f} GiB free for {path}"
    mend = "Make room, or name a roomier state directory with --state: a full disk stops every call."
    if free_bytes < DISK_FAIL_BYTES:
        return fail("disk", found, mend)
    return warn("disk", found, mend) if free_bytes < DISK_WARN_BYTES else ok("disk", found)


def probe_disk(state: Path) -> Finding:
    """Of the file system that holds the state directory, or will hold it."""
    existing = next(path for path in (state.absolute(), *state.absolute().parents) if path.exists())
    return judge_disk(state, shutil.disk_usage(existing).free)


def judge_clock(
    now: datetime, *, ledger: datetime | None, engine_skew_s: float | None, monotonic: bool
) -> tuple[Finding, ...]:
    """The clock decides certificates, expiry and the order that people read in the ledger.

    Args:
        now: this machine's time, UTC.
        ledger: time of the last ledger entry, UTC; ``None`` where there is no ledger yet.
        engine_skew_s: the engine's clock minus ours; ``None`` where no engine answers.
        monotonic: has the system a clock that never goes back?
    """
    said = now.isoformat(timespec="seconds")
    mend = "Set the clock and keep it set: install chrony or systemd-timesyncd."
    if now < CLOCK_FLOOR:
        return (fail("clock", f"{said} lies before this software was made", mend),)
    if ledger is not None and now < ledger:
        behind = (ledger - now).total_seconds()
        return (fail("clock", f"{said} is {behind:.0f} s before the last ledger entry ({ledger.isoformat()})", mend),)
    if not monotonic:
        return (fail("clock", "this system has no monotonic clock: time limits can't be kept", "Use another system."),)
    if engine_skew_s is not None and abs(engine_skew_s) > CLOCK_SKEW_WARN_S:
        return (warn("clock", f"{said}; the engine's clock differs by {engine_skew_s:+.0f} s", mend),)
    return (ok("clock", f"{said}, monotonic"),)


def has_monotonic_clock() -> bool:
    """Has the system a clock that never goes back, finer than a time limit needs?"""
    clock = time.get_clock_info("monotonic")
    return clock.monotonic and not clock.adjustable and clock.resolution < 0.1

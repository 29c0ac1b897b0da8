"""What the bot must not forget when it starts anew: which message shows which approval, and what each modal was opened for.

One SQLite file, used by one bot. It holds ids and digests, no content. Statements take well under a millisecond, and are run
where they are needed.
"""

from __future__ import annotations

import enum
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from broker.errors import FailedPreconditionError
from broker.private_file import PRIVATE, make_private_dir
from broker.slack.modal import Ticket

_VERSION = 1
_SCHEMA = """
BEGIN EXCLUSIVE;
CREATE TABLE post (
    approval TEXT PRIMARY KEY,
    channel TEXT NOT NULL,
    ts TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    open INTEGER NOT NULL
) STRICT;
CREATE TABLE modal (
    view TEXT PRIMARY KEY,
    ticket TEXT NOT NULL,
    opened REAL NOT NULL,
    state TEXT NOT NULL
) STRICT;
CREATE INDEX post_open ON post (open);
PRAGMA user_version = 1;
COMMIT;
"""
_KEPT_S = 8 * 86400.0
"""How long modals are remembered: longer than any approval is open."""


@dataclass(frozen=True, slots=True)
class Post:
    """A message that shows an approval."""

    approval: str
    """Its id."""
    channel: str
    ts: str
    """Slack's name of the message in its channel."""
    fingerprint: str
    """Of what it shows."""
    open: bool
    """Does it show an approval that is still open?"""


class ModalState(enum.StrEnum):
    """Where a modal stands: it carries one vote at most."""

    SHOWN = "shown"
    CASTING = "casting"
    CAST = "cast"


class Memory:
    """The open file. Make it with ``Memory.open``, and close it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @classmethod
    def open(cls, path: Path) -> Memory:
        """Opens or makes the file, of mode 0600, and keeps others out of it until ``close``.

        Raises:
            FailedPreconditionError: another bot uses it (``BOT_RUNNING``), or it is no such file (``BOT_STATE_UNFIT``).
        """
        make_private_dir(path.parent)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE))
            db = sqlite3.connect(path, isolation_level=None, timeout=0, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise _unfit(path, str(error)) from error
        try:
            # In this mode the lock of the first write is held until the file is closed.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN EXCLUSIVE")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            db.execute("COMMIT")
            if version == 0:
                db.executescript(_SCHEMA)
            elif version != _VERSION:
                raise _unfit(path, f"it is of version {version}")
            # Whoever was casting has died. Casting again is harmless: the broker takes a person's same vote once.
            db.execute("UPDATE modal SET state = ? WHERE state = ?", (ModalState.SHOWN, ModalState.CASTING))
        except sqlite3.Error as error:
            db.close()
            if "locked" in str(error):
                raise FailedPreconditionError(
                    f"another bot uses {path}",
                    reason="BOT_RUNNING",
                    hint="One bot runs on one file: stop the other, or give this one a `state` of its own.",
                ) from error
            raise _unfit(path, str(error)) from error
        except FailedPreconditionError:
            db.close()
            raise
        return cls(db)

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()

    # Messages

    def post(self, approval: str) -> Post | None:
        """The message of an approval."""
        row = self._db.execute(
            "SELECT approval, channel, ts, fingerprint, open FROM post WHERE approval = ?", (approval,)
        ).fetchone()
        return None if row is None else _post(row)

    def open_posts(self) -> list[Post]:
        """Messages that show an open approval, oldest first."""
        rows = self._db.execute(
            "SELECT approval, channel, ts, fingerprint, open FROM post WHERE open = 1 ORDER BY rowid"
        )
        return [_post(row) for row in rows]

    def keep_post(self, post: Post) -> None:
        """Remembers a message, in place of what was known of its approval."""
        self._db.execute(
            "INSERT OR REPLACE INTO post (approval, channel, ts, fingerprint, open) VALUES (?, ?, ?, ?, ?)",
            (post.approval, post.channel, post.ts, post.fingerprint, int(post.open)),
        )

    def forget_post(self, approval: str) -> None:
        """Forgets a message that is gone."""
        self._db.execute("DELETE FROM post WHERE approval = ?", (approval,))

    # Modals

    def keep_modal(self, view: str, ticket: Ticket, now: float) -> None:
        """Remembers for what a modal was opened, by Slack's id of it; those that are old are forgotten."""
        self._db.execute("DELETE FROM modal WHERE opened < ?", (now - _KEPT_S,))
        self._db.execute(
            "INSERT OR REPLACE INTO modal (view, ticket, opened, state) VALUES (?, ?, ?, ?)",
            (view, ticket.encode(), now, ModalState.SHOWN),
        )

    def ticket(self, view: str) -> Ticket | None:
        """For what a modal was opened; ``None`` where this bot hasn't opened it."""
        row = self._db.execute("SELECT ticket FROM modal WHERE view = ?", (view,)).fetchone()
        return None if row is None else Ticket.decode(row[0])

    def claim(self, view: str) -> ModalState:
        """Takes a modal's one vote in hand, and says where the modal stood: only ``SHOWN`` may go on to cast."""
        changed = self._db.execute(
            "UPDATE modal SET state = ? WHERE view = ? AND state = ?", (ModalState.CASTING, view, ModalState.SHOWN)
        ).rowcount
        if changed:
            return ModalState.SHOWN
        row = self._db.execute("SELECT state FROM modal WHERE view = ?", (view,)).fetchone()
        return ModalState.CAST if row is None else ModalState(row[0])

    def settle(self, view: str, *, cast: bool) -> None:
        """Ends what ``claim`` began: the vote is cast, or the modal may be submitted again."""
        state = ModalState.CAST if cast else ModalState.SHOWN
        self._db.execute("UPDATE modal SET state = ? WHERE view = ?", (state, view))


def _post(row: tuple[str, str, str, str, int]) -> Post:
    return Post(row[0], row[1], row[2], row[3], bool(row[4]))


def _unfit(path: Path, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"{path} can't be used as the bot's state: {why}",
        reason="BOT_STATE_UNFIT",
        hint="Move it away; the bot then posts what is open anew.",
    )

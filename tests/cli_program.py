"""The ``broker`` program as tests run it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Ran:
    """What a command left; the bytes of its output are those of Latin-1."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object that it printed."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        answer: dict[str, Any] = json.loads(lines[0])
        return answer


Program: TypeAlias = Callable[..., Ran]
"""Runs a command in this process."""

Start: TypeAlias = "Callable[..., subprocess.Popen[bytes]]"
"""Starts a command as a process of its own."""

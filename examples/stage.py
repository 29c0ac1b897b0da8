"""What the parts of the demo share: one state directory, the real `broker` commands, and checked steps on the screen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
BROKER = (sys.executable, "-m", "broker.cli.main")
WAIT_S = 120

console = Console(highlight=False, soft_wrap=True)
_started = time.monotonic()


class DemoError(Exception):
    """Something that the demo shows did not happen."""


def check(condition: object, what: str) -> None:
    """Ends the demo where it would show something that isn't so."""
    if not condition:
        raise DemoError(what)


def elapsed_s() -> float:
    """Seconds since the demo began."""
    return time.monotonic() - _started


def step(title: str) -> None:
    """Prints what comes next."""
    console.print(f"\n[bold cyan]{elapsed_s():5.1f} s[/]  [bold]{title}[/]")


def tell(text: str) -> None:
    """Prints a line of what happened."""
    console.print(f"  {text}", markup=False)


class Stage:
    """A state directory, and the commands that work on it."""

    def __init__(self, state: Path, settings: Mapping[str, str]) -> None:
        self.state = state
        self.environment = {**os.environ, "BROKER_STATE": str(state), "BROKER_LISTEN": "127.0.0.1:0", **settings}

    @property
    def folder(self) -> Path:
        """Where things lie that are no part of the broker's state."""
        return self.state.parent

    def broker(self, *arguments: str, expect: int = 0, show: bool = True, env: Mapping[str, str] | None = None) -> str:
        """Runs a `broker` command as a user would, and shows it; ``env`` is what that user has set."""
        console.print(f"[dim]$ broker {' '.join(_quoted(item) for item in arguments)}[/]", markup=True)
        result = subprocess.run(
            [*BROKER, *arguments],
            env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        output = result.stdout + result.stderr
        if show and output.strip():
            console.print(output.rstrip(), markup=False)
        check(result.returncode == expect, f"exit code {result.returncode} instead of {expect}:\n{output}")
        return result.stdout

    def answer(self, *arguments: str, expect: int = 0, env: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Runs a command with ``--json``, and reads what it says."""
        answer: dict[str, Any] = json.loads(self.broker(*arguments, "--json", expect=expect, show=False, env=env))
        return answer

    def at_once(self, *commands: Sequence[str]) -> None:
        """Runs commands that don't need each other beside each other, without showing what they say."""
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(self.broker, *command, show=False) for command in commands]:
                done.result()

    def add_rules(self, rules: str) -> None:
        """Adds lines to the policy."""
        policy = self.state / "policy" / "policy.csv"
        policy.write_text(policy.read_text("utf-8") + rules, "utf-8")
        for rule in rules.splitlines():
            console.print(f"[dim]policy.csv +[/] {rule}")

    @contextmanager
    def running(self, *arguments: str, name: str, ready: str, env: Mapping[str, str] | None = None) -> Iterator[Any]:
        """Runs a `broker` command that serves until the block ends; gives the JSON object that it prints when ready."""
        log = self.folder / f"{name}.log"
        with log.open("w", encoding="utf-8") as stderr:
            process = subprocess.Popen(
                [*BROKER, *arguments, "--json"],
                env={**self.environment, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        try:
            line = process.stdout.readline() if process.stdout else ""
            check(line and ready in line, f"{name} didn't start: {line}{log.read_text('utf-8')}")
            yield json.loads(line)
            process.send_signal(signal.SIGTERM)
            check(process.wait(WAIT_S) == 0, f"{name} ended with {process.returncode}: {log.read_text('utf-8')}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(WAIT_S)


def _quoted(text: str) -> str:
    return f"'{text}'" if " " in text else text

"""A specification that passes, to be spoiled one field at a time, and a way to run a shipped script for real."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.specs.shipped import shipped_folder

GOOD: dict[str, Any] = {
    "name": "demo.echo",
    "description": "Says what it is told.",
    "owner": "platform",
    "tier": 1,
    "image": "python",
    "run": {"argv": ["/bin/echo", "--", {"argument": "text"}, {"arguments": "more", "optional": True}]},
    "arguments": {
        "type": "object",
        "additionalProperties": False,
        "required": ["text"],
        "properties": {
            "text": {"type": "string", "maxLength": 100, "description": "What to say."},
            "more": {"type": "array", "items": {"type": "string"}, "description": "What to add."},
            "count": {"type": "integer", "minimum": 1, "description": "How often."},
        },
    },
    "limits": {"memory": "64MiB", "wall_time": "5s", "disk": "1MiB"},
    "retention": "1d",
}


@pytest.fixture
def good() -> dict[str, Any]:
    return copy.deepcopy(GOOD)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_spec(spec: dict[str, Any] | str | bytes, name: str = "spec.yaml") -> Path:
        folder = tmp_path / "specs"
        folder.mkdir(exist_ok=True)
        text = yaml.safe_dump(spec, sort_keys=False) if isinstance(spec, dict) else spec
        path = folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_spec


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str
    result_bytes: bytes

    @property
    def result(self) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.result_bytes)


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., Ran]:
    """Runs a shipped script as the runner does: in the working folder, told of two files by the environment."""

    def run(script: str, arguments: dict[str, Any], files: dict[str, bytes]) -> Ran:
        work = tmp_path / f"work{len(list(tmp_path.iterdir()))}"
        work.mkdir()
        for name, data in files.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        arguments_file, result_file = work.with_suffix(".arguments"), work.with_suffix(".result")
        arguments_file.write_text(json.dumps(arguments), "utf-8")
        done = subprocess.run(
            [sys.executable, "-I", "-W", "error", str(shipped_folder() / script)],
            cwd=work,
            env={"BROKER_ARGUMENTS": str(arguments_file), "BROKER_RESULT": str(result_file), "PATH": os.defpath},
            capture_output=True,
            check=False,
            timeout=60,
        )
        data = result_file.read_bytes() if result_file.exists() else b""
        return Ran(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"), data)

    return run

"""``broker sandbox`` and the script that builds the images, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker.cli.main import run as broker

pytestmark = pytest.mark.docker


def build(repository: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = repository / "scripts" / "build_images.py"
    return subprocess.run([sys.executable, script, *options], check=False, capture_output=True, text=True, timeout=250)


@pytest.mark.alone
def test_images_that_are_there_are_not_built_again(repository: Path) -> None:
    assert build(repository).returncode == 0
    began = time.monotonic()
    again = build(repository)
    assert time.monotonic() - began < 2
    assert "building" not in again.stderr
    assert "broker-sandbox-python" in again.stderr


def test_the_bases_tag_follows_from_its_inputs(repository: Path) -> None:
    default, other = (
        build(repository, "--print-base").stdout,
        build(repository, "--print-base", "--base", "mine").stdout,
    )
    assert default.startswith("broker-base:")
    assert default != other


def test_a_base_that_is_nowhere_is_said(repository: Path) -> None:
    done = build(repository, "--base", "localhost:1/no-such-image")
    assert done.returncode == 1
    assert "--base" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_that_is_away_is_said(repository: Path, tmp_path: Path) -> None:
    done = build(repository, "--engine", f"unix://{tmp_path}/nobody.sock")
    assert done.returncode == 1
    assert "is it running?" in done.stderr


def test_images_are_listed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert broker(["sandbox", "images", "--state", str(tmp_path), "--json"]) == 0
    items = json.loads(capfd.readouterr().out)["items"]
    assert [item["name"] for item in items if item["current"]] == ["postgres", "python"]
    assert broker(["sandbox", "images", "--state", str(tmp_path)]) == 0
    assert "python" in capfd.readouterr().out

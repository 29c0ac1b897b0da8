"""The README's tutorial, run as it is written: each tagged block in turn, in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.docker

TAGGED = re.compile(r"<!-- tutorial(?:: (?P<file>\S+))? -->\n```\w+\n(?P<code>.*?)```", re.DOTALL)
SERVE = "broker serve &\n"
ADDRESS = "127.0.0.1:7443"


class Reader:
    """Somebody who follows the tutorial in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        programs = str(Path(sys.executable).parent)
        own = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}
        self._environment = own | {"PATH": f"{programs}:{os.environ['PATH']}", "BROKER_LISTEN": "127.0.0.1:0"}
        self.address = ""
        self.serving: subprocess.Popen[str] | None = None

    def shell(self, code: str) -> str:
        """Runs shell lines, of which none may fail; `broker serve &` goes on until the end."""
        before, serve, after = code.partition(SERVE)
        output = self._run(before)
        if serve:
            self._serve()
            output += self._run(after)
        return output

    def write(self, name: str, code: str) -> None:
        """Saves a file, with the address that the broker really has: another program may hold the usual one."""
        assert code.count(ADDRESS) == 1
        (self._folder / name).write_text(code.replace(ADDRESS, self.address), "utf-8")

    def _run(self, code: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", code],
            cwd=self._folder,
            env=self._environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _serve(self) -> None:
        log = (self._folder / "serve.log").open("w")
        self.serving = subprocess.Popen(
            ["broker", "serve"], cwd=self._folder, env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        log.close()
        assert self.serving.stdout
        line = self.serving.stdout.readline()
        found = re.search(r"127\.0\.0\.1:\d+", line)
        assert found, f"{line!r} {(self._folder / 'serve.log').read_text('utf-8')}"
        self.address = found[0]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    one = Reader(tmp_path)
    yield one
    if one.serving:
        one.serving.send_signal(signal.SIGTERM)
        with one.serving:
            assert one.serving.wait(timeout=60) == 0


def test_the_tutorial_does_what_it_says(repository: Path, reader: Reader) -> None:
    blocks = list(TAGGED.finditer((repository / "README.md").read_text("utf-8")))
    assert len(blocks) == 4
    output = ""
    for block in blocks:
        if block["file"]:
            reader.write(block["file"], block["code"])
        else:
            output += reader.shell(block["code"])
    assert "python.run" in output
    assert "SUCCEEDED 42" in output
    assert "sum: 7" in output
    assert "ended by TOOL" in output
    assert re.search(r"refused: .*demo-no-shell", output)
    assert re.search(r"refused: .*/code", output)

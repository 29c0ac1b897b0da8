"""Runs the steps of a tool that changes something outside, as the broker has them run: a program, a folder, an exit code."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from broker.specs.shipped import shipped_folder

Items = dict[str, str]


def program(name: str) -> Path:
    """Where a tool's program lies: among those that are shipped, or those of the examples."""
    shipped = shipped_folder() / name
    return shipped if shipped.exists() else Path(__file__).parents[1] / "examples" / "tool_specs" / name


@dataclass(frozen=True)
class Effect:
    """What a plan has told."""

    before: Items = field(default_factory=dict)
    after: Items = field(default_factory=dict)

    @property
    def back(self) -> Effect:
        """What takes it back."""
        return Effect(self.after, self.before)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str
    left: Mapping[str, bytes] = field(repr=False)
    """All that lies in the working folder when it has ended."""

    def items(self, side: str) -> Items:
        top = f"{side}/"
        return {path.removeprefix(top): data.decode() for path, data in self.left.items() if path.startswith(top)}

    @property
    def effect(self) -> Effect:
        assert (self.code, self.err) == (0, ""), self
        return Effect(self.items("before"), self.items("after"))

    @property
    def reason(self) -> str:
        """Why it was refused, in one word; the line has to say what to do next."""
        assert self.code == 3, self
        assert self.err.count("\n") == 1, self.err
        assert ";" in self.err, self.err
        return self.err.partition(":")[0]


def run_step(
    script: str | Path,
    step: str,
    arguments: Mapping[str, Any],
    *,
    effect: Effect | None = None,
    files: Mapping[str, bytes] | None = None,
    environment: Mapping[str, str] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Ran:
    """One run of a program in a folder of its own.

    Args:
        script: its name in the shipped folder, or where another lies.
        step: such as ``plan``.
        arguments: of the call.
        effect: what lies in ``before`` and ``after``.
        files: what else lies in the working folder.
        environment: more variables.
        origin: the arguments of the call that is taken back.
    """
    lying: dict[str, bytes] = dict(files or {})
    for side, items in (("before", effect.before), ("after", effect.after)) if effect else ():
        lying |= {f"{side}/{path}": text.encode() for path, text in items.items()}
    if origin is not None:
        lying["origin/arguments.json"] = json.dumps(origin).encode()
    with tempfile.TemporaryDirectory() as top:
        work, scratch, told = Path(top, "work"), Path(top, "tmp"), Path(top, "arguments.json")
        work.mkdir()
        scratch.mkdir()
        told.write_text(json.dumps(arguments), "utf-8")
        for name, data in lying.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        done = subprocess.run(
            [sys.executable, "-I", "-W", "error", str(program(script)), step],
            cwd=work,
            env={"BROKER_ARGUMENTS": str(told), "PATH": os.defpath, "TMPDIR": str(scratch), **(environment or {})},
            capture_output=True,
            check=False,
            timeout=120,
        )
        left = {path.relative_to(work).as_posix(): path.read_bytes() for path in work.rglob("*") if path.is_file()}
        assert not list(scratch.iterdir())
    ran = Ran(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"), left)
    assert "Traceback" not in ran.err, ran.err
    return ran


@cache
def sqlite_execute() -> Any:  # noqa: ANN401 - a module
    """The program as a module, without its limit on the memory of a whole process."""
    path = shipped_folder() / "sqlite_execute.py"
    loaded = spec_from_file_location("sqlite_execute", path)
    assert loaded is not None
    assert loaded.loader is not None
    module = module_from_spec(loaded)
    sys.modules[module.__name__] = module
    loaded.loader.exec_module(module)
    module.PRAGMAS = tuple(pragma for pragma in module.PRAGMAS if "heap" not in pragma)
    return module


@dataclass
class Shop:
    """A SQLite file, and the steps of ``sqlite.execute`` on it. What a step may not change is compared."""

    data: bytes = field(repr=False)
    name: str = "data/shop.db"

    @classmethod
    def of(cls, *statements: str, name: str = "data/shop.db") -> Shop:
        """A file that was made by statements."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "made.db")
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                for statement in statements:
                    db.executescript(statement)
            return cls(path.read_bytes(), name)

    def step(self, step: str, sql: str = "", *parameters: object, effect: Effect | None = None, **more: Any) -> Ran:  # noqa: ANN401 - see run_step
        """One step on the file; the file is then as the step left it."""
        arguments = {"database": self.name, "sql": sql, "parameters": parameters}
        files = {self.name: self.data, **more.pop("files", {})}
        ran = run_step("sqlite_execute.py", step, arguments, effect=effect, files=files, **more)
        sides = {"before", "after", "now", "origin"}
        assert {name for name in ran.left if name.partition("/")[0] not in sides} == set(files)
        if step not in {"apply", "undo"} or ran.code:
            assert ran.left[self.name] == self.data, "the file was changed"
        self.data = ran.left[self.name]
        return ran

    def plan(self, sql: str, *parameters: object) -> Effect:
        return self.step("plan", sql, *parameters).effect

    def refusal(self, sql: str, *parameters: object) -> str:
        """Why a statement isn't planned."""
        ran = self.step("plan", sql, *parameters)
        assert not ran.items("before") | ran.items("after")
        return ran.reason

    def done(self, step: str, effect: Effect) -> None:
        ran = self.step(step, effect=effect)
        assert (ran.code, ran.err) == (0, ""), ran

    def round_trip(self, sql: str, *parameters: object) -> Effect:
        """Plan, rehearsal, apply and undo; compares contents with what the statement itself does, and what was there."""
        was, truth = self.content(), self.content(sql, *parameters)
        effect = self.plan(sql, *parameters)
        self.done("rehearse", effect)
        self.done("apply", effect)
        assert self.content() == truth
        assert self.step("verify", effect=effect).items("now") == effect.after
        applied = self.data
        self.done("undo", effect.back)
        assert self.content() == was
        assert self.step("verify", effect=effect).items("now") == effect.before
        self.data = applied
        return effect

    def quick_trip(self, sql: str, *parameters: object) -> None:
        """A round trip by the program's own functions, without a process for each step."""
        was, truth, program = self.content(), self.content(sql, *parameters), sqlite_execute()
        old, new = program.changes(self.data, *program.run(self.data, sql, list(parameters)))
        before, after = program.texts(old), program.texts(new)
        applied, written = program.rewritten(self.data, before, after)
        assert Shop(applied).content() == truth
        back, _ = program.rewritten(applied, after, before)
        assert Shop(back).content() == was
        assert program.changes(self.data, back, written) == ({}, {})
        self.data = applied

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(":memory:")) as db:
            db.deserialize(self._plain)
            return db.execute(query).fetchall()

    def content(self, sql: str = "", *parameters: object) -> dict[str, list[str]]:
        """All rows of all tables, with their types, after a statement; sequences aren't content."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            db.deserialize(self._plain)
            db.execute("PRAGMA foreign_keys = ON")
            if sql:
                db.execute(sql, parameters).fetchall()
            db.text_factory = bytearray  # which tells a text from a blob
            assert db.execute("PRAGMA integrity_check").fetchall() == [(bytearray(b"ok"),)]
            schema = db.execute("SELECT name, sql, rowid FROM sqlite_schema").fetchall()
            names = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'sqlite_sequence'")
            quoted = {name.decode(): '"' + name.decode().replace('"', '""') + '"' for (name,) in names}
            rows = {name: db.execute(f"SELECT * FROM {word}").fetchall() for name, word in quoted.items()}  # noqa: S608 - quoted
            types = {name: sorted(map(repr, found)) for name, found in rows.items()}
            return {**types, "": sorted(map(repr, schema))}

    @property
    def _plain(self) -> bytes:
        return self.data[:18] + b"\x01\x01" + self.data[20:]

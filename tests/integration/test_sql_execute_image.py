"""``sql.execute`` in its sandbox: the image ``postgres``, a forwarded port, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from broker.domain.run import EgressKind, EgressRule, EgressVerdict, Limits, Profile
from broker.sandbox.docker_engine import DockerEngine
from tests import egress_support
from tests.sandbox_support import Finished, docker_engine, finish, given, leased, python, wanted
from tests.sql_world import PROGRAM, ROLE, SqlWorld

pytestmark = pytest.mark.docker

LIMITS = Limits(wall_s=60.0)


async def step(
    engine: DockerEngine, sql: SqlWorld, name: str, sides: Mapping[str, bytes], arguments: object = None
) -> tuple[Finished, egress_support.World]:
    """Takes one step in a container of its own."""
    way = egress_support.World(EgressRule(EgressKind.TCP, "127.0.0.1", sql.server.port, listen=5432))
    profile = Profile((await engine.image("postgres")).id, LIMITS, "")
    job = python(
        PROGRAM.read_text("utf-8"),
        argv=("sql_execute.py", name),
        env={"SQL_DATABASE": sql.database, "SQL_USER": ROLE},
        arguments=json.dumps(arguments or {}).encode(),
        files=tuple(given(path, content) for path, content in sides.items()),
        outputs=wanted("before/**", "after/**", "now/**"),
        forwards=(5432,),
    )
    async with leased(engine, profile) as lease:
        return await finish(lease, job, way.session), way


async def test_every_step_in_a_container(sql: SqlWorld) -> None:
    sql.do("CREATE TABLE t (id text PRIMARY KEY, a integer)", "INSERT INTO t VALUES ('größe', 1), ('b', 2), ('c', 3)")
    was = sql.everything()
    async with docker_engine() as engine:
        planned, way = await step(engine, sql, "plan", {}, {"sql": "UPDATE t SET a = a + 1 WHERE id <> 'b'"})
        assert planned.ended.exit_code == 0, planned.stderr.decode()
        assert way.verdicts == {EgressVerdict.ALLOWED: 2}
        sides = planned.files
        assert sorted(sides) == sorted(
            f"{side}/public.t/{key}" for side in ("before", "after") for key in ("gr%C3%B6%C3%9Fe", "c")
        )
        rehearsed, _ = await step(engine, sql, "rehearse", sides)
        assert rehearsed.ended.exit_code == 0, rehearsed.stderr.decode()
        assert sql.everything() == was
        applied, _ = await step(engine, sql, "apply", sides)
        assert applied.ended.exit_code == 0, applied.stderr.decode()
        assert sql.ask('SELECT a FROM t ORDER BY id COLLATE "C"') == [2, 4, 2]
        again, _ = await step(engine, sql, "apply", sides)
        assert again.ended.exit_code == 5
        assert again.stderr.startswith(b"STATE_MOVED: ")
        verified, _ = await step(engine, sql, "verify", sides)
        assert {
            path.removeprefix("now/"): text for path, text in verified.files.items() if path.startswith("now/")
        } == {path.removeprefix("after/"): text for path, text in sides.items() if path.startswith("after/")}
        swapped = {
            path.replace("before/", "x/").replace("after/", "before/").replace("x/", "after/"): text
            for path, text in sides.items()
        }
        undone, _ = await step(engine, sql, "undo", swapped)
        assert undone.ended.exit_code == 0, undone.stderr.decode()
    assert sql.everything() == was


async def test_the_working_folder_lends_the_program_no_module(sql: SqlWorld) -> None:
    """Items and arguments lie in the working folder, and nothing there is ever run."""
    sql.do("CREATE TABLE t (id integer PRIMARY KEY)")
    traps = {
        f"{name}.py": b"raise SystemExit(77)\n" for name in ("broker_rows", "pg8000", "json", "before", "sitecustomize")
    }
    async with docker_engine() as engine:
        done, _ = await step(engine, sql, "plan", traps, {"sql": "INSERT INTO t VALUES (1)"})
    assert done.ended.exit_code == 0, done.stderr.decode()
    assert list(done.files) == ["after/public.t/1"]


async def test_no_way_out_is_said(sql: SqlWorld) -> None:
    async with docker_engine() as engine:
        profile = Profile((await engine.image("postgres")).id, LIMITS, "")
        job = python(
            PROGRAM.read_text("utf-8"),
            argv=("sql_execute.py", "plan"),
            env={"SQL_DATABASE": sql.database, "SQL_USER": ROLE},
            arguments=b'{"sql": "DELETE FROM t"}',
        )
        async with leased(engine, profile) as lease:
            done = await finish(lease, job)
    assert done.ended.exit_code == 1
    assert done.stderr.startswith(b"CONNECTION_LOST: ")


def test_every_package_of_the_image_is_locked(repository: Path) -> None:
    listing = (repository / "sandboxes" / "postgres" / "packages.txt").read_text("utf-8")
    lock = (repository / "requirements.lock").read_text("utf-8")
    names = [name for line in listing.splitlines() if (name := line.partition("#")[0].strip())]
    assert names
    assert all(f"\n{name}==" in lock for name in names)

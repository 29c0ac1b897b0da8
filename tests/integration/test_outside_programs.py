"""The programs of tools that change something outside, in the sandbox's own interpreter and with the broker's way out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.domain.run import Job
from broker.sandbox.engine import EgressGate
from tests.egress_support import NAME, World, http_rule, ok, saying, serving
from tests.http_service import service
from tests.outside_steps import Effect, Shop, program
from tests.sandbox_support import (
    LIMITS,
    Finished,
    docker_engine,
    finish,
    given,
    in_tree,
    leased,
    profile,
    python,
    wanted,
    written,
)

pytestmark = pytest.mark.docker

PRICES = (
    "CREATE TABLE price (item TEXT PRIMARY KEY, cents INTEGER NOT NULL)",
    "INSERT INTO price VALUES ('tea', 250), ('milk', 120)",
)


async def in_sandbox(job: Job, gate: EgressGate | None = None) -> Finished:
    async with docker_engine() as engine, leased(engine, await profile(engine, LIMITS)) as lease:
        return await finish(lease, job, gate)


def step(script: str, name: str, arguments: dict[str, Any], effect: Effect | None = None, **more: Any) -> Job:  # noqa: ANN401 - see Job
    sides = (("before", effect.before), ("after", effect.after)) if effect else ()
    files = [given(f"{side}/{path}", text.encode()) for side, items in sides for path, text in items.items()]
    code = program(script).read_text("utf-8")
    values = {"argv": (script, name), "arguments": json.dumps(arguments).encode(), "env": {"TMPDIR": "/tmp"}}  # noqa: S108 - the sandbox's own
    return python(code, **values, files=(*files, *more.pop("files", ())), **more)


async def test_rows_of_a_file_that_is_the_tree_of_a_sandbox() -> None:
    shop = Shop.of(*PRICES)
    arguments = {"database": shop.name, "sql": "UPDATE price SET cents = cents + 1"}
    tree = {"files": [in_tree(shop.name, shop.data, 0o640)], "tree": written("**/*.db")}
    planned = await in_sandbox(
        step("sqlite_execute.py", "plan", arguments, outputs=wanted("before/**", "after/**"), **tree)
    )
    assert (planned.ended.exit_code, planned.text, planned.changes) == (0, "2 row(s) would change\n", {})
    effect = shop.plan(arguments["sql"])
    assert planned.files == {
        f"{side}/{path}": text.encode()
        for side, items in (("before", effect.before), ("after", effect.after))
        for path, text in items.items()
    }
    rehearsed = await in_sandbox(step("sqlite_execute.py", "rehearse", arguments, effect, **tree))
    assert (rehearsed.ended.exit_code, rehearsed.changes) == (0, {})
    applied = await in_sandbox(step("sqlite_execute.py", "apply", arguments, effect, **tree))
    assert applied.ended.exit_code == 0
    assert applied.changes.keys() == {shop.name}
    told = applied.changes[shop.name]
    assert isinstance(told, tuple)
    assert told[1] == 0o640
    assert Shop(told[0]).rows("SELECT item, cents FROM price ORDER BY item") == [("milk", 121), ("tea", 251)]


async def test_a_request_on_its_way_out_of_a_sandbox() -> None:
    async with serving(saying(ok(b"sold"))) as host:
        one = {"method": "POST", "url": f"http://{NAME}:{host.port}/prices", "body": "tea=260"}
        call = {"request": one, "compensate": one}
        with service() as elsewhere:
            effect = elsewhere.plan(call)
        gate = World(http_rule(host.port, methods=("POST",))).session
        ran = await in_sandbox(step("http_request.py", "apply", call, effect, proxy=True), gate)
        assert (ran.ended.exit_code, ran.text, ran.stderr) == (0, "200 OK sold\n", b"")
        assert len(host.requests) == 1

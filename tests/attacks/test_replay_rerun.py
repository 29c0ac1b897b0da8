"""A rerun is tried as a way to do it again: to change a workspace, reach a host, use a secret, or touch the record; and it is
given records that somebody has worked on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import docker
import pytest

from broker.cli.local import open_local
from broker.cli.replay_opening import opened
from broker.domain.events import OUTCOME_TEXTS, REQUEST_TEXTS
from broker.domain.planned import PLANNED
from broker.pipeline.kept import read_request
from broker.replay.rerun import Verdict
from broker.replay.rerun import rerun as again
from broker.sandbox.address import engine_address
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.engine import LABEL_INSTANCE
from broker.sandbox.images import SandboxImage
from tests.forked import fork
from tests.replay_world import TOKEN, Recorded, answer, everything, recorded, rerun
from tests.served import DEADLINE_S, serving
from tests.tree_world import FILES, content, object_file, sql

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Recorded]:
    with recorded(tmp_path_factory.mktemp("recorded"), repository) as made:
        yield made


@pytest.fixture
def touched(world: Recorded, tmp_path: Path) -> Recorded:
    """A copy that a test may work on."""
    return world.copy(tmp_path / "state")


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url=engine_address(), version="auto", timeout=60)
    yield client
    client.close()


@pytest.mark.parametrize("what", ["plain", "long", "write", "undo", "rows", "tier4", "waits"])
def test_the_same_comes_of_the_same_and_nothing_is_touched(world: Recorded, what: str) -> None:
    before = everything(world.state)
    code, found = rerun(world.state, world.calls[what])
    assert (code, found["verdict"], found["differences"]) == (0, "reproduced", []), found
    assert everything(world.state) == before
    assert found["frames"].startswith("sha256:")
    assert found["recorded"]["stdout"] == found["rerun"]["stdout"]
    assert found["recorded"]["effect"] == found["rerun"]["effect"]
    assert not [item for item in (world.state / "replays").iterdir() if item.name != "lock"]


def test_an_effect_is_read_and_never_applied(world: Recorded) -> None:
    before = content(world.state)
    _, found = rerun(world.state, world.calls["write"])
    assert {item["path"]: item["kind"] for item in found["rerun"]["effect"]} == {
        "README.md": "changed",
        "src/old/a.txt": "removed",
    }
    assert content(world.state) == before


def test_chance_shows_as_a_difference(world: Recorded) -> None:
    code, found = rerun(world.state, world.calls["chance"])
    assert (code, found["verdict"]) == (20, "differs")
    (item,) = found["differences"]
    assert (item["part"], item["offset"]) == ("stdout", len("same\n"))
    assert item["diff"][:4] == ["--- recorded", "+++ rerun", "@@ -1,2 +1,2 @@", " same"]


def test_a_tool_with_a_secret_reaches_nobody(world: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_TOKEN", TOKEN)  # it could be had
    came = len(world.requests)
    assert came == 1
    assert TOKEN.encode() in world.requests[0]
    code, found = rerun(world.state, world.calls["fetch"])
    assert (code, found["verdict"]) == (20, "differs")
    assert len(world.requests) == came
    assert found["asked"] == [item for item in found["asked"] if item.startswith("GET http://127.0.0.1:")]
    assert len(found["asked"]) == 1
    assert TOKEN not in json.dumps(found)
    assert "Bad Gateway" in "".join(line for item in found["differences"] for line in item["diff"])


def test_an_effect_outside_is_not_done_again(world: Recorded) -> None:
    came, items = list(world.shelf.asked), dict(world.shelf.items)
    code, found = rerun(world.state, world.calls["outside"])
    assert (code, found["verdict"]) == (21, "cannot")
    assert [item["reason"] for item in found["obstacles"]] == ["ANSWERS_NOT_KEPT"]
    assert (world.shelf.asked, world.shelf.items) == (came, items)


class _Elsewhere(DockerEngine):
    """An engine that has lost all images of tools."""

    async def images(self) -> Sequence[SandboxImage]:
        return ()


async def test_an_image_that_is_gone_is_named(world: Recorded) -> None:
    async with opened(world.state, "") as replay, _Elsewhere("broker-test-replay") as away:
        found = await again(replay.sources, away, world.calls["plain"], replay.origin)
    assert found.verdict is Verdict.CANNOT
    (item,) = found.obstacles
    assert (item.reason, "docker load" in item.hint) == ("IMAGE_MISSING", True)
    assert json.loads(_entry(world.state, world.calls["plain"], "decision")[1])["tool"]["image_digest"] in item.what


def test_what_never_ran_is_not_run_now(world: Recorded) -> None:
    code, found = rerun(world.state, world.calls["never"])
    assert (code, [item["reason"] for item in found["obstacles"]]) == (21, ["CALL_NEVER_RAN"])


def test_a_call_that_never_was_is_refused(world: Recorded) -> None:
    code, found = rerun(world.state, "call_01jx0000000000000000000000")
    assert (code, found["reason"]) == (2, "CALL_NOT_FOUND")


def _doctored(state: Path, call: str) -> str:
    code, found = rerun(state, call)
    assert (code, found["verdict"]) == (22, "doctored"), found
    assert found["rerun"] is None
    (item,) = found["obstacles"]
    return str(item["reason"])


def _forge(state: Path, statement: str, *values: object) -> None:
    """Works on the ledger past its triggers, and puts them back."""
    with closing(sqlite3.connect(state / "broker.db", isolation_level=None, timeout=30)) as db:
        triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        assert db.execute(statement, values).rowcount == 1
        for _, text in triggers:
            db.execute(text)


def _entry(state: Path, call: str, kind: str) -> tuple[int, bytes]:
    with closing(sqlite3.connect(state / "broker.db", timeout=30)) as db:
        rows = db.execute("SELECT seq, data FROM ledger_entry ORDER BY seq").fetchall()
    found = [(seq, data) for seq, data in rows if call.encode() in data and f'"type":"{kind}"'.encode() in data]
    return found[-1]


def test_an_entry_that_was_changed(touched: Recorded) -> None:
    call = touched.calls["plain"]
    seq, data = _entry(touched.state, call, "outcome")
    forged = data.replace(b'"exit_code":3', b'"exit_code":0')
    assert forged != data
    _forge(touched.state, "UPDATE ledger_entry SET data = ? WHERE seq = ?", forged, seq)
    assert _doctored(touched.state, call) == "ENTRY_DOCTORED"
    # With its own hash made right, the entries beside it don't fit.
    leaf = hashlib.sha256(b"\0" + forged).digest()
    _forge(touched.state, "UPDATE ledger_entry SET leaf = ? WHERE seq = ?", leaf, seq)
    assert _doctored(touched.state, call) == "ENTRY_DOCTORED"


def test_content_that_was_changed_or_moved(touched: Recorded) -> None:
    plain, chance = touched.calls["plain"], touched.calls["chance"]
    cut = "substr(sealed, 1, length(sealed) - 1) || x'00'"
    sql(touched.state, f"UPDATE vault_chunk SET sealed = CAST({cut} AS BLOB) WHERE object_id = ? AND idx = -1", plain)  # noqa: S608 - of this test
    assert _doctored(touched.state, plain) == "VAULT_CHUNK_DAMAGED"
    moved = "(SELECT sealed FROM vault_chunk WHERE object_id = ? AND idx = -1)"
    sql(touched.state, f"UPDATE vault_chunk SET sealed = {moved} WHERE object_id = ? AND idx = -1", chance, plain)  # noqa: S608 - of this test
    assert _doctored(touched.state, plain) == "VAULT_CHUNK_DAMAGED"


def test_output_that_was_taken_away(touched: Recorded) -> None:
    call = touched.calls["long"]
    with closing(sqlite3.connect(touched.state / "broker.db", isolation_level=None, timeout=30)) as db:
        rows = db.execute(
            "SELECT idx, length(sealed) FROM vault_chunk WHERE object_id = ? AND idx > 0", (call,)
        ).fetchall()
        largest = max(rows, key=lambda row: row[1])[0]
        assert db.execute("DELETE FROM vault_chunk WHERE object_id = ? AND idx = ?", (call, largest)).rowcount == 1
    assert _doctored(touched.state, call) == "OUTPUT_DOCTORED"


def test_a_plan_that_was_taken_away_so_that_its_effect_is_not_compared(touched: Recorded) -> None:
    call = touched.calls["write"]
    sql(touched.state, "DELETE FROM vault_chunk WHERE object_id = ? AND idx = ?", call, PLANNED)
    assert _doctored(touched.state, call) == "PLAN_MISSING"


def test_a_specification_that_was_changed(touched: Recorded) -> None:
    state, calls = touched.state, touched.calls
    versions = [json.loads(_entry(state, calls[name], "decision")[1])["tool"]["version"] for name in ("plain", "write")]
    ours, other = (f"spec_{version[7:39]}" for version in versions)
    forged = "(SELECT sealed FROM vault_chunk WHERE object_id = ?)"
    sql(state, f"UPDATE vault_chunk SET sealed = {forged} WHERE object_id = ?", other, ours)  # noqa: S608 - of this test
    assert _doctored(state, calls["plain"]) == "VAULT_CHUNK_DAMAGED"


def _resealed(state: Path, name: str, index: int, change: Callable[[bytes], bytes]) -> None:
    """Somebody who has the vault's key puts other content into an object."""
    with open_local(state) as local:
        data = local.read(lambda tx: dict(local.vault.open(tx, name).read(tx, index, 1))[index])
    forged = change(data)
    assert forged != data
    sql(state, "DELETE FROM vault_chunk WHERE object_id = ? AND idx = ?", name, index)
    with open_local(state) as local:
        local.write(lambda tx: local.vault.open(tx, name).put(tx, {index: forged}))


def test_content_that_was_sealed_anew(touched: Recorded) -> None:
    state, plain = touched.state, touched.calls["plain"]
    _resealed(state, plain, REQUEST_TEXTS, lambda data: data.replace(b"hello", b"howdy"))
    assert _doctored(state, plain) == "COMMITMENT_BROKEN"
    chance = touched.calls["chance"]
    _resealed(state, chance, OUTCOME_TEXTS, lambda data: data.replace(b'"result_json":""', b'"result_json":"1"'))
    assert _doctored(state, chance) == "COMMITMENT_BROKEN"
    write = touched.calls["write"]
    _resealed(state, write, PLANNED, lambda data: data.replace(b"src/old/a.txt", b"src/old/c.txt"))
    assert _doctored(state, write) == "COMMITMENT_BROKEN"


def test_a_file_that_was_sealed_anew(touched: Recorded) -> None:
    state, plain = touched.state, touched.calls["plain"]
    _resealed(state, _blob_of(state, plain), 0, lambda data: data.replace(b"some", b"same"))
    assert _doctored(state, plain) == "ENVELOPE_CHANGED"


def test_a_specification_that_was_sealed_anew(touched: Recorded) -> None:
    state, plain = touched.state, touched.calls["plain"]
    version = json.loads(_entry(state, plain, "decision")[1])["tool"]["version"]
    _resealed(state, f"spec_{version[7:39]}", 0, lambda data: data.replace(b"536870912", b"536870913"))
    assert _doctored(state, plain) == "SPEC_DOCTORED"


def test_a_file_of_the_tree_that_was_changed(touched: Recorded) -> None:
    place = object_file(touched.state, FILES["README.md"])
    place.write_bytes(b"# Demi\n")
    assert _doctored(touched.state, touched.calls["write"]) == "TREE_DOCTORED"


def test_what_is_gone_is_said_with_its_name(touched: Recorded) -> None:
    state, calls = touched.state, touched.calls
    object_file(state, FILES["README.md"]).unlink()
    code, found = rerun(state, calls["write"])
    assert (code, [item["reason"] for item in found["obstacles"]]) == (21, ["STATE_NOT_KEPT"])
    assert "'README.md'" in found["obstacles"][0]["what"]
    blob = _blob_of(state, calls["plain"])
    sql(state, "DELETE FROM vault_chunk WHERE object_id = ?", blob)
    sql(state, "DELETE FROM vault_object WHERE id = ?", blob)
    code, found = rerun(state, calls["plain"])
    assert (code, [item["reason"] for item in found["obstacles"]]) == (21, ["BLOB_NOT_FOUND"])
    assert "'in.txt'" in found["obstacles"][0]["what"]
    answered, done = answer(state, "ledger", "erase", "--subject", calls["plain"], "--yes")
    assert answered == 0, done
    code, found = rerun(state, calls["plain"])
    assert (code, [item["reason"] for item in found["obstacles"]]) == (21, ["CONTENT_ERASED"])


def _blob_of(state: Path, call: str) -> str:
    """The input file of a call, as the vault keeps it."""
    with open_local(state) as local:
        request = local.read(lambda tx: read_request(tx, local.vault.open(tx, call)))
    return request.files[0].blob


async def test_two_at_once_beside_a_broker_that_serves(touched: Recorded, engine: docker.APIClient) -> None:
    with serving(touched.state, OWN_TOKEN=TOKEN) as served:
        async with served.client() as client:
            first, second, live = await asyncio.gather(
                asyncio.to_thread(rerun, touched.state, touched.calls["write"]),
                asyncio.to_thread(rerun, touched.state, touched.calls["plain"]),
                client.run("python.run", {"code": "print('alive')"}),
            )
        assert (first[0], second[0], live.stdout) == (0, 0, b"alive\n")
    assert not _containers(engine, touched.state)


def _containers(engine: docker.APIClient, state: Path) -> list[str]:
    origin = json.loads(_entry(state, "", "genesis")[1])["origin"]
    found = engine.containers(all=True, filters={"label": [f"{LABEL_INSTANCE}={origin}/replay"]})
    return [item["Id"] for item in found]


@pytest.mark.parametrize(
    ("how", "found_by"), [(signal.SIGKILL, "gc"), (signal.SIGKILL, "the next"), (signal.SIGTERM, "itself")]
)
def test_who_is_killed_half_way_leaves_nothing_that_is_not_found(
    touched: Recorded, engine: docker.APIClient, how: signal.Signals, found_by: str
) -> None:
    before = everything(touched.state)
    environment = {**os.environ, "BROKER_STATE": str(touched.state)}
    with (touched.state.parent / "log").open("w") as log:
        process = fork(
            ["replay", "rerun", touched.calls["slow"]], environment, stdout=log.fileno(), stderr=log.fileno()
        )
        try:
            while not _running(engine, touched.state):
                assert process.poll() is None
            process.send_signal(how)
            code = process.wait(DEADLINE_S)
        finally:
            process.kill()
            process.wait(DEADLINE_S)
    assert everything(touched.state) == before
    if found_by == "itself":
        assert code == 143
    else:
        assert len(_containers(engine, touched.state)) == 1
    if found_by == "gc":
        _, found = answer(touched.state, "sandbox", "gc", "--replays")
        assert {item["kind"] for item in found["items"]} == {"container", "scratch"}
    if found_by == "the next":
        assert rerun(touched.state, touched.calls["plain"])[0] == 0
    assert not _containers(engine, touched.state)
    assert not [item for item in (touched.state / "replays").iterdir() if item.name != "lock"]


def _running(engine: docker.APIClient, state: Path) -> bool:
    origin = json.loads(_entry(state, "", "genesis")[1])["origin"]
    return bool(engine.containers(filters={"label": [f"{LABEL_INSTANCE}={origin}/replay"]}))

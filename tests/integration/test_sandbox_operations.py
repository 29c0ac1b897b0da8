"""What an operator sees of the sandboxes of a running broker: status, metrics, and what the engine holds."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from broker.client.models import Stdout
from broker.domain.call import CallState
from broker.sandbox.address import engine_address
from tests.served import AGENT, OPERATOR, Served, command, command_json, make_state, serving

pytestmark = pytest.mark.docker

_SETTLES_WITHIN_S = 30
_HUMAN = f"human/{OPERATOR}"
_ENDLESS = {"code": "import time\nprint('up', flush=True)\nwhile True: time.sleep(3600)"}
_LISTENING = "0A"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def metrics() -> str:
    return f"127.0.0.1:{_free_port()}"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, metrics: str) -> Iterator[Served]:
    """A broker with a metrics endpoint."""
    state = tmp_path_factory.mktemp("watched") / "state"
    make_state(state, settings={"metrics_listen": metrics})
    with serving(state) as broker:
        yield broker


def _status(served: Served) -> dict[str, Any]:
    return command_json(served.state, "sandbox", "status", "--identity", _HUMAN)


async def _until(holds: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(_SETTLES_WITHIN_S):
            while not await asyncio.to_thread(holds):
                pass
    except TimeoutError:
        raise AssertionError(f"not within {_SETTLES_WITHIN_S} s: {what}") from None


async def test_a_call_that_runs_is_shown_with_its_container_and_then_its_end(watched: Served, repository: Path) -> None:
    async with watched.client() as client:
        call = await client.create_call("python.run", _ENDLESS)
        async for event in client.watch(call):
            if isinstance(event, Stdout):
                break
        found = await asyncio.to_thread(_status, watched)
        assert (await client.cancel_call(call)).state is CallState.CANCELLED
    jsonschema.validate(found, json.loads((repository / "docs" / "cli" / "sandbox-status.json").read_text("utf-8")))
    assert found["leased"] == 1
    ((name, container),) = [(item["call"], item["container_id"]) for item in found["calls"]]
    assert name == call.name
    assert re.fullmatch(r"[0-9a-f]{64}", container)
    (pool,) = [item for item in found["pools"] if item["leased"]]
    assert pool["warm_claims"] + pool["cold_claims"] >= 1
    assert {"admit", "claim"} <= {item["step"] for item in found["steps"]}
    await _until(lambda: _status(watched)["leased"] == 0, "the container was given back")
    ends = {(item["cause"], item["state"]): item["count"] for item in _status(watched)["ends"]}
    assert ends["CLIENT", "CANCELLED"] == 1


async def test_the_pool_says_what_the_engine_holds(watched: Served) -> None:
    async with watched.client() as client:
        await client.run("python.run", {"code": "print(1)"})
    client = docker.APIClient(base_url=engine_address(), version="auto", timeout=60)
    origin = command_json(watched.state, "status", "--identity", _HUMAN)["origin"]

    def agrees() -> bool:
        pool = _status(watched)
        held = client.containers(filters={"label": [f"broker={origin}"]})
        return pool["making"] == pool["leased"] == 0 < pool["idle"] == len(held)

    try:
        await _until(agrees, "as many containers as the pool says are idle")
    finally:
        client.close()
    pools = _status(watched)["pools"]
    assert sum(item["idle"] for item in pools) == _status(watched)["idle"]
    assert all(item["oldest_idle_s"] is not None for item in pools if item["idle"])


def test_a_person_sees_it_too(watched: Served) -> None:
    shown = command(watched.state, "sandbox", "status", "--identity", _HUMAN).stdout
    assert shown.startswith("idle ")
    assert "pools\t" in shown


def test_only_operators_see_it(watched: Served) -> None:
    refused = command(watched.state, "sandbox", "status", "--json", "--identity", f"agent/{AGENT}", check=False)
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["metadata"]["rule"] == "default-deny"


async def test_the_metrics_page_counts_and_names_nobody(watched: Served, metrics: str) -> None:
    async with watched.client() as client:
        done = await client.run("python.run", {"code": "print(1)"})

    def page() -> str:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=20) as answer:
            text: str = answer.read().decode()
        return text

    def value(name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in text_string_to_metric_families(page())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    # The page is a second old at most, and the end is counted a moment after the client has heard of it.
    await _until(
        lambda: value("broker_calls_ended_total", cause="TOOL", state="SUCCEEDED") >= 1, "the end on the metrics page"
    )
    assert value("broker_claims_total") >= 1
    assert value("broker_step_seconds_count", step="run") >= 1
    text = page()
    for word in (AGENT, OPERATOR, "python.run", "demo", done.name.removeprefix("calls/")):
        assert word not in text


def test_there_is_nothing_else_on_that_listener(watched: Served, metrics: str) -> None:
    assert watched.process.poll() is None
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{metrics}/", timeout=20)
    assert caught.value.code == 404
    caught.value.close()


def test_without_the_setting_there_is_one_listener(served: Served, watched: Served) -> None:
    assert (_listeners(served.process.pid), _listeners(watched.process.pid)) == (1, 2)


async def test_gc_beside_a_broker_shows_its_containers_and_removes_none(watched: Served) -> None:
    def items() -> bool:
        return bool(command_json(watched.state, "sandbox", "gc", "--dry-run")["items"])

    await _until(items, "a warm container")
    shown = command_json(watched.state, "sandbox", "gc", "--dry-run")
    assert shown["broker_running"]
    assert {item["kind"] for item in shown["items"]} == {"container"}
    refused = command(watched.state, "sandbox", "gc", "--json", check=False)
    assert (refused.returncode, json.loads(refused.stdout)["reason"]) == (2, "ALREADY_SERVING")
    assert command_json(watched.state, "sandbox", "gc", "--dry-run")["items"]


def _listeners(pid: int) -> int:
    """TCP sockets on which a process listens."""
    folder = Path(f"/proc/{pid}/fd")
    own = {match[1] for fd in folder.iterdir() if (match := re.fullmatch(r"socket:\[(\d+)\]", str(fd.readlink())))}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        if (path := Path(f"/proc/{pid}/net/{table}")).exists()
        for line in path.read_text("ascii").splitlines()[1:]
    ]
    return sum(row[3] == _LISTENING and row[9] in own for row in rows)

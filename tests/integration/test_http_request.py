"""http.request through the whole broker: seen with what takes it back, sent once, compensated once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from broker.client.models import CompletedCall
from broker.domain.call import CallState
from broker.errors import FailedPreconditionError
from tests.served import Served, command_json, make_state, serving

pytestmark = pytest.mark.docker

TOOL = "shop.request"
POLICY = f"""
p, t-http, role:agent, demo, {TOOL}, call, 1, allow, agents change the shop
p, t-http-undo, role:agent, demo, workspace.undo, call, 1, allow, agents take back
"""


class Prices:
    """A service that keeps a price. ``fault`` breaks the next change off: done, and no answer."""

    def __init__(self) -> None:
        self.price = "250"
        self.asked: list[str] = []
        self.fault = False

    @contextmanager
    def serving(self) -> Iterator[int]:
        """Answers while the block lasts; gives the port."""
        prices = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                prices.asked.append("GET")
                self._answer(prices.price)

            def do_PUT(self) -> None:
                prices.price = self.rfile.read(int(self.headers["Content-Length"])).decode()
                prices.asked.append(f"PUT {prices.price}")
                if prices.fault:
                    prices.fault = False
                    self.close_connection = True
                    return
                self._answer("changed")

            def _answer(self, text: str) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture
def shop(tmp_path: Path, repository: Path) -> Iterator[tuple[Path, Prices, str]]:
    prices, state = Prices(), tmp_path / "state"
    with prices.serving() as port:
        make_state(state, settings={"egress_networks": ["127.0.0.0/8"]})
        specs, examples = state / "tool_specs", repository / "examples" / "tool_specs"
        specs.mkdir()
        spec = yaml.safe_load((examples / "http.request.yaml").read_text("utf-8"))
        spec["egress"] = [
            {"host": "127.0.0.1", "port": port, "kind": "http", "methods": ["GET", "PUT"], "paths": ["/v1/"]}
        ]
        (specs / f"{TOOL}.yaml").write_text(yaml.safe_dump({**spec, "name": TOOL, "tier": 1}), "utf-8")
        (specs / "http_request.py").write_bytes((examples / "http_request.py").read_bytes())
        policy = state / "policy" / "policy.csv"
        policy.write_text(policy.read_text("utf-8") + POLICY, "utf-8")
        yield state, prices, f"http://127.0.0.1:{port}/v1/price"


async def _set(served: Served, url: str, price: str) -> CompletedCall:
    wanted = {
        "request": {"method": "PUT", "url": url, "body": price},
        "compensate": {"method": "PUT", "url": url, "body": "250"},
        "observe": {"url": url},
    }
    async with served.client() as agent:
        return await agent.run(TOOL, wanted)


async def _undo(served: Served, call: str) -> CompletedCall:
    async with served.client() as agent:
        return await agent.run("workspace.undo", {"call": call.removeprefix("calls/")})


async def test_it_is_sent_once_and_compensated_once(shop: tuple[Path, Prices, str]) -> None:
    state, prices, url = shop
    with serving(state) as served:
        done = await _set(served, url, "300")
        assert done.state is CallState.SUCCEEDED, (done.outcome, done.stderr)
        assert prices.price == "300"
        assert [one for one in prices.asked if one != "GET"] == ["PUT 300"]
        undone = await _undo(served, done.name)
        assert undone.state is CallState.SUCCEEDED, (undone.outcome, undone.stderr)
        assert [one for one in prices.asked if one != "GET"] == ["PUT 300", "PUT 250"]
        with pytest.raises(FailedPreconditionError) as caught:
            await _undo(served, undone.name)
        assert caught.value.reason == "NOT_REVERSIBLE"
        with pytest.raises(FailedPreconditionError) as caught:
            await _undo(served, done.name)
        assert caught.value.reason == "ALREADY_UNDONE"
    assert command_json(state, "ledger", "rebuild")["equal"]


async def test_a_change_without_an_answer_is_unknown_and_never_sent_again_by_itself(
    shop: tuple[Path, Prices, str],
) -> None:
    state, prices, url = shop
    with serving(state) as served:
        prices.fault = True
        done = await _set(served, url, "300")
        assert done.state is CallState.UNKNOWN
        assert done.outcome is not None
        assert done.outcome.effect is not None
        assert [one for one in prices.asked if one != "GET"] == ["PUT 300"]
        undone = await _undo(served, done.name)
        assert undone.state is CallState.SUCCEEDED, (undone.outcome, undone.stderr)
        assert prices.price == "250"
        async with served.client() as agent:
            assert (await agent.get_call(done.name)).state is CallState.UNDONE


async def test_a_service_that_is_no_longer_as_it_was_seen_is_not_changed(shop: tuple[Path, Prices, str]) -> None:
    state, prices, url = shop
    with serving(state) as served:
        async with served.client() as agent:
            done = await agent.run(
                TOOL,
                {
                    "request": {"method": "PUT", "url": url, "body": "1"},
                    "compensate": {"method": "PUT", "url": url, "body": "250"},
                    "observe": {"url": url, "expect": {"sha256": "0" * 64}},
                },
            )
    assert done.state is CallState.FAILED
    assert prices.asked == ["GET"]
    assert prices.price == "250"

"""The endpoint: one page, on loopback, and clients that mean harm or have forgotten their connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from structlog.testing import capture_logs

from broker.domain.meter import Claim
from broker.errors import FailedPreconditionError, InvalidArgumentError
from broker.metrics.endpoint import EndpointBounds, MetricsEndpoint
from broker.metrics.prometheus import PrometheusMeter

_LIVE_S = 20
_GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"


@asynccontextmanager
async def listening(meter: PrometheusMeter | None = None, **bounds: float) -> AsyncIterator[MetricsEndpoint]:
    chosen = EndpointBounds(**{"page_age_s": 0.0, **bounds})  # type: ignore[arg-type]  # names and numbers as there
    async with asyncio.timeout(_LIVE_S), MetricsEndpoint("127.0.0.1:0", meter or PrometheusMeter("1"), chosen) as found:
        yield found


@asynccontextmanager
async def connected(endpoint: MetricsEndpoint) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = endpoint.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def ask(endpoint: MetricsEndpoint, request: bytes) -> bytes:
    """Sends bytes, and reads until the endpoint closes the connection."""
    async with connected(endpoint) as (reader, writer):
        writer.write(request)
        return await ended(reader)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What is read until the endpoint cuts the connection."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b"reset"


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a state of the endpoint; the test's own deadline bounds it."""
    while not condition():  # noqa: ASYNC110  # nobody sets an event for it
        await asyncio.sleep(0)


async def test_the_page_is_shown_and_the_connection_closed() -> None:
    meter = PrometheusMeter("1")
    meter.claimed(Claim.WARM)
    async with listening(meter) as endpoint:
        answer = await ask(endpoint, _GET + b"\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in head.lower()
    assert b'broker_claims_total{claim="warm"} 1.0' in body


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (b"", b"text/plain; version=0.0.4"),
        (b"Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain\r\n", b"application/openmetrics-text"),
        (b"Accept: application/openmetrics-text; version=\xff9.9; escaping=x\r\n", b"openmetrics-text; version=1.0.0"),
        (b"Accept: text/plain; version=nonsense; escaping=x\r\n", b"text/plain; version=0.0.4"),
    ],
)
async def test_the_format_is_negotiated_without_repeating_the_clients_words(accept: bytes, content_type: bytes) -> None:
    async with listening() as endpoint:
        head, _, _ = (await ask(endpoint, _GET + accept + b"\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert content_type in head
    assert b"nonsense" not in head
    assert b"9.9" not in head


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", b"404"),
        (b"GET /metricsx HTTP/1.1", b"404"),
        (b"GET /metrics/../../etc/passwd HTTP/1.1", b"404"),
        (b"GET /metrics?x=1 HTTP/1.1", b"200"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"HEAD /metrics HTTP/1.1", b"405"),
        (b"CONNECT host:1 HTTP/1.1", b"405"),
        (b"DELETE / HTTP/1.1", b"405"),
        (b"nonsense", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
    ],
)
async def test_there_is_get_metrics_and_nothing_else(request_line: bytes, status: bytes) -> None:
    async with listening() as endpoint:
        answer = await ask(endpoint, request_line + b"\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert (b"broker_info" in answer) == (status == b"200")


async def test_a_second_request_on_the_connection_is_not_answered() -> None:
    async with listening() as endpoint:
        answer = await ask(endpoint, (_GET + b"\r\n") * 3)
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_client_that_never_ends_its_request_is_cut() -> None:
    async with listening(request_s=0.2) as endpoint:
        async with connected(endpoint) as (reader, writer):
            writer.write(_GET)
            assert await ended(reader) == b""
        assert b"200" in await ask(endpoint, _GET + b"\r\n")


async def test_a_client_that_drips_is_cut_all_the_same() -> None:
    async with listening(request_s=0.3) as endpoint, connected(endpoint) as (reader, writer):

        async def drip() -> None:
            while True:
                writer.write(b"X-Slow: 1\r\n")
                await asyncio.sleep(0.02)

        writer.write(_GET)
        dripping = asyncio.create_task(drip())
        assert await ended(reader) in {b"", b"reset"}
        dripping.cancel()


@pytest.mark.parametrize(
    "flood",
    [
        b"GET /metrics HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(100_000)),
        b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 2_000_000,
        b"G" * 2_000_000,
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 9000,
    ],
)
async def test_headers_without_end_are_refused(flood: bytes) -> None:
    async with listening() as endpoint:
        answer = await ask(endpoint, flood)
        assert answer == b"reset" or answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
        assert b"200" in await ask(endpoint, _GET + b"\r\n")


async def test_a_client_that_takes_no_answer_is_cut() -> None:
    meter = PrometheusMeter("1")
    big = b"x" * 50_000_000
    meter.page = lambda *, openmetrics: (big, "text/plain")  # type: ignore[method-assign,assignment]  # a page that no buffer holds  # noqa: ARG005
    async with listening(meter, response_s=0.3) as endpoint:
        with socket.create_connection(endpoint.address.split(":")) as client:
            client.sendall(_GET + b"\r\n")
            await until(lambda: bool(endpoint._open))
            await until(lambda: not endpoint._open)
        assert not endpoint._open


async def test_a_client_that_takes_its_time_gets_all_of_it() -> None:
    meter = PrometheusMeter("1")
    big = b"x" * 20_000_000
    meter.page = lambda *, openmetrics: (big, "text/plain")  # type: ignore[method-assign,assignment]  # more than buffers hold  # noqa: ARG005
    async with listening(meter) as endpoint, connected(endpoint) as (reader, writer):
        writer.write(_GET + b"\r\n")
        await until(lambda: bool(endpoint._pages))
        assert len((await reader.read()).partition(b"\r\n\r\n")[2]) == len(big)


async def test_more_connections_than_allowed_are_cut_and_the_others_go_on() -> None:
    async with listening(connections=2) as endpoint, AsyncExitStack() as stack:
        held = [await stack.enter_async_context(connected(endpoint)) for _ in range(2)]
        await until(lambda: len(endpoint._open) == 2)
        assert await ask(endpoint, _GET + b"\r\n") in {b"", b"reset"}
        for reader, writer in held:
            writer.write(_GET + b"\r\n")
            assert b"200" in await reader.read()
        await until(lambda: not endpoint._open)
        assert b"200" in await ask(endpoint, _GET + b"\r\n")


async def test_hundreds_of_connections_harm_nobody() -> None:
    async with listening(request_s=1.0) as endpoint:
        answers = await asyncio.gather(*(ask(endpoint, _GET) for _ in range(300)))
        assert set(answers) <= {b"", b"reset"}
        assert b"200" in await ask(endpoint, _GET + b"\r\n")


async def test_many_requests_make_one_page() -> None:
    meter = PrometheusMeter("1")
    async with listening(meter, page_age_s=3600) as endpoint:
        first = await ask(endpoint, _GET + b"\r\n")
        meter.claimed(Claim.COLD)
        assert await ask(endpoint, _GET + b"\r\n") == first


async def test_a_defect_in_the_page_cuts_one_answer_and_nothing_else() -> None:
    meter = PrometheusMeter("1")
    page, calls = meter.page, []

    def broken(*, openmetrics: bool) -> tuple[bytes, str]:
        calls.append(openmetrics)
        if len(calls) == 1:
            raise RuntimeError("planted")
        return page(openmetrics=openmetrics)

    meter.page = broken  # type: ignore[method-assign]  # the defect
    with capture_logs() as logs:
        async with listening(meter) as endpoint:
            assert await ask(endpoint, _GET + b"\r\n") in {b"", b"reset"}
            assert b"200" in await ask(endpoint, _GET + b"\r\n")
    assert [item["event"] for item in logs] == ["metrics.failed"]


async def test_leaving_cuts_what_is_open() -> None:
    async with AsyncExitStack() as stack:
        async with listening(request_s=3600) as endpoint:
            reader, _ = await stack.enter_async_context(connected(endpoint))
            await until(lambda: bool(endpoint._open))
        async with asyncio.timeout(_LIVE_S):
            assert await ended(reader) == b""


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:9464", "[::]:9464", ":9464", "localhost:9464", "10.0.0.1:1", "8.8.8.8:1", "127.0.0.1", "127.0.0.1:x",
     "127.0.0.1:-1", "127.0.0.1:65536", "", "[::1]"],
)  # fmt: skip
def test_an_address_that_is_not_loopback_and_a_port_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        MetricsEndpoint(address, PrometheusMeter("1"))
    assert caught.value.reason == "UNSAFE_LISTENER"
    assert "reverse proxy" in caught.value.hint


async def test_it_listens_on_ipv6_loopback_too() -> None:
    async with MetricsEndpoint("[::1]:0", PrometheusMeter("1")) as endpoint:
        assert endpoint.address.startswith("[::1]:")
        assert not endpoint.address.endswith(":0")


async def test_a_taken_port_is_said() -> None:
    async with listening() as endpoint:
        with pytest.raises(FailedPreconditionError) as caught:
            async with MetricsEndpoint(endpoint.address, PrometheusMeter("1")):
                pass
    assert caught.value.reason == "ADDRESS_IN_USE"

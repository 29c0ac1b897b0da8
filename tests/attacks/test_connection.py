"""Attacks on the connection: no certificate, a stranger's, an expired or a revoked one, also while it is open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest

from broker.cli.local import clock, open_local
from broker.client import AsyncBroker, CallContext
from broker.client.connection import Identity
from broker.client.models import Stdout
from broker.domain.identity import IdentityKind
from broker.domain.ports import Transaction
from broker.errors import BrokerError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from broker.identity import ca, keys
from broker.identity.ca import CertificateAuthority
from broker.v1 import blob_pb2, tool_broker_pb2, tool_broker_pb2_grpc
from tests.integration.test_wire import channel, facts
from tests.served import OPERATOR, Served, command, command_json, make_state, serving

pytestmark = pytest.mark.docker

UploadCall: TypeAlias = "grpc.aio.StreamUnaryCall[tool_broker_pb2.UploadBlobRequest, blob_pb2.Blob]"

_ENDS_WITHIN_S = 5
_ENDLESS = {"code": "import time\nprint('up', flush=True)\nwhile True: time.sleep(3600)\n"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    state = tmp_path_factory.mktemp("broker") / "state"
    names = ("scout", "doomed", "streaming", "uploading", "greedy", "brief", "rekeyed")
    make_state(state, agents=dict.fromkeys(names, OPERATOR), settings={"drain_s": 0})
    with serving(state) as broker:
        yield broker


def _client(served: Served, identity: Identity, authority: bytes | None = None) -> AsyncBroker:
    trusted = authority or (served.state / "ca" / "ca.pem").read_bytes()
    return AsyncBroker.connect(served.address, identity=identity, ca=trusted, context=CallContext(workspace="demo"))


def _own(authority: CertificateAuthority, life: timedelta = timedelta(days=1), name: str = "scout") -> Identity:
    key = keys.new_key()
    certificate = authority.issue_client(IdentityKind.AGENT, name, key.public_key(), datetime.now(UTC), life)
    return Identity(ca.pem(certificate), keys.key_pem(key))


def _authority(served: Served) -> CertificateAuthority:
    folder = served.state / "ca"
    return CertificateAuthority.load((folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes())


async def _ask(client: AsyncBroker) -> list[str]:
    async with client:
        return [tool.name async for tool in client.list_tools()]


async def test_plaintext_reaches_nothing(served: Served) -> None:
    async with grpc.aio.insecure_channel(served.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/broker.v1.ToolBroker/ListTools")(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_tls_without_a_certificate_reaches_nothing(served: Served) -> None:
    credentials = grpc.ssl_channel_credentials((served.state / "ca" / "ca.pem").read_bytes())
    async with grpc.aio.secure_channel(served.address, credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/broker.v1.ToolBroker/ListTools")(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_of_another_ca_reaches_nothing(served: Served) -> None:
    stranger = CertificateAuthority.create(_authority(served).origin, datetime.now(UTC))
    with pytest.raises(UnavailableError):
        await _ask(_client(served, _own(stranger)))


async def test_a_certificate_that_the_registry_does_not_know_is_refused(served: Served) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        await _ask(_client(served, _own(_authority(served))))
    assert caught.value.reason == "CERTIFICATE_UNKNOWN"


async def test_the_servers_own_certificate_is_no_client(served: Served) -> None:
    folder = served.state / "server"
    identity = Identity((folder / "server.pem").read_bytes(), (folder / "server.key").read_bytes())
    with pytest.raises(BrokerError) as caught:
        await _ask(_client(served, identity))
    assert isinstance(caught.value, UnavailableError | UnauthenticatedError)


async def test_a_revoked_agent_is_refused_at_its_next_request_on_an_open_connection(served: Served) -> None:
    async with served.client("doomed") as client:
        assert [tool.name async for tool in client.list_tools()]
        result = command(served.state, "identity", "revoke", "agent", "doomed", "--reason", "stolen laptop")
        assert result.returncode == 0
        with pytest.raises(UnauthenticatedError) as caught:
            _ = [tool.name async for tool in client.list_tools()]
    assert caught.value.reason == "IDENTITY_REVOKED"


async def test_the_open_stream_of_a_revoked_agent_ends_within_five_seconds(served: Served) -> None:
    async with served.client("streaming") as client:
        call = await client.create_call("python.run", _ENDLESS)
        ended = asyncio.Event()
        spoken = asyncio.Event()

        async def follow() -> str:
            try:
                async for event in client.watch(call.name):
                    if isinstance(event, Stdout):
                        spoken.set()
            except UnauthenticatedError as error:
                return error.reason
            finally:
                ended.set()
            return "the stream ended by itself"

        following = asyncio.create_task(follow())
        await spoken.wait()
        command(served.state, "identity", "revoke", "agent", "streaming", "--reason", "stolen laptop")
        async with asyncio.timeout(_ENDS_WITHIN_S):
            await ended.wait()
        assert await following == "IDENTITY_REVOKED"


async def test_the_open_upload_of_a_revoked_agent_ends_within_five_seconds(served: Served) -> None:
    async with channel(served, "agent", "uploading") as opened:
        upload = tool_broker_pb2_grpc.ToolBrokerStub(opened).UploadBlob(timeout=60)
        await _begin(upload)
        command(served.state, "identity", "revoke", "agent", "uploading", "--reason", "stolen laptop")
        async with asyncio.timeout(_ENDS_WITHIN_S):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await upload
    assert facts(caught.value)[:2] == (grpc.StatusCode.UNAUTHENTICATED, "IDENTITY_REVOKED")


async def test_one_caller_does_not_take_all_uploads(served: Served) -> None:
    async with channel(served, "agent", "greedy") as opened, served.client() as other:
        stub = tool_broker_pb2_grpc.ToolBrokerStub(opened)
        uploads = [stub.UploadBlob(timeout=60) for _ in range(9)]
        for upload in uploads:
            await _begin(upload)
        ended = asyncio.Event()
        for upload in uploads:
            upload.add_done_callback(lambda _: ended.set())
        async with asyncio.timeout(_ENDS_WITHIN_S):
            await ended.wait()
        [refused] = [upload for upload in uploads if upload.done()]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await refused
        assert facts(caught.value)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "UPLOADS_BUSY")
        assert await other.upload(b"somebody else's")
        for upload in uploads:
            upload.cancel()


async def _begin(upload: UploadCall) -> None:
    header = tool_broker_pb2.UploadBlobRequest()
    header.header.size = 1 << 20
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # one that was refused takes no more
        await upload.write(header)
        await upload.write(tool_broker_pb2.UploadBlobRequest(chunk=b"a piece"))


async def test_a_certificate_that_expires_ends_its_open_stream(served: Served) -> None:
    short = _own(_authority(served), timedelta(seconds=4), "brief")
    _register(served, short)
    async with _client(served, short) as client:
        call = await client.create_call("python.run", _ENDLESS)
        async with asyncio.timeout(4 + _ENDS_WITHIN_S):
            with pytest.raises(UnauthenticatedError) as caught:
                async for _ in client.watch(call.name):
                    pass
    assert caught.value.reason == "CERTIFICATE_EXPIRED"


def _register(served: Served, identity: Identity) -> None:
    """Puts a certificate into the registry as `broker identity issue` does, with a life that it wouldn't give."""
    with open_local(served.state) as local:

        def work(tx: Transaction) -> None:
            agent = tx.identities.by_name(IdentityKind.AGENT, "brief")
            assert agent is not None
            certificate = ca.read_certificate(identity.certificate)
            local.registry.issue(tx, identity=agent.id, certificate=certificate, by=agent.owner, now=clock())

        local.write(work)


async def test_the_old_key_of_an_agent_with_a_new_owner_is_refused(served: Served) -> None:
    command_json(served.state, "identity", "issue", "human", "hugo")
    command_json(served.state, "identity", "owner", "rekeyed", "--owner", "hugo")
    with pytest.raises(UnauthenticatedError):
        await _ask(served.client("rekeyed"))


async def test_a_human_calls_no_tools(served: Served) -> None:
    async with served.human() as human:
        with pytest.raises(PermissionDeniedError):
            await human.run("python.run", {"code": "print(1)"})


def test_an_unsafe_listener_is_refused_off_loopback(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state, settings={"unsafe_plaintext_listen": "0.0.0.0:0", "unsafe_plaintext_agent": "scout"})
    result = command(state, "serve", "--json", check=False)
    assert result.returncode == 2
    assert "UNSAFE_LISTENER" in result.stdout


async def test_an_unsafe_listener_opens_only_by_its_name_and_on_loopback(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state, settings={"unsafe_plaintext_listen": "127.0.0.1:0", "unsafe_plaintext_agent": "scout"})
    with serving(state) as broker:
        address = str(broker.ready["unsafe_plaintext_address"])
        client = AsyncBroker.connect(address, unsafe_plaintext=True, context=CallContext(workspace="demo"))
        assert "tools/python.run" in await _ask(client)


def test_without_its_certificates_nothing_is_served(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state)
    (state / "server" / "server.key").unlink()
    result = command(state, "serve", "--json", check=False)
    assert result.returncode != 0
    assert "CERTIFICATES_MISSING" in result.stdout

"""Files by chunks and offsets, pages and filters, schedules, and what is left when a call's time is over."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.client import CallFilter, InputFile
from broker.domain.call import CallState
from broker.errors import (
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from broker.v1 import tool_broker_pb2, tool_broker_pb2_grpc
from tests.integration.test_wire import channel
from tests.served import OPERATOR, Served, make_state, serving

pytestmark = pytest.mark.docker

_MIB = 1 << 20
_EXPIRES_WITHIN_S = 60


@pytest.mark.parametrize("size", [0, 1, _MIB - 1, _MIB, _MIB + 1, 3 * _MIB])
async def test_a_blob_comes_back_as_it_went_in_from_any_offset(served: Served, size: int) -> None:
    data = os.urandom(size)
    async with served.client() as client:
        blob = await client.upload(data)
        assert (blob.size, blob.digest) == (size, f"sha256:{hashlib.sha256(data).hexdigest()}")
        assert b"".join([piece async for piece in client.read(blob)]) == data
    async with channel(served) as opened:
        stub = tool_broker_pb2_grpc.ToolBrokerStub(opened)
        for offset in {0, size // 3, max(0, size - 1), size}:
            stream = stub.DownloadBlob(tool_broker_pb2.DownloadBlobRequest(name=blob.name, offset=offset))
            pieces = [piece async for piece in stream]
            assert b"".join(piece.chunk for piece in pieces) == data[offset:]
            position = offset
            for piece in pieces:
                assert piece.offset == position
                position += len(piece.chunk)


async def test_another_agents_blob_is_not_found_and_goes_into_no_call(served: Served) -> None:
    async with served.client() as client, served.client("rover") as other:
        blob = await client.upload(b"secret")
        with pytest.raises(NotFoundError):
            _ = [piece async for piece in other.read(blob.name)]
        with pytest.raises(NotFoundError):
            await other.run("python.run", {"code": "1"}, files=[InputFile("a", blob)])
        with pytest.raises((NotFoundError, OutOfRangeError, InvalidArgumentError)):
            _ = [piece async for piece in client.read("blobs/../../etc/passwd")]


async def test_quota_and_size_of_blobs_are_kept(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state, settings={"storage_quota_bytes": 3 * _MIB, "blob_max_bytes": 2 * _MIB})
    with serving(state) as served:
        async with served.client() as client:
            with pytest.raises(InvalidArgumentError) as large:
                await client.upload(bytes(2 * _MIB + 1))
            await client.upload(bytes(_MIB))
            await client.upload(bytes(_MIB))
            with pytest.raises(ResourceExhaustedError) as quota:
                await client.upload(bytes(2 * _MIB))
    assert large.value.reason == "BLOB_TOO_LARGE"
    assert quota.value.reason == "STORAGE_QUOTA"


async def test_calls_are_listed_by_pages_and_filters(served: Served) -> None:
    began = datetime.now(UTC)
    async with served.client("rover") as client:
        made = [(await client.run("python.run", {"code": f"import sys; sys.exit({n % 2})"})).name for n in range(5)]
        listed = [call.name async for call in client.list_calls(CallFilter(created_from=began), page_size=2)]
        assert listed == made[::-1]
        failed = CallFilter(created_from=began, states=(CallState.FAILED,))
        assert [call.name async for call in client.list_calls(failed)] == [made[3], made[1]]
        assert [call.name async for call in client.list_calls(CallFilter(created_from=began, tool="data.query"))] == []
        assert [call.name async for call in client.list_calls(CallFilter(workflow="none"))] == []
        later = CallFilter(created_from=datetime.now(UTC) + timedelta(hours=1))
        assert [call.name async for call in client.list_calls(later)] == []
    async with served.human() as owner:
        seen = [call.name async for call in owner.list_calls(CallFilter(created_from=began, agent="rover"))]
        assert seen == made[::-1]


async def test_when_a_calls_time_is_over_its_content_is_gone_and_said_to_be(served: Served) -> None:
    async with served.client() as client:
        call = await client.run("python.run", {"code": "print('personal')"})
        call_id = call.name.removeprefix("calls/")
        with closing(sqlite3.connect(served.state / "broker.db", timeout=30)) as database:
            database.execute("UPDATE vault_object SET expires = created WHERE id = ?", (call_id,))
            database.commit()
        deadline = datetime.now(UTC) + timedelta(seconds=_EXPIRES_WITHIN_S)
        while not (gone := await client.get_call(call.name)).content_erased:
            assert datetime.now(UTC) < deadline
        assert gone.state is CallState.SUCCEEDED
        assert gone.arguments is None
        with pytest.raises(OutOfRangeError) as caught:
            async for _ in client.watch(call.name):
                pass
    assert caught.value.reason == "EVENTS_EXPIRED"


async def test_an_agent_starts_sessions_by_itself_only_within_its_schedule(tmp_path: Path) -> None:
    state = tmp_path / "state"
    make_state(state, agents={"scout": OPERATOR, "rover": OPERATOR})
    with serving(state) as served:
        async with served.human() as owner, served.client() as scout, served.client("rover") as rover:
            schedule = await owner.create_schedule(
                "scout",
                "demo",
                from_minute=0,
                until_minute=1440,
                session_ttl_s=600,
                expires=datetime.now(UTC) + timedelta(days=1),
            )
            session = await scout.start_session("scout", "demo", schedule=schedule.name)
            with pytest.raises(PermissionDeniedError):
                await scout.start_session("scout", "demo")
            with pytest.raises(PermissionDeniedError):
                await rover.start_session("rover", "demo", schedule=schedule.name)
        async with served.client(session=session.name) as scout:
            call = await scout.run("python.run", {"code": "print(1)"})
    assert call.lineage is not None
    assert call.lineage.starter == schedule.registrar

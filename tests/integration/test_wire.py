"""What strange clients send: malformed, huge, late, half-closed, or by reflection alone; always a clear answer of ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from broker.v1 import call_pb2, tool_broker_pb2, tool_broker_pb2_grpc
from tests.served import Served

pytestmark = pytest.mark.docker

_CREATE = "/broker.v1.ToolBroker/CreateToolCall"


@asynccontextmanager
async def channel(served: Served, kind: str = "agent", name: str = "scout") -> AsyncIterator[grpc.aio.Channel]:
    folder = served.identity(kind, name)
    credentials = grpc.ssl_channel_credentials(
        (served.state / "ca" / "ca.pem").read_bytes(),
        (folder / "key.pem").read_bytes(),
        (folder / "cert.pem").read_bytes(),
    )
    async with grpc.aio.secure_channel(served.address, credentials) as opened:
        yield opened


def facts(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str, Mapping[str, str]]:
    """Status, reason and metadata of an error; fails where it has no ErrorInfo of ours."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "broker.v1"
    return error.code(), info.reason, dict(info.metadata)


async def refused(served: Served, method: str, request: bytes, timeout_s: float = 20) -> tuple[grpc.StatusCode, str]:
    async with channel(served) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.unary_unary(method)(request, timeout=timeout_s)
    code, reason, _ = facts(caught.value)
    return code, reason


def create(arguments_json: str, workspace: str = "demo", **fields: object) -> bytes:
    call = call_pb2.ToolCall(tool="tools/python.run", arguments_json=arguments_json, **fields)  # type: ignore[arg-type]
    call.context.workspace = workspace
    return tool_broker_pb2.CreateToolCallRequest(tool_call=call).SerializeToString()


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x04\x0a\x02\xff\xfe"])
async def test_malformed_bytes_are_invalid_argument(served: Served, data: bytes) -> None:
    assert await refused(served, _CREATE, data) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_a_message_over_the_limit_is_our_refusal(served: Served) -> None:
    data = create(json.dumps({"code": "#" * (5 << 20)}))
    assert await refused(served, _CREATE, data) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("[" * 100_000, "TOO_DEEP"),
        ('{"code":"\\u0000"}', "NUL_CHARACTER"),
        ('{"code":"1","code":"2"}', "INVALID_JSON"),
        ('{"code":NaN}', "INVALID_JSON"),
        ('{"code":9007199254740993}', "INVALID_JSON"),
        ('{"code":"\\ud800"}', "INVALID_JSON"),
        ("[]", "INVALID_JSON"),
        ("", "INVALID_JSON"),
        ('{"code":"' + "x" * (1 << 20) + '"}', "TOO_LARGE"),
    ],
)
async def test_hostile_arguments_are_refused_with_the_field(served: Served, arguments: str, reason: str) -> None:
    assert await refused(served, _CREATE, create(arguments)) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "", "a//b", "./a", "a/" * 20 + "b", "x" * 300])
async def test_hostile_file_paths_are_refused(served: Served, path: str) -> None:
    files = [call_pb2.InputFile(path=path, blob="blobs/blob_01")]
    code, reason = await refused(served, _CREATE, create('{"code":"1"}', files=files))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert reason == "INVALID_FILE"


async def test_a_million_files_are_refused_before_anything_is_done(served: Served) -> None:
    files = [call_pb2.InputFile(path=f"f{number}", blob="blobs/b") for number in range(100_000)]
    code, _ = await refused(served, _CREATE, create('{"code":"1"}', files=files))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_deadline_that_has_passed_does_nothing(served: Served) -> None:
    async with channel(served) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.unary_unary(_CREATE)(create('{"code":"1"}'), timeout=0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_upload_that_is_closed_before_its_header_is_refused(served: Served) -> None:
    async with channel(served) as opened:
        stub = tool_broker_pb2_grpc.ToolBrokerStub(opened)
        upload = stub.UploadBlob()
        await upload.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await upload
    assert facts(caught.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "UPLOAD_WITHOUT_HEADER")


async def test_an_upload_that_ends_early_keeps_nothing(served: Served) -> None:
    async with channel(served) as opened:
        stub = tool_broker_pb2_grpc.ToolBrokerStub(opened)
        upload = stub.UploadBlob()
        header = tool_broker_pb2.UploadBlobRequest()
        header.header.size = 100
        await upload.write(header)
        await upload.write(tool_broker_pb2.UploadBlobRequest(chunk=b"half"))
        await upload.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await upload
    assert facts(caught.value)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "BLOB_MISMATCH")


async def test_a_method_that_is_not_served_is_unimplemented(served: Served) -> None:
    async with channel(served) as opened:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await opened.unary_unary("/broker.v1.ToolBroker/DropEverything")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_is_served_behind_the_same_gate(served: Served) -> None:
    async with channel(served) as opened:
        answer = await health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_an_agent_may_not_administer(served: Served) -> None:
    assert await refused(served, "/broker.v1.Administration/ReloadPolicy", b"") == (
        grpc.StatusCode.PERMISSION_DENIED,
        "POLICY_DENIED",
    )


async def test_a_call_by_reflection_alone(served: Served) -> None:
    async with channel(served) as opened:
        pool = DescriptorPool()
        await _fill(opened, pool, "broker.v1.ToolBroker")
        method = pool.FindServiceByName("broker.v1.ToolBroker").methods_by_name["ListTools"]
        request = ParseDict({"workspace": "demo"}, GetMessageClass(method.input_type)())
        data = await opened.unary_unary("/broker.v1.ToolBroker/ListTools")(request.SerializeToString())
        answer = MessageToDict(GetMessageClass(method.output_type).FromString(data))
    assert "tools/python.run" in [tool["name"] for tool in answer["tools"]]


async def _fill(opened: grpc.aio.Channel, pool: DescriptorPool, symbol: str) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(opened)
    files: dict[str, FileDescriptorProto] = {}

    async def ask(request: reflection_pb2.ServerReflectionRequest) -> None:
        stream = stub.ServerReflectionInfo(iter([request]))
        async for response in stream:
            for data in response.file_descriptor_response.file_descriptor_proto:
                proto = FileDescriptorProto.FromString(data)
                if proto.name not in files:
                    files[proto.name] = proto
                    for name in proto.dependency:
                        await ask(reflection_pb2.ServerReflectionRequest(file_by_filename=name))

    await ask(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))

    def add(name: str) -> None:
        proto = files.pop(name, None)
        if proto is not None:
            for dependency in proto.dependency:
                add(dependency)
            pool.Add(proto)

    for name in list(files):
        add(name)


@pytest.mark.parametrize("joined", [True, False])
async def test_only_who_asks_for_it_gets_several_events_in_one_response(served: Served, *, joined: bool) -> None:
    call = call_pb2.ToolCall(tool="tools/python.run", arguments_json=json.dumps({"code": "print(1)"}))
    call.context.workspace = "demo"
    async with channel(served) as opened:
        run = tool_broker_pb2_grpc.ToolBrokerStub(opened).RunToolCall
        request = tool_broker_pb2.RunToolCallRequest(tool_call=call, join_events=joined)
        responses = [response async for response in run(request, timeout=60)]
    numbers = [event.number for response in responses for event in (response.event, *response.more_events)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert responses[-1].event.HasField("result") or responses[-1].more_events[-1].HasField("result")
    assert any(response.more_events for response in responses) is joined

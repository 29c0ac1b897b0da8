"""Somebody with a hand on the engine makes or changes a container behind the broker's back: its facts say what, and only that.

Each test says which fields of an approved envelope's section ``container`` would differ.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import docker
import docker.errors
import pytest

from broker.domain.container_facts import ContainerFacts, facts_bytes
from broker.domain.envelope_difference import difference
from broker.domain.run import Profile
from broker.errors import FailedPreconditionError
from broker.sandbox.address import Endpoint, engine_address
from broker.sandbox.docker_api import EngineApi
from broker.sandbox.docker_config import container_config
from broker.sandbox.docker_engine import DockerEngine
from broker.sandbox.engine import Lease
from tests.sandbox_support import docker_engine, finish, leased, new_instance, profile, python

pytestmark = pytest.mark.docker

MIB = 2**20
Body = dict[str, Any]


def differing(expected: ContainerFacts, found: ContainerFacts) -> list[str]:
    """The fields by which an envelope with the one differs from an envelope with the other."""
    return [path for path, _, _ in difference(facts_bytes(expected), facts_bytes(found))]


@contextmanager
def sdk() -> Iterator[Any]:
    """The engine, as anybody on its host has it."""
    client = docker.APIClient(base_url=engine_address(""), version="auto")
    try:
        yield client
    finally:
        client.close()


class Intruder:
    """Makes the containers that a broker would make, but for what a test changes in them."""

    def __init__(self, engine: DockerEngine, client: Any, instance: str, wanted: Profile) -> None:  # noqa: ANN401
        self.engine = engine
        self.client = client
        self.wanted = wanted
        self.requests = EngineApi(Endpoint.parse(engine_address("")), client.api_version)
        self._instance = instance
        self._made: list[str] = []

    async def body(self) -> Body:
        """What the broker would ask the engine for."""
        capabilities = await self.engine.capabilities(self.wanted.runtime)
        return copy.deepcopy(container_config(self._instance, self.wanted, self.client.api_version, capabilities))

    async def make(self, body: Body) -> str:
        """A container of that request; not started."""
        container = await self.requests.create(body)
        self._made.append(container)
        return container

    async def differing(self, container: str) -> list[str]:
        """Where it isn't what the broker expects."""
        return differing(self.engine.expected_facts(self.wanted), await self.engine.observe(container))

    async def clear(self) -> None:
        """Removes what was made."""
        await self.requests.close()
        for container in self._made:
            await self.engine.remove(container)


@pytest.fixture
async def intruder() -> AsyncIterator[Intruder]:
    """Beside a broker's engine, on which nothing may be left."""
    instance = new_instance()
    async with docker_engine(instance) as engine:
        with sdk() as client:
            made = Intruder(engine, client, instance, await profile(engine))
            try:
                yield made
            finally:
                await made.clear()


@asynccontextmanager
async def live(intruder: Intruder) -> AsyncIterator[Lease]:
    """A container of the broker's own that waits for its job, as it was asked for."""
    async with leased(intruder.engine, intruder.wanted) as lease:
        assert differing(intruder.engine.expected_facts(intruder.wanted), await lease.observe()) == []
        yield lease


def host(**fields: Any) -> Callable[[Body], None]:  # noqa: ANN401 - any field of the engine's
    """Changes what the container gets of its host."""
    return lambda body: body["HostConfig"].update(fields)


def config(**fields: Any) -> Callable[[Body], None]:  # noqa: ANN401 - likewise
    """Changes what the container is by itself."""
    return lambda body: body.update(fields)


def both(*changes: Callable[[Body], None]) -> Callable[[Body], None]:
    """Several changes."""
    return lambda body: [change(body) for change in changes] and None


def larger_work(body: Body) -> None:
    tmpfs = body["HostConfig"]["Tmpfs"]
    tmpfs["/work"] = tmpfs["/work"].replace("size=", "size=9")


def programs_in_job(body: Body) -> None:
    tmpfs = body["HostConfig"]["Tmpfs"]
    tmpfs["/job"] = tmpfs["/job"].replace("noexec", "exec")


def more_files(body: Body) -> None:
    for limit in body["HostConfig"]["Ulimits"]:
        if limit["Name"] == "nofile":
            limit.update(Soft=4096, Hard=4096)


NNP = "no-new-privileges:true"
MADE: dict[str, tuple[Callable[[Body], None], list[str]]] = {
    "root": (config(User="0:0"), ["user"]),
    "another_group": (host(GroupAdd=["0"]), ["groups"]),
    "another_program": (config(Entrypoint=["/bin/sh", "-c", "id"]), ["argv[0]", "argv[1]", "argv[2]"]),
    "further_arguments": (config(Cmd=["--more"]), ["argv"]),
    "another_variable": (config(Env=["LD_PRELOAD=/work/x.so"]), ["environment.digest", "environment.names"]),
    "another_value": (config(Env=["PATH=/work"]), ["environment.digest"]),
    "another_folder": (config(WorkingDir="/"), ["working_dir"]),
    "another_hostname": (config(Hostname="host"), ["hostname"]),
    "a_terminal": (config(Tty=True), ["other[Config.Tty]"]),
    "a_health_check": (config(Healthcheck={"Test": ["CMD", "id"]}), ["healthcheck"]),
    "a_stop_signal": (config(StopSignal="SIGUSR1"), ["other[Config.StopSignal]"]),
    "a_capability": (host(CapAdd=["NET_ADMIN"]), ["capabilities.added"]),
    "the_usual_capabilities": (host(CapDrop=[]), ["capabilities.dropped"]),
    "all_privileges": (
        host(Privileged=True),
        ["privileged", "security.options", "security.unmasked_paths", "security.writable_paths"],
    ),
    "new_privileges": (host(SecurityOpt=[]), ["security.no_new_privileges"]),
    "no_system_call_filter": (host(SecurityOpt=[NNP, "seccomp=unconfined"]), ["security.seccomp"]),
    "another_system_call_filter": (
        host(SecurityOpt=[NNP, 'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']),
        ["security.seccomp"],
    ),
    "the_kernels_files": (host(MaskedPaths=[]), ["security.unmasked_paths"]),
    "the_kernels_switches": (host(ReadonlyPaths=["/proc/bus"]), ["security.writable_paths"]),
    "a_writable_root": (host(ReadonlyRootfs=False), ["read_only_root"]),
    "a_bind_mount": (host(Binds=["/etc:/host:ro"]), ["mounts[/host]"]),
    "a_bind_over_ours": (
        host(Mounts=[{"Type": "bind", "Source": "/etc", "Target": "/mnt"}]),
        ["mounts[/mnt]"],
    ),
    "a_volume": (config(Volumes={"/vol": {}}), ["mounts[/vol]", "other[Config.Volumes]"]),
    "a_larger_folder": (larger_work, ["mounts[/work].options"]),
    "programs_where_none_are": (programs_in_job, ["mounts[/job].options"]),
    "a_device": (
        host(Devices=[{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}]),
        ["devices"],
    ),
    "a_rule_for_devices": (host(DeviceCgroupRules=["c 1:3 r"]), ["devices"]),
    "the_hosts_network": (host(NetworkMode="host"), ["network.mode"]),
    "the_hosts_processes": (host(PidMode="host"), ["namespaces.pid", "security.options"]),
    "shared_memory": (host(IpcMode="shareable"), ["namespaces.ipc"]),
    "the_hosts_users": (host(UsernsMode="host"), ["namespaces.user"]),
    "the_hosts_cgroups": (host(CgroupnsMode="host"), ["namespaces.cgroup"]),
    "more_memory": (
        host(Memory=512 * MIB, MemorySwap=512 * MIB),
        ["memory_bytes", "memory_swap_bytes"],
    ),
    "swap": (host(MemorySwap=512 * MIB), ["memory_swap_bytes"]),
    "another_victim": (host(OomScoreAdj=-900), ["oom_score"]),
    "more_processes": (host(PidsLimit=5000), ["processes"]),
    "more_cores": (host(NanoCpus=2_000_000_000), ["cpu.nano"]),
    "other_shares": (host(CpuShares=1024), ["cpu.shares"]),
    "other_cores": (host(CpusetCpus="0"), ["cpu.cores"]),
    "more_shared_memory": (host(ShmSize=64 * MIB), ["shm_bytes"]),
    "more_open_files": (more_files, ["ulimits.nofile.hard", "ulimits.nofile.soft"]),
    "a_log": (host(LogConfig={"Type": "json-file"}), ["log_driver"]),
    "a_restart": (host(RestartPolicy={"Name": "always"}), ["restart"]),
    "its_own_removal": (host(AutoRemove=True), ["auto_remove"]),
    "a_process_before_ours": (host(Init=True), ["init"]),
    "a_kernel_setting": (host(Sysctls={"kernel.msgmax": "1"}), ["other[HostConfig.Sysctls]"]),
    "another_name_for_a_host": (host(ExtraHosts=["a:1.2.3.4"]), ["other[HostConfig.ExtraHosts]"]),
    "another_runtime": (host(Runtime="io.containerd.runc.v2"), ["runtime"]),
}


@pytest.mark.parametrize(("change", "fields"), MADE.values(), ids=MADE)
async def test_a_container_made_in_another_way(
    intruder: Intruder, change: Callable[[Body], None], fields: list[str]
) -> None:
    body = await intruder.body()
    same = await intruder.make(copy.deepcopy(body))
    assert await intruder.differing(same) == []
    change(body)
    assert await intruder.differing(await intruder.make(body)) == fields


async def test_another_image_under_the_same_name(intruder: Intruder) -> None:
    name = f"broker-test-{uuid.uuid4().hex[:12]}"
    body = await intruder.body()
    intruder.client.tag(intruder.wanted.image, name, "current")
    try:
        body["Image"] = f"{name}:current"
        container = await intruder.make(body)
        assert await intruder.differing(container) == []
        # What a broker runs is never a name; who changes what the name stands for shows all the same.
        intruder.client.commit(container, name, "current", changes="LABEL broker.wire=0")
        assert await intruder.differing(await intruder.make(body)) == ["image"]
    finally:
        await intruder.clear()
        intruder.client.remove_image(f"{name}:current", force=True)


UPDATES: dict[str, tuple[Body, list[str]]] = {
    "memory": ({"Memory": 300 * MIB, "MemorySwap": 300 * MIB}, ["memory_bytes", "memory_swap_bytes"]),
    "swap": ({"MemorySwap": 300 * MIB}, ["memory_swap_bytes"]),
    "processes": ({"PidsLimit": 4000}, ["processes"]),
    "cores": ({"NanoCpus": 1_500_000_000}, ["cpu.nano"]),
    "shares": ({"CpuShares": 2000}, ["cpu.shares"]),
    "which_cores": ({"CpusetCpus": "0"}, ["cpu.cores"]),
    "restart": ({"RestartPolicy": {"Name": "always"}}, ["restart"]),
}


@pytest.mark.parametrize(("change", "fields"), UPDATES.values(), ids=UPDATES)
async def test_a_container_that_is_changed_while_it_waits(intruder: Intruder, change: Body, fields: list[str]) -> None:
    async with live(intruder) as lease:
        client = intruder.client
        answer = client._post_json(client._url("/containers/{0}/update", lease.container_id), data=change)
        client._raise_for_status(answer)
        assert differing(intruder.engine.expected_facts(intruder.wanted), await lease.observe()) == fields
        assert await lease.ready()  # nothing else would have told


async def test_a_process_that_is_started_beside_the_runner(intruder: Intruder) -> None:
    async with live(intruder) as lease:
        client = intruder.client
        process = client.exec_create(lease.container_id, ["sleep", "600"], user="0:0")
        client.exec_start(process, detach=True)
        assert differing(intruder.engine.expected_facts(intruder.wanted), await lease.observe()) == ["exec_sessions"]


async def test_a_network_that_is_plugged_in(intruder: Intruder) -> None:
    client = intruder.client
    network = client.create_network(f"broker-test-{uuid.uuid4().hex[:12]}")["Id"]
    try:
        async with live(intruder) as lease:
            try:
                client.connect_container_to_network(lease.container_id, network)
            except docker.errors.APIError:
                plugged_in = []  # newer engines refuse it for a container without a network
            else:
                plugged_in = ["network.joined"]
            try:
                found = differing(intruder.engine.expected_facts(intruder.wanted), await lease.observe())
            finally:
                if plugged_in:
                    client.disconnect_container_from_network(lease.container_id, network, force=True)
            assert found == plugged_in
    finally:
        client.remove_network(network)


async def test_a_container_that_was_removed_meanwhile(intruder: Intruder) -> None:
    async with live(intruder) as lease:
        await intruder.requests.remove(lease.container_id)
        with pytest.raises(FailedPreconditionError) as caught:
            await lease.observe()
        assert caught.value.reason == "ENGINE_NOT_FOUND"


async def test_nothing_of_it_is_seen_by_asking_the_container(intruder: Intruder) -> None:
    """The engine is asked, not the sandbox: what a tool says of itself has no part in the facts."""
    async with live(intruder) as lease:
        before = await lease.observe()
        await finish(lease, python("import os\nos.environ['LD_PRELOAD'] = 'x'\nprint(1)"))
        assert await lease.observe() == before

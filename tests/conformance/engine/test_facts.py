"""What an engine reports of a container is what its profile says that it must report."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest

from broker.domain.canonical import canonical
from broker.domain.container_facts import facts_bytes
from broker.domain.run import EgressKind, EgressRule, Limits, Profile
from broker.errors import FailedPreconditionError
from broker.sandbox.engine import Engine
from broker.sandbox.job_frames import frame_digest
from tests.sandbox_support import LIMITS, finish, gather, given, leased, profile, python

pytestmark = pytest.mark.docker

MIB = 2**20
OTHER_LIMITS = Limits(
    cpu_cores=0.5, memory_bytes=96 * MIB, processes=9, wall_s=5.0, disk_bytes=8 * MIB, inodes=300, open_files=77
)
RULE = EgressRule(EgressKind.HTTPS, "api.example.com", 443)


@pytest.mark.parametrize("limits", [LIMITS, OTHER_LIMITS, Limits(inodes=0)], ids=["usual", "other", "no_inodes"])
async def test_the_report_is_what_was_expected(engine: Engine, limits: Limits) -> None:
    wanted = await profile(engine, limits)
    async with leased(engine, wanted) as lease:
        assert await lease.observe() == engine.expected_facts(wanted)
        assert (await finish(lease, python("print(1)"))).text == "1\n"
        assert await lease.observe() == engine.expected_facts(wanted)


async def test_egress_changes_nothing_of_the_container(engine: Engine) -> None:
    plain = await profile(engine)
    wanted = replace(plain, egress=(RULE,))
    async with leased(engine, wanted) as lease:
        assert await lease.observe() == engine.expected_facts(wanted) == engine.expected_facts(plain)


async def test_the_engines_own_choice_of_runtime_is_named(engine: Engine) -> None:
    wanted = replace(await profile(engine), runtime="")
    chosen = (await engine.capabilities("")).runtime
    async with leased(engine, wanted) as lease:
        assert (await lease.observe()).runtime == engine.expected_facts(wanted).runtime == chosen


async def test_facts_have_canonical_bytes_that_say_what_holds_a_tool(engine: Engine) -> None:
    wanted = await profile(engine, OTHER_LIMITS)
    facts = engine.expected_facts(wanted)
    assert facts_bytes(facts) == canonical(facts.json())
    said = json.loads(facts_bytes(facts))
    assert said["image"] == wanted.image
    assert said["user"] == "65534:65534"
    assert said["capabilities"] == {"added": [], "dropped": ["ALL"]}
    assert said["network"] == {"mode": "none", "joined": []}
    assert (said["memory_bytes"], said["memory_swap_bytes"]) == (96 * MIB, 96 * MIB)
    assert said["cpu"]["nano"] == 500_000_000
    assert said["ulimits"]["nofile"] == {"soft": 77, "hard": 77}
    assert [mount["path"] for mount in said["mounts"]] == ["/dev/shm", "/job", "/tmp", "/work"]  # noqa: S108
    assert {mount["kind"] for mount in said["mounts"]} == {"tmpfs"}
    assert said["security"]["no_new_privileges"]
    assert said["security"]["unmasked_paths"] == said["security"]["writable_paths"] == []
    assert said["read_only_root"]
    assert not said["privileged"]
    assert said["other"] == {}


async def test_every_limit_that_the_engine_keeps_is_in_the_facts(engine: Engine) -> None:
    base = await profile(engine)
    changes = {
        "cpu_cores": 0.75,
        "memory_bytes": 99 * MIB,
        "processes": 11,
        "disk_bytes": 9 * MIB,
        "open_files": 78,
    }
    found = {
        engine.expected_facts(replace(base, limits=replace(base.limits, **{name: value})))
        for name, value in changes.items()
    }
    assert len({engine.expected_facts(base), *found}) == len(changes) + 1


async def test_an_image_that_nobody_has_seen_has_no_facts(engine: Engine) -> None:
    missing = Profile(f"sha256:{uuid.uuid4().hex}{uuid.uuid4().hex}", LIMITS)
    with pytest.raises(FailedPreconditionError) as caught:
        engine.expected_facts(missing)
    assert caught.value.reason == "IMAGE_MISSING"


async def test_a_container_that_is_gone_has_none_either(engine: Engine) -> None:
    async with leased(engine, await profile(engine)) as lease:
        pass
    await lease.removed()
    with pytest.raises(FailedPreconditionError) as caught:
        await lease.observe()
    assert caught.value.reason == "ENGINE_NOT_FOUND"


async def test_a_job_that_is_not_the_approved_one_is_not_handed_over(engine: Engine) -> None:
    approved, other = python("print(1)"), python("print(2)")
    async with leased(engine, await profile(engine)) as lease:
        with pytest.raises(FailedPreconditionError) as caught:
            await gather(lease, lease.run(other, frame_digest=frame_digest(approved)))
        assert caught.value.reason == "ENVELOPE_CHANGED"
        assert caught.value.metadata["field"] == "job_frame"
        assert await lease.ready()  # it has heard nothing
        done = await gather(lease, lease.run(approved, frame_digest=frame_digest(approved)))
    assert done.text == "1\n"


async def test_a_file_that_is_not_the_approved_one_keeps_the_tool_from_starting(engine: Engine) -> None:
    file = replace(given("x", b"data"), digest=f"sha256:{'0' * 64}")
    async with leased(engine, await profile(engine)) as lease:
        events = lease.run(python("print(open('x').read())", files=(file,)))
        with pytest.raises(FailedPreconditionError) as caught:
            await anext(events)
    assert caught.value.reason == "ENVELOPE_CHANGED"
    assert caught.value.metadata["field"] == "files[x]"

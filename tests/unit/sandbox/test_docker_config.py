"""What the engine is asked for, by runtime and limits."""

from __future__ import annotations

from dataclasses import replace

from broker.domain.canonical import JsonObject
from broker.domain.run import Limits, Profile
from broker.sandbox.docker_config import container_config, tmpfs
from broker.sandbox.engine import Capabilities

PROFILE = Profile("sha256:00", Limits(processes=7, open_files=33))
GVISOR = replace(Capabilities("runsc"), inodes=False, counters=False, isolated_runner=False)


def host_of(body: JsonObject) -> JsonObject:
    host = body["HostConfig"]
    assert isinstance(host, dict)
    return host


def ulimits(body: JsonObject) -> dict[str, int]:
    entries = host_of(body)["Ulimits"]
    assert isinstance(entries, list)
    found = {}
    for entry in entries:
        assert isinstance(entry, dict)
        assert entry["Soft"] == entry["Hard"]
        found[str(entry["Name"])] = int(str(entry["Hard"]))
    return found


def test_the_engines_own_choice_of_runtime_names_none() -> None:
    body = container_config("instance", PROFILE, "1.41")
    assert "Runtime" not in host_of(body)
    assert "Entrypoint" not in body
    assert host_of(body)["PidsLimit"] == 8
    assert ulimits(body) == {"nofile": 33, "core": 0, "msgqueue": 0, "memlock": 65536, "rtprio": 0, "nice": 0}


def test_a_runtime_is_asked_for_by_name() -> None:
    body = container_config("instance", replace(PROFILE, runtime="runc"), "1.41", Capabilities("runc"))
    assert host_of(body)["Runtime"] == "runc"
    assert "nproc" not in ulimits(body)


def test_a_sandbox_with_a_kernel_of_its_own_counts_processes_by_user() -> None:
    body = container_config("instance", replace(PROFILE, runtime="runsc"), "1.41", GVISOR)
    assert ulimits(body)["nproc"] == 8
    backstop = host_of(body)["PidsLimit"]
    assert isinstance(backstop, int)
    assert backstop > 30 + 6 * 7  # else it would strike the runtime's own threads
    assert body["Entrypoint"] == ["/usr/libexec/broker/tool-python", "-I", "/usr/libexec/broker/runner/start.py"]


def test_what_the_engine_adds_by_itself_is_not_overwritten() -> None:
    body = container_config("instance", replace(PROFILE, runtime="runsc"), "1.41", GVISOR)
    assert {"MaskedPaths", "ReadonlyPaths", "CgroupParent", "UsernsMode"}.isdisjoint(host_of(body))
    assert host_of(body)["SecurityOpt"] == ["no-new-privileges:true"]


def test_no_limit_on_files_leaves_it_out_and_keeps_all_else() -> None:
    given, without = tmpfs(Limits(inodes=200)), tmpfs(Limits(inodes=0))
    assert str(given["/work"]).endswith(",nr_inodes=200")
    assert str(given["/tmp"]).endswith(",nr_inodes=64")  # noqa: S108  # inside the sandbox
    for path, options in without.items():
        assert "nosuid,nodev" in str(options)
        assert "size=" in str(options)
        assert ("nr_inodes" in str(options)) == (path == "/job")

"""The pure parts: paths and patterns, hardening, the verdict, what the host says, where the engine is."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.paths import check_path, matches
from broker.domain.run import EndCause, EvidenceSource, Limits, Profile
from broker.errors import FailedPreconditionError, InvalidArgumentError
from broker.sandbox import wire
from broker.sandbox.address import Endpoint, engine_address
from broker.sandbox.docker_config import container_config, tool_environment
from broker.sandbox.evidence import Counters, HostEvidence, find_process
from broker.sandbox.images import CURRENT_TAG, WIRE_VERSION, choose, from_listing
from broker.sandbox.transcript import ExitReport
from broker.sandbox.verdict import Kill, decide
from broker.sandbox.wire import FrameKind

OK = ExitReport(exit_code=0, signal=None, detail="", cpu_s=0.1, disk_full=False, inodes_full=False)
BAD = ExitReport(exit_code=1, signal=None, detail="", cpu_s=0.1, disk_full=False, inodes_full=False)
SANDBOX_FULL = ExitReport(exit_code=1, signal=None, detail="", cpu_s=0.1, disk_full=True, inodes_full=True)


@pytest.mark.parametrize(
    "place",
    ["memory/docker/abc", "memory/system.slice/docker-abc.scope", "system.slice/docker-abc.scope", "docker/abc"],
)
def test_a_container_is_found_where_engines_put_cgroups(tmp_path: Path, place: str) -> None:
    assert find_process("abc", tmp_path) == 0
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "cgroup.procs").write_text("41\n42\n")
    assert find_process("abc", tmp_path) == 41
    assert find_process("abd", tmp_path) == 0


def test_both_ends_of_the_wire_use_the_same_numbers(runner: dict[str, ModuleType]) -> None:
    assert {kind.name: kind.value for kind in FrameKind} == {
        kind.name: getattr(runner["frames"], kind.name) for kind in FrameKind
    }


def test_both_ends_of_the_wire_use_the_same_windows(runner: dict[str, ModuleType]) -> None:
    names = [
        "CONTROL",
        "STDOUT",
        "STDERR",
        "FILES",
        "FIRST_CONNECTION",
        "PIECE",
        "FRAME_COST",
        "OUTPUT_WINDOW",
        "FILES_WINDOW",
        "CONNECTION_WINDOW",
        "MAX_CONNECTIONS",
    ]
    assert {name: getattr(wire, name) for name in names} == {name: getattr(runner["frames"], name) for name in names}
    assert runner["frames"].WIRE_VERSION == WIRE_VERSION


parts = st.lists(st.sampled_from(["a", "b", "ab", ".a", "a.csv"]), min_size=1, max_size=5)
patterns = st.lists(st.sampled_from(["a", "*", "?", "**", "a*", "[ab]", "*.csv"]), min_size=1, max_size=5)


@given(parts=parts, pattern=patterns)
def test_both_ends_match_patterns_alike(runner: dict[str, ModuleType], parts: list[str], pattern: list[str]) -> None:
    assert matches(parts, pattern) == runner["outputs"].matches(parts, pattern)


@given(st.text(max_size=20) | st.lists(st.sampled_from(["a", "..", ".", "", "\n", "\x9f", "ü"])).map("/".join))
def test_both_ends_refuse_the_same_paths(runner: dict[str, ModuleType], path: str) -> None:
    def allowed(check: object, *arguments: str) -> bool:
        try:
            check(path, *arguments)  # type: ignore[operator]  # one of the two below
        except (InvalidArgumentError, runner["frames"].Refusal):
            return False
        return True

    assert allowed(check_path, "field") == allowed(runner["inputs"].split_path)


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("a.csv", "*.csv", True),
        ("d/a.csv", "*.csv", False),
        ("d/a.csv", "**/*.csv", True),
        ("a.csv", "**/*.csv", True),
        ("a/b/c", "a/**", True),
        ("a", "a/**", True),
        ("b/c", "a/**", False),
        ("a/b/c/d", "a/**/d", True),
        ("a/d", "a/**/d", True),
        ("a/b", "a/**/**/b", True),
        ("", "*", True),
    ],
)
def test_patterns(path: str, pattern: str, *, expected: bool) -> None:
    assert matches(path.split("/"), pattern.split("/")) is expected


def test_a_container_is_hardened() -> None:
    limits = Limits(cpu_cores=0.5, memory_bytes=100, processes=7, disk_bytes=2**23, inodes=999, open_files=33)
    config = container_config("instance", Profile("sha256:00", limits), "1.41")
    host = config["HostConfig"]
    assert isinstance(host, dict)
    assert (config["User"], config["Image"], config["NetworkDisabled"]) == ("65534:65534", "sha256:00", True)
    assert config["Labels"] == {"broker": "instance"}
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["Privileged"]) == ("none", True, False)
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"])
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (100, 100, 5 * 10**8, 8)
    assert (host["LogConfig"], host["IpcMode"], host["CgroupnsMode"]) == ({"Type": "none"}, "none", "private")
    assert {"Binds", "Mounts", "Devices", "VolumesFrom", "CapAdd"}.isdisjoint(host)
    tmpfs = host["Tmpfs"]
    assert isinstance(tmpfs, dict)
    assert set(tmpfs) == {"/work", "/tmp", "/job", "/dev/shm"}  # noqa: S108  # inside the sandbox
    assert all("nosuid,nodev" in str(options) and "nr_inodes=" in str(options) for options in tmpfs.values())
    assert "size=8388608,nr_inodes=999" in str(tmpfs["/work"])
    older = container_config("instance", Profile("sha256:00", limits), "1.40")["HostConfig"]
    assert "CgroupnsMode" not in older  # type: ignore[operator]  # a mapping


def test_a_job_cannot_change_what_every_tool_finds() -> None:
    environment = tool_environment({"PATH": "/evil", "BROKER_RESULT": "/x", "MINE": "1"}, wants_result=True)
    assert environment["PATH"] == "/usr/local/bin:/usr/bin:/bin"
    assert environment["BROKER_RESULT"] == "/job/result.json"
    assert environment["MINE"] == "1"


@pytest.mark.parametrize(
    ("values", "cause", "source"),
    [
        ({"report": OK}, EndCause.TOOL, EvidenceSource.SANDBOX),
        ({"report": BAD}, EndCause.TOOL, EvidenceSource.SANDBOX),
        ({"report": BAD, "kill": Kill(EndCause.TIME, "late")}, EndCause.TIME, EvidenceSource.BROKER),
        ({"report": None}, EndCause.MEMORY, EvidenceSource.ENGINE),
        ({"report": BAD, "oom_event": True}, EndCause.MEMORY, EvidenceSource.ENGINE),
        ({"report": OK, "oom_event": True}, EndCause.TOOL, EvidenceSource.SANDBOX),
        ({"report": BAD, "counters": Counters(oom_kills=1, forks_refused=1)}, EndCause.MEMORY, EvidenceSource.ENGINE),
        ({"report": BAD, "counters": Counters(forks_refused=1)}, EndCause.PROCESSES, EvidenceSource.ENGINE),
        ({"report": OK, "counters": Counters(forks_refused=1)}, EndCause.TOOL, EvidenceSource.SANDBOX),
        ({"report": BAD, "counters": Counters(disk_full=True)}, EndCause.DISK, EvidenceSource.ENGINE),
        ({"report": BAD, "counters": Counters(inodes_full=True)}, EndCause.INODES, EvidenceSource.ENGINE),
        ({"report": SANDBOX_FULL}, EndCause.DISK, EvidenceSource.SANDBOX),
        (
            {"report": SANDBOX_FULL, "counters": Counters(disk_full=False, inodes_full=False)},
            EndCause.TOOL,
            EvidenceSource.SANDBOX,
        ),
        ({"report": OK, "over": True}, EndCause.OUTPUT, EvidenceSource.SANDBOX),
        ({"report": OK, "isolated": False}, EndCause.TOOL, EvidenceSource.SANDBOX),
        ({"report": OK, "isolated": False, "oom_event": True}, EndCause.MEMORY, EvidenceSource.ENGINE),
        (
            {"report": OK, "isolated": False, "counters": Counters(forks_refused=2)},
            EndCause.PROCESSES,
            EvidenceSource.ENGINE,
        ),
    ],
)
def test_the_verdict_follows_the_best_evidence(
    values: dict[str, object], cause: EndCause, source: EvidenceSource
) -> None:
    nothing = {"kill": None, "counters": Counters(), "oom_event": False, "over": False}
    verdict = decide(limits=Limits(), **{**nothing, **values})  # type: ignore[arg-type]  # by name
    assert (verdict.cause, verdict.source) == (cause, source)
    assert verdict.detail


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_counters_of_cgroup_version_1(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/7/cgroup": "8:pids:/docker/abc\n4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n",
            "cg/memory/docker/abc/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            "cg/memory/docker/abc/memory.max_usage_in_bytes": "4096\n",
            "cg/cpuacct/docker/abc/cpuacct.usage": "1500000000\n",
            "cg/pids/docker/abc/pids.events": "max 2\n",
        },
    )
    found = HostEvidence(7, "abc", proc=tmp_path / "proc", cgroups=tmp_path / "cg").sample()
    assert found == Counters(cpu_s=1.5, memory_peak_bytes=4096, oom_kills=3, forks_refused=2)


def test_counters_of_cgroup_version_2(tmp_path: Path) -> None:
    scope = "cg/system.slice/docker-abc.scope"
    write(
        tmp_path,
        {
            "proc/7/cgroup": "0::/system.slice/docker-abc.scope\n",
            f"{scope}/memory.events": "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n",
            f"{scope}/memory.peak": "8192\n",
            f"{scope}/cpu.stat": "usage_usec 250000\nuser_usec 1\n",
            f"{scope}/pids.events": "max 0\n",
        },
    )
    (tmp_path / "proc/7/root/work").mkdir(parents=True)
    (tmp_path / "proc/7/root/tmp").mkdir()
    host = HostEvidence(7, "abc", proc=tmp_path / "proc", cgroups=tmp_path / "cg")
    found = host.sample()
    host.close()
    assert found == Counters(0.25, 8192, 1, 0, disk_full=False, inodes_full=False)


@pytest.mark.parametrize("cgroup", ["", "0::/user.slice\n", "0::/../docker/abc\n", "4:memory:/docker/other\n"])
def test_somebody_elses_process_is_not_read(tmp_path: Path, cgroup: str) -> None:
    write(tmp_path, {"proc/7/cgroup": cgroup} if cgroup else {})
    assert HostEvidence(7, "abc", proc=tmp_path / "proc", cgroups=tmp_path / "cg").sample() == Counters()


def test_the_image_built_last_is_chosen_and_foreign_ones_are_not() -> None:
    def listed(number: int, **labels: str) -> dict[str, object]:
        tags = [f"broker-sandbox-python:{CURRENT_TAG}"] if number in (2, 3) else ["broker-sandbox-python:current"]
        return {"Id": f"sha256:{number}", "Labels": labels, "RepoTags": tags, "Size": number}

    named = {"broker.image": "python", "broker.inputs": "x"}
    images = from_listing(
        [
            listed(1, **named, **{"broker.wire": WIRE_VERSION}),
            listed(2, **named, **{"broker.wire": WIRE_VERSION}),
            listed(3, **named, **{"broker.wire": "0"}),
            {"Id": "sha256:4", "Labels": None},
        ]
    )
    assert choose(images, "python").id == "sha256:2"
    assert len(images) == 2
    with pytest.raises(FailedPreconditionError):
        choose(images[1:], "python")


def test_engine_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_TLS_VERIFY", raising=False)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    assert engine_address() == "tcp://127.0.0.1:2375"
    assert engine_address("unix:///x.sock") == "unix:///x.sock"
    assert Endpoint.parse("unix:///x.sock") == Endpoint(path="/x.sock")
    assert Endpoint.parse("tcp://h") == Endpoint(host="h", port=2375)
    for address in ("ssh://host", "unix://", "nonsense", "https://h"):
        with pytest.raises(InvalidArgumentError):
            engine_address(address)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    with pytest.raises(InvalidArgumentError):
        engine_address()


def frame(kind: FrameKind, body: bytes) -> bytes:
    return wire.encode(kind, body)


FILE = frame(FrameKind.FILE_BEGIN, b'{"path": "d/f", "size": 1, "mode": 384}')
CONTENT = frame(FrameKind.FILE_DATA, b"x") + frame(FrameKind.FILE_END, b"")


@pytest.mark.parametrize(
    ("frames", "refused"),
    [
        (FILE + CONTENT + frame(FrameKind.LINK, b'{"path": "d/l", "target": "/etc"}'), ""),
        (frame(FrameKind.LINK, b'{"path": "d", "target": "../"}') + FILE + CONTENT, "where a file was due"),
        (frame(FrameKind.LINK, b'{"path": "d", "target": "../"}') * 2, "can't be made"),
        (
            frame(FrameKind.LINK, b'{"path": "d", "target": "../"}')
            + frame(FrameKind.LINK, b'{"path": "d/x", "target": "y"}'),
            "can't be made",
        ),
        (frame(FrameKind.LINK, b'{"path": "../x", "target": "y"}'), "must be relative"),
        (frame(FrameKind.LINK, b'{"path": "x", "target": "%b"}' % (b"y" * 5000)), "can't be made"),
    ],
)
def test_the_runner_writes_nothing_through_a_link(
    runner: dict[str, ModuleType], tmp_path: Path, frames: bytes, refused: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    source, sink = os.pipe()
    os.write(sink, frames + frame(FrameKind.END_OF_INPUT, b""))
    os.close(sink)
    try:
        take = runner["inputs"].read_inputs
        run = runner["frames"].Wire(source, source)
        if refused:
            with pytest.raises(runner["frames"].Refusal, match=refused):
                take(run, str(work), str(tmp_path / "arguments"))
        else:
            came = take(run, str(work), str(tmp_path / "arguments"))
            assert set(came) == {"d/f", "d/l"}
            assert (work / "d/f").stat().st_mode & 0o777 == 0o600
            assert (work / "d/l").readlink() == Path("/etc")
    finally:
        os.close(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arguments", "work"]

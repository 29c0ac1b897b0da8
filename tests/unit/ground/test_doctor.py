"""Each judgement of `broker doctor`, by values; and each probe on real files and sockets."""

from __future__ import annotations

import fcntl
import json
import socket
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.doctor import directory, engine, handshake, listeners, machine
from broker.doctor.documents import judge_certificate, judge_policy, probe_certificates, probe_ledger, probe_settings
from broker.doctor.finding import Finding, Status, fail, ok, warn, worst
from broker.identity.ca import CertificateAuthority, pem
from broker.identity.keys import key_pem, new_key
from broker.identity.validity import Validity
from broker.policy.lint import examine as examine_policy
from broker.sandbox.engine import Capabilities
from broker.sandbox.facts import EngineFacts
from broker.sandbox.images import SandboxImage
from broker.settings import Settings, StatePaths

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PYTHON_IMAGE = SandboxImage(name="python", id="sha256:1", inputs="1", size_bytes=1, current=True)
ENGINE = EngineFacts(
    address="unix:///run/docker.sock",
    version="20.10.24",
    api_version=(1, 41),
    cgroup_version=1,
    warnings=(),
    seccomp=True,
    storage_driver="overlay2",
    system_time=NOW,
    images=(PYTHON_IMAGE,),
)


def statuses(findings: tuple[Finding, ...]) -> list[Status]:
    return [finding.status for finding in findings]


def test_the_worst_status_counts() -> None:
    assert worst([]) is Status.OK
    assert worst([ok("a", ""), warn("b", "", "")]) is Status.WARN
    assert worst([fail("a", "", ""), ok("b", ""), warn("c", "", "")]) is Status.FAIL


@pytest.mark.parametrize(
    ("version", "openssl", "status"),
    [
        ((3, 11, 0), (3, 0, 0), Status.OK),
        ((3, 10, 9), (3, 0, 0), Status.FAIL),
        ((3, 13, 1), (1, 1, 1), Status.WARN),
    ],
)
def test_python(version: tuple[int, int, int], openssl: tuple[int, int, int], status: Status) -> None:
    assert machine.judge_python(version, openssl, "OpenSSL").status is status


@pytest.mark.parametrize(("free", "status"), [(100 * 2**20, Status.FAIL), (2**30, Status.WARN), (2 * 2**30, Status.OK)])
def test_disk(free: int, status: Status) -> None:
    assert machine.judge_disk(Path("state"), free).status is status


def test_the_disk_of_a_directory_that_is_yet_to_be_made(tmp_path: Path) -> None:
    finding = machine.probe_disk(tmp_path / "not" / "yet")
    assert str(tmp_path / "not" / "yet") in finding.found


@pytest.mark.parametrize(
    ("now", "ledger", "skew", "monotonic", "status", "word"),
    [
        (NOW, None, None, True, Status.OK, "monotonic"),
        (NOW, NOW - timedelta(hours=1), 1.0, True, Status.OK, "monotonic"),
        (NOW, NOW + timedelta(seconds=90), 0.0, True, Status.FAIL, "90 s before the last ledger entry"),
        (datetime(1970, 1, 1, tzinfo=UTC), None, None, True, Status.FAIL, "before this software"),
        (NOW, None, -30.0, True, Status.WARN, "-30 s"),
        (NOW, None, None, False, Status.FAIL, "no monotonic clock"),
    ],
)
def test_clock(
    *, now: datetime, ledger: datetime | None, skew: float | None, monotonic: bool, status: Status, word: str
) -> None:
    (finding,) = machine.judge_clock(now, ledger=ledger, engine_skew_s=skew, monotonic=monotonic)
    assert finding.status is status
    assert word in finding.found


def test_a_good_engine() -> None:
    findings = engine.judge_engine(ENGINE)
    assert statuses(findings) == [Status.OK] * 3
    assert "20.10.24, API 1.41" in findings[0].found


@pytest.mark.parametrize(
    ("facts", "check"),
    [
        (replace(ENGINE, api_version=(1, 40)), "engine"),
        (replace(ENGINE, cgroup_version=0), "cgroups"),
        (replace(ENGINE, seccomp=False), "seccomp"),
        (replace(ENGINE, warnings=("WARNING: No swap limit support",)), "cgroups"),
    ],
)
def test_an_engine_that_would_not_hold_a_tool(facts: EngineFacts, check: str) -> None:
    bad = [finding for finding in engine.judge_engine(facts) if finding.status is Status.FAIL]
    assert [finding.check for finding in bad] == [check]
    assert bad[0].mend


def test_another_warning_of_the_engine_is_passed_on() -> None:
    findings = engine.judge_engine(replace(ENGINE, warnings=("WARNING: bridge-nf-call-iptables is disabled",)))
    assert findings[-1].status is Status.WARN
    assert findings[-1].found == "bridge-nf-call-iptables is disabled"


def test_each_runtime_is_told_with_what_it_leaves_out() -> None:
    gvisor = Capabilities("runsc", inodes=False)
    findings = engine.judge_engine(replace(ENGINE, runtimes=(Capabilities("runc"), gvisor), unknown_runtimes=("kata",)))
    told = [finding.found for finding in findings if finding.check == "runtimes"]
    assert told == ["runc (the default): keeps every limit", "runsc: no limit on the number of files"]
    assert Status.FAIL not in statuses(findings)


def test_a_default_runtime_that_nobody_measured_fails() -> None:
    facts = replace(ENGINE, default_runtime="kata", unknown_runtimes=("kata",))
    (bad,) = [finding for finding in engine.judge_engine(facts) if finding.status is Status.FAIL]
    assert bad.check == "runtimes"
    assert "kata" in bad.found


def test_images_that_tools_name_must_be_there_and_current() -> None:
    assert engine.judge_images(ENGINE, frozenset({"python"})).status is Status.OK
    missing = engine.judge_images(ENGINE, frozenset({"python", "node"}))
    assert missing.status is Status.FAIL
    assert "node" in missing.found
    old = replace(ENGINE, images=(replace(PYTHON_IMAGE, current=False),))
    assert engine.judge_images(old, frozenset({"python"})).status is Status.FAIL


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:7443", True),
        ("127.9.9.9:1", True),
        ("[::1]:7443", True),
        ("localhost:7443", True),
        ("0.0.0.0:7443", False),
        ("[::]:7443", False),
        ("localhost.example.com:7443", False),
        ("10.0.0.1:7443", False),
    ],
)
def test_what_loopback_is(*, text: str, loopback: bool) -> None:
    address = listeners.parse_address(text)
    assert address is not None
    assert address.loopback is loopback


@pytest.mark.parametrize("text", ["", "7443", ":7443", "host:", "host:port", "host:65536", "host:-1", "host:²"])
def test_what_no_address_is(text: str) -> None:
    assert listeners.parse_address(text) is None
    assert listeners.judge_tls(text).status is Status.FAIL


@pytest.mark.parametrize(
    ("text", "agent", "status"),
    [
        ("", "", Status.OK),
        ("127.0.0.1:7000", "tester", Status.WARN),
        ("127.0.0.1:7000", "", Status.FAIL),
        ("0.0.0.0:7000", "tester", Status.FAIL),
        ("nonsense", "tester", Status.FAIL),
    ],
)
def test_a_listener_without_tls_is_named_loudly(text: str, agent: str, status: Status) -> None:
    finding = listeners.judge_unsafe(text, agent)
    assert finding.status is status
    assert ("UNSAFE" in finding.found) == (text not in {"", "nonsense"})


def test_a_port_that_another_program_has() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        text = f"127.0.0.1:{other.getsockname()[1]}"
        findings = listeners.check_listeners(Settings(listen=text), running=False)
        assert Status.FAIL in statuses(findings)
        assert "another program listens there" in findings[-1].found
        assert Status.FAIL not in statuses(listeners.check_listeners(Settings(listen=text), running=True))
    assert Status.FAIL not in statuses(listeners.check_listeners(Settings(listen=text), running=False))


def make_state(root: Path) -> StatePaths:
    """A state directory's files, as far as the checks of presence and permissions look at them."""
    paths = StatePaths(root)
    authority = CertificateAuthority.create("0" * 26, NOW)
    key = new_key()
    certificate = authority.issue_server(key.public_key(), (), NOW)
    for path, data in (
        (paths.ca_certificate, pem(authority.certificate)),
        (paths.ca_key, key_pem(authority.key)),
        (paths.server_certificate, pem(certificate)),
        (paths.server_key, key_pem(key)),
        (paths.vault_key, b"k"),
        (paths.database, b""),
        (paths.policy / "policy.csv", b""),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o600)
    root.chmod(0o700)
    return paths


def test_a_state_directory_is_whole_absent_or_broken(tmp_path: Path) -> None:
    assert directory.probe_presence(tmp_path / "none").status is Status.WARN
    paths = make_state(tmp_path / "state")
    assert directory.probe_presence(paths.root).status is Status.OK
    paths.vault_key.unlink()
    broken = directory.probe_presence(paths.root)
    assert broken.status is Status.FAIL
    assert "keys/vault.key" in broken.found


def test_permissions_of_each_secret_count(tmp_path: Path) -> None:
    paths = make_state(tmp_path / "state")
    own = paths.identities / "human" / "ada" / "key.pem"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"k")
    own.chmod(0o600)
    assert statuses(directory.probe_permissions(paths.root)) == [Status.OK]
    for path, mode in (
        (paths.root, 0o750),
        (paths.ca_key, 0o640),
        (paths.server_key, 0o604),
        (paths.vault_key, 0o666),
        (paths.database, 0o644),
        (own, 0o620),
    ):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        (finding,) = directory.probe_permissions(paths.root)
        assert finding.status is Status.FAIL
        assert f"{path} is open to others (mode {mode:04o})" in finding.found
        path.chmod(before)
    assert statuses(directory.probe_permissions(paths.root)) == [Status.OK]


def test_a_secret_of_somebody_else() -> None:
    node = directory.Node(Path("ca.key"), 0o100600, owner=1001, directory=False)
    assert statuses(directory.judge_permissions([node], user=1000)) == [Status.FAIL]
    assert statuses(directory.judge_permissions([node], user=1001)) == [Status.OK]


def test_the_lock_says_whether_a_broker_runs(tmp_path: Path) -> None:
    paths = make_state(tmp_path / "state")
    paths.socket_info.write_text(json.dumps({"address": "127.0.0.1:1", "pid": 7}), "utf-8")
    stale = directory.find_running(paths.root)
    assert not stale.locked
    assert directory.judge_running(stale, expected=False).status is Status.OK
    assert directory.judge_running(stale, expected=True).status is Status.FAIL
    with paths.lock.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        running = directory.find_running(paths.root)
        assert running.locked
        assert running.address == "127.0.0.1:1"
        assert "pid 7" in directory.judge_running(running, expected=True).found
        paths.socket_info.write_text("{", "utf-8")
        assert directory.judge_running(directory.find_running(paths.root), expected=True).status is Status.WARN
    assert not directory.find_running(paths.root).locked


def test_a_port_where_nobody_speaks_tls(tmp_path: Path) -> None:
    paths = make_state(tmp_path / "state")
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        problem = handshake.probe(address, paths.ca_certificate)
    assert problem
    assert handshake.judge(address, problem=problem).status is Status.FAIL
    assert handshake.judge(address, problem="").status is Status.OK


VALID = Validity(not_before=NOW - timedelta(days=1), not_after=NOW + timedelta(days=60), key_fits=True)


@pytest.mark.parametrize(
    ("validity", "status"),
    [
        (VALID, Status.OK),
        (replace(VALID, not_after=NOW + timedelta(days=29)), Status.WARN),
        (replace(VALID, not_after=NOW), Status.FAIL),
        (replace(VALID, not_before=NOW + timedelta(days=1)), Status.FAIL),
        (replace(VALID, key_fits=False), Status.FAIL),
    ],
)
def test_certificates(validity: Validity, status: Status) -> None:
    finding = judge_certificate("it", validity, NOW, warn_before=timedelta(days=30), mend="renew it")
    assert finding.status is status


def test_certificates_on_disk(tmp_path: Path) -> None:
    paths = make_state(tmp_path / "state")
    assert statuses(probe_certificates(paths.root, NOW)) == [Status.OK, Status.OK]
    assert statuses(probe_certificates(paths.root, NOW + timedelta(days=390))) == [Status.OK, Status.WARN]
    paths.server_key.write_bytes(key_pem(new_key()))
    assert statuses(probe_certificates(paths.root, NOW)) == [Status.OK, Status.FAIL]
    paths.ca_certificate.write_bytes(b"nonsense")
    assert statuses(probe_certificates(paths.root, NOW)) == [Status.FAIL, Status.FAIL]


def test_settings(tmp_path: Path) -> None:
    assert probe_settings(tmp_path)[1].status is Status.OK
    (tmp_path / "settings.yaml").write_text("max_runing: 3\n", "utf-8")
    settings, finding = probe_settings(tmp_path)
    assert finding.status is Status.FAIL
    assert "max_runing" in finding.found
    assert settings.listen == Settings().listen


def test_a_policy_with_an_error() -> None:
    finding = judge_policy(examine_policy("p, nonsense\n"), Path("policy.csv"))
    assert finding.status is Status.FAIL
    assert "policy.csv:1:" in finding.found


def test_a_database_that_is_none(tmp_path: Path) -> None:
    paths = make_state(tmp_path / "state")
    moment, findings = probe_ledger(paths.root, NOW)
    assert moment is None
    assert statuses(findings) == [Status.FAIL]
    assert "broker ledger verify" in findings[0].mend
    assert probe_ledger(tmp_path / "none", NOW) == (None, ())

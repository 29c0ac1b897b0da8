"""``broker init``, ``broker identity`` and ``broker delegations`` on a real state directory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from broker.cli import main
from broker.cli.durations import parse_duration
from broker.cli.example_settings import SAYS, example_settings
from broker.cli.local import open_local
from broker.cli.output import ExitCode, exit_code
from broker.domain.identity import IdentityKind
from broker.errors import (
    BrokerError,
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from broker.identity import ca, delegation, keys
from broker.identity.directory import Directory, parse_peer
from broker.settings import Settings, StatePaths, load_settings


class Shell:
    """Runs the program on one state directory and reads its JSON."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def invoke(self, *words: str, as_json: bool = True) -> tuple[int, str]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = main.run([*words, "--state", str(self.state), *(["--json"] if as_json else [])])
        return code, out.getvalue()

    def run(self, *words: str) -> Any:  # noqa: ANN401  # whatever the command prints
        code, text = self.invoke(*words)
        assert code == ExitCode.DONE, text
        return json.loads(text)

    def refused(self, error: type[BrokerError], *words: str) -> str:
        code, text = self.invoke(*words)
        assert code == exit_code(error("refused"))
        answer = json.loads(text)
        assert answer["error"]
        return str(answer["reason"])


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path / "state")
    shell.run("init", "--operator", "ada", "--host", "broker.example.com")
    return shell


def test_init_makes_everything_and_keeps_it_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        made = Shell(tmp_path / "deep" / "state").run("init", "--operator", "ada", "--host", "192.0.2.7")
    finally:
        os.umask(old)
    paths = StatePaths(Path(made["state"]))
    public = {".pem"}
    for path in (paths.root, *paths.root.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.suffix not in public or path.name == "key.pem":
            assert mode == 0o600, path
    assert made["hosts"] == ["localhost", "127.0.0.1", "::1", "192.0.2.7"]
    assert load_settings(paths.root) == Settings()
    assert "human:ada" in (paths.policy / "policy.csv").read_text()
    with open_local(paths.root) as local:
        genesis = json.loads(local.read(lambda tx: tx.ledger.entries(0, 1))[0].data)
    assert genesis["type"] == "genesis"
    assert genesis["operator"] == made["operator_id"]
    assert genesis["ca_fingerprint"] == made["ca_fingerprint"]
    assert genesis["trust_domain"] == made["trust_domain"]
    authority = x509.load_pem_x509_certificate(paths.ca_certificate.read_bytes())
    for name in (paths.server_certificate, Path(made["operator_certificate"])):
        x509.load_pem_x509_certificate(name.read_bytes()).verify_directly_issued_by(authority)


def test_the_example_settings_name_every_setting_with_its_default() -> None:
    assert SAYS.keys() == Settings.model_fields.keys()
    lines = [line[1:] for line in example_settings().splitlines() if line.startswith("#") and line[1:2] != " "]
    assert yaml.safe_load("\n".join(lines)) == Settings().model_dump(mode="json")


def test_a_state_that_exists_is_never_changed(shell: Shell, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in shell.state.rglob("*") if path.is_file()}
    assert shell.refused(InvalidArgumentError, "init") == "STATE_EXISTS"
    assert {path: path.read_bytes() for path in shell.state.rglob("*") if path.is_file()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("other", "file", "link"):
        assert Shell(tmp_path / name).refused(InvalidArgumentError, "init") == "STATE_EXISTS"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "other", "state"]
    (tmp_path / "empty").mkdir()
    assert Shell(tmp_path / "empty").run("init")["operator"] == "operator"


def test_init_refuses_wrong_names_and_leaves_nothing(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "state")
    assert shell.refused(InvalidArgumentError, "init", "--operator", "Ada") == "NAME_INVALID"
    assert shell.refused(InvalidArgumentError, "init", "--host", "a/b") == "HOST_INVALID"
    assert list(tmp_path.iterdir()) == []


def test_commands_without_a_state_directory_say_so(tmp_path: Path) -> None:
    assert Shell(tmp_path / "none").refused(InvalidArgumentError, "identity", "list") == "STATE_MISSING"


def test_an_agent_is_issued_rotated_listed_and_revoked(shell: Shell) -> None:
    first = shell.run("identity", "issue", "agent", "reporter", "--owner", "ada")
    assert (first["owner"], first["registrar"]) == ("ada", "ada")
    key = Path(first["key"])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key == shell.state / "identities" / "agent" / "reporter" / "key.pem"
    old_key = key.read_bytes()
    second = shell.run("identity", "issue", "agent", "reporter", "--days", "7")
    assert key.read_bytes() != old_key
    kept = shell.state / "identities" / "agent" / f"reporter.{first['fingerprint'][7:23]}"
    assert (kept / "key.pem").read_bytes() == old_key
    listed = {item["name"]: item for item in shell.run("identity", "list")["items"]}
    assert [one["fingerprint"] for one in listed["reporter"]["certificates"]] == [
        first["fingerprint"],
        second["fingerprint"],
    ]
    one = shell.run(
        "identity", "revoke", "agent", "reporter", "--fingerprint", first["fingerprint"], "--reason", "rotated"
    )
    assert [item["state"] for item in one["certificates"]] == ["revoked", "valid"]
    assert one["revoked"] is None
    assert shell.run("identity", "revoke", "agent", "reporter", "--reason", "gone")["revoked"]
    assert shell.refused(FailedPreconditionError, "identity", "issue", "agent", "reporter") == "IDENTITY_REVOKED"


def test_a_request_is_signed_and_no_key_is_written(shell: Shell, tmp_path: Path) -> None:
    key = keys.new_key()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    (tmp_path / "grace.csr").write_bytes(request.public_bytes(serialization.Encoding.PEM))
    out = tmp_path / "handover"
    issued = shell.run("identity", "issue", "human", "grace", "--csr", str(tmp_path / "grace.csr"), "--out", str(out))
    assert issued["key"] is None
    assert sorted(path.name for path in out.iterdir()) == ["ca.pem", "cert.pem"]
    peer = parse_peer((out / "cert.pem").read_bytes())
    assert peer.spiffe_uri.endswith("/human/grace")
    again = ("identity", "issue", "human", "grace", "--out", str(out))
    assert shell.refused(ConflictError, *again) == "FILE_EXISTS"
    # The holder acts with a key that the state directory never saw.
    (tmp_path / "grace.key").write_bytes(keys.key_pem(key))
    (tmp_path / "grace.key").chmod(0o600)
    mine = ("--key", str(tmp_path / "grace.key"), "--cert", str(out / "cert.pem"))
    agent = shell.run("identity", "issue", "agent", "helper", "--owner", "ada", *mine)
    assert agent["registrar"] == "grace"
    (tmp_path / "grace.key").chmod(0o640)
    assert shell.refused(InvalidArgumentError, "identity", "issue", "agent", "x", "--owner", "ada", *mine) == (
        "KEY_FILE_OPEN"
    )


def test_who_acts_must_hold_the_key_that_they_name(shell: Shell) -> None:
    shell.run("identity", "issue", "human", "grace")
    issue = ("identity", "issue", "agent", "reporter", "--owner", "grace")
    assert shell.refused(InvalidArgumentError, *issue, "--as", "bob") == "FILE_UNREADABLE"
    assert shell.refused(InvalidArgumentError, *issue, "--as", "../agent/x") == "NAME_INVALID"
    folder = shell.state / "identities" / "human"
    grace = ("--key", str(folder / "grace" / "key.pem"), "--cert", str(folder / "grace" / "cert.pem"))
    assert shell.refused(InvalidArgumentError, *issue, "--as", "ada", *grace) == "HUMAN_DIFFERS"
    assert shell.refused(InvalidArgumentError, *issue, *grace[:2]) == "KEY_MISMATCH"
    assert shell.run(*issue, "--as", "grace")["registrar"] == "grace"
    shell.run("identity", "revoke", "human", "grace", "--reason", "left")
    assert shell.refused(UnauthenticatedError, *issue, "--as", "grace") == "IDENTITY_REVOKED"


def test_an_agents_owner_is_named_known_and_changed_only_by_its_own_command(shell: Shell) -> None:
    issue = ("identity", "issue", "agent", "reporter")
    assert shell.refused(InvalidArgumentError, *issue) == "OWNER_MISSING"
    assert shell.refused(InvalidArgumentError, *issue, "--owner", "bob") == "IDENTITY_UNKNOWN"
    shell.run("identity", "issue", "human", "grace")
    shell.run(*issue, "--owner", "ada")
    assert shell.refused(InvalidArgumentError, *issue, "--owner", "grace") == "OWNER_DIFFERS"
    changed = shell.run("identity", "owner", "reporter", "--owner", "grace", "--as", "grace")
    assert (changed["owner"], changed["registrar"]) == ("grace", "grace")
    assert [item["state"] for item in changed["certificates"]] == ["revoked"]
    assert shell.refused(PermissionDeniedError, *issue, "--as", "ada") == "NOT_IN_LINEAGE"
    assert shell.run(*issue, "--as", "grace")["owner"] == "grace"


def test_a_refused_issue_leaves_no_file(shell: Shell, tmp_path: Path) -> None:
    before = sorted(shell.state.rglob("*"))
    shell.refused(InvalidArgumentError, "identity", "issue", "human", "grace", "--days", "825", "--as", "nobody")
    shell.refused(InvalidArgumentError, "identity", "issue", "agent", "ada", "--owner", "nobody")
    assert sorted(shell.state.rglob("*")) == before
    (tmp_path / "file").write_text("")
    out = ("identity", "issue", "human", "grace", "--out", str(tmp_path / "file" / "x"))
    assert shell.refused(InvalidArgumentError, *out) == "FILE_UNWRITABLE"
    assert [item["name"] for item in shell.run("identity", "list")["items"]] == ["ada"]


def test_the_server_certificate_is_renewed_for_its_hosts_and_key(shell: Shell) -> None:
    paths = StatePaths(shell.state)
    old = x509.load_pem_x509_certificate(paths.server_certificate.read_bytes())
    renewed = shell.run("identity", "renew-server", "--host", "two.example.com")
    new = x509.load_pem_x509_certificate(paths.server_certificate.read_bytes())
    assert renewed["fingerprint"] == ca.fingerprint(new) != ca.fingerprint(old)
    assert keys.public_der(new.public_key()) == keys.public_der(old.public_key())
    assert {"localhost", "broker.example.com", "two.example.com", "::1"} <= set(renewed["hosts"])


def test_a_delegation_signed_by_command_holds(shell: Shell) -> None:
    signed = shell.run(
        "delegations", "sign", "--agent", "reporter", "--workspace", "sales", "--expires", "30m", "--as", "ada"
    )
    with open_local(shell.state) as local:
        directory, origin = local.read(Directory.load), local.origin
    given = delegation.verify(
        signed["token"],
        directory=directory,
        now=datetime.now(UTC),
        agent="reporter",
        workspace="sales",
        origin=origin,
    )
    assert given.human == directory.by_name(IdentityKind.HUMAN, "ada")
    sign = ("delegations", "sign", "--agent", "reporter", "--workspace", "sales")
    assert shell.refused(InvalidArgumentError, *sign) == "HUMAN_MISSING"
    assert shell.refused(InvalidArgumentError, *sign, "--as", "ada", "--expires", "31d") == "TTL_INVALID"


def test_the_texts_for_people_name_what_was_made(tmp_path: Path) -> None:
    def told(*words: str) -> str:
        code, text = Shell(tmp_path / "state").invoke(*words, as_json=False)
        assert code == ExitCode.DONE
        return text

    assert "broker serve" in told("init", "--operator", "ada")
    assert "owned by ada" in told("identity", "issue", "agent", "reporter", "--owner", "ada")
    assert "reporter" in told("identity", "list")
    assert "localhost" in told("identity", "renew-server")
    assert told("delegations", "sign", "--agent", "a", "--workspace", "w", "--as", "ada").count("\n") == 1


@pytest.mark.parametrize("text", ["", "8", "h", "-1h", "0h", "1.5h", "8 h", "8H", "99999999s", "1h30m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_duration(text, option="--expires")
    assert caught.value.reason == "DURATION_INVALID"

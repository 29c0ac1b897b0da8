"""The bot's settings, its secrets, and what it remembers."""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import yaml

from broker.domain.approval import VoteDecision
from broker.domain.secret import Secret
from broker.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError, UnavailableError
from broker.slack.memory import Memory, ModalState, Post
from broker.slack.modal import Ticket
from broker.slack.settings import Mode, SlackSecrets, load_settings, read_secrets
from broker.slack.web import named_delay, passes, pause, sdk_logger

FIT = {
    "bot_token": "env:TOKEN",
    "app_token": "env:APP",
    "signing_secret": "env:SIGNING",
    "team": "T0001",
    "channels": {"*": "C0001", "sales": "C0002", "-": "G0003"},
    "broker": "127.0.0.1:7443",
    "identity": "bot",
    "ca": "/etc/ca.pem",
    "key": "bot.key",
    "key_passphrase": "file:/run/secrets/passphrase",
}
TICKET = Ticket("apv_1", "sha256:1", "sha256:2", "hum_1", "T1", "U1", "C1", (VoteDecision.DENY,))


def written(folder: Path, **changed: Any) -> Path:  # noqa: ANN401
    path = folder / "slack.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in {**FIT, **changed}.items() if value is not None}))
    return path


def refusal(path: Path) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as found:
        load_settings(path)
    assert found.value.reason == "SETTINGS_INVALID"
    return found.value


def test_paths_are_taken_from_the_file_s_folder(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path))
    assert settings.mode is Mode.SOCKET
    assert (settings.identity, settings.ca) == (tmp_path / "bot", Path("/etc/ca.pem"))
    assert settings.state == tmp_path / "slack.db"
    assert settings.api_url == "https://slack.com/api/"


def test_workspaces_have_their_channels(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path))
    assert [settings.channel(name) for name in ("sales", "demo", "-")] == ["C0002", "C0001", "G0003"]
    narrow = load_settings(written(tmp_path, channels={"sales": "C0002"}))
    assert narrow.channel("demo") == ""


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_SLACK_TEAM", "T9999")
    monkeypatch.setenv("BROKER_SLACK_CHANNELS", '{"*": "C7777"}')
    settings = load_settings(written(tmp_path))
    assert (settings.team, settings.channel("x")) == ("T9999", "C7777")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"bot_token": "xoxb-1-secret"}, "bot_token"),
        ({"signing_secret": "8f742231b10e"}, "signing_secret"),
        ({"key_passphrase": "hunter22hunter"}, "key_passphrase"),
        ({"bot_token": "file:relative"}, "bot_token"),
        ({"api_url": "http://slack.example/api/"}, "api_url"),
        ({"api_url": "https://user@slack.example/"}, "api_url"),
        ({"team": "t0001"}, "team"),
        ({"channels": {}}, "channels"),
        ({"channels": {"*": "#approvals"}}, "channels.*"),
        ({"channels": {"Sales": "C0001"}}, "channels.Sales.[key]"),
        ({"listen": "3000"}, "listen"),
        ({"listen": "127.0.0.1:99999"}, "listen"),
        ({"mode": "both"}, "mode"),
        ({"mode": "http", "signing_secret": None}, "mode"),
        ({"app_token": None}, "mode"),
        ({"surprise": 1}, "surprise"),
        ({"broker": None}, "broker"),
    ],
)
def test_what_is_wrong_is_named_and_not_repeated(tmp_path: Path, changed: dict[str, Any], field: str) -> None:
    error = refusal(written(tmp_path, **changed))
    assert error.violations[0].field == field
    text = f"{error} {error.violations}"
    for value in ("xoxb-1-secret", "8f742231b10e", "hunter22hunter"):
        assert value not in text


@pytest.mark.parametrize("text", ["[1]", "a: b: c", "\x00"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    path = tmp_path / "slack.yaml"
    path.write_text(text)
    refusal(path)


def test_secrets_come_from_variables_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text("xoxb-1-abcdef\n")
    (tmp_path / "link").symlink_to(token)
    monkeypatch.setenv("APP", "xapp-1-abcdef")
    secrets = read_secrets(load_settings(written(tmp_path, bot_token=f"file:{tmp_path}/link")))
    assert secrets.bot_token == Secret(b"xoxb-1-abcdef")
    assert secrets.app_token == Secret(b"xapp-1-abcdef")
    assert secrets.signing_secret is None
    assert "abcdef" not in repr(secrets)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (None, "SECRET_MISSING"),
        ("xoxp-1-abcdef", "SECRET_UNFIT"),
        ("", "SECRET_UNFIT"),
        ("xoxb-1 2 3 4 5", "SECRET_UNFIT"),
    ],
)
def test_a_secret_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, reason: str) -> None:
    if token is not None:
        monkeypatch.setenv("TOKEN", token)
    with pytest.raises(FailedPreconditionError) as found:
        read_secrets(load_settings(written(tmp_path)))
    assert found.value.reason == reason
    assert not token or token not in str(found.value)


def test_a_secret_s_file_that_others_may_read(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("xoxb-1-abcdef\n")
    token.chmod(0o644)
    with pytest.raises(FailedPreconditionError) as found:
        read_secrets(load_settings(written(tmp_path, bot_token=f"file:{token}")))
    assert found.value.reason == "KEY_EXPOSED"


def test_what_is_remembered_is_there_after_a_new_start(tmp_path: Path) -> None:
    path = tmp_path / "state" / "bot.db"
    memory = Memory.open(path)
    memory.keep_post(Post("apv_1", "C1", "1.1", "f", open=True))
    memory.keep_post(Post("apv_2", "C1", "1.2", "f", open=False))
    memory.keep_modal("V1", TICKET, 1000.0)
    memory.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    memory = Memory.open(path)
    assert [post.approval for post in memory.open_posts()] == ["apv_1"]
    assert memory.post("apv_2") == Post("apv_2", "C1", "1.2", "f", open=False)
    assert memory.ticket("V1") == TICKET
    memory.forget_post("apv_1")
    assert (memory.post("apv_1"), memory.open_posts(), memory.ticket("V2")) == (None, [], None)
    memory.close()


def test_a_modal_carries_one_vote(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    memory = Memory.open(path)
    memory.keep_modal("V1", TICKET, 1000.0)
    assert [memory.claim("V1"), memory.claim("V1")] == [ModalState.SHOWN, ModalState.CASTING]
    memory.settle("V1", cast=False)
    assert memory.claim("V1") is ModalState.SHOWN
    memory.close()  # killed while it cast: the broker says whether the vote is there
    memory = Memory.open(path)
    assert memory.claim("V1") is ModalState.SHOWN
    memory.settle("V1", cast=True)
    assert [memory.claim("V1"), memory.claim("V9")] == [ModalState.CAST, ModalState.CAST]
    memory.close()


def test_old_modals_are_forgotten(tmp_path: Path) -> None:
    memory = Memory.open(tmp_path / "bot.db")
    memory.keep_modal("V1", TICKET, 1000.0)
    memory.keep_modal("V2", TICKET, 1000.0 + 9 * 86400)
    assert (memory.ticket("V1"), memory.ticket("V2")) == (None, TICKET)
    memory.close()


def test_a_file_that_is_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(FailedPreconditionError) as found:
        Memory.open(path)
    assert found.value.reason == "BOT_STATE_UNFIT"
    (tmp_path / "link.db").symlink_to(path)
    with pytest.raises(FailedPreconditionError) as found:
        Memory.open(tmp_path / "link.db")
    assert found.value.reason == "BOT_STATE_UNFIT"


def test_pauses_grow_and_end() -> None:
    assert all(0.25 <= pause(1, None) <= 0.5 for _ in range(50))
    assert all(30 <= pause(40, None) <= 60 for _ in range(50))
    busy = ResourceExhaustedError("busy", retry_after_s=7.0)
    assert (pause(1, busy), named_delay(busy), passes(busy)) == (7.0, 7.0, True)
    assert passes(UnavailableError("away"))
    assert not passes(InvalidArgumentError("wrong"))
    assert not passes(ValueError("a defect"))


def test_what_slacks_library_says_is_logged_without_secrets() -> None:
    secrets = SlackSecrets(Secret(b"xoxb-1-abcdef"), Secret(b"xapp-1-abcdef"), Secret(b"signing-secret"))
    logger = sdk_logger(secrets)
    with structlog.testing.capture_logs() as logs:
        logger.info("xoxb-1-abcdef xapp-1-abcdef signing-secret wss://slack.example/?ticket=abcdef&x=1 xoxe-2-ghijkl")
        logger.debug("never")
        logger.error("failed", exc_info=ValueError("xoxb-1-abcdef"))
    assert not logger.isEnabledFor(logging.DEBUG)
    text = str(logs)
    assert "x=1" in text
    assert "[ValueError]" in text
    for part in ("abcdef", "signing-secret", "ghijkl", "never"):
        assert part not in text

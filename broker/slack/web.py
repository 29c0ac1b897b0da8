"""Slack's Web API as the bot uses it: one client, which failures pass by themselves, and logs without secrets."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Mapping

import aiohttp
import structlog
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from broker.domain.secret import Secret
from broker.errors import BrokerError, DeadlineError, ResourceExhaustedError, UnavailableError
from broker.slack.settings import SlackSecrets, SlackSettings

_TIMEOUT_S = 10
_LONGEST_NAMED_S = 300.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0
_TOO_MANY, _SERVER = 429, 500
_PASSING = frozenset(
    {
        "fatal_error",
        "internal_error",
        "rate_limited",
        "ratelimited",
        "request_timeout",
        "service_unavailable",
        "team_added_to_org",
    }
)
_SECRET_LIKE = re.compile(r"(xox[a-z]-|xapp-)[A-Za-z0-9-]+|(?<=ticket=)[^&\s'\"]+")


def web_client(settings: SlackSettings, secrets: SlackSecrets, *, with_token: bool = True) -> AsyncWebClient:
    """A client that never tries again by itself: whether a message was posted twice is for us to know."""
    return AsyncWebClient(
        token=secrets.bot_token.reveal().decode() if with_token else None,
        base_url=settings.api_url,
        timeout=_TIMEOUT_S,
        logger=sdk_logger(secrets),
        retry_handlers=[],
    )


def error_code(error: BaseException) -> str:
    """Slack's word for an error, such as ``channel_not_found``; else the class of what went wrong."""
    if isinstance(error, SlackApiError):
        data = _data(error)
        code = data.get("error")
        return code if isinstance(code, str) and code else f"http_{_status(error)}"
    return error.reason if isinstance(error, BrokerError) else type(error).__name__


def named_delay(error: BaseException) -> float | None:
    """Seconds after which to try again, where Slack or the broker names them."""
    if isinstance(error, BrokerError):
        return error.retry_after_s
    if not isinstance(error, SlackApiError) or _status(error) != _TOO_MANY:
        return None
    headers: Mapping[str, str] = getattr(error.response, "headers", None) or {}
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    # A header that says nothing of use is answered by the longest of our own pauses.
    return min(float(text), _LONGEST_NAMED_S) if text.isascii() and text.isdigit() else _LONGEST_PAUSE_S


def passes(error: BaseException) -> bool:
    """May the same request succeed a little later?"""
    if isinstance(error, SlackApiError):
        return _status(error) == _TOO_MANY or _status(error) >= _SERVER or error_code(error) in _PASSING
    if isinstance(error, BrokerError):
        return isinstance(error, UnavailableError | DeadlineError | ResourceExhaustedError)
    return isinstance(error, aiohttp.ClientError | TimeoutError | OSError)


def pause(failures: int, error: BaseException | None) -> float:
    """Seconds to wait after so many failures in a row (from 1)."""
    named = None if error is None else named_delay(error)
    if named is not None:
        return named
    longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * float(2 ** min(failures - 1, 16)))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients out; nothing secret


def _status(error: SlackApiError) -> int:
    # Where the body was no JSON, the library hands over the HTTP client's own response.
    found = getattr(error.response, "status_code", None) or getattr(error.response, "status", None)
    return found if isinstance(found, int) else 0


def _data(error: SlackApiError) -> Mapping[str, object]:
    found = getattr(error.response, "data", None)
    return found if isinstance(found, dict) else {}


def sdk_logger(secrets: SlackSecrets) -> logging.Logger:
    """The logger for Slack's libraries: what they say goes to our log from INFO up, and secrets don't."""
    logger = logging.Logger("slack", level=logging.INFO)  # noqa: LOG001 - in no tree, so that nobody turns it up from afar
    logger.addHandler(_Redacting([secrets.bot_token, secrets.app_token, secrets.signing_secret]))
    return logger


class _Redacting(logging.Handler):
    def __init__(self, secrets: list[Secret | None]) -> None:
        super().__init__()
        self._secrets = [secret for secret in secrets if secret is not None]
        self._log = structlog.get_logger("broker.slack.sdk")

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        for secret in self._secrets:
            text = text.replace(secret.reveal().decode(), "(secret)")
        text = _SECRET_LIKE.sub("(secret)", text)
        if record.exc_info and record.exc_info[0] is not None:
            text = f"{text} [{record.exc_info[0].__name__}]"
        self._log.log(record.levelno, "slack.sdk", text=text[:2000])

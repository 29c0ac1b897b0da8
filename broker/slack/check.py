"""What keeps a bot from working, found before somebody waits for it: settings, secrets, Slack, the broker, the bot's key."""

from __future__ import annotations

from dataclasses import dataclass

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from broker.errors import BrokerError, FailedPreconditionError
from broker.signing import Signer
from broker.slack.serve import connect, identify, open_key
from broker.slack.settings import SlackSecrets, SlackSettings, read_secrets
from broker.slack.web import error_code, passes, web_client

NEEDED_SCOPES = frozenset({"chat:write"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    fit: bool
    text: str
    hint: str = ""


async def check(settings: SlackSettings) -> list[Finding]:
    """Looks at everything that the bot needs; changes nothing and posts nothing."""
    findings = [_unreached(settings)]
    try:
        secrets = read_secrets(settings)
        findings.append(Finding("secrets", fit=True, text="are there"))
    except FailedPreconditionError as error:
        findings.append(_finding("secrets", error))
    else:
        web = web_client(settings, secrets)
        findings.append(await _slack(web, settings))
        if secrets.app_token is not None:
            findings.append(await _socket(web, secrets))
    try:
        signer = open_key(settings)
        findings.append(Finding("key", fit=True, text=f"{settings.key} opens: {signer.id}"))
    except BrokerError as error:
        findings.append(_finding("key", error))
    else:
        findings.append(await _broker(settings, signer))
    return findings


def _unreached(settings: SlackSettings) -> Finding:
    named = ", ".join(sorted(settings.channels))
    if settings.channel("-") and settings.channel("*"):
        return Finding("channels", fit=True, text=f"every workspace has one ({named})")
    return Finding(
        "channels", fit=True, text=f"only {named} have one", hint="Approvals of other workspaces are not posted."
    )


async def _slack(web: AsyncWebClient, settings: SlackSettings) -> Finding:
    try:
        answer = await web.auth_test()
        installed = await identify(web, settings)
    except BrokerError as error:
        return _finding("slack", error)
    except Exception as error:  # noqa: BLE001 - whatever keeps Slack from answering is told
        return _away("slack", error)
    given = {scope.strip() for scope in str(answer.headers.get("x-oauth-scopes", "")).split(",")}
    missing = NEEDED_SCOPES - given
    if missing:
        return Finding(
            "slack",
            fit=False,
            text=f"the app has no leave for {', '.join(sorted(missing))}",
            hint="Add the scope on the app's page OAuth & Permissions, and install the app anew.",
        )
    return Finding("slack", fit=True, text=f"{settings.api_url} knows us as {installed.bot_user_id} of {settings.team}")


async def _socket(web: AsyncWebClient, secrets: SlackSecrets) -> Finding:
    token = secrets.app_token.reveal().decode() if secrets.app_token is not None else ""
    try:
        await web.apps_connections_open(app_token=token)
    except SlackApiError as error:
        if passes(error):
            return _away("socket", error)
        return Finding(
            "socket",
            fit=False,
            text=f"Slack refuses the app token: {error_code(error)}",
            hint="Turn Socket Mode on, and make an app token with the scope connections:write.",
        )
    except Exception as error:  # noqa: BLE001 - as above
        return _away("socket", error)
    return Finding("socket", fit=True, text="Slack offers a connection")


async def _broker(settings: SlackSettings, signer: Signer) -> Finding:
    try:
        async with connect(settings) as broker:
            keys = {key.id: key for key in await broker.list_voter_keys()}
    except BrokerError as error:
        return _finding("broker", error)
    key = keys.get(signer.id)
    if key is None or key.revoked is not None or not key.bot:
        why = "doesn't know the bot's key"
        if key is not None:
            why = (
                "has revoked the bot's key" if key.revoked is not None else "has the key as a person's, not as a bot's"
            )
        return Finding(
            "broker",
            fit=False,
            text=f"{settings.broker} {why}",
            hint="Have it enrolled as a bot's: broker approvers enroll --bot --help",
        )
    return Finding("broker", fit=True, text=f"{settings.broker} takes attested votes of {key.holder_name}")


def _finding(what: str, error: BrokerError) -> Finding:
    return Finding(what, fit=False, text=f"{error.reason}: {error.message}", hint=error.hint)


def _away(what: str, error: Exception) -> Finding:
    return Finding(
        what, fit=False, text=f"Slack gives no answer: {error_code(error)}", hint="Is its address reachable?"
    )

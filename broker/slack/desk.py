"""Where people decide: opens a modal for who may vote, and carries what they submit to the broker.

The content of an approval goes into the modal of a person whom the broker knows by their Slack account and lets vote, and
nowhere else. A modal carries one vote; the bot's own note of what it was opened for decides, not what comes back with it.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay

from broker.client import Approval, AsyncBroker, ChatAccount
from broker.client.ballot import check_content
from broker.domain.approval import OPEN_STATES, VoteDecision
from broker.domain.ids import ID_PATTERN
from broker.errors import BrokerError, ConflictError, FailedPreconditionError, NotFoundError, PermissionDeniedError
from broker.signing import Signer
from broker.slack.blocks import Block
from broker.slack.memory import Memory, ModalState
from broker.slack.modal import (
    MAX_REASON,
    Decision,
    Ticket,
    decision_view,
    refusal_view,
    show_command,
    told_view,
    vote_command,
    waiting_view,
)
from broker.slack.web import error_code, passes, pause

SLACK = "slack"
_DONE = {
    VoteDecision.APPROVE: "Your approval counts, attested by this bot.",
    VoteDecision.DENY: "It is denied.",
    VoteDecision.WITHDRAW: "Your vote is taken back.",
}
_ANSWERED_S = 0.5
"""Within that Slack has shown what a submission was answered with."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Person:
    """A Slack account, as Slack's signed request names it."""

    team: str
    user: str


@dataclass(frozen=True, slots=True)
class Click:
    """Somebody pressed the button of a message."""

    who: Person
    approval: str
    """What the button holds."""
    trigger: str
    """Slack's leave to open a modal, for three seconds and once."""
    channel: str


@dataclass(frozen=True, slots=True)
class Submission:
    """Somebody submitted a modal."""

    who: Person
    view: str
    metadata: str
    decision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Vote:
    """A submission that fits a modal of ours."""

    view: str
    ticket: Ticket
    decision: VoteDecision
    reason: str


class Desk:
    """Opens modals and casts what they say.

    Args:
        broker: an open client under the bot's own identity.
        signer: the bot's key.
        web: Slack.
        memory: what modals were opened for.
        team: the one Slack team whose people are served.
        changed: is told the id of an approval that has changed.
    """

    def __init__(
        self,
        *,
        broker: AsyncBroker,
        signer: Signer,
        web: AsyncWebClient,
        memory: Memory,
        team: str,
        changed: Callable[[str], None],
    ) -> None:
        self._broker = broker
        self._signer = signer
        self._web = web
        self._memory = memory
        self._team = team
        self._changed = changed

    async def look(self, click: Click) -> None:
        """Opens a modal, and shows in it what the person may see."""
        if not ID_PATTERN.fullmatch(click.approval):
            _log.warning("slack.odd_button")
            return
        try:
            # At once, as Slack gives three seconds; what is shown comes later.
            opened = await self._web.views_open(trigger_id=click.trigger, view=waiting_view())
        except Exception as error:  # noqa: BLE001 - whatever Slack or the network does, the person is told
            await self._whisper(click.channel, click.who.user, error, click.approval)
            return
        view = str(opened["view"]["id"])
        try:
            shown: Block | Decision = await self._page(click)
        except BrokerError as error:
            shown = refusal_view(error, title="The broker refuses", command=show_command(click.approval))
        try:
            await self._show(view, shown)
        except Exception as error:  # noqa: BLE001 - as above
            await self._whisper(click.channel, click.who.user, error, click.approval)

    def receive(self, submission: Submission) -> tuple[Block, Vote | None]:
        """What to answer Slack at once, and the vote to cast then, if any. Asks nobody."""
        ticket = self._memory.ticket(submission.view)
        if ticket is None:
            return told_view("Not cast", "This bot has not opened this window. Press the message's button again."), None
        wrong = _misfit(submission, ticket)
        if wrong:
            _log.warning("slack.odd_submission", approval=ticket.approval, why=wrong)
            return told_view("Not cast", wrong, command=vote_command(ticket.approval)), None
        match self._memory.claim(submission.view):
            case ModalState.SHOWN:
                vote = Vote(submission.view, ticket, VoteDecision(submission.decision), submission.reason)
                return waiting_view("Handing your vote to the broker ..."), vote
            case ModalState.CASTING:
                return waiting_view("Your vote is on its way to the broker."), None
        return told_view("Done", "This window's vote has been cast already."), None

    async def cast(self, vote: Vote) -> None:
        """Casts a vote that ``receive`` gave, and tells the person what came of it."""
        ticket, began = vote.ticket, time.monotonic()
        cast, refusal = False, ""
        try:
            await self._vote(vote)
            cast = True
            told = told_view("Done", _DONE[vote.decision])
        except BrokerError as error:
            refusal = error.reason
            if refusal == "ALREADY_VOTED":
                cast = True
                told = told_view("Done", "Your vote counts already.", error.message)
            else:
                told = _failed(error, ticket)
        except Exception as error:  # noqa: BLE001 - a defect of ours; the person must not believe that they have voted
            _log.error("slack.vote_failed", approval=ticket.approval, error=error_code(error))
            told = told_view("Not cast", "The bot has failed.", command=vote_command(ticket.approval))
        finally:
            self._memory.settle(vote.view, cast=cast)
            self._changed(ticket.approval)
        _log.info("slack.vote", approval=ticket.approval, decision=vote.decision.value, cast=cast, refusal=refusal)
        # What Slack was answered at once must be in its window first: an update that overtakes it would be overwritten.
        await asyncio.sleep(max(0.0, began + _ANSWERED_S - time.monotonic()))
        try:
            await self._show(vote.view, told)
        except Exception as error:  # noqa: BLE001 - the vote stands as it does; the message in the channel shows it too
            await self._whisper(ticket.channel, ticket.user, error, ticket.approval)

    async def _page(self, click: Click) -> Block | Decision:
        account = await self._account(click.who)
        approval = await self._broker.get_approval(click.approval, voter=account.person)
        if approval.state not in OPEN_STATES:
            return told_view("It is closed", f"{approval.id} is {approval.state.value}.")
        if not approval.may_vote:
            return told_view("You can't vote on this", approval.why_not or "The broker says no more.")
        return decision_view(
            approval,
            person=account.person,
            team=click.who.team,
            user=click.who.user,
            channel=click.channel,
            doubt=_doubt(approval),
        )

    async def _account(self, who: Person) -> ChatAccount:
        if not who.user or who.team != self._team:
            raise PermissionDeniedError(
                f"your account belongs to another Slack team ({who.team or 'unknown'})",
                reason="TEAM_REFUSED",
                hint="Decide with your own key, at a terminal.",
            )
        try:
            account = await self._broker.get_chat_account(SLACK, who.team, user=who.user)
        except NotFoundError as error:
            raise PermissionDeniedError(
                f"the broker knows nobody by the Slack account {who.user} of team {who.team}",
                reason="ACCOUNT_NOT_MAPPED",
                hint="Ask for it to be mapped; two people agree to that: broker accounts map --help",
            ) from error
        if (account.service, account.team, account.user) != (SLACK, who.team, who.user) or not account.person:
            raise PermissionDeniedError("the broker answered for another account", reason="ACCOUNT_NOT_MAPPED")
        return account

    async def _vote(self, vote: Vote) -> None:
        ticket = vote.ticket
        account = await self._account(Person(ticket.team, ticket.user))
        if account.person != ticket.person:
            raise PermissionDeniedError(
                "your Slack account stands for somebody else now than when this window was opened",
                reason="ACCOUNT_CHANGED",
            )
        approval = await self._broker.get_approval(ticket.approval, voter=account.person)
        if (approval.id, approval.envelope_digest, approval.rendering_digest) != (
            ticket.approval,
            ticket.envelope_digest,
            ticket.rendering_digest,
        ):
            raise FailedPreconditionError(
                "what would be done is not what this window showed",
                reason="DIGEST_DIFFERS",
                hint="Press the message's button again, and look anew.",
            )
        await self._broker.cast_attested_vote(
            approval, vote.decision, signer=self._signer, account=account, reason=vote.reason
        )

    async def _show(self, view: str, shown: Block | Decision) -> None:
        if not isinstance(shown, Decision):
            await self._update(view, shown)
            return
        # Remembered first: nobody can submit a modal that we don't know.
        self._memory.keep_modal(view, shown.ticket, time.time())
        try:
            await self._update(view, shown.view)
        except SlackApiError as error:
            if passes(error) or shown.hidden is None:
                raise
            _log.warning("slack.content_refused", approval=shown.ticket.approval, error=error_code(error))
            await self._show(view, shown.hidden)

    async def _update(self, view: str, content: Block) -> None:
        attempts = AsyncRetrying(
            retry=retry_if_exception(passes),
            wait=lambda state: pause(state.attempt_number, state.outcome.exception() if state.outcome else None),
            stop=stop_after_attempt(4) | stop_after_delay(30),
            reraise=True,
        )
        await attempts(self._web.views_update, view_id=view, view=content)

    async def _whisper(self, channel: str, user: str, error: Exception, approval: str) -> None:
        _log.warning("slack.modal_failed", approval=approval, error=error_code(error))
        text = f"The window could not be shown. At a terminal: {show_command(approval)}"
        try:
            await self._web.chat_postEphemeral(channel=channel, user=user, text=text)
        except Exception as again:  # noqa: BLE001 - Slack is away; the person sees that by themselves
            _log.warning("slack.unreachable", approval=approval, error=error_code(again))


def _doubt(approval: Approval) -> str:
    """Why the content can't be believed; empty where it is what the approval says."""
    try:
        check_content(approval)
    except BrokerError as error:
        _log.error("slack.content_doubtful", approval=approval.id, reason=error.reason)
        return f"{error.reason}: {error.message}"
    return ""


def _misfit(submission: Submission, ticket: Ticket) -> str:
    """Why a submission is not what this bot's window could give; empty where it is."""
    if not hmac.compare_digest(ticket.encode().encode(), submission.metadata.encode()):
        return "What came back is not what this window was opened for."
    if (submission.who.team, submission.who.user) != (ticket.team, ticket.user):
        return "This window was opened for somebody else."
    if submission.decision not in {choice.value for choice in ticket.choices}:
        return "This window didn't offer that decision."
    if len(submission.reason) > MAX_REASON:
        return f"The reason is longer than {MAX_REASON} characters."
    return ""


def _failed(error: BrokerError, ticket: Ticket) -> Block:
    closed = isinstance(error, FailedPreconditionError | ConflictError)
    command = show_command(ticket.approval) if closed else vote_command(ticket.approval)
    title = "It is not known whether your vote was cast" if passes(error) else "Not cast"
    return refusal_view(error, title=title, command=command)

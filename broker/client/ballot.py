"""What is checked before anybody signs, and the statement that is signed. Pure: what it needs was fetched before.

An approving vote is for one exact content. It is signed only where the broker's text is the very text that this client
makes of the content itself. To deny, or to take one's own vote back, needs no such trust: no content becomes allowed by it,
and whoever is shown a false text must be able to say no.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from broker.client.approval_models import Approval, ChatAccount, Founding
from broker.client.history import Anchored
from broker.domain.approval import VoteDecision
from broker.domain.canonical import digest, parse_object
from broker.domain.founding import FoundingContent, FoundingKey, parse_content
from broker.domain.founding_text import check_texts
from broker.domain.rendering import render
from broker.domain.requirement import Channel
from broker.domain.statement import (
    AcceptanceStatement,
    SeenCheckpoint,
    VoteStatement,
    commitment,
    fresh_commit_salt,
)
from broker.errors import BrokerError, DataLossError, FailedPreconditionError, InvalidArgumentError
from broker.signing import Signer, verify
from broker.tlog.note import encode_base64

_MOST_ENVELOPE = 32 * 2**20
REASON, ACCOUNT = "reason", "account"
"""Kinds of ``commitment`` in a vote: of the reason's text, and of ``account_text``."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement's bytes, their signature, and the salt of what it commits to."""

    statement: bytes
    signature: bytes
    salt: bytes


@dataclass(frozen=True, slots=True)
class Voter:
    """In whose name, and where, a vote is signed."""

    person: str
    origin: str
    seen: Anchored | None


def check_content(approval: Approval) -> None:
    """Lets an approval pass whose content is what its digests and its text say.

    Raises:
        InvalidArgumentError: ``CONTENT_MISSING``: it comes from a list, or its content is no longer kept.
        DataLossError: ``DIGEST_DIFFERS``, ``CONTENT_DIFFERS`` (it is of another approval) or ``RENDERING_DIFFERS``.
    """
    if not approval.envelope or not approval.rendering:
        raise InvalidArgumentError(
            f"{approval.name} comes without its content, and nobody signs what they can't see",
            reason="CONTENT_MISSING",
            hint="Get it with get_approval; content is kept while the approval is open.",
        )
    for what, data, named in (
        ("content", approval.envelope, approval.envelope_digest),
        ("text", approval.rendering.encode(), approval.rendering_digest),
    ):
        if digest(data) != named:
            raise _lie(approval, f"its {what} has the digest {digest(data)}, and it says {named}", "DIGEST_DIFFERS")
    try:
        content = parse_object(approval.envelope, field="envelope", max_bytes=_MOST_ENVELOPE)
        text = render(content)
    except BrokerError as error:
        raise _lie(approval, f"its content can't be rendered here: {error.message}", "RENDERING_DIFFERS") from error
    if content.get("approval") != approval.id or content.get("kind") != approval.kind.value:
        raise _lie(approval, "its content is that of another approval", "CONTENT_DIFFERS")
    if text != approval.rendering:
        raise _lie(approval, "its text is not the one that this client makes of its content", "RENDERING_DIFFERS")


def sign_vote(
    approval: Approval,
    decision: VoteDecision,
    voter: Voter,
    signer: Signer,
    *,
    reason: str,
    now: datetime,
    account: ChatAccount | None = None,
) -> Signed:
    """Checks, and signs a vote; with ``account`` as a bot that attests it.

    Raises:
        BrokerError: as ``check_content``, for an approving vote; as ``check_signature``.
    """
    if decision is VoteDecision.APPROVE:
        check_content(approval)
    salt = fresh_commit_salt()
    statement = VoteStatement(
        origin=voter.origin,
        approval=approval.id,
        envelope_digest=approval.envelope_digest,
        rendering_digest=approval.rendering_digest,
        decision=decision,
        reason_commit=commitment(salt, REASON, reason),
        approver=voter.person,
        key=signer.id,
        time=now,
        checkpoint=_seen(voter.seen),
        channel=Channel.CLI if account is None else _channel(account),
        account_commit="" if account is None else commitment(salt, ACCOUNT, account_text(account)),
    ).encode()
    return Signed(statement, _sign(signer, statement), salt)


def sign_acceptance(founding: Founding, voter: Voter, signer: Signer, *, now: datetime) -> Signed:
    """Checks the founding against the ledger and all that it shows, and signs its acceptance.

    Raises:
        InvalidArgumentError: ``CONTENT_MISSING``.
        DataLossError: ``FOUNDING_INVALID``: it is not what its digest says, or not of this ledger.
        FailedPreconditionError: ``KEY_UNKNOWN``: the signer's key is not among its keys.
    """
    content = check_founding(founding, voter.seen)
    held = next((item.key for item in founding.founders if item.key.id == signer.id), None)
    if held is None or held.holder != voter.person or held.public_key != signer.public_key:
        raise FailedPreconditionError(
            f"the key {signer.id} is not among the founders'",
            reason="KEY_UNKNOWN",
            hint="Hand the operator your public key (`broker keys show`), and accept once it is enrolled.",
        )
    statement = AcceptanceStatement(
        origin=voter.origin,
        founding_digest=content.digest,
        approver=voter.person,
        key=signer.id,
        time=now,
        checkpoint=_seen(voter.seen),
    ).encode()
    return Signed(statement, _sign(signer, statement), b"")


def check_founding(founding: Founding, seen: Anchored | None) -> FoundingContent:
    """What a founding covers, if its digest is that of it, its texts are those that it names, and it is of the ledger that
    is proved. Until the rule is in force its founders must also be exactly those of the content.

    Raises:
        InvalidArgumentError: ``CONTENT_MISSING``: it came without its content.
        DataLossError: ``FOUNDING_INVALID``.
    """
    check_ledger(founding, seen)
    if not founding.content:
        raise InvalidArgumentError(
            "the founding comes without what it covers, and nobody signs what they can't see",
            reason="CONTENT_MISSING",
            hint="Get it with its content: get_founding().",
        )
    try:
        content = parse_content(founding.content)
        check_texts(content, founding.texts)
    except InvalidArgumentError as error:
        raise _unfit(error.message) from error
    if content.digest != founding.digest:
        raise _unfit(f"what it shows has the digest {content.digest}, and it says {founding.digest}")
    if content.genesis != founding.genesis_leaf.hex():
        raise _unfit("what it covers begins with another first entry than it says")
    keys = {FoundingKey(item.key.holder, item.key.id) for item in founding.founders}
    if not founding.complete and keys != set(content.approvers):
        raise _unfit("its founders are not those whom its digest covers")
    return content


def check_ledger(founding: Founding, seen: Anchored | None) -> None:
    """Lets a founding pass that is of the very ledger which is proved.

    Raises:
        DataLossError: ``FOUNDING_INVALID``.
    """
    if seen is not None and founding.origin != seen.checkpoint.origin:
        raise _unfit(f"it is of the ledger {founding.origin!a}, and the broker's is {seen.checkpoint.origin!a}")
    if seen is not None and seen.genesis_leaf and founding.genesis_leaf != seen.genesis_leaf:
        raise _unfit("it is of a ledger with another first entry than that which is proved")


def _unfit(why: str) -> DataLossError:
    return DataLossError(
        f"the broker's founding is not what it says: {why}",
        reason="FOUNDING_INVALID",
        hint="Nothing was signed. Ask the broker's operator, and the other founders.",
    )


def account_text(account: ChatAccount) -> str:
    """The one text of a chat account, for its commitment."""
    return f"{account.service}\n{account.team}\n{account.user}"


def _channel(account: ChatAccount) -> Channel:
    if account.service not in {item.value for item in Channel if item is not Channel.CLI}:
        raise InvalidArgumentError(f"{account.service!a} is no chat service", reason="CHANNEL_REFUSED")
    return Channel(account.service)


def _seen(anchored: Anchored | None) -> SeenCheckpoint | None:
    if anchored is None:
        return None
    return SeenCheckpoint(anchored.checkpoint.size, encode_base64(anchored.checkpoint.root))


def _sign(signer: Signer, data: bytes) -> bytes:
    signature = signer.sign(data)
    # A device that fails, or holds another key than it says, must not get a vote out that nobody can verify.
    if not verify(signer.public_key, signature, data):
        raise FailedPreconditionError(
            f"the signer's signature is not one by its key {signer.id}",
            reason="SIGNATURE_INVALID",
            hint="Nothing was sent. Check the key file or device.",
        )
    return signature


def _lie(approval: Approval, why: str, reason: str) -> DataLossError:
    return DataLossError(
        f"the broker's {approval.name} is not what it says: {why}",
        reason=reason,
        hint="Nothing was signed. If client and broker are of one version, tell the broker's operators and auditors; "
        "you can deny it all the same.",
    )

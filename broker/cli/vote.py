"""``broker approvals approve``, ``deny`` and ``withdraw``: one person's signed word about one exact action.

On a terminal all of the text is shown first. To approve, the reader types the last characters of its digest: there is no
``y`` that fingers learn by heart. A script says which text it means by ``--digest``.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from broker.cli.approval_view import LAST, approval_output, render_standing
from broker.cli.approvals import ApprovalArgument, fetch
from broker.cli.call_view import say
from broker.cli.output import emit, printable
from broker.cli.pager import page_through, read_line
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.cli.voter import AsOption, KeyOption, PassphraseOption, Person
from broker.client.approval_models import Approval
from broker.client.ballot import check_content
from broker.domain.approval import OPEN_STATES, VoteDecision
from broker.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from broker.settings import DEFAULT_STATE

ReasonOption = Annotated[str, typer.Option("--reason", help="Why; the requester sees it, and it is kept encrypted.")]
DigestOption = Annotated[
    str,
    typer.Option(
        "--digest",
        help="Digest of the text that you mean, or its last six characters; without a terminal it is needed.",
    ),
]
_TRIES = 3
_GIVEN = re.compile(r"(?:sha256:)?([0-9a-f]{64}|[0-9a-f]{6})")


@dataclass(frozen=True, slots=True)
class Ballot:
    """What was asked for, and as whom."""

    approval: str
    decision: VoteDecision
    person: Person
    remote: Remote
    digest: str
    reason: str
    as_json: bool


def approve(
    approval: ApprovalArgument,
    *,
    reason: ReasonOption = "",
    digest: DigestOption = "",
    who: AsOption = "",
    key: KeyOption = None,
    passphrase: PassphraseOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Approve one exact action with your own key, after a look at all of it.

    Example: broker approvals approve apv_01jx0000000000000000000000 --as ada
    """
    person = Person(who, key, passphrase)
    remote = Remote(address, person.identity(identity), ca, state)
    _vote(Ballot(approval, VoteDecision.APPROVE, person, remote, digest, reason, as_json))


def deny(
    approval: ApprovalArgument,
    *,
    reason: ReasonOption = "",
    digest: DigestOption = "",
    who: AsOption = "",
    key: KeyOption = None,
    passphrase: PassphraseOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Deny an action with your own key. One denial ends it, whoever has approved it.

    Example: broker approvals deny apv_01jx0000000000000000000000 --as ada --reason "wrong table"
    """
    person = Person(who, key, passphrase)
    remote = Remote(address, person.identity(identity), ca, state)
    _vote(Ballot(approval, VoteDecision.DENY, person, remote, digest, reason, as_json))


def withdraw(
    approval: ApprovalArgument,
    *,
    reason: ReasonOption = "",
    digest: DigestOption = "",
    who: AsOption = "",
    key: KeyOption = None,
    passphrase: PassphraseOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Take your own vote back, as long as the approval isn't used.

    Example: broker approvals withdraw apv_01jx0000000000000000000000 --as ada
    """
    person = Person(who, key, passphrase)
    remote = Remote(address, person.identity(identity), ca, state)
    _vote(Ballot(approval, VoteDecision.WITHDRAW, person, remote, digest, reason, as_json))


def _vote(ballot: Ballot) -> None:
    asked = sys.stdin.isatty() and sys.stdout.isatty() and not ballot.as_json
    if not ballot.digest and not asked:
        why = "is needed: there is no terminal on which the text could be shown"
        raise InvalidArgumentError(
            f"--digest {why}",
            reason="DIGEST_MISSING",
            hint=f"Look with `broker approvals show {ballot.approval}`, and give the digest of the text.",
            violations=(FieldViolation("--digest", why),),
        )
    found = ballot.remote.run(lambda broker: fetch(broker, ballot.approval, tuple(sorted(OPEN_STATES))))
    if ballot.decision is VoteDecision.APPROVE:
        check_content(found)
    reason = ballot.reason
    if ballot.digest:
        check_given(ballot.digest, found.rendering_digest, f"the text of {found.name}")
    else:
        reason = _ask(ballot, found)
    # The connection isn't held open while a person reads.
    signer = ballot.person.signer(ballot.remote)
    done = ballot.remote.run(lambda broker: broker.cast_vote(found, ballot.decision, signer=signer, reason=reason))
    emit(approval_output(done), as_json=ballot.as_json, render=render_standing)


def check_given(given: str, digest: str, what: str) -> None:
    """Lets what was given pass where it is the digest, or its last six characters; ``what`` has that digest.

    Raises:
        InvalidArgumentError: ``DIGEST_INVALID``: it is none.
        FailedPreconditionError: ``DIGEST_DIFFERS``: it is that of something else.
    """
    match = _GIVEN.fullmatch(given.lower())
    if match is None:
        why = "must be sha256: and 64 hexadecimal digits, or the last six of them"
        raise InvalidArgumentError(
            f"--digest {why}", reason="DIGEST_INVALID", violations=(FieldViolation("--digest", why),)
        )
    if not digest.endswith(match[1]):
        raise FailedPreconditionError(
            f"{what} has another digest than {given}",
            reason="DIGEST_DIFFERS",
            hint="Nothing was signed. Look at it again: what you have seen is not what it is now.",
        )


def _ask(ballot: Ballot, found: Approval) -> str:
    """Shows all of it, and asks; gives the reason."""
    text = found.rendering or "Its content is not shown to you, or no longer kept.\n"
    page_through(printable(text))
    sys.stdout.write("\n")
    render_standing(approval_output(found))
    if ballot.decision is VoteDecision.APPROVE:
        confirm("To approve", "the digest of the text", found.rendering_digest)
        return ballot.reason
    if ballot.decision is VoteDecision.DENY and not ballot.reason:
        return read_line("Why do you deny it? (Ctrl-C leaves it undecided) ")
    return ballot.reason


def confirm(what: str, of: str, digest: str) -> None:
    """Asks for the last characters of a digest, three times at the most.

    Raises:
        FailedPreconditionError: ``NOT_CONFIRMED``.
        typer.Abort: the terminal was closed.
    """
    for _ in range(_TRIES):
        given = read_line(f"{what}, type the last six characters of {of}: ")
        if given.lower() == digest[-LAST:]:
            return
        say(f"these are not the last six characters of {of}")
    raise FailedPreconditionError("nothing was signed", reason="NOT_CONFIRMED", hint="Look at it again.")

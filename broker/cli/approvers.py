"""``broker approvers``: who founded the two-person rule, whose keys count, and accepting what one knows to be true."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated

import typer

from broker.cli.call_view import print_fields, print_table, say, short_time
from broker.cli.output import ExitCode, OutputModel, console, emit, printable, report
from broker.cli.pager import page_through
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.cli.requests import ReasonOption, RequiredReason, answer
from broker.cli.vote import check_given, confirm
from broker.cli.voter import AsOption, KeyOption, PassphraseOption, Person
from broker.client import AsyncBroker
from broker.client.approval_models import Founding, VoterKey
from broker.client.ballot import check_founding
from broker.client.founding_memory import SETTLED
from broker.domain.founding_text import founding_text
from broker.errors import DataLossError, FieldViolation, InvalidArgumentError
from broker.settings import DEFAULT_STATE
from broker.tlog.note import NoteError, VerifierKey

app = typer.Typer(no_args_is_help=True, help="Whose votes count: the founding of the two-person rule, and keys.")


class VoterKeyOutput(OutputModel):
    """A key that votes (``bot``: attestations) are taken of; ``revoked`` is null while it counts."""

    id: str
    holder: str
    holder_name: str
    bot: bool
    public_key: str
    enrolled: datetime | None
    revoked: datetime | None


class VoterKeysOutput(OutputModel):
    """All keys, oldest first."""

    items: list[VoterKeyOutput]


class FounderOutput(OutputModel):
    """A founder's key, and whether its holder has accepted the founding as it is now."""

    key: VoterKeyOutput
    accepted: bool


class FoundingOutput(OutputModel):
    """The founding. ``covers`` is all that it covers, in words: what stands now, or what stood when it was completed.

    ``verified``: the digest is that of all this, and it is of the ledger that is proved. Once the rule is in force
    ``founders`` are the keys of now, which need not be those that it covers any more.

    ``accepted_here`` says whether this user has accepted this very founding; null where it was none. ``changed_here`` is
    what has changed since, by what this client remembers; ``changes`` what the broker says has changed since the people of
    ``voided`` accepted, who must look and sign again.
    """

    origin: str
    genesis_leaf: str
    digest: str
    founders: list[FounderOutput]
    accepted: int
    needed: int
    complete: bool
    verified: bool
    accepted_here: bool | None
    covers: str
    voided: list[str]
    changes: list[str]
    changed_here: list[str]


@app.command()
def founding(
    *,
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Show who founded the two-person rule, with which keys, who has accepted it, and all that it covers.

    Exit code 6 says that it is not the founding which was accepted here.

    Example: broker approvers founding --as ada
    """
    remote = Remote(address, Person(who).identity(identity), ca, state)
    shown, problem = remote.run(_look)
    emit(shown, as_json=as_json, render=_render_founding)
    if problem is not None:
        if not as_json:
            report(problem, as_json=False)
        raise typer.Exit(int(ExitCode.OURS))


async def _look(broker: AsyncBroker) -> tuple[FoundingOutput, DataLossError | None]:
    return await _judge(broker, await broker.show_founding())


async def _judge(broker: AsyncBroker, found: Founding) -> tuple[FoundingOutput, DataLossError | None]:
    """The founding as it is printed, and what is wrong with it."""
    problem: DataLossError | None = None
    here: bool | None = None
    try:
        here = await broker.compare_founding(found) or None
    except DataLossError as error:
        here, problem = False, error
    seen = await broker.newest_checkpoint()
    content, covers = None, ""
    try:
        content = check_founding(found, seen)
        covers = founding_text(content, found.texts, found.names)
    except DataLossError as error:
        problem = problem or error
    since = () if content is None else await broker.changes_since_accepted(found)
    return _output(found, verified=content is not None, here=here, covers=covers, since=since), problem


@app.command()
def accept(
    *,
    digest: Annotated[
        str,
        typer.Option(
            "--digest", help="Digest of the founding, or its last six characters; without a terminal it is needed."
        ),
    ] = "",
    who: AsOption = "",
    key: KeyOption = None,
    passphrase: PassphraseOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Sign that you know these founders and their keys, and agree to all that stands with them: everybody who is registered,
    the tools and tiers, the settings, the policy. Compare each key with its holder first, by another way.

    Whatever changes any of it before the rule is in force voids your signature; this says what changed. It is remembered here: a broker that later shows another founding is told from this one.

    Example: broker approvers accept --as ada
    """
    asked = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
    if not digest and not asked:
        why = "is needed: there is no terminal on which the founding could be shown"
        raise InvalidArgumentError(
            f"--digest {why}",
            reason="DIGEST_MISSING",
            hint="Look with `broker approvers founding`, compare each key with its holder, and give the founding's digest.",
            violations=(FieldViolation("--digest", why),),
        )
    person = Person(who, key, passphrase)
    remote = Remote(address, person.identity(identity), ca, state)

    async def look(broker: AsyncBroker) -> tuple[Founding, FoundingOutput, DataLossError | None]:
        found = await broker.show_founding()
        shown, problem = await _judge(broker, found)
        if problem is not None and (not asked or problem.metadata.get(SETTLED) != "no"):
            raise problem
        if not shown.verified:
            check_founding(found, await broker.newest_checkpoint())
        return found, shown, problem

    found, shown, problem = remote.run(look)
    if problem is not None:
        report(problem, as_json=False)
    if digest:
        check_given(digest, found.digest, "the founding")
    else:
        page_through(shown.covers)
        _render_founding(shown, covers=False)
        say("call each founder, and have them read out their key: only then is it theirs")
        confirm("To accept it", "the digest of the founding", found.digest)
    signer = person.signer(remote)
    done = remote.run(lambda broker: broker.accept_founding(found, signer=signer))
    here = done.digest == found.digest
    result = _output(done, verified=True, here=here, covers=shown.covers, since=())
    emit(result, as_json=as_json, render=lambda item: _render_founding(item, covers=False))


@app.command()
def keys(
    *,
    every: Annotated[bool, typer.Option("--all", help="Those that were revoked too.")] = False,
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """List the keys that votes are taken of, and those of the bots that attest votes.

    Example: broker approvers keys --as ada
    """

    async def work(broker: AsyncBroker) -> VoterKeysOutput:
        await broker.check_founding()
        found = await broker.list_voter_keys()
        return VoterKeysOutput(items=[_key_output(item) for item in found if every or item.revoked is None])

    remote = Remote(address, Person(who).identity(identity), ca, state)
    emit(remote.run(work), as_json=as_json, render=_render_keys)


@app.command()
def enroll(
    *,
    name: Annotated[str, typer.Argument(help="Whose key it is, by name.")],
    vkey: Annotated[str, typer.Argument(help="The key's text, as `broker keys new` or `broker keys show` printed it.")],
    bot: Annotated[bool, typer.Option("--bot", help="It is a bot's, which attests votes and casts none.")] = False,
    reason: ReasonOption = "",
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Ask for a key to be enrolled. The operator alone enrolls people's until the founding is complete; then two people agree.
    A bot's is enrolled after the founding only.

    Example: broker approvers enroll ada ada+1f2e3d4c+AZbD... --as olivia
    """
    try:
        named = VerifierKey.parse(vkey).name
    except NoteError as error:
        raise _wrong("VKEY", f"is no public key: {error}") from error
    if named != name:
        raise _wrong("VKEY", f"is the key of {named[:80]!a}, not of {name[:80]!a}")
    parameters = {"person": name, "vkey": vkey, "kind": "bot" if bot else "approver"}
    remote = Remote(address, Person(who).identity(identity), ca, state)
    answer(remote.run(lambda broker: broker.request_administration("key.enroll", parameters, reason)), as_json=as_json)


@app.command()
def revoke(
    *,
    key: Annotated[str, typer.Argument(help="The key's id, sha256:....")],
    reason: RequiredReason,
    who: AsOption = "",
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key at once: your own, or anybody's if you are an approver. Its votes count nowhere any more.

    Example: broker approvers revoke sha256:9f8e... --as ada --reason "laptop lost"
    """
    remote = Remote(address, Person(who).identity(identity), ca, state)
    found = remote.run(lambda broker: broker.revoke_voter_key(key, reason))
    emit(VoterKeysOutput(items=[_key_output(found)]), as_json=as_json, render=_render_keys)


def _key_output(item: VoterKey) -> VoterKeyOutput:
    return VoterKeyOutput(
        id=item.id,
        holder=item.holder,
        holder_name=item.holder_name,
        bot=item.bot,
        public_key=item.public_key.hex(),
        enrolled=item.enrolled,
        revoked=item.revoked,
    )


def _output(
    item: Founding, *, verified: bool, here: bool | None, covers: str, since: tuple[str, ...]
) -> FoundingOutput:
    return FoundingOutput(
        origin=item.origin,
        genesis_leaf=item.genesis_leaf.hex(),
        digest=item.digest,
        founders=[FounderOutput(key=_key_output(one.key), accepted=one.accepted) for one in item.founders],
        accepted=item.accepted,
        needed=item.needed,
        complete=item.complete,
        verified=verified,
        accepted_here=here,
        covers=covers,
        voided=list(item.voided),
        changes=[f"entry {one.seq}: {one.what}" for one in item.changes],
        changed_here=list(since),
    )


def _render_founding(item: FoundingOutput, *, covers: bool = True) -> None:
    here = {None: "no", True: "yes, this very one", False: "ANOTHER ONE WAS"}[item.accepted_here]
    if covers and item.covers:
        console.print(printable(item.covers), markup=False, highlight=False, soft_wrap=True)
    print_fields(
        {
            "ledger": item.origin,
            "first entry": item.genesis_leaf,
            "accepted by": f"{item.accepted} of at least {item.needed} people",
            "in force": "yes" if item.complete else "no: Tier 4 is shut",
            "verified": "yes" if item.verified else "NO",
            "accepted here": here,
        }
    )
    for founder in item.founders:
        accepted = "has accepted" if founder.accepted else "has not accepted"
        text = f"  {founder.key.holder_name} ({founder.key.holder}) {accepted}\n    key {founder.key.id}"
        console.print(printable(text), markup=False, soft_wrap=True, style="green" if founder.accepted else "yellow")
    if item.voided:
        _print_list(
            f"accepted before, and must look and sign again: {', '.join(item.voided)}. Since then:", item.changes
        )
    if item.changed_here:
        _print_list("what has changed since you accepted, by what is remembered here:", item.changed_here)
    console.print("digest of the founding  ", style="bold", end="")
    console.print(printable(item.digest[:-6]), markup=False, end="", soft_wrap=True)
    console.print(printable(item.digest[-6:]), markup=False, style="bold cyan", soft_wrap=True)


def _print_list(title: str, items: list[str]) -> None:
    console.print(printable(title), markup=False, soft_wrap=True, style="bold yellow")
    for item in items:
        console.print(printable(f"  {item}"), markup=False, highlight=False, soft_wrap=True)


def _render_keys(output: VoterKeysOutput) -> None:
    rows = [
        [
            item.holder_name,
            "bot" if item.bot else "approver",
            item.id,
            short_time(item.enrolled),
            f"revoked {short_time(item.revoked)}" if item.revoked is not None else "",
        ]
        for item in output.items
    ]
    print_table(["holder", "kind", "key", "enrolled", ""], rows)


def _wrong(field: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} {why}", reason="KEY_INVALID", violations=(FieldViolation(field, why),))

"""The operator with the database in hand changes who is who: whoever decides, or is kept out, is told from the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from broker.approvals.authority import Agreed
from broker.approvals.voting import cast
from broker.domain.administration import OWNER
from broker.domain.approval import Approval
from broker.domain.call import Lineage
from broker.domain.ports import Transaction
from broker.domain.requirement import Channel
from broker.errors import DataLossError, PermissionDeniedError
from broker.identity.registry import Registry
from tests.approval_core import AGENT, BOT, BY_CHAT, OPERATOR, Core, account_of, mapped_to, owner_act

Attack = Callable[[Core], None]


def changed(core: Core, action: Callable[[], object], reason: str) -> None:
    """It is refused, now and after a restart, because a row isn't what the ledger says."""
    for _ in range(2):
        with pytest.raises(DataLossError) as caught:
            action()
        assert caught.value.reason == reason, caught.value
        assert "broker ledger rebuild" in caught.value.hint
        core.restart()


def column(name: str, whose: str, to: str) -> Attack:
    """Changes a column of somebody's row; ``to`` is a name where the column holds an id."""

    def attack(core: Core) -> None:
        value = core.people[to].id if name in {"owner", "registrar"} else to
        core.sql(f"UPDATE identity SET {name} = ? WHERE id = ?", value, core.people[whose].id)  # noqa: S608 - our own names

    return attack


def exchange_names(core: Core) -> None:
    """The operator takes an approver's name, and with it the role."""
    for name, whose in (("nobody", "dan"), ("dan", OPERATOR), (OPERATOR, "dan")):
        core.sql("UPDATE identity SET name = ? WHERE id = ?", name, core.people[whose].id)


def revive(core: Core) -> None:
    """Whoever has been revoked is there again."""
    core.revoke_person("dan")
    core.sql("UPDATE identity SET revoked = NULL WHERE id = ?", core.people["dan"].id)


AGENTS: dict[str, Attack] = {
    "another owner": column("owner", AGENT, "dan"),
    "another registrar": column("registrar", AGENT, "dan"),
    "another kind": column("kind", AGENT, "human"),
    "another name": column("name", AGENT, "rover"),
}


@pytest.mark.parametrize("attack", AGENTS.values(), ids=AGENTS)
def test_an_agent_is_what_the_ledger_says_when_it_asks_when_people_vote_and_at_the_use(
    core: Core, attack: Attack
) -> None:
    """Else its owner would vote on what it asks for, as an outsider."""
    waits = core.ask()
    agreed = core.vote("bob", core.vote("ada", core.ask()))
    caller = core.caller(AGENT)
    attack(core)
    changed(core, lambda: core.ask(caller=caller), "IDENTITY_CHANGED")
    changed(core, lambda: core.vote("cyn", waits), "IDENTITY_CHANGED")
    changed(core, lambda: core.use(agreed), "IDENTITY_CHANGED")


PEOPLE: dict[str, tuple[str, Attack]] = {
    "another kind": ("dan", column("kind", "dan", "agent")),
    "a name that nobody has": ("dan", column("name", "dan", "dana")),
    "another's name": (OPERATOR, exchange_names),
    "revoked and there again": ("dan", revive),
}


@pytest.mark.parametrize(("who", "attack"), PEOPLE.values(), ids=PEOPLE)
def test_a_person_is_who_the_ledger_says_when_they_vote(core: Core, who: str, attack: Attack) -> None:
    asked = core.ask(excluded=())
    said = core.signed(core.statement(who, asked), core.signers[who])
    caller = core.caller(who)
    attack(core)
    changed(core, lambda: core.write(lambda tx: cast(tx, core.desk, caller, said)), "IDENTITY_CHANGED")


def test_names_are_exchanged_between_vote_and_use(core: Core) -> None:
    """Roles hang on names: the vote of whoever lost theirs would go on counting."""
    asked = core.vote("dan", core.vote("ada", core.ask()))
    core.approvers -= {"dan"}
    core.sql("UPDATE identity SET name = 'cynthia' WHERE id = ?", core.people["cyn"].id)
    core.sql("UPDATE identity SET name = 'cyn' WHERE id = ?", core.people["dan"].id)
    changed(core, lambda: core.use(asked), "IDENTITY_CHANGED")


def give_certificate(core: Core, of: str, to: str) -> None:
    """A certificate's row says that it is somebody else's."""
    mine = core.certificates[core.people[of].id].fingerprint
    core.sql("UPDATE certificate SET identity = ? WHERE fingerprint = ?", core.people[to].id, mine)


def test_a_vote_comes_under_a_certificate_that_was_issued_to_somebody_else(core: Core) -> None:
    asked = core.ask()
    said = core.signed(core.statement("ada", asked), core.signers["ada"])
    ada = core.people["ada"]
    caller = replace(core.caller("ada"), certificate=core.certificates[core.people[OPERATOR].id])
    give_certificate(core, OPERATOR, "ada")
    assert caller.identity == ada
    changed(core, lambda: core.write(lambda tx: cast(tx, core.desk, caller, said)), "CERTIFICATE_CHANGED")


def test_a_bots_word_comes_under_a_certificate_that_was_issued_to_an_agent(core: Core) -> None:
    asked = core.ask(requirement=BY_CHAT)
    said = core.attested("ada", asked)
    caller = replace(core.caller(BOT), certificate=core.certificates[core.people[AGENT].id])
    give_certificate(core, AGENT, BOT)
    changed(core, lambda: core.write(lambda tx: cast(tx, core.desk, caller, said)), "CERTIFICATE_CHANGED")


def test_a_certificate_is_of_another_key(core: Core) -> None:
    asked, mine = core.ask(), core.certificates[core.people["ada"].id]
    core.sql("UPDATE certificate SET public_key_der = ? WHERE fingerprint = ?", b"another", mine.fingerprint)
    changed(core, lambda: core.vote("ada", asked), "CERTIFICATE_CHANGED")


def test_a_certificate_that_was_revoked_is_there_again(core: Core) -> None:
    asked, mine = core.ask(), core.certificates[core.people["ada"].id]
    registry, by = Registry(core.desk.recorder, core.local.vault), core.people[OPERATOR].id
    core.write(
        lambda tx: registry.revoke_certificate(
            tx, identity=mine.identity, fingerprint=mine.fingerprint, by=by, reason="lost", now=core.now
        )
    )
    core.sql("UPDATE certificate SET revoked = NULL WHERE fingerprint = ?", mine.fingerprint)
    changed(core, lambda: core.vote("ada", asked), "CERTIFICATE_CHANGED")


def lineage_of(core: Core, **changes: str) -> Lineage:
    """The agent's, as its row has it."""
    agent = core.people[AGENT]
    return replace(Lineage(agent.id, agent.owner, agent.registrar, agent.owner), **changes)


def test_a_delegation_is_the_word_of_whose_certificate_signed_it(core: Core) -> None:
    """Bob delegates; the row of his certificate says that it is cyn's, so that she is kept out and not he."""
    lineage = lineage_of(core, on_behalf_of=core.people["cyn"].id)
    core.read(lambda tx: core.desk.rows(tx).lineage(lineage))
    give_certificate(core, "bob", "cyn")
    changed(core, lambda: core.read(lambda tx: core.desk.rows(tx).lineage(lineage)), "CERTIFICATE_CHANGED")


@pytest.mark.parametrize("member", ["owner", "registrar"])
def test_a_lineage_is_the_one_that_the_ledger_names(core: Core, member: str) -> None:
    lineage = lineage_of(core, **{member: core.people["ada"].id})
    changed(core, lambda: core.read(lambda tx: core.desk.rows(tx).lineage(lineage)), "IDENTITY_CHANGED")


def account_of_another(core: Core) -> None:
    """Dan's account is made ada's: what he writes in the chat would be her vote."""
    core.sql("DELETE FROM chat_account WHERE person = ?", core.people["ada"].id)
    core.sql("UPDATE chat_account SET person = ? WHERE person = ?", core.people["ada"].id, core.people["dan"].id)


def account_with_anothers_entry(core: Core) -> None:
    """And it names the entry that mapped hers."""
    seq = core.read(lambda tx: tx.voters.accounts(person=core.people["ada"].id))[0].seq
    account_of_another(core)
    core.sql("UPDATE chat_account SET seq = ? WHERE person = ?", seq, core.people["ada"].id)


def account_put_back(core: Core) -> None:
    """Two people had it taken away, and the row is there again."""
    service, team, user = account_of("dan")
    row = core.read(lambda tx: tx.voters.account(service, team, user))
    assert row is not None
    core.administrate("account.unmap", ("ada", "bob"), service=service, team=team, user=user)
    core.sql("INSERT INTO chat_account VALUES (?, ?, ?, ?, ?)", service, team, user, row.person, row.seq)


ACCOUNTS: dict[str, tuple[str, Attack]] = {
    "is given to another": ("ada", account_of_another),
    "is given to another with their entry": ("ada", account_with_anothers_entry),
    "was taken away": ("dan", account_put_back),
}


@pytest.mark.parametrize(("person", "attack"), ACCOUNTS.values(), ids=ACCOUNTS)
def test_a_chat_account_is_whose_the_ledger_says(core: Core, person: str, attack: Attack) -> None:
    asked = core.ask(requirement=BY_CHAT)
    attack(core)
    core.later()

    def vote() -> Approval:
        said = core.statement(person, asked, key=core.signers[BOT].id, channel=Channel.SLACK)
        return core.give(BOT, core.signed(said, core.signers[BOT], account=account_of("dan")))

    changed(core, vote, "ACCOUNT_CHANGED")


def test_without_an_attack_each_of_them_is_believed(core: Core) -> None:
    """The tests above would pass where nothing is believed at all."""
    core.administrate(
        "account.unmap", ("ada", "bob"), service="slack", team=account_of("dan")[1], user=account_of("dan")[2]
    )
    core.administrate("account.map", ("ada", "bob"), **{**mapped_to("dan"), "user": "U0ANEW"})
    asked = core.ask(requirement=BY_CHAT)
    core.later()
    said = core.statement("dan", asked, key=core.signers[BOT].id, channel=Channel.SLACK)
    core.give(BOT, core.signed(said, core.signers[BOT], account=("slack", account_of("dan")[1], "U0ANEW")))
    core.vote("bob", asked)
    core.restart()
    core.use(asked)


def test_whoever_owns_the_agent_by_now_has_no_vote_either(core: Core) -> None:
    """They are told so when they vote, and not only at the use."""
    asked = core.ask()

    def work(tx: Transaction, approval: str) -> None:
        agreed = Agreed(OWNER, {"agent": AGENT, "owner": "dan"}, approval)
        agent, owner, by = (core.people[name].id for name in (AGENT, "dan", OPERATOR))
        Registry(core.desk.recorder, core.local.vault, agreed).change_owner(
            tx, agent=agent, owner=owner, by=by, now=core.now
        )

    core.by_people(OWNER, work, ("ada", "cyn"), about="dan", act=owner_act(core, AGENT, "dan"))
    with pytest.raises(PermissionDeniedError) as caught:
        core.vote("dan", asked)
    assert caught.value.reason == "VOTER_IN_LINEAGE"
    core.vote("cyn", asked)

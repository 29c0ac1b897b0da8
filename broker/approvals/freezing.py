"""Freezes: anybody who may approve stops things at once; two people let them go on."""

from __future__ import annotations

from datetime import UTC, datetime

from broker.approvals.founding import check_approver
from broker.domain.approval import Freeze, FreezeScope
from broker.domain.canonical import JsonObject
from broker.domain.identity import Caller, IdentityKind
from broker.domain.ids import NAME_PATTERN
from broker.domain.ports import Recorder, Transaction
from broker.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError, NotFoundError


def freeze(
    tx: Transaction, recorder: Recorder, caller: Caller, *, scope: FreezeScope, target: str, now: datetime
) -> Freeze:
    """Freezes; what is frozen already stays as it is.

    Args:
        tx: a writing transaction.
        recorder: the ledger.
        caller: the human who does it.
        scope: what is frozen.
        target: name of the agent, tool or workspace; empty for all.
        now: the time, UTC.

    Raises:
        PermissionDeniedError: ``NOT_AN_APPROVER``.
        InvalidArgumentError, NotFoundError: the target is none.
    """
    check_approver(tx, caller)
    which = target_id(tx, scope, target)
    known = next((item for item in tx.freezes.all() if item.scope is scope and item.target == which), None)
    if known is not None:
        return known
    body: JsonObject = {"scope": scope.value, "target": which, "by": caller.identity.id, "at": now.isoformat()}
    seq = recorder.append(tx, "frozen", body)
    made = Freeze(scope, which, caller.identity.id, now, seq)
    tx.freezes.freeze(made)
    return made


def unfreeze(tx: Transaction, recorder: Recorder, *, scope: FreezeScope, target: str, by: str, approval: str) -> None:
    """Ends a freeze; ``target`` is a name.

    Raises:
        FailedPreconditionError: nothing of the kind is frozen (``NOT_FROZEN``).
    """
    which = target_id(tx, scope, target)
    if all((item.scope, item.target) != (scope, which) for item in tx.freezes.all()):
        raise FailedPreconditionError(f"{scope.value} {target} is not frozen".replace("  ", " "), reason="NOT_FROZEN")
    recorder.append(tx, "unfrozen", {"scope": scope.value, "target": which, "by": by, "approval": approval})
    tx.freezes.unfreeze(scope, which)


def target_id(tx: Transaction, scope: FreezeScope, target: str) -> str:
    """What a freeze is kept under: an agent's id, or the name itself.

    Raises:
        InvalidArgumentError: the target is missing, or one too many.
        NotFoundError: there is no such agent.
    """
    if scope is FreezeScope.ALL:
        if target:
            raise _bad_target("must be empty: all is frozen")
        return ""
    if scope is FreezeScope.AGENT:
        agent = tx.identities.by_name(IdentityKind.AGENT, target) or tx.identities.get(target)
        if agent is None or agent.kind is not IdentityKind.AGENT:
            raise NotFoundError(f"there is no agent {target[:64]!a}", reason="IDENTITY_UNKNOWN")
        return agent.id
    fits = NAME_PATTERN.fullmatch(target) if scope is FreezeScope.WORKSPACE else 0 < len(target) < 128
    if not fits:
        raise _bad_target("must name it")
    return target


def frozen(
    tx: Transaction, *, agent: str, tool: str, workspace: str, known: frozenset[tuple[str, str]] = frozenset()
) -> Freeze | None:
    """The freeze that holds up a call, if there is one: in the table, or ``known`` from the ledger; ``agent`` by id."""
    found = tx.freezes.all()  # most times there is none
    if known:
        never = datetime.min.replace(tzinfo=UTC)
        found = [*found, *(Freeze(FreezeScope(scope), target, "", never, -1) for scope, target in sorted(known))]
    return next((item for item in found if covers(item, agent=agent, tool=tool, workspace=workspace)), None)


def check_frozen(
    tx: Transaction,
    *,
    agent: str,
    tool: str,
    workspace: str,
    known: frozenset[tuple[str, str]] = frozenset(),
) -> None:
    """Lets a call pass that no freeze holds up: neither one in the table, nor one that is ``known`` from the ledger.

    Raises:
        FailedPreconditionError: ``FROZEN``.
    """
    found = frozen(tx, agent=agent, tool=tool, workspace=workspace, known=known)
    if found is not None:
        raise FailedPreconditionError(
            f"{in_words(found)}: nothing of it starts",
            reason="FROZEN",
            hint="Two people end a freeze: broker unfreeze --help",
            metadata={"scope": found.scope.value},
        )


def covers(freeze: Freeze, *, agent: str, tool: str, workspace: str) -> bool:
    """Does a freeze hold up such a call?"""
    match freeze.scope:
        case FreezeScope.ALL:
            return True
        case FreezeScope.AGENT:
            return freeze.target == agent
        case FreezeScope.TOOL:
            return freeze.target == tool
        case FreezeScope.WORKSPACE:
            return freeze.target == workspace


def in_words(freeze: Freeze) -> str:
    """What is frozen, for a person."""
    what = "everything" if freeze.scope is FreezeScope.ALL else f"{freeze.scope.value} {freeze.target}"
    since = f" since {freeze.since.isoformat(timespec='seconds')}" if freeze.seq >= 0 else ", says the ledger"
    return f"{what} is frozen{since}"


def _bad_target(why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"target {why}", violations=(FieldViolation("target", why),))

"""The workflow of a call: known, approved in its present version, and wide enough for the call."""

from __future__ import annotations

from collections.abc import Iterable

from broker.domain.call import CallContext
from broker.domain.ports import Transaction
from broker.domain.tier import WORKFLOW_REQUIRED_FROM, Tier
from broker.domain.workflow import WorkflowSpec, outside
from broker.errors import FailedPreconditionError, FieldViolation, PermissionDeniedError
from broker.pipeline.parts import Parts

_FIELD = "tool_call.context.workflow"


def approved_workflow(tx: Transaction, parts: Parts, name: str) -> WorkflowSpec | None:
    """The version of a workflow that a call may run under now; ``None`` where the call names none.

    Raises:
        PermissionDeniedError: ``WORKFLOW_UNKNOWN``, ``WORKFLOW_NOT_APPROVED``.
        DataLossError: the ledger knows of no approval of it (``AGREEMENT_DIFFERS``).
    """
    if not name:
        return None
    workflow = parts.workflows.get(name)
    if workflow is None:
        raise _refuse(
            f"there is no workflow {name[:64]!r}",
            "WORKFLOW_UNKNOWN",
            "Name one that ListWorkflows shows, or have it put into the broker's folder of workflows.",
        )
    version = workflow.digest()
    if tx.workflows.get(name, version) is None:
        raise _refuse(
            f"workflow {name} is not approved in its present version {version}",
            "WORKFLOW_NOT_APPROVED",
            f"Ask the people of its tier: broker workflows submit {name}",
        )
    parts.desk.agreement.check_workflow(tx, name, version)
    return workflow


def check_named(workflow: WorkflowSpec | None, tier: Tier, *, field: str = _FIELD) -> None:
    """Lets pass what runs under a workflow, or below Tier 4: code holds that floor, whatever the table of tiers says.

    Raises:
        FailedPreconditionError: ``WORKFLOW_REQUIRED``; names the field.
    """
    if workflow is None and tier >= WORKFLOW_REQUIRED_FROM:
        why = f"names no workflow, and what is of tier {int(tier)} runs under an approved one"
        raise FailedPreconditionError(
            f"{field} {why}",
            reason="WORKFLOW_REQUIRED",
            violations=(FieldViolation(field, why),),
            hint="Name one; ListWorkflows shows which are approved.",
        )


def check_inside(workflow: WorkflowSpec, *, context: CallContext, tool: str, data_classes: Iterable[str]) -> None:
    """Lets a call pass that stays inside its workflow.

    Raises:
        PermissionDeniedError: ``OUTSIDE_WORKFLOW``; names each field.
    """
    found = outside(workflow, context=context, tool=tool, data_classes=data_classes)
    if found:
        raise PermissionDeniedError(
            f"{found[0].field} {found[0].description}: outside workflow {workflow.name}",
            reason="OUTSIDE_WORKFLOW",
            violations=found,
            hint="Call within the workflow, or have a version of it approved that covers this.",
            metadata={"workflow": workflow.name, "rule": "workflow"},
        )


def _refuse(message: str, reason: str, hint: str) -> PermissionDeniedError:
    return PermissionDeniedError(
        message,
        reason=reason,
        hint=hint,
        violations=(FieldViolation(_FIELD, message),),
        metadata={"rule": "workflow"},
    )

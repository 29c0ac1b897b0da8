"""Checks of a request that read nothing but the request and the tool's specification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from broker.domain.call import CallRequest, Decision, InputFile
from broker.domain.canonical import canonical, digest
from broker.domain.identity import Caller
from broker.domain.ports import VaultRow
from broker.domain.tier import Tier
from broker.errors import FieldViolation, InvalidArgumentError, PermissionDeniedError
from broker.pipeline.journal import MAX_DATA_CLASSES
from broker.specs.catalogue import Tool

_MAX_PATH_DEPTH = 16


def request_digest(request: CallRequest) -> str:
    """Digest of all that a request says, its id apart: what makes two requests the same."""
    context = request.context
    return digest(
        canonical(
            {
                "tool": request.tool,
                "version": request.tool_version,
                "arguments": request.arguments,
                "files": [[item.path, item.blob, item.executable] for item in request.files],
                "context": [
                    context.workspace,
                    context.workflow,
                    context.purpose,
                    context.session,
                    context.delegation,
                    context.model,
                    context.prompt_version,
                    [[item.uri, item.digest] for item in context.sources],
                    context.feature,
                    context.team,
                    list(context.data_classes),
                    *([context.runbook] if context.runbook else []),
                ],
            },
        ),
    )


def tool_tier(tool: Tool | None) -> Tier:
    """The tier of a tool; an unknown one is asked about at the highest."""
    return Tier.AUTONOMOUS if tool is None else tool.spec.risk


def with_hold(decision: Decision, tool: Tool | None) -> Decision:
    """The policy's word on a tool that runs at a higher tier than it asks for: it says why, and so does the record."""
    if tool is None or not tool.held:
        return decision
    return replace(
        decision,
        reason=f"{decision.reason} ({tool.spec.name} runs at tier {tool.spec.tier}: {tool.held})",
        inputs={**decision.inputs, "tier_held": tool.held},
    )


def check_carried(missing: Sequence[str], tier: Tier) -> None:
    """Lets a call pass that says of itself what its tier demands.

    Raises:
        InvalidArgumentError: ``CONTEXT_MISSING``; names each field.
    """
    if missing:
        why = f"is required at tier {int(tier)}"
        raise InvalidArgumentError(
            f"tool_call.context.{missing[0]} {why}",
            reason="CONTEXT_MISSING",
            violations=tuple(FieldViolation(f"tool_call.context.{name}", why) for name in missing),
            hint="tool_specs/tiers.yaml says what a call of each tier must carry.",
            metadata={"tier": str(int(tier))},
        )


class PolicyDeniedError(PermissionDeniedError):
    """The policy refused a call; ``decision`` is its word, with all that it read."""

    decision: Decision


def denied(caller: Caller, tool: str, workspace: str, decision: Decision) -> PolicyDeniedError:
    """The refusal of a call by the policy."""
    error = PolicyDeniedError(
        f"{caller.subject} may not call {tool} in workspace {workspace}: {decision.reason}",
        reason="POLICY_DENIED",
        hint=f"`broker policy explain --agent {caller.identity.name} --tool {tool} --workspace {workspace}` "
        "shows each rule; ask the workspace's owner for a rule that allows it.",
        metadata={"rule": decision.rule, "policy_digest": decision.policy_digest, "tool": tool},
    )
    error.decision = decision
    return error


def check_paths(tool: Tool, files: tuple[InputFile, ...]) -> None:
    """Lets as many relative, plain paths pass as the tool takes, each once and none below another.

    Raises:
        InvalidArgumentError: names the file's field.
    """
    most = tool.spec.files.max_input_files
    if len(files) > most:
        raise _too_many(f"{len(files)} files; {tool.spec.name} takes at most {most}")
    seen: set[str] = set()
    for index, item in enumerate(files):
        path = PurePosixPath(item.path)
        parts = item.path.split("/")
        clean = item.path and not path.is_absolute() and len(parts) <= _MAX_PATH_DEPTH
        if not clean or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
            raise _file_error(index, "path", "must be a relative path without empty, `.` or `..` parts", item.path)
        if item.path in seen:
            raise _file_error(index, "path", "stands twice", item.path)
        seen.add(item.path)
    for index, item in enumerate(files):
        if any(str(parent) in seen for parent in PurePosixPath(item.path).parents):
            raise _file_error(index, "path", "lies below a path that is a file itself", item.path)


def _file_error(index: int, field: str, why: str, value: str) -> InvalidArgumentError:
    where = f"tool_call.files[{index}].{field}"
    return InvalidArgumentError(
        f"{where} {why}: {value!r}", reason="INVALID_FILE", violations=(FieldViolation(where, why),)
    )


def check_sizes(tool: Tool, blobs: tuple[VaultRow, ...]) -> None:
    """Lets as many bytes pass as the tool takes.

    Raises:
        InvalidArgumentError: too many.
    """
    total, most = sum(blob.size for blob in blobs), tool.spec.files.max_input_bytes
    if total > most:
        raise _too_many(f"files of {total} bytes together; {tool.spec.name} takes at most {most}")


def check_classes(classes: tuple[str, ...]) -> None:
    """Lets as many classes of data pass as an entry of the ledger has room for.

    Raises:
        InvalidArgumentError: too many.
    """
    if len(classes) > MAX_DATA_CLASSES:
        field = "tool_call.context.data_classes"
        why = f"{len(classes)} with those of the tool, the workspace and the files; the limit is {MAX_DATA_CLASSES}"
        raise InvalidArgumentError(
            f"{field}: {why}",
            reason="DATA_CLASSES_TOO_MANY",
            violations=(FieldViolation(field, why),),
            hint="Split the call, or label its files with fewer classes.",
        )


def _too_many(why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"tool_call.files: {why}", reason="TOO_MANY_FILES", violations=(FieldViolation("tool_call.files", why),)
    )

"""What is about to run: profile and job of a call, and the envelope that says all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.domain.call import CallRequest, Decision, InputFile, Lineage
from broker.domain.canonical import parse_object
from broker.domain.container_facts import ContainerFacts
from broker.domain.envelope import envelope
from broker.domain.ports import VaultRow
from broker.domain.run import Job, JobFile, Profile
from broker.domain.tier import Tier
from broker.errors import FieldViolation, InvalidArgumentError
from broker.pipeline.blobs import Blobs
from broker.pipeline.parts import Parts
from broker.pipeline.tree_inputs import TreeInputs
from broker.sandbox.job_frames import frame_digest
from broker.sandbox.jobs import check_job
from broker.specs.catalogue import Tool


@dataclass(frozen=True, slots=True)
class Plan:
    """The container's profile, the job in it, and what its input files must be."""

    profile: Profile
    job: Job
    file_digests: Mapping[str, str]
    """Path -> ``sha256:`` digest of an input file as the vault has it now. The bytes that go into the container are held
    to it before the tool starts."""
    tree: TreeInputs | None = None
    """What it gets of its workspace, and may change there."""


def plan_job(
    parts: Parts,
    blobs: Blobs,
    *,
    tool: Tool,
    arguments_bytes: bytes,
    files: Sequence[InputFile],
    rows: Sequence[VaultRow],
    tree: TreeInputs | None = None,
) -> Plan:
    """Profile and job of a call, from the tool's present specification, the kept arguments and files, and what it is given
    of its workspace.

    Raises:
        InvalidArgumentError: the job doesn't fit the tool's sandbox; names the request's field.
    """
    job_files = tuple(
        JobFile(item.path, row.size, executable=item.executable, open=_opener(blobs, row), digest=row.digest)
        for item, row in zip(files, rows, strict=True)
    )
    arguments = parse_object(arguments_bytes, field="arguments", max_bytes=len(arguments_bytes))
    step = None if tree is None else tree.step
    job = tool.spec.job(arguments, arguments_bytes, job_files, tool.files, step)
    plan = Plan(
        profile=tool.profile(parts.images[tool.spec.image]),
        job=job if tree is None else tree.added_to(job, parts.objects),
        file_digests={item.path: row.digest for item, row in zip(files, rows, strict=True)},
        tree=tree,
    )
    try:
        check_job(plan.job, plan.profile.limits)
    except InvalidArgumentError as error:
        raise _in_request(error) from error
    return plan


def _opener(blobs: Blobs, row: VaultRow) -> Callable[[], AsyncIterator[bytes]]:
    return lambda: blobs.unchecked(row)


def _in_request(error: InvalidArgumentError) -> InvalidArgumentError:
    # The sandbox names the job's fields; all but its files come from the arguments.
    fields = [item.field for item in error.violations]
    where = [f"tool_call.{field}" if field.startswith("files") else "arguments" for field in fields]
    return InvalidArgumentError(
        f"the call doesn't fit the tool's sandbox: {error.message}",
        reason=error.reason,
        violations=tuple(
            FieldViolation(field, item.description) for field, item in zip(where, error.violations, strict=True)
        ),
        hint="Give fewer or smaller files or arguments; GetTool shows the tool's limits.",
    )


def seal_envelope(
    call_id: str,
    *,
    request: CallRequest,
    lineage: Lineage,
    tool: Tool,
    plan: Plan,
    container: ContainerFacts,
    tier: Tier,
    decision: Decision,
    expires: datetime,
    salt: str,
) -> bytes:
    """The envelope's RFC 8785 bytes, with the digests of the files that the plan reads and of the frames that its job makes.

    ``container`` is what the engine has to report for the call's container, or does report for it.
    """
    return envelope(
        call_id=call_id,
        request=request,
        lineage=lineage,
        tool_version=tool.digest,
        profile=plan.profile,
        job=plan.job,
        file_digests=plan.file_digests,
        container=container,
        job_frame_digest=frame_digest(plan.job),
        tier=tier,
        decision=decision,
        expires=expires,
        salt=salt,
        tree=None if plan.tree is None else plan.tree.bound(),
    )

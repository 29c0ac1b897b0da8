"""What is about to run: profile and job of a call, and the envelope that says all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.domain.call import CallRequest, Decision, InputFile, Lineage
from broker.domain.canonical import parse_object
from broker.domain.envelope import envelope
from broker.domain.ports import VaultRow
from broker.domain.run import Job, JobFile, Profile
from broker.pipeline.blobs import Blobs
from broker.pipeline.parts import Parts
from broker.specs.catalogue import Tool


@dataclass(frozen=True, slots=True)
class Plan:
    """The container's profile and the job in it."""

    profile: Profile
    job: Job


def plan_job(
    parts: Parts,
    blobs: Blobs,
    *,
    tool: Tool,
    arguments_bytes: bytes,
    files: Sequence[InputFile],
    rows: Sequence[VaultRow],
) -> Plan:
    """Profile and job of a call, from the tool's present specification and the kept arguments and files."""
    job_files = tuple(
        JobFile(path=item.path, size=row.size, executable=item.executable, open=_opener(blobs, row.id))
        for item, row in zip(files, rows, strict=True)
    )
    arguments = parse_object(arguments_bytes, field="arguments", max_bytes=len(arguments_bytes))
    return Plan(
        profile=tool.spec.profile(parts.images[tool.spec.image]),
        job=tool.spec.job(arguments, arguments_bytes, job_files, tool.files),
    )


def _opener(blobs: Blobs, blob_id: str) -> Callable[[], AsyncIterator[bytes]]:
    return lambda: blobs.content(blob_id)


def seal_envelope(
    call_id: str,
    *,
    request: CallRequest,
    lineage: Lineage,
    tool: Tool,
    plan: Plan,
    file_digests: Mapping[str, str],
    decision: Decision,
    expires: datetime,
) -> bytes:
    """The envelope's RFC 8785 bytes."""
    return envelope(
        call_id=call_id,
        request=request,
        lineage=lineage,
        tool_version=tool.digest,
        profile=plan.profile,
        job=plan.job,
        file_digests=file_digests,
        tier=tool.spec.risk,
        decision=decision,
        expires=expires,
    )

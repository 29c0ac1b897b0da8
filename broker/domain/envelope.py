"""The envelope: all that decides what a call will do, in one byte form that can be hashed, recorded and signed."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby

import msgspec

from broker.domain.call import CallRequest, Decision, Lineage
from broker.domain.canonical import JsonObject, canonical, digest
from broker.domain.container_facts import ContainerFacts, facts_bytes
from broker.domain.run import EgressRule, Job, Limits, Profile
from broker.domain.tier import Tier
from broker.errors import InternalError

FORMAT = "broker.envelope.v4"
"""First field of every envelope; another set of fields gets another name."""

_SALT_BYTES = 32
_SALT = re.compile(r"[0-9a-f]{64}")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_REMEMBERED = 1024


def envelope(
    *,
    call_id: str,
    request: CallRequest,
    lineage: Lineage,
    tool_version: str,
    profile: Profile,
    job: Job,
    file_digests: Mapping[str, str],
    container: ContainerFacts,
    job_frame_digest: str,
    tier: Tier,
    decision: Decision,
    expires: datetime,
    salt: str,
    tree: JsonObject | None = None,
) -> bytes:
    """The RFC 8785 bytes of a call's envelope; ``envelope_digest`` of them is what is recorded.

    The executor makes it again from the very ``job`` and ``profile`` that it is about to run, and compares.
    The digest stands in the ledger for good, so the salt is in what it covers: once the kept envelope is erased, nobody
    can test the digest against guesses of the arguments.

    Args:
        call_id: id of the call.
        request: the request, with the caller's claims.
        lineage: who stands behind it.
        tool_version: digest of the specification in force.
        profile: image digest, runtime, limits, and the hosts that the tool may reach, each with the secret that goes there.
        job: kind of run, argument vector, code, environment, files, what comes out, and the ports on its loopback.
        file_digests: path of each input file -> ``sha256:...`` of its bytes. The files of a tree have their own.
        container: what the engine has to report for a container of this profile; at use, what it does report for the very
            container that the job goes to.
        job_frame_digest: ``sha256:...`` of the bytes by which the job is handed over, files aside.
        tier: the tier at which it runs.
        decision: what the policy said: effect and rule, not the digest of the whole policy, so that an unrelated edit
            voids nothing.
        expires: when the envelope may no longer be used.
        salt: 64 hexadecimal digits from ``fresh_salt``, made for this call and kept in its envelope alone.
        tree: from which state of its workspace the job's tree is, and what it takes back; ``None`` for a tool that gets none.

    Raises:
        InternalError: a file of the job has no digest or another, a digest has no file, the job's arguments aren't the request's,
            ``expires`` has no time zone, or ``salt`` or ``job_frame_digest`` isn't one.
    """
    if not _SALT.fullmatch(salt):
        raise InternalError("an envelope needs a salt of 32 bytes", reason="ENVELOPE_INVALID")
    if not _SHA256.fullmatch(job_frame_digest):
        raise InternalError("an envelope needs the digest of its job's frames", reason="ENVELOPE_INVALID")
    if expires.tzinfo is None:
        raise InternalError("an envelope's expiry needs a time zone", reason="ENVELOPE_INVALID")
    given = [file for file in job.files if file.mode is None]
    if {file.path for file in given} != set(file_digests) or len(file_digests) != len(given):
        raise InternalError("the job's files and their digests don't match", reason="ENVELOPE_INVALID")
    if any(file.digest not in ("", file_digests[file.path]) for file in given):
        raise InternalError("a file of the job is held to another digest", reason="ENVELOPE_INVALID")
    if job.arguments != request.arguments_bytes or canonical(request.arguments) != request.arguments_bytes:
        raise InternalError("the job's arguments are not the request's", reason="ENVELOPE_INVALID")
    context = request.context
    content: dict[str, object] = {
        "format": FORMAT,
        "salt": salt,
        "call_id": call_id,
        "workspace": context.workspace,
        "workflow": context.workflow,
        "lineage": {**asdict(lineage), "proofs": list(lineage.proofs)},
        "tool": {"name": request.tool, "spec_digest": tool_version},
        "arguments": request.arguments,
        "arguments_digest": digest(job.arguments),
        "files": [
            {
                "path": file.path,
                "digest": file_digests[file.path],
                "size": file.size,
                "executable": file.executable,
            }
            for file in sorted(given, key=lambda file: file.path)
        ],
        "image_digest": profile.image,
        "run": {
            "kind": job.kind,
            "argv": list(job.argv),
            "code_digest": digest(job.code.encode("utf-8")),
            "environment": {"names": sorted(job.env), "digest": digest(canonical(dict(job.env)))},
            "outputs": {**asdict(job.outputs), "patterns": list(job.outputs.patterns)},
            "wants_result": job.wants_result,
            "proxy": job.proxy,
            "forwards": list(job.forwards),
            **_tree(job),
        },
        "runtime": profile.runtime,
        "egress": [_rule(rule) for rule in profile.egress],
        "job_frame_digest": job_frame_digest,
        "tier": int(tier),
        "decision": {
            "effect": "allow" if decision.allowed else "deny",
            "rule": decision.rule,
        },
        "expires": expires.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    if tree is not None:
        content["tree"] = tree
    return _joined(content, {"container": facts_bytes(container), "limits": _limits_bytes(profile.limits)})


def _tree(job: Job) -> JsonObject:
    """What a job's tree adds; a job without one has no such member."""
    files: list[JsonObject] = [
        {"path": file.path, "digest": file.digest, "size": file.size, "mode": file.mode}
        for file in job.files
        if file.mode is not None
    ]
    links: list[JsonObject] = [{"path": link.path, "target": link.target} for link in job.links]
    if job.tree is None:
        if files or links:
            raise InternalError("a job without a tree has files or links of one", reason="ENVELOPE_INVALID")
        return {}
    return {
        "tree": {
            "patterns": list(job.tree.patterns),
            "max_changes": job.tree.max_changes,
            "max_bytes": job.tree.max_bytes,
            "files": len(files),
            "links": len(links),
            "digest": digest(canonical(sorted([*files, *links], key=lambda entry: str(entry["path"])))),
        }
    }


def _joined(content: Mapping[str, object], ready: Mapping[str, bytes]) -> bytes:
    """The RFC 8785 bytes of ``content`` with further members, whose values have these bytes; keys are plain ASCII."""
    pieces = []
    for name, keys in groupby(sorted({*content, *ready}), lambda key: key if key in ready else ""):
        if name:
            pieces.append(b'"%b":%b' % (name.encode("ascii"), ready[name]))
        else:
            pieces.append(canonical({key: content[key] for key in keys})[1:-1])
    return b"{%b}" % b",".join(pieces)


@lru_cache(_REMEMBERED)
def _limits_bytes(limits: Limits) -> bytes:
    # Floats take the slow way to canonical bytes, and few limits serve all calls.
    return canonical(asdict(limits))


def _rule(rule: EgressRule) -> JsonObject:
    secret = rule.secret
    return {
        "kind": rule.kind.value,
        "host": rule.host,
        "port": rule.port,
        "methods": list(rule.methods),
        "paths": list(rule.paths),
        "listen": rule.listen,
        "secret": None if secret is None else {"name": secret.name, "header": secret.header, "prefix": secret.prefix},
        **({"database": rule.database, "user": rule.user} if rule.database or rule.user else {}),
        **({"record_bytes": rule.record_bytes} if rule.record_bytes else {}),
    }


def fresh_salt() -> str:
    """32 random bytes in hexadecimal."""
    return secrets.token_hex(_SALT_BYTES)


class _Salted(msgspec.Struct):
    salt: str


class _Framed(msgspec.Struct):
    job_frame_digest: str


def frame_digest_of(data: str) -> str:
    """The digest in an envelope's text of the frames that hand its job over.

    Raises:
        InternalError: there is none.
    """
    try:
        return msgspec.json.decode(data, type=_Framed).job_frame_digest
    except msgspec.DecodeError as error:
        raise InternalError("the kept envelope has no digest of its job's frames", reason="ENVELOPE_INVALID") from error


def salt_of(data: str) -> str:
    """The salt in an envelope's text; empty where there is none."""
    try:
        return msgspec.json.decode(data, type=_Salted).salt
    except msgspec.DecodeError:
        return ""


def envelope_digest(data: bytes) -> str:
    """``sha256:`` of an envelope's bytes."""
    return digest(data)

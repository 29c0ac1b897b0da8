"""The bodies of the ledger's entries about calls. Pure; people and agents appear as ids, texts as commitments.

An entry that could grow beyond the ledger's limit would be refused when it matters most, after the effect. So nothing here
has a length that a caller, a tool or a policy can drive up: each text is bounded on its way in, lists are given by number
and commitment (the list itself lies sealed with the call), and data classes by ``MAX_DATA_CLASSES``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from broker.domain.call import CallContext, Decision, Lineage
from broker.domain.canonical import MAX_SAFE_INTEGER, JsonObject, JsonValue, canonical, digest
from broker.domain.events import AppliedEffect, KeptRecording, Outcome, StoredRequest
from broker.domain.hosts import authority
from broker.domain.planned import Planned
from broker.domain.ports import CallRow, SealedObject
from broker.domain.run import EgressRecord, EgressRule, EgressVerdict, StreamSummary
from broker.domain.tier import Tier

MAX_DATA_CLASSES = 64
"""Most classes of data that one call may touch, from all sources together."""
MAX_EGRESS_ITEMS = 24
"""Most hosts that an outcome's entry names; a specification has 32 rules, and each may end in several ways."""
_MAX_INPUT = 1024
"""Bytes of one attribute that a decision read, as it stands in an entry."""
_TELLING = (EgressVerdict.SECRET_ECHOED, EgressVerdict.ALLOWED)
"""Verdicts that are named before others where there is no room for all."""


def request_body(
    row: CallRow,
    request: StoredRequest,
    image_digest: str,
    sealed: SealedObject,
    *,
    egress: Iterable[EgressRule],
) -> JsonObject:
    """What every entry about one call says of it; ``egress`` are the hosts that its specification lets it reach."""
    context = request.context
    return {
        "call_id": row.id,
        **_context(context, request.workflow_digest),
        "purpose_commit": sealed.commit("purpose", context.purpose.encode()),
        "args_commit": sealed.commit("arguments", request.arguments_json.encode()),
        "files_commit": sealed.commit("files", canonical(request.file_digests)),
        "lineage": lineage_body(request.lineage),
        "data_classes": list(request.data_classes),
        "tool": {"name": row.tool, "version": row.tool_version, "image_digest": image_digest},
        "tier": row.tier,
        "envelope_digest": row.envelope_digest,
        # At most as many as a specification may have, each of bounded length.
        "egress_allowed": list(dict.fromkeys(f"{rule.kind} {authority(rule.host, rule.port)}" for rule in egress)),
    }


def _context(context: CallContext, workflow_digest: str) -> JsonObject:
    return {
        "workspace": context.workspace,
        "workflow": {"id": context.workflow, "version": workflow_digest},
        "model": context.model,
        "prompt_version": context.prompt_version,
        "feature": context.feature,
        "team": context.team,
    }


def lineage_body(lineage: Lineage) -> JsonObject:
    """Ids, ``unproven`` where nothing proves who started the agent's work."""
    return {
        "owner": lineage.owner,
        "registrar": lineage.registrar,
        "starter": lineage.starter or "unproven",
        "on_behalf_of": lineage.on_behalf_of,
        "proofs": list(lineage.proofs),
    }


def decision_body(decision: Decision, subject_id: str) -> JsonObject:
    """The decision with every attribute that it read; the subject's name gives way to its id."""
    inputs: dict[str, JsonValue] = {name: _bounded(text) for name, text in decision.inputs.items()}
    inputs["subject"] = subject_id
    return {
        "policy": {
            "digest": decision.policy_digest,
            "rule": decision.rule,
            "decision": "allow" if decision.allowed else "deny",
            "inputs": inputs,
        },
    }


def _bounded(text: str) -> JsonValue:
    # Only a caller's roles can be longer, as many as the policy gives; its text is on record under its own digest.
    data = text.encode()
    return text if len(data) <= _MAX_INPUT else {"bytes": len(data), "digest": digest(data)}


def refusal_body(
    *, reason: str, rule: str, obj: str, workspace: str, tier: Tier, owner: str, policy: JsonObject | None = None
) -> JsonObject:
    """A refused request: no call came of it.

    ``policy`` is what ``decision_body`` gives, where the policy refused it; ``None`` where something else did, and where
    the request names what an agent made up.
    """
    return {
        "workspace": workspace,
        "tool": {"name": obj},
        "tier": int(tier),
        "lineage": {"owner": owner},
        "refused": {"reason": reason, "rule": rule},
        **({} if policy is None else policy),
    }


def outcome_body(row: CallRow, outcome: Outcome, ended: datetime, sealed: SealedObject) -> JsonObject:
    """How a call ended; ``intent_seq`` is -1 where it never started."""
    return {
        "call_id": row.id,
        "workspace": row.workspace,
        "tool": {"name": row.tool, "version": row.tool_version},
        "tier": row.tier,
        "intent_seq": -1 if row.intent_seq is None else row.intent_seq,
        "outcome": {
            "state": row.state.value,
            "cause": outcome.cause.value,
            "cause_source": outcome.cause_source.value,
            "exit_code": outcome.exit_code,
            "signal": outcome.signal,
            "detail_commit": sealed.commit("detail", outcome.detail.encode()),
            "wall_us": round(outcome.wall_s * 1e6),
            "cpu_us": None if outcome.cpu_s is None else round(outcome.cpu_s * 1e6),
            "memory_peak_bytes": outcome.memory_peak_bytes,
            "oom_kills": outcome.oom_kills,
            "warnings": len(outcome.warnings),
            "ended": ended.isoformat(),
        },
        "output": {
            "stdout": _summary(outcome.stdout, sealed),
            "stderr": _summary(outcome.stderr, sealed),
            "result_commit": sealed.commit("result", outcome.result_json.encode()),
            "files": len(outcome.files),
            "files_bytes": sum(item.size for item in outcome.files),
            "files_commit": sealed.commit("files", canonical({f.path: [f.blob, f.digest] for f in outcome.files})),
        },
        "egress": egress_body(outcome.egress, sealed),
        "artifacts": _artifacts(outcome),
        **({} if outcome.effect is None else {"effect": _effect(outcome.effect)}),
        **({} if outcome.recording is None else {"recording": _recording(outcome.recording)}),
    }


def _artifacts(outcome: Outcome) -> list[JsonValue]:
    kept: list[JsonValue] = [] if outcome.effect is None else [outcome.effect.artifact]
    return kept if outcome.recording is None else [*kept, outcome.recording.artifact]


def _recording(kept: KeptRecording) -> JsonObject:
    return {
        "artifact": kept.artifact,
        "exchanges": kept.exchanges,
        "missed": kept.missed,
        "bytes": kept.size,
        "whole": kept.whole,
    }


def _effect(effect: AppliedEffect) -> JsonObject:
    # States and effect are digests over something that nobody can guess: a tree's or a call's own random bytes.
    return {
        "before": effect.before,
        "after": effect.after,
        "digest": effect.digest,
        "artifact": effect.artifact,
        "added": effect.added,
        "changed": effect.changed,
        "removed": effect.removed,
        "undoes": list(effect.undoes),
    }


def plan_outcome_body(row: CallRow, planned: Planned, bound: JsonObject, sealed: SealedObject) -> JsonObject:
    """What a run on a copy came to. ``bound`` says by which digests the effect is known."""
    outcome = planned.outcome
    return {
        "call_id": row.id,
        "workspace": row.workspace,
        "tool": {"name": row.tool, "version": row.tool_version},
        "tier": row.tier,
        "effect": bound,
        "rehearsed": planned.rehearsed,
        "reversibility": "exact" if planned.outside is None else planned.outside.reversibility,
        "outcome": {
            "cause": outcome.cause.value,
            "exit_code": outcome.exit_code,
            "wall_us": round(outcome.wall_s * 1e6),
            "warnings": len(outcome.warnings),
        },
        "output": {
            "stdout": _summary(outcome.stdout, sealed),
            "stderr": _summary(outcome.stderr, sealed),
            "files": len(outcome.files),
        },
        **({} if planned.outside is None else {"egress": egress_body(outcome.egress, sealed)}),
    }


def egress_body(records: Iterable[EgressRecord], sealed: SealedObject) -> list[JsonValue]:
    """Hosts that a rule lists, by name. Others are the tool's own words, which may be anything: those of one verdict
    become one item whose host is ``?``, with their number and a commitment to the list of them.
    """
    ranked = sorted(records, key=lambda item: (not item.listed, item.verdict not in _TELLING))
    # A sum of what has no row of its own has no host, even where a listed one is in it.
    named = [item for item in ranked if item.listed and item.host][:MAX_EGRESS_ITEMS]
    others: dict[EgressVerdict, list[EgressRecord]] = {}
    for item in (item for item in ranked if item not in named):
        others.setdefault(item.verdict, []).append(item)
    return [
        *({"host": item.host, "port": item.port, "kind": item.kind.value, **_traffic([item])} for item in named),
        *(
            {"host": "?", "hosts": len(items), "hosts_commit": _hosts_commit(items, sealed), **_traffic(items)}
            for items in others.values()
        ),
    ]


def _traffic(items: list[EgressRecord]) -> JsonObject:
    return {
        "verdict": items[0].verdict.value,
        "count": _total(item.count for item in items),
        "sent": _total(item.sent_bytes for item in items),
        "received": _total(item.received_bytes for item in items),
    }


def _total(numbers: Iterable[int]) -> int:
    # A number that JSON can't hold would keep the outcome off the record.
    return min(sum(numbers), MAX_SAFE_INTEGER)


def _hosts_commit(items: list[EgressRecord], sealed: SealedObject) -> str:
    return sealed.commit("egress", canonical([[item.host, item.port, item.kind.value] for item in items]))


def _summary(summary: StreamSummary | None, sealed: SealedObject) -> JsonValue:
    if summary is None:
        return None
    return {
        "commit": sealed.commit("output", summary.digest.encode()),
        "bytes": summary.total_bytes,
        "kept": summary.kept_bytes,
        "truncated": summary.truncated,
    }

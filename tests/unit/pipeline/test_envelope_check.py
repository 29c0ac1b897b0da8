"""Right before a call runs, its envelope is made again from the very plan: whatever differs, nothing runs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, cast

import pytest

from broker.domain.call import CallState
from broker.domain.canonical import digest
from broker.domain.container_facts import ContainerFacts
from broker.domain.run import Job, Profile
from broker.domain.tier import Tier
from broker.errors import FailedPreconditionError, InternalError
from broker.pipeline.active import ActiveCall
from broker.pipeline.feed import Feed
from broker.pipeline.plan import Plan, seal_envelope
from broker.pipeline.start import Begun, Starter
from tests.unit.pipeline.test_entry_sizes import REQUEST, ROW
from tests.unit.specs import test_envelope as parts

ARGUMENTS = b'{"a":1}'
STORED = dataclasses.replace(
    REQUEST,
    tool=parts.BASE["request"].tool,
    arguments_json=ARGUMENTS.decode(),
    files=(),
    file_digests=parts.BASE["file_digests"],
    lineage=parts.BASE["lineage"],
    decision=parts.BASE["decision"],
    expires=parts.BASE["expires"],
)
PLAN = Plan(parts.BASE["profile"], parts.BASE["job"], parts.BASE["file_digests"])
NOBODY: Any = None


class _Tool:
    """Of the catalogue's tool, the envelope reads these alone."""

    digest = "sha256:spec"

    class spec:  # noqa: N801 - an attribute by its name
        risk = Tier.INTERNAL


class _OtherTool(_Tool):
    digest = "sha256:other"


def admitted(**changes: Any) -> ActiveCall:  # noqa: ANN401 - fields of several types
    """A call that was admitted under ``PLAN``, and what is kept of it changed since."""
    request = dataclasses.replace(STORED, context=dataclasses.replace(STORED.context, workspace="lab", workflow="w"))
    wire = dataclasses.replace(
        parts.BASE["request"], context=request.context, arguments_bytes=ARGUMENTS, tool=request.tool
    )
    sealed = seal_envelope(
        ROW.id,
        request=wire,
        lineage=request.lineage,
        tool=cast("Any", _Tool),
        plan=PLAN,
        container=parts.CONTAINER,
        tier=Tier(ROW.tier),
        decision=request.decision,
        expires=request.expires,
        salt="5a" * 32,
    )
    request = dataclasses.replace(request, envelope=sealed.decode())
    row = dataclasses.replace(ROW, state=CallState.QUEUED, envelope_digest=digest(sealed))
    tool = changes.pop("tool_now", _Tool)
    return ActiveCall(
        row=row,
        request=dataclasses.replace(request, **changes),
        tool=tool,
        feed=Feed(0),
        clock=NOBODY,
    )


def check(
    active: ActiveCall, plan: Plan, container: ContainerFacts | None = parts.CONTAINER, envelope: bytes = b""
) -> None:
    Starter(NOBODY, NOBODY)._check_envelope(active, Begun(plan, NOBODY, envelope), container)


def refused(active: ActiveCall, plan: Plan, container: ContainerFacts = parts.CONTAINER) -> list[str]:
    """The fields that the refusal names."""
    with pytest.raises(FailedPreconditionError) as caught:
        check(active, plan, container)
    error = caught.value
    assert error.reason == "ENVELOPE_CHANGED"
    assert error.metadata["expected"] == active.row.envelope_digest
    assert error.metadata["found"] != error.metadata["expected"]
    assert f"{error.metadata['found']} instead of {error.metadata['expected']}" in error.message
    fields = error.metadata["fields"].split(",")
    assert not fields[0] or f": {fields[0]} differs" in error.message
    return fields


def profiles() -> list[Profile]:
    base = PLAN.profile
    rule = base.egress[0]
    assert rule.secret is not None
    rules = [
        *(dataclasses.replace(rule, **{name: value}) for name, value in parts.RULES.items()),
        *(
            dataclasses.replace(rule, secret=dataclasses.replace(rule.secret, **{name: value}))
            for name, value in parts.SECRETS.items()
        ),
    ]
    return [
        *(dataclasses.replace(base, **{name: value}) for name, value in parts.PROFILES.items()),
        *(
            dataclasses.replace(base, limits=dataclasses.replace(base.limits, **{name: value}))
            for name, value in parts.LIMITS.items()
        ),
        *(dataclasses.replace(base, egress=(changed, *base.egress[1:])) for changed in rules),
    ]


def jobs() -> list[Job]:
    base = PLAN.job
    return [
        *(dataclasses.replace(base, **{name: value}) for name, value in parts.JOBS.items()),
        *(
            dataclasses.replace(base, outputs=dataclasses.replace(base.outputs, **{name: value}))
            for name, value in parts.OUTPUTS.items()
        ),
    ]


CHANGED = [
    *(dataclasses.replace(PLAN, profile=profile) for profile in profiles()),
    *(dataclasses.replace(PLAN, job=job) for job in jobs()),
    dataclasses.replace(PLAN, file_digests={"a.csv": "sha256:other"}),
]


def test_what_was_admitted_may_run() -> None:
    check(admitted(), PLAN)


def test_what_was_sealed_in_the_step_that_admits_is_not_made_again() -> None:
    active = admitted()
    check(active, PLAN, None, envelope=active.request.envelope.encode())
    with pytest.raises(FailedPreconditionError, match="not what was admitted"):
        check(active, PLAN, None, envelope=b"{}")


def test_where_people_agreed_or_a_container_was_looked_at_it_is_made_again() -> None:
    active = admitted()
    sealed = active.request.envelope.encode()
    with pytest.raises(FailedPreconditionError, match="not what was admitted"):
        check(active, PLAN, dataclasses.replace(parts.CONTAINER, user="0:0"), envelope=sealed)
    active.approval = "apr_1"
    with pytest.raises(FailedPreconditionError, match="not what was admitted"):
        check(active, CHANGED[0], parts.CONTAINER, envelope=sealed)


@pytest.mark.parametrize("plan", CHANGED, ids=[str(number) for number in range(len(CHANGED))])
def test_another_plan_may_not(plan: Plan) -> None:
    assert refused(admitted(), plan)[0]


@pytest.mark.parametrize("facts", parts.all_facts(), ids=[str(number) for number in range(len(parts.all_facts()))])
def test_another_container_may_not(facts: ContainerFacts) -> None:
    fields = refused(admitted(), PLAN, facts)
    assert len(fields) == 1
    assert fields[0].startswith("container.")


def test_the_refusal_names_the_field() -> None:
    assert refused(admitted(), PLAN, dataclasses.replace(parts.CONTAINER, user="0:0")) == ["container.user"]
    other_argv = dataclasses.replace(PLAN, job=dataclasses.replace(PLAN.job, argv=("/bin/echo", "y")))
    assert refused(admitted(), other_argv) == ["job_frame_digest", "run.argv[1]"]
    other_file = dataclasses.replace(PLAN, file_digests={"a.csv": "sha256:other"})
    assert refused(admitted(), other_file) == ["files[a.csv].digest"]


def test_of_many_fields_the_first_are_named() -> None:
    active = admitted()
    active.request = dataclasses.replace(active.request, envelope=json.dumps({"salt": "5a" * 32}))
    other = dataclasses.replace(PLAN, file_digests={"a.csv": "sha256:other"})
    fields = refused(active, other)
    assert len(fields) == 8
    assert fields[:2] == ["arguments", "arguments_digest"]


def test_where_only_the_recorded_digest_differs_no_field_is_named() -> None:
    active = admitted()
    active.row = dataclasses.replace(active.row, envelope_digest=f"sha256:{'0' * 64}")
    assert refused(active, PLAN) == [""]


@pytest.mark.parametrize(
    "changes",
    [
        {"tool": "demo.other"},
        {"tool_now": _OtherTool},
        {"lineage": dataclasses.replace(STORED.lineage, starter="hum_9")},
        {"decision": dataclasses.replace(STORED.decision, rule="r2")},
        {"expires": STORED.expires.replace(microsecond=0)},
        {"context": dataclasses.replace(STORED.context, workspace="live", workflow="w")},
    ],
    ids=str,
)
def test_another_request_may_not(changes: dict[str, Any]) -> None:
    assert refused(admitted(**changes), PLAN)[0]


def test_arguments_that_the_job_does_not_have_may_not() -> None:
    with pytest.raises(InternalError) as caught:
        check(admitted(arguments_json='{"a":2}'), PLAN)
    assert caught.value.reason == "ENVELOPE_INVALID"

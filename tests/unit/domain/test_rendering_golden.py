"""The very text of each kind, which people get used to and clients compare byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.domain.canonical import JsonObject
from broker.domain.rendering import render, summary
from tests.approval_envelopes import approval_envelope, database_envelope

VECTORS = Path(__file__).parents[2] / "vectors" / "rendering"

HARD: JsonObject = {
    "bidi": "a\u202eb",
    "caf\u00e9": ["\u65e5\u672c\u8a9e", {"deep": [[], {}]}],
    "long": "0123456789" * 20,
    "quoted": 'a "b" \\ c\nd\te',
}
CASES: dict[str, JsonObject] = {
    "call": approval_envelope(arguments=HARD, files={"run.sh": "#!/bin/sh\n\techo  hi \n", "empty": ""}),
    "workflow": approval_envelope("WORKFLOW"),
    "administration": approval_envelope("ADMINISTRATION"),
    "runbook": approval_envelope("RUNBOOK"),
    "review": approval_envelope("REVIEW"),
    "database": database_envelope(),
}


@pytest.mark.parametrize("name", CASES)
def test_the_text_is_the_one_on_file(name: str) -> None:
    assert render(CASES[name]) == (VECTORS / f"{name}.txt").read_text(encoding="utf-8")


def test_the_summaries() -> None:
    assert [summary(envelope) for envelope in CASES.values()] == [
        "CALL, files.write, in ops, tier 4, asked by agent:scout",
        "WORKFLOW, night-shift, in -, tier 4, asked by agent:scout",
        "ADMINISTRATION, policy.change, night-shift, in -, tier 4, asked by agent:scout",
        "RUNBOOK, files.write, in ops, tier 4, asked by agent:scout",
        "REVIEW, policy.change, night-shift, in -, tier 4, asked by agent:scout",
        "CALL, files.write, in ops, tier 4, asked by agent:scout",
    ]

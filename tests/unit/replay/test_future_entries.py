"""A bundle from a later release: entries of types and with members that nobody here knows are filed, listed, and break nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.domain.canonical import JsonObject
from broker.ledger.bundle_format import Selection
from broker.ledger.entry import ENTRY_TYPES
from broker.ledger.verify_bundle import verify
from broker.replay.packed import open_packed
from tests.bundle_world import World, bundle_world, fill

LATER = "agent.dreamt"
ODD: dict[str, JsonObject] = {
    LATER: {"call_id": "call_3", "session": "ses_1", "dream": {"of": ["sheep", {"electric": True}], "depth": 3}},
    "decision": {"call_id": "call_odd", "policy": ["by", "dice"], "tier": "highest", "mood": "calm", "lineage": None},
    "outcome": {"call_id": "call_odd", "outcome": "it depends", "egress": [{"host": 7, "verdict": "MAYBE"}, "?"]},
    "approval.requested": {
        "approval": {"id": "apv_odd", "requirement": {"people": "some"}, "kind": "SEANCE"},
        "tier": None,
    },
    "vote": {"approval": {"id": "apv_odd"}, "vote": {"statement": "by hand", "number": 1}, "person": 3},
    "erased": {"ids": {"all": True}, "subject": "the past", "name": "yes"},
    "policy.changed": {"policy_digest": {"blake3": "00"}, "before": None, "sensitive": "a little"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch, bundle_world(tmp_path_factory.mktemp("later")) as world:
        patch.setattr("broker.ledger.ledger.ENTRY_TYPES", ENTRY_TYPES | {LATER})
        fill(world)
        for kind, body in ODD.items():
            world.append(kind, body, "agt_a")
        world.publish()
        yield world


def test_what_is_not_known_is_filed_and_listed(world: World, tmp_path: Path) -> None:
    path = tmp_path / "later.zip"
    world.export(path, Selection(agent="agt_a"))
    report = verify(str(path))
    assert (report["verdict"], report["types"][LATER]) == ("ok", 1)
    with open_packed(path) as (casebook, _):
        assert casebook.mark.sound
        found = casebook.rows("SELECT seq, type, call FROM entry ORDER BY seq")
        assert len(found) == report["entries"]
        later = [(seq, call) for seq, kind, call in found if casebook.text(kind) == LATER]
        assert len(later) == 1
        assert casebook.one("SELECT name FROM call WHERE id = ?", later[0][1]) == ("call_3",)
        assert casebook.entry(later[0][0]).body["dream"] == ODD[LATER]["dream"]
        odd = casebook.one("SELECT state, path FROM call WHERE name = 'call_odd'")
        assert odd is not None
        assert casebook.one("SELECT name FROM approval WHERE name = 'apv_odd'") == ("apv_odd",)


def test_a_whole_ledger_of_a_later_release(world: World, tmp_path: Path) -> None:
    path = tmp_path / "whole.zip"
    world.export(path)
    with open_packed(path) as (casebook, names):
        # What it can't judge it doesn't call good: the entries are there, and the mark says what is wrong with the votes.
        assert casebook.mark.verdict == "votes invalid"
        assert casebook.one("SELECT count(*) FROM entry") == (casebook.mark.entries,)
        assert names.find("agt_a") == ""

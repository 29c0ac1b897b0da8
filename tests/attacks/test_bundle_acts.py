"""Bundles of a ledger whose broker lies: about what a tool may do, and about what an approval was for."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.domain.canonical import JsonObject, canonical, digest
from broker.domain.ports import Transaction
from broker.domain.tool_standing import surface
from broker.ledger import verify_bundle
from broker.specs.catalogue import Catalogue
from broker.specs.shipped import shipped_folder
from tests.attacks.test_bundle_votes import Told
from tests.bundle_world import FILES, SPEC, bundle_world, hashed_spec
from tests.votes_world import ADA, APPROVAL, BOB, DAN, EVE, envelope_of, key_act

EXAMPLES = Path(__file__).parents[2] / "examples" / "tool_specs"


def test_both_make_one_surface_of_a_specification() -> None:
    tools = [*Catalogue.load([shipped_folder()]).all(), *Catalogue.load([EXAMPLES]).all()]
    assert {bool(tool.spec.egress) for tool in tools} == {True, False}
    assert {tool.spec.planned for tool in tools} == {True, False}
    for tool in tools:
        spec = tool.spec.normalised()
        files = {name: digest(data) for name, data in tool.files.items()}
        text = canonical({"format": "broker.tool-spec.v1", "spec": spec, "files": dict(files)})
        assert digest(text) == tool.digest
        assert verify_bundle.surface_of(text.decode()) == surface(spec, tool.files)


@pytest.mark.parametrize("honest", [True, False])
def test_a_surface_that_is_not_the_specifications(tmp_path: Path, honest: bool) -> None:  # noqa: FBT001 - a parameter
    right = surface(SPEC, {name: text.encode() for name, text in FILES.items()})
    with bundle_world(tmp_path) as world:
        world.keep_texts()
        tool: JsonObject = {"name": "files.read", "version": digest(hashed_spec())}
        which = right if honest else digest(b"that of something harmless, which was accepted")
        world.append("spec.registered", {"tool": tool, "tier": 1, "declared": 1, "surface": which})
        world.publish()
        world.export(tmp_path / "full.zip")
    report = verify_bundle.verify(str(tmp_path / "full.zip"))
    if honest:
        assert (report["verdict"], report["texts"]["specs"]) == ("ok", 1), report["place"]
    else:
        assert (report["verdict"], report["place"]["seq"], report["place"]["field"]) == ("votes invalid", 1, "surface")


@pytest.mark.parametrize("signed", [EVE, DAN])
def test_an_act_that_is_not_the_one_which_people_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signed: str
) -> None:
    envelope = canonical({"action": {"name": "key.enroll", "act": key_act(signed)}})
    monkeypatch.setattr("tests.votes_world.envelope_of", lambda _: digest(envelope))
    assert envelope_of(APPROVAL) != digest(envelope)

    def shown(_: Transaction, approval: str) -> JsonObject:
        rendering = f"rendering of {approval}"
        return {"approval": approval, "envelope": envelope.decode(), "rendering": rendering, "votes": {}}

    with bundle_world(tmp_path) as world:
        story = Told(world, tmp_path / "broker.db").found()
        votes = story.agree("key.enroll", key_act(EVE), ADA, BOB)
        story.enrol(EVE, approval=APPROVAL)
        story.close(*votes)
        world.publish()
        world.export(tmp_path / "full.zip", approvals=shown)
    report = verify_bundle.verify(str(tmp_path / "full.zip"))
    assert report["votes"]["found"] == 0, "the entries alone don't show it"
    if signed == EVE:
        assert report["verdict"] == "ok", report["place"]
    else:
        assert (report["verdict"], report["place"]["field"]) == ("votes invalid", "envelope")

"""A specification comes back out of what is kept of it, in the same version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker.domain.canonical import canonical
from broker.domain.spec import ToolSpec
from broker.specs.catalogue import Catalogue

REPOSITORY = Path(__file__).parents[3]
FOLDERS = (REPOSITORY / "tool_specs", REPOSITORY / "examples" / "tool_specs")
TOOLS = {tool.spec.name: tool for folder in FOLDERS for tool in Catalogue.load([folder]).all()}


@pytest.mark.parametrize("name", TOOLS)
def test_every_shipped_specification_comes_back(name: str) -> None:
    tool = TOOLS[name]
    kept = json.loads(canonical(tool.spec.normalised()))
    again = ToolSpec.of_normalised(kept)
    assert again == tool.spec
    assert again.digest(tool.files) == tool.digest
    assert again.egress_rules == tool.spec.egress_rules

"""The JSON Schemas by which editors complete and check what operators write, made from the models.

``python -m broker.specs.schema tool_specs`` writes them; a test compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from broker.domain.spec import ToolSpec
from broker.domain.workflow import WorkflowSpec
from broker.specs.schemas import DIALECT
from broker.specs.tiers import Tiers

SCHEMAS: Mapping[str, tuple[type[BaseModel], str]] = MappingProxyType(
    {
        "schema.json": (ToolSpec, "Tool specification of the broker"),
        "tiers.schema.json": (Tiers, "Risk tiers of the broker"),
        "workflow.schema.json": (WorkflowSpec, "Workflow of the broker"),
    }
)
"""File name -> the model that its schema is made from, and the schema's title."""


def _without_nulls(schema: dict[str, Any]) -> dict[str, Any]:
    # An absent key and ``null`` are the same to the model; editors should offer only the first.
    forms = [form for form in schema.get("anyOf", ()) if form != {"type": "null"}]
    if len(forms) == 1:
        schema = {**{key: value for key, value in schema.items() if key != "anyOf"}, **forms[0]}
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in schema.items()
        if not (key == "default" and value is None)
    }


def schema_text(name: str) -> str:
    """The schema of a file of ``SCHEMAS`` as text, the same for the same model."""
    model, title = SCHEMAS[name]
    schema = {"$schema": DIALECT, **_without_nulls(model.model_json_schema()), "title": title}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def main() -> None:
    """Writes all schemas into the folder that the only argument names."""
    for name in SCHEMAS:
        (Path(sys.argv[1]) / name).write_text(schema_text(name), "utf-8")


if __name__ == "__main__":
    main()

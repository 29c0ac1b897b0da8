"""The JSON Schema by which editors complete and check specifications, made from the model.

``python -m broker.specs.schema > tool_specs/schema.json`` writes it; a test compares.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from broker.domain.spec import ToolSpec
from broker.specs.schemas import DIALECT


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


def schema_text() -> str:
    """The schema as text, the same for the same model."""
    schema = {
        "$schema": DIALECT,
        **_without_nulls(ToolSpec.model_json_schema()),
        "title": "Tool specification of the broker",
    }
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())

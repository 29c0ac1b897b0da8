"""The runner's own modules, as they lie in the images."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

_SANDBOXES = Path(__file__).parents[3] / "sandboxes"
_MODULES = ("frames", "light", "inputs", "outputs", "shield", "tree")


@pytest.fixture(scope="module")
def runner() -> Iterator[dict[str, ModuleType]]:
    """By name; importable as ``runner`` for as long as the module's tests last."""
    sys.path.insert(0, str(_SANDBOXES))
    try:
        yield {name: importlib.import_module(f"runner.{name}") for name in _MODULES}
    finally:
        sys.path.remove(str(_SANDBOXES))
        for name in [name for name in sys.modules if name.partition(".")[0] == "runner"]:
            del sys.modules[name]

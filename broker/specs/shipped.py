"""Where the specifications lie that come with the broker."""

from __future__ import annotations

from pathlib import Path

import broker
from broker.errors import DataLossError


def shipped_folder() -> Path:
    """The folder of the shipped specifications: inside the package when installed, beside it in a source tree.

    Raises:
        DataLossError: neither exists, so the installation is damaged.
    """
    package = Path(broker.__file__).resolve().parent
    for folder in (package / "_tool_specs", package.parent / "tool_specs"):
        if folder.is_dir():
            return folder
    raise DataLossError(
        f"the shipped tool specifications are missing beside {package}",
        reason="SPECS_MISSING",
        hint="install the broker again",
    )

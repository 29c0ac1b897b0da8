"""files.clean_up: removes the files that fit, from a copy of the workspace's tree."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> int:
    """Removes them, and prints each path."""
    patterns = json.loads(Path(os.environ["BROKER_ARGUMENTS"]).read_text("utf-8"))["match"]
    found = {path for pattern in patterns for path in Path().glob(pattern) if path.is_symlink() or path.is_file()}
    for path in sorted(found):
        path.unlink()
        sys.stdout.write(f"removed {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

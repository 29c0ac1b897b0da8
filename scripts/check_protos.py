"""Checks the wire contract: buf's rules and documentation, and no breaking change since the last release.

    python scripts/check_protos.py             lint, and compare with protos/released.binpb
    python scripts/check_protos.py --release   lint, compare, then take the present protos as released

``protos/released.binpb`` is the descriptor set of the last release. A release that breaks the wire on purpose gets a
new package (``broker.v2``); there is no switch to let a breaking change through.
"""

# ruff: noqa: INP001, T201 -- a script, not a module of a package; it prints what it finds

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASED = Path("protos/released.binpb")


def run_buf(root: Path, *arguments: str) -> int:
    """Runs buf, which a package brings beside this Python, in a folder; its findings go to standard output."""
    buf = Path(sys.executable).with_name("buf")
    return subprocess.run([buf, *arguments], cwd=root, check=False).returncode  # noqa: S603 -- our own arguments


def main() -> int:
    """Exit code 0: all is well; 1: a finding; 2: usage, or no released descriptor."""
    parser = argparse.ArgumentParser(description="Checks the wire contract in protos/.")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with buf.yaml and protos/ (default: this one)")
    parser.add_argument("--release", action="store_true", help="take the present protos as the released ones")
    options = parser.parse_args()
    root: Path = options.root

    if run_buf(root, "lint"):
        print("buf lint: the rules above are in buf.yaml; each is explained at https://buf.build/docs/lint/rules")
        return 1
    if (root / RELEASED).exists():
        if run_buf(root, "breaking", "--against", str(RELEASED)):
            print(f"breaking change: programs built against {RELEASED} would misread these messages.")
            print("Keep the field, and reserve what is gone (`reserved 4;`); a new meaning takes a new number.")
            return 1
    elif not options.release:
        print(f"{RELEASED} is missing: nothing to compare with. Restore it from the repository's history.")
        return 2
    if options.release and run_buf(root, "build", "--exclude-source-info", "--output", str(RELEASED)):
        return 1
    print("protos: lint clean, no breaking change" + (f"; {RELEASED} written" if options.release else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Puts back what calls have changed, on a copy: the broker compares what comes of it with what had to, and applies that."""

import json
import os
import sys

KEPT = ".broker-restore"
PIECE = 1 << 20


def make_folder(path):
    parent = os.path.dirname(path)
    if parent:
        os.makedirs(parent, exist_ok=True)


def remove(path):
    os.unlink(path)
    parent = os.path.dirname(path)
    while parent:
        try:
            os.rmdir(parent)
        except OSError:  # there is more in it; to list it for each of its files would take ever longer
            return
        parent = os.path.dirname(parent)


def write_file(path, entry):
    make_folder(path)
    kept = os.path.join(KEPT, entry["file"].partition(":")[2])
    with open(kept, "rb") as source, open(path, "xb") as target:
        while piece := source.read(PIECE):
            target.write(piece)
    os.chmod(path, entry["mode"])


def main():
    with open(os.path.join(KEPT, "changes"), encoding="utf-8") as file:
        changes = json.load(file)
    for change in reversed(changes):
        if change["before"] is not None:
            remove(change["path"])
    # Links come last: no file is written through one.
    for change in changes:
        if change["after"] is not None and "file" in change["after"]:
            write_file(change["path"], change["after"])
    for change in changes:
        if change["after"] is not None and "link" in change["after"]:
            make_folder(change["path"])
            os.symlink(change["after"]["link"], change["path"])
    print(f"{len(changes)} path(s) put back")


if __name__ == "__main__":
    sys.exit(main())

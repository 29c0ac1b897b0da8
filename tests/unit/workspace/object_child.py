"""Puts batches of objects without end, and says which are durable; to be killed. Arguments: the folder, a seed."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from broker.domain.canonical import digest
from broker.domain.tree import Change, Effect, TreeFile
from broker.workspace.files import Batch
from broker.workspace.objects import Objects
from broker.workspace.trees import Trees


def main() -> None:
    """Never ends by itself."""
    objects, chance = Objects(Path(sys.argv[1])), random.Random(sys.argv[2])  # noqa: S311 - no secret
    trees = Trees(objects)
    root = trees._make({})
    present: dict[str, TreeFile] = {}
    while True:
        datas = [chance.randbytes(chance.choice((10, 5000))) for _ in range(chance.choice((3, 90)))]
        with Batch(objects.files) as batch:
            for data in datas:
                batch.put_bytes(data)
        changes = []
        for data in datas:
            path = f"{chance.randrange(3)}/{chance.randrange(400)}"
            after = TreeFile(digest(data), len(data))
            if path not in {change.path for change in changes} and present.get(path) != after:
                changes.append(Change(path, present.get(path), after))
                present[path] = after
        root = trees._apply(root, Effect.of(changes))
        print(root, flush=True)  # noqa: T201 - to its parent


main()

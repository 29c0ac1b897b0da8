"""Checks the tree of a job before anything is made for it."""

from __future__ import annotations

import re

from broker.domain.paths import check_path, matches
from broker.domain.run import Job, JobFile, TreeRules
from broker.domain.tree import PERMISSIONS, bad_target
from broker.errors import FieldViolation, InvalidArgumentError
from broker.sandbox.tree_changes import clashing

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


def check_tree(job: Job) -> None:
    """Lets a job pass whose tree can be put in place, and told apart from what the tool makes of it.

    Raises:
        InvalidArgumentError: names the field that is wrong.
    """
    if job.tree is None:
        if job.links or any(item.mode is not None for item in job.files):
            raise refusal("tree", "files with a mode and symbolic links are those of a tree", "JOB_INVALID")
        return
    if job.tree.max_changes < 0 or job.tree.max_bytes < 0:
        raise refusal("tree", "limits are at least 0", "JOB_INVALID")
    _check_links(job)
    for number, item in enumerate(job.files):
        _check_file(item, f"files[{number}]", job.tree)
    if clash := clashing([*(item.path for item in job.files), *(item.path for item in job.links)]):
        raise refusal("files", f"{clash[0]!r} can't be there beside {clash[1]!r}", "PATH_INVALID")


def _check_links(job: Job) -> None:
    seen = {item.path for item in job.files}
    for number, item in enumerate(job.links):
        check_path(item.path, f"links[{number}].path")
        if item.path in seen:
            raise refusal(f"links[{number}].path", f"{item.path!r} is given twice", "PATH_INVALID")
        if wrong := bad_target(item.target):
            raise refusal(f"links[{number}].target", wrong, "LINK_INVALID")
        seen.add(item.path)


def _check_file(item: JobFile, field: str, rules: TreeRules) -> None:
    if item.mode is None:
        parts = item.path.split("/")
        if any(matches(parts, pattern.split("/")) for pattern in rules.patterns):
            what = f"{item.path!r} is an input file where the tool may write the tree; give it another path"
            raise refusal(f"{field}.path", what, "PATH_INVALID")
    elif not 0 <= item.mode <= PERMISSIONS:
        raise refusal(f"{field}.mode", f"must be at least 0, and at most {PERMISSIONS:#o}", "JOB_INVALID")
    elif not _SHA256.fullmatch(item.digest):
        raise refusal(f"{field}.digest", "a file of a tree needs the digest of its bytes", "JOB_INVALID")


def refusal(field: str, why: str, reason: str) -> InvalidArgumentError:
    """That a job can't be run as it is."""
    return InvalidArgumentError(f"{field}: {why}", reason=reason, violations=(FieldViolation(field, why),))

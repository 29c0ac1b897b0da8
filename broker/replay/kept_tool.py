"""A tool in the very version that a call ran under, from what is kept of its specification."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from broker.domain.canonical import JsonObject, parse_object
from broker.domain.ports import Transaction, Vault
from broker.domain.spec import ToolSpec, version_of
from broker.errors import FailedPreconditionError, NotFoundError
from broker.ledger.in_force import sealed_id
from broker.replay.obstacles import doctored
from broker.specs.catalogue import Tool

_MOST = 16 << 20
"""Bytes of a specification with the files that it names."""


def kept_tool(tx: Transaction, vault: Vault, name: str, version: str) -> Tool:
    """The tool of a version, as its specification said then.

    Args:
        tx: a transaction.
        vault: opens what is kept.
        name: of the tool.
        version: ``sha256:`` digest of its specification.

    Raises:
        FailedPreconditionError: the specification is no longer kept (``SPEC_NOT_KEPT``), or this release of the broker reads
            it otherwise than the one that ran it (``SPEC_UNREADABLE``).
        DataLossError: what is kept under that version is another one (``SPEC_DOCTORED``), or doesn't open.
    """
    try:
        found = dict(vault.open(tx, sealed_id("spec", version)).read(tx, 0, 1)).get(0)
    except NotFoundError:
        found = None
    if found is None:
        raise FailedPreconditionError(
            f"the specification of {name} in version {version} is no longer kept",
            reason="SPEC_NOT_KEPT",
            hint="A backup of the state directory from the time of the call may have it.",
        )
    text = parse_object(found, field="spec", max_bytes=_MOST)
    if version_of(text) != version:
        raise doctored("SPEC_DOCTORED", f"what is kept as version {version} of {name} is another specification")
    files = _files(text)
    try:
        spec = ToolSpec.of_normalised(_spec(text))
    except ValidationError as error:
        raise _unreadable(name, version, f"{error.error_count()} field(s) don't fit") from error
    if spec.name != name:
        raise doctored("SPEC_DOCTORED", f"version {version} is of {spec.name}, and the call was of {name}")
    if spec.digest(files) != version:
        raise _unreadable(name, version, "it has another digest here")
    return Tool.of(spec, files)


def _spec(text: JsonObject) -> JsonObject:
    spec = text.get("spec")
    return spec if isinstance(spec, dict) else {}


def _files(text: JsonObject) -> Mapping[str, bytes]:
    files = text.get("files")
    return {item: str(data).encode() for item, data in files.items()} if isinstance(files, dict) else {}


def _unreadable(name: str, version: str, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"this release of the broker reads version {version} of {name} otherwise than the one that ran it: {why}",
        reason="SPEC_UNREADABLE",
        hint="Use the release that ran it; the ledger's heartbeat entries name it.",
    )

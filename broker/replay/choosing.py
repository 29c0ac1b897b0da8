"""Which gate a rerun gets: the one place where that is decided."""

from __future__ import annotations

from broker.domain.events import KeptRecording
from broker.replay.gates import AnsweringGate, RefusingGate, SealedGate
from broker.replay.kept_tool import kept_tool
from broker.replay.obstacles import doctored
from broker.replay.rebuilding import Sources
from broker.replay.recording import Recording
from broker.sandbox.egress.recorded import RecordedGate
from broker.sandbox.egress.recording import MAX_BYTES, load_recording


async def choose_gate(sources: Sources, recording: Recording) -> SealedGate:
    """The gate for a rerun of a recorded call: it reaches nobody, and gives the answers that were kept, if any were.

    Args:
        sources: what is kept, of answers too.
        recording: the call.

    Raises:
        NotFoundError: the answers were kept, and have been erased since (``CONTENT_ERASED``).
        DataLossError: they aren't those that the ledger names, or are damaged.
        FailedPreconditionError: as ``kept_tool``.
    """
    kept = None if recording.ended is None else recording.ended.outcome.recording
    if kept is None:
        return RefusingGate()
    _check_named(recording, kept)
    data = bytearray()
    async for piece in sources.artifacts.open(kept.artifact):
        data += piece
        if len(data) > MAX_BYTES:
            raise doctored(
                "RECORDING_DOCTORED", f"the answers that are kept of {recording.row.id} are longer than any can be"
            )
    row = recording.row
    tool = await sources.store.read(lambda tx: kept_tool(tx, sources.vault, row.tool, row.tool_version))
    return AnsweringGate(RecordedGate(load_recording(bytes(data)), rules=tool.spec.egress_rules))


def _check_named(recording: Recording, kept: KeptRecording) -> None:
    """Lets pass what the outcome's entry in the ledger names."""
    for entry in recording.entries:
        named = entry.body.get("artifacts")
        if entry.type == "outcome" and isinstance(named, list) and kept.artifact in named:
            return
    why = f"the ledger doesn't name {kept.artifact}, which is kept as what hosts answered {recording.row.id}"
    raise doctored("RECORDING_DOCTORED", why)

"""Which gate a rerun gets: the one place where that is decided."""

from __future__ import annotations

from broker.replay.gates import RefusingGate, SealedGate
from broker.replay.rebuilding import Sources
from broker.replay.recording import Recording


async def choose_gate(sources: Sources, recording: Recording) -> SealedGate:
    """The gate for a rerun of a recorded call.

    Args:
        sources: what is kept, of answers too.
        recording: the call.

    Returns:
        One that reaches nobody: of no call are answers kept, so every request is refused.
    """
    del sources, recording
    return RefusingGate()

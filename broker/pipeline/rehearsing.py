"""Trying a rollback artifact: opened again, put back in a sandbox of its own, and compared with what was there."""

from __future__ import annotations

from broker.domain.canonical import JsonObject, canonical
from broker.domain.tree import Change, Effect, Entry, TreeFile
from broker.errors import FailedPreconditionError
from broker.pipeline.parts import Parts
from broker.pipeline.step_run import run_step
from broker.pipeline.taking_back import back_inputs
from broker.rollback.artifact import Manifest, unpack
from broker.rollback.restore import UNDO_TOOL

_EMPTY = TreeFile("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0, 0o400)


async def rehearse(parts: Parts, holder: str, address: str, call: str, effect: Effect) -> None:
    """Lets an artifact pass that brings back what was there.

    What it is to take away needs not be there any more: empty files stand in its place, as they are only removed.

    Args:
        parts: the broker's.
        holder: under which the sandbox is claimed: it holds no other at this time.
        address: of the artifact.
        call: whose effect it takes back.
        effect: that effect.

    Raises:
        FailedPreconditionError: it doesn't (``REHEARSAL_FAILED``).
        BrokerError: it can't be opened, or the engine failed.
    """
    tool = parts.catalogue.get(UNDO_TOOL)
    if tool is None or tool.spec.image not in parts.images:
        raise refused("the tool that puts files back is missing")
    found = await opened(parts, address, call, effect)
    await parts.objects.put_bytes(b"")
    back = _with_stand_ins(found.effect.inverse())
    inputs = await back_inputs(parts.objects, back, found.base)
    arguments: JsonObject = {"call": found.call}
    job = inputs.added_to(tool.spec.job(arguments, canonical(arguments), (), tool.files), parts.objects)
    ran = await run_step(parts, holder, tool.profile(parts.images[tool.spec.image]), job, before=inputs.entries)
    if not ran.good:
        raise refused(f"putting the files back failed: {ran.told}")
    if ran.effect != back:
        raise refused("it brings back something else than what was there")


async def opened(parts: Parts, address: str, call: str, effect: Effect) -> Manifest:
    """Opens an artifact and puts its contents among the objects.

    Raises:
        FailedPreconditionError: it isn't the one of that call and effect (``REHEARSAL_FAILED``).
        BrokerError: it can't be opened.
    """
    async with parts.objects.batch() as batch:
        found = await unpack(parts.artifacts.open(address), batch.put)
    if (found.call, found.effect) != (call, effect):
        raise refused("it reads otherwise than it was written")
    return found


def _with_stand_ins(back: Effect) -> Effect:
    def stand_in(entry: Entry | None) -> Entry | None:
        return None if entry is None else _EMPTY

    return Effect(tuple(Change(item.path, stand_in(item.before), item.after) for item in back.changes))


def refused(why: str) -> FailedPreconditionError:
    """That an artifact is not good."""
    return FailedPreconditionError(
        f"the rollback artifact was tried and is not good: {why}",
        reason="REHEARSAL_FAILED",
        hint="Nothing was changed. If it happens again, the broker's host or engine needs a look.",
    )

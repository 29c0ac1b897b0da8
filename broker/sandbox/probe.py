"""Looks at a real container of a sandbox image from within, through the engine's own lease, and judges what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from broker.domain.canonical import JsonObject, parse_json
from broker.domain.run import Ended, Job, Limits, Output, Profile
from broker.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from broker.sandbox.engine import Capabilities, Engine
from broker.sandbox.images import SandboxImage
from broker.sandbox.probe_judging import Expected, HostFacts, Probe
from broker.sandbox.probe_plan import plan
from broker.sandbox.probe_rules import judge

_LIMITS = Limits(processes=16, output_bytes=2**20)
_ABBREVIATED = 12
_SIGNALS = (
    "import os\n"
    "for number in (15, 2, 1, 3, 6, 11, 19, 9):\n"
    "    try:\n"
    "        os.kill(1, number)\n"
    "    except OSError:\n"
    "        pass\n"
    "os.write(1, b'alive')\n"
)


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What holds in a sandbox."""

    image: SandboxImage
    capabilities: Capabilities
    """Of the runtime that it ran under."""
    probes: tuple[Probe, ...]


async def probe(engine: Engine, image: str, runtime: str = "") -> ProbeReport:
    """Runs the probes in two containers: one is looked at, in the other the tool signals the runner.

    Args:
        engine: where the image is.
        image: name of a sandbox image (the one built last), or its digest or the beginning of it.
        runtime: the engine's name of a container runtime; empty takes its default.

    Raises:
        FailedPreconditionError: no such image or runtime (``IMAGE_MISSING``, ``RUNTIME_MISSING``).
        UnavailableError: the engine failed, or the probe didn't end as it should (``PROBE_FAILED``).
    """
    chosen = find_image(await engine.images(), image)
    capabilities = await engine.capabilities(runtime)
    limits = _LIMITS if capabilities.inodes else replace(_LIMITS, inodes=0)
    profile = Profile(chosen.id, limits, runtime)
    script = resources.files("broker.sandbox").joinpath("probe_inside.py").read_text("utf-8")
    seen = read_seen(await _run(engine, profile, _job(script, plan(limits.processes + 1))))
    survived = False
    # A runner that dies takes its stream along: that, and nothing else of ours, is the answer here.
    with suppress(UnavailableError):
        survived = await _run(engine, profile, _job(_SIGNALS, b"{}")) == b"alive"
    expected = Expected(profile, capabilities, host_facts(), survived)
    return ProbeReport(chosen, capabilities, judge(seen, expected))


def find_image(images: Sequence[SandboxImage], name: str) -> SandboxImage:
    """The image of that name that was built last, or the one with that digest.

    Raises:
        FailedPreconditionError: there is none, or the beginning of a digest fits several (``IMAGE_MISSING``).
    """
    digest = name.removeprefix("sha256:")
    fits = [image for image in images if image.name == name and image.current]
    if not fits and len(digest) >= _ABBREVIATED:
        fits = [image for image in images if image.id.removeprefix("sha256:").startswith(digest)]
    if len(fits) != 1:
        has = ", ".join(sorted({image.name for image in images if image.current})) or "none"
        raise FailedPreconditionError(
            f"the engine has no sandbox image {name!r} that this broker can speak to; it has: {has}",
            reason="IMAGE_MISSING",
            hint="Name one of them, or 12 or more digits of a digest (broker sandbox images); build them: make images",
        )
    return fits[0]


def host_facts() -> HostFacts:
    """What this machine says of itself; empty where it is no Linux."""
    boot, namespaces = "", {}
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        namespaces = {link.name: str(link.readlink()) for link in Path("/proc/self/ns").iterdir()}
    return HostFacts(boot, namespaces)


def read_seen(output: bytes) -> JsonObject:
    """What the script printed.

    Raises:
        UnavailableError: it is no JSON object (``PROBE_FAILED``).
    """
    try:
        seen = parse_json(output, field="output", max_bytes=_LIMITS.output_bytes)
    except InvalidArgumentError as error:
        raise _failed(error.message) from error
    if not isinstance(seen, dict):
        raise _failed("it printed no JSON object")
    return seen


def _job(code: str, arguments: bytes) -> Job:
    return Job(kind="python", argv=("probe",), code=code, env={}, arguments=arguments)


async def _run(engine: Engine, profile: Profile, job: Job) -> bytes:
    """Standard output of a job that ended well, in a container of its own."""
    lease = await engine.create(profile)
    output, errors = bytearray(), bytearray()
    try:
        async for event in lease.run(job):
            if isinstance(event, Output):
                (output if event.stream == "stdout" else errors).extend(event.data)
            elif isinstance(event, Ended) and (event.exit_code != 0 or event.stdout.truncated):
                last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
                raise _failed(event.detail or last or f"exit code {event.exit_code}, signal {event.signal}")
            lease.taken(event)
    finally:
        await lease.destroy()
    return bytes(output)


def _failed(why: str) -> UnavailableError:
    return UnavailableError(
        f"the probe could not look at the sandbox: {why}",
        reason="PROBE_FAILED",
        hint="An image needs Python and the broker's runner; see `broker doctor` for the engine.",
    )

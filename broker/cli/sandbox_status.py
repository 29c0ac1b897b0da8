"""``broker sandbox status``: what the sandboxes of a running broker do."""

from __future__ import annotations

from broker.cli.call_view import print_fields, print_table
from broker.cli.output import OutputModel, console, emit
from broker.cli.remote import AddressOption, CaOption, IdentityOption, JsonOption, Remote, StateOption
from broker.client import AsyncBroker
from broker.client.sandbox import SandboxStatus
from broker.domain.call import CallState
from broker.domain.run import EndCause
from broker.settings import DEFAULT_STATE


class WarmPoolOutput(OutputModel):
    """Containers that are equal before their call. Claims are counted since the broker's start."""

    fingerprint: str
    image: str
    runtime: str
    """Empty is the engine's own choice."""
    prewarmed: bool
    idle: int
    making: int
    leased: int
    target: int
    """How many should be idle."""
    warm_claims: int
    cold_claims: int
    unfit_claims: int
    oldest_idle_s: float | None
    trouble: str
    """Reason of the error with which the last container couldn't be made; empty where it could."""


class SandboxCallOutput(OutputModel):
    """A call that holds a container."""

    call: str
    container_id: str


class EndCountOutput(OutputModel):
    """How many calls ended by one cause, in one state, since the broker's start."""

    cause: EndCause
    state: CallState
    count: int


class StepTimeOutput(OutputModel):
    """How long a step takes since the broker's start, as far as the buckets of a histogram say it."""

    step: str
    count: int
    p50_s: float
    p95_s: float


class SandboxStatusOutput(OutputModel):
    """What ``broker sandbox status`` prints."""

    ceiling: int
    """Most warm containers of all pools together."""
    idle: int
    making: int
    leased: int
    pools: tuple[WarmPoolOutput, ...]
    calls: tuple[SandboxCallOutput, ...]
    ends: tuple[EndCountOutput, ...]
    steps: tuple[StepTimeOutput, ...]


def status(
    *,
    address: AddressOption = "",
    identity: IdentityOption = "",
    ca: CaOption = None,
    state: StateOption = DEFAULT_STATE,
    as_json: JsonOption = False,
) -> None:
    """Say what the sandboxes of a running broker do: warm containers, calls that hold one, ends, times.

    Example: broker sandbox status --identity human/ada
    """

    async def work(broker: AsyncBroker) -> SandboxStatusOutput:
        return _output(await broker.sandbox_status())

    emit(Remote(address, identity, ca, state).run(work), as_json=as_json, render=_render)


def _output(found: SandboxStatus) -> SandboxStatusOutput:
    return SandboxStatusOutput(
        ceiling=found.ceiling,
        idle=found.idle,
        making=found.making,
        leased=found.leased,
        pools=tuple(
            WarmPoolOutput(
                fingerprint=item.fingerprint,
                image=item.image,
                runtime=item.runtime,
                prewarmed=item.prewarmed,
                idle=item.idle,
                making=item.making,
                leased=item.leased,
                target=item.target,
                warm_claims=item.warm_claims,
                cold_claims=item.cold_claims,
                unfit_claims=item.unfit_claims,
                oldest_idle_s=item.oldest_idle_s,
                trouble=item.trouble,
            )
            for item in found.pools
        ),
        calls=tuple(SandboxCallOutput(call=item.call, container_id=item.container_id) for item in found.calls),
        ends=tuple(EndCountOutput(cause=item.cause, state=item.state, count=item.count) for item in found.ends),
        steps=tuple(
            StepTimeOutput(step=item.step, count=item.count, p50_s=item.p50_s, p95_s=item.p95_s) for item in found.steps
        ),
    )


def _render(item: SandboxStatusOutput) -> None:
    print_fields(
        {"idle": f"{item.idle} of {item.ceiling} at most", "making": str(item.making), "leased": str(item.leased)}
    )
    _section(
        "pools",
        [
            "pool",
            "image",
            "runtime",
            "idle",
            "target",
            "making",
            "leased",
            "warm",
            "cold",
            "unfit",
            "oldest",
            "trouble",
        ],
        [_pool_row(pool) for pool in sorted(item.pools, key=lambda pool: (-pool.idle - pool.leased, pool.fingerprint))],
    )
    _section("calls", ["call", "container"], [[call.call, call.container_id[:12]] for call in item.calls])
    ends = sorted(item.ends, key=lambda end: -end.count)
    _section("ends", ["cause", "state", "calls"], [[end.cause, end.state, str(end.count)] for end in ends])
    _section(
        "steps",
        ["step", "times", "p50 ms", "p95 ms"],
        [[step.step, str(step.count), _ms(step.p50_s), _ms(step.p95_s)] for step in item.steps],
    )


def _section(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A titled table on a terminal; in a pipe each line begins with the title, so that they can be told apart."""
    if not rows:
        return
    if console.is_terminal:
        console.print()
        print_table(columns, rows)
    else:
        print_table(["", *columns], [[title, *row] for row in rows])


def _pool_row(pool: WarmPoolOutput) -> list[str]:
    return [
        _short(pool.fingerprint),
        _short(pool.image),
        pool.runtime or "default",
        str(pool.idle),
        str(pool.target),
        str(pool.making),
        str(pool.leased),
        str(pool.warm_claims),
        str(pool.cold_claims),
        str(pool.unfit_claims),
        "-" if pool.oldest_idle_s is None else f"{pool.oldest_idle_s:.0f} s",
        pool.trouble or "-",
    ]


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"

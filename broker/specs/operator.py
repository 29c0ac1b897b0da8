"""Whether the operator's settings and engine have what the tools ask for; asked once, before anything is served."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from broker.domain.hosts import authority, check_host
from broker.errors import FailedPreconditionError, FieldViolation
from broker.specs.catalogue import Catalogue, Tool

_MAX_VIOLATIONS = 100


def check_operator(
    catalogue: Catalogue,
    *,
    secrets: Mapping[str, Iterable[str]],
    runtimes: Mapping[str, bool],
    prewarm: Iterable[str] = (),
) -> None:
    """Lets a catalogue pass whose tools can all run as they are written.

    Args:
        catalogue: the tools, fitted to their runtimes.
        secrets: name of each secret in the settings -> the hosts that it is bound to, each ``host:port``.
        runtimes: each container runtime that the engine has, under the empty name its own choice -> whether it keeps a
            limit on the number of files.
        prewarm: names of tools in the settings whose containers are made beforehand.

    Raises:
        FailedPreconditionError: ``TOOLS_UNSUPPORTED``; each violation's field is the tool and the place in its
            specification, or the setting.
    """
    found = [*_wrong_bindings(secrets), *_unknown_tools(catalogue, prewarm)]
    bound = {name: frozenset(hosts) for name, hosts in secrets.items()}
    for tool in catalogue.all():
        found += [
            FieldViolation(f"{tool.spec.name} {place}", text)
            for place, text in (*_secrets(tool, bound), *_runtime(tool, runtimes))
        ]
    if found:
        first = found[0]
        raise FailedPreconditionError(
            f"{len(found)} thing(s) that tools need are missing; the first: {first.field} {first.description}",
            reason="TOOLS_UNSUPPORTED",
            hint="Change settings.yaml or the specification, then start the broker again.",
            violations=tuple(found[:_MAX_VIOLATIONS]),
        )


def _wrong_bindings(secrets: Mapping[str, Iterable[str]]) -> Iterator[FieldViolation]:
    for name, hosts in secrets.items():
        for place in hosts:
            host = place.rpartition(":")[0].removeprefix("[").removesuffix("]")
            try:
                check_host(host)
            except ValueError as error:
                yield FieldViolation(f"secrets.{name}.hosts", f"holds {place!r}, whose host {error}")


def _unknown_tools(catalogue: Catalogue, prewarm: Iterable[str]) -> Iterator[FieldViolation]:
    for name in prewarm:
        if catalogue.get(name) is None:
            yield FieldViolation("pool_prewarm", f"names {name!r}, and there is no such tool")


def _secrets(tool: Tool, bound: Mapping[str, frozenset[str]]) -> Iterator[tuple[str, str]]:
    for number, rule in enumerate(tool.spec.egress_rules):
        if rule.secret is None:
            continue
        name, where = rule.secret.name, authority(rule.host, rule.port)
        place = f"/egress/{number}/secret"
        if name not in bound:
            yield (
                place,
                f"names the secret {name!r}: add it to `secrets` in settings.yaml, with its source and {where!r}",
            )
        elif where not in bound[name]:
            yield place, f"sends the secret {name!r} to {where}: add that to secrets.{name}.hosts if it may go there"


def _runtime(tool: Tool, runtimes: Mapping[str, bool]) -> Iterator[tuple[str, str]]:
    name, inodes = tool.runtime, tool.limits.inodes
    if name not in runtimes:
        whose = "/runtime" if tool.spec.runtime else f"/runtime (runtime_by_tier.{tool.spec.tier} in settings.yaml)"
        known = ", ".join(sorted(filter(None, runtimes))) or "none by name"
        yield whose, f"is {name!r}, and the engine doesn't have it: install it there, or take one of: {known}"
        return
    said = f"the runtime {name!r}" if name else "the engine's own runtime"
    if inodes and not runtimes[name]:
        yield (
            "/limits/inodes",
            f"is {inodes}, and {said} can't limit files: write 0 for no limit, or take another runtime",
        )
    elif not tool.spec.limits.inodes and runtimes[name]:
        yield "/limits/inodes", f"is 0, and {said} can limit files: write a number, such as 4096"

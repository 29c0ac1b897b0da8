"""Probes of what a sandbox reaches: the network, and the rarely used parts of the kernel. Pure."""

from __future__ import annotations

from broker.domain.canonical import JsonObject, JsonValue
from broker.sandbox.probe_judging import (
    Expected,
    Probe,
    cut,
    holds,
    object_at,
    picked,
    refused,
    words_at,
)

_UNREACHABLE = frozenset(
    {"EACCES", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EPERM"}
)
_KEY_CALLS = ("add_key", "keyctl", "request_key")
_ADMIN_CALLS = (
    "kexec_load",
    "reboot",
    "init_module",
    "sethostname",
    "clock_settime",
    "swapon",
    "acct",
    "syslog",
    "open_by_handle_at",
)


def _interfaces(seen: JsonObject, _: Expected) -> Probe:
    network = object_at(seen, "network")
    names, routes = network.get("interfaces"), network.get("routes")
    known = isinstance(names, list) and isinstance(routes, list) and bool(names)
    quiet = known and all(name == "lo" for name in names) and not routes  # type: ignore[union-attr]  # it is a list
    return Probe(
        "network_interfaces",
        holds(quiet if known else None),
        must=True,
        seen=cut(
            f"interfaces {_listed(names)}; routes {_listed(routes)}; name servers {_listed(network.get('servers'))}"
        ),
        why="An interface besides loopback is a way out past the broker's egress rules.",
    )


def _connections(seen: JsonObject, _: Expected) -> Probe:
    reached = words_at(object_at(seen, "network"), "reached")
    why = "The metadata service hands out the machine's credentials; a public address takes whatever a tool has read."
    return refused("connections", reached, why, refusals=_UNREACHABLE)


def _families(seen: JsonObject, _: Expected) -> Probe:
    answers = {
        name: it for name, it in words_at(seen, "families").items() if name in {"AF_PACKET", "raw IP", "raw IPv6"}
    }
    return refused("raw_sockets", answers, "Raw packets forge senders and reach protocols that nobody filters.")


def _alg(seen: JsonObject, _: Expected) -> Probe:
    answers = {name: it for name, it in words_at(seen, "families").items() if name == "AF_ALG"}
    return refused("af_alg", answers, "The kernel's cipher sockets have led out of containers (CVE-2026-31431).")


def _vsock(seen: JsonObject, _: Expected) -> Probe:
    answers = {name: it for name, it in words_at(seen, "families").items() if name == "AF_VSOCK"}
    why = "These sockets know no network namespace: in a virtual machine they reach the machine's host past all rules."
    return refused("af_vsock", answers, why)


def _keyrings(seen: JsonObject, _: Expected) -> Probe:
    return refused(
        "keyrings", picked(seen, _KEY_CALLS), "The kernel's keyrings are shared by all who have the same user."
    )


def _tracing_calls(seen: JsonObject, _: Expected) -> Probe:
    why = "They look into the kernel or stop it half-way, which makes its small mistakes usable."
    return refused("kernel_probes", picked(seen, ("bpf", "perf_event_open", "userfaultfd")), why)


def _io_uring(seen: JsonObject, _: Expected) -> Probe:
    why = "A large part of the kernel with many holes in the past; old engines leave it open, the runner doesn't."
    return refused("io_uring", picked(seen, ("io_uring_setup",)), why)


def _administration(seen: JsonObject, _: Expected) -> Probe:
    why = "With these a tool would load another kernel, restart the machine, set its clock or read its log."
    return refused("administration", picked(seen, _ADMIN_CALLS), why)


def _listed(value: JsonValue) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else "not shown"


REACH_RULES = (
    _interfaces,
    _connections,
    _families,
    _alg,
    _vsock,
    _keyrings,
    _tracing_calls,
    _io_uring,
    _administration,
)

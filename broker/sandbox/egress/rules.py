"""Which rule of a tool covers what it wants. Pure; what no rule covers is refused with the rule that is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from broker.domain.headers import RESERVED
from broker.domain.logins import is_login_name
from broker.domain.run import EgressKind, EgressRule, EgressVerdict, SecretUse
from broker.errors import InvalidArgumentError
from broker.sandbox.egress.headers import same_name
from broker.sandbox.egress.names import HostSpellingError, canonical_host
from broker.sandbox.egress.paths import ambiguity, covers
from broker.sandbox.egress.refusal import RefusedError, malformed
from broker.sandbox.engine import PROXY_PORT

HTTP_PORT = 80
_DEFAULT_METHODS = ("GET", "HEAD")
_HTTP_KINDS = frozenset({EgressKind.HTTP, EgressKind.HTTPS})
_LOWEST_LISTEN = 1024
_HIGHEST_PORT = 65535
_HEADER = re.compile(r"[a-z0-9-]{1,64}")
_PREFIX = re.compile(r"(?:[\x21-\x7e][\x20-\x7e]{0,63})?")


class RuleBook:
    """The rules of one call.

    Raises:
        InvalidArgumentError: a rule contradicts itself (``EGRESS_RULE_INVALID``); names it.
    """

    def __init__(self, rules: Sequence[EgressRule]) -> None:
        for rule in rules:
            why = _fault(rule)
            if why:
                raise InvalidArgumentError(
                    f"egress rule {rule.kind.value} {rule.host}:{rule.port}: {why}",
                    reason="EGRESS_RULE_INVALID",
                    hint="Correct the egress rule in the tool's specification.",
                )
        self._rules = tuple(rules)
        self._listeners = {rule.listen: rule for rule in rules if rule.kind.is_forward}
        if len(self._listeners) != sum(rule.kind.is_forward for rule in rules):
            raise InvalidArgumentError(
                "two egress rules listen on the same port of the sandbox",
                reason="EGRESS_RULE_INVALID",
                hint="Give each `tcp` and `postgres` rule a `listen` port of its own.",
            )

    def request(self, host: str, port: int, method: str, path: str) -> EgressRule:
        """The first rule that covers a plain HTTP request; port 80 stands for an ``https`` rule's port too.

        Args:
            host: in canonical form.
            port: as the tool asked for it.
            method: as the tool wrote it.
            path: begins with ``/``, without the query.

        Raises:
            RefusedError: ``NOT_LISTED``; or ``MALFORMED`` where rules limit paths and this one is ambiguous.
        """
        near = [rule for rule in self._rules if rule.kind in _HTTP_KINDS and rule.host == host]
        listed = [rule for rule in near if rule.port == port]
        if port == HTTP_PORT:
            listed += [rule for rule in near if rule.kind is EgressKind.HTTPS and rule.port != port]
        if not listed:
            raise _not_listed(
                f"no egress rule of this tool lists host {host!r}, port {port} for HTTP",
                f"The specification wants {{kind: https, host: {host}, port: 443}}, or kind http with port {port}.",
            )
        usable = [rule for rule in listed if method in (rule.methods or _DEFAULT_METHODS)]
        if not usable:
            raise _not_listed(
                f"no egress rule for {host}:{listed[0].port} lists the method {method!r}",
                "List the method under `methods` of the rule; without it GET and HEAD are allowed.",
                listed[0],
            )
        for rule in usable:
            if not rule.paths:
                return rule
            why = ambiguity(path)
            if why:
                refused = malformed(
                    f"the path can be read in different ways: {why}",
                    "Where a rule limits paths, write the path without dots, empty segments and encoded separators.",
                )
                refused.rule = rule
                raise refused
            if any(covers(prefix, path) for prefix in rule.paths):
                return rule
        raise _not_listed(
            f"no egress rule for {host}:{usable[0].port} covers the path",
            "List a prefix of the path under `paths` of the rule.",
            usable[0],
        )

    def tunnel(self, host: str, port: int) -> EgressRule:
        """The rule that covers a CONNECT.

        Raises:
            RefusedError: ``NOT_LISTED``.
        """
        for rule in self._rules:
            if rule.kind is EgressKind.CONNECT and rule.host == host and rule.port == port:
                return rule
        hint = f"The specification wants {{kind: connect, host: {host}, port: {port}}}."
        near = next((rule for rule in self._rules if rule.kind is EgressKind.HTTPS and rule.host == host), None)
        if near is not None:
            hint = f"This host is listed with kind https: ask the proxy for http://{host}/, and the broker speaks TLS."
        raise _not_listed(f"no egress rule of this tool lists a tunnel to host {host!r}, port {port}", hint)

    def forward(self, listener: int) -> EgressRule | None:
        """The rule whose forward listens on a port of the sandbox's loopback."""
        return self._listeners.get(listener)

    def secrets_of(self, rule: EgressRule) -> tuple[SecretUse, ...]:
        """The secrets that any rule sends to the host and port of this one: no answer from there may hold them."""
        found = [
            other.secret
            for other in self._rules
            if other.secret is not None and (other.host, other.port) == (rule.host, rule.port)
        ]
        return tuple(dict.fromkeys(found))


def _not_listed(message: str, hint: str, rule: EgressRule | None = None) -> RefusedError:
    return RefusedError(EgressVerdict.NOT_LISTED, message, hint=hint, rule=rule)


def _fault(rule: EgressRule) -> str:
    try:
        host = canonical_host(rule.host)
    except HostSpellingError as error:
        return str(error)
    http = rule.kind in _HTTP_KINDS
    faults = {
        f"the host is written {host}": host != rule.host,
        "the port is a number from 1 to 65535": not 1 <= rule.port <= _HIGHEST_PORT,
        "methods and paths belong to http and https": bool(rule.methods or rule.paths) and not http,
        "CONNECT and TRACE are never methods of a rule": bool({"CONNECT", "TRACE"} & set(rule.methods)),
        "a path prefix begins with / and can be read in one way only": any(
            not path.startswith("/") or not path.isascii() or bool(ambiguity(path)) for path in rule.paths
        ),
        "listen is a port from 1024 on, and not the proxy's": rule.kind.is_forward
        and (not _LOWEST_LISTEN <= rule.listen <= _HIGHEST_PORT or rule.listen == PROXY_PORT),
        "listen belongs to tcp and postgres": not rule.kind.is_forward and rule.listen != 0,
        "only what http and https are asked and answered can be kept": rule.record_bytes != 0
        and (not http or rule.record_bytes < 0),
        **_login_faults(rule),
        **({} if rule.secret is None else _secret_faults(rule.kind, rule.secret)),
    }
    return next((fault for fault, holds in faults.items() if holds), "")


def _login_faults(rule: EgressRule) -> dict[str, bool]:
    if rule.kind is not EgressKind.POSTGRES:
        return {"database and user belong to postgres": bool(rule.database or rule.user)}
    return {
        "postgres needs a database and a user, printable, of 63 bytes at most": not (
            is_login_name(rule.database) and is_login_name(rule.user)
        ),
        "postgres needs a secret, the user's password": rule.secret is None,
    }


def _secret_faults(kind: EgressKind, secret: SecretUse) -> dict[str, bool]:
    if kind is EgressKind.POSTGRES:
        return {"the secret of postgres is a password, and has no header": bool(secret.header or secret.prefix)}
    return {
        "a secret belongs to https and postgres": kind is not EgressKind.HTTPS,
        "the secret's header is a name in lower case, and its prefix printable ASCII": not (
            _HEADER.fullmatch(secret.header) and _PREFIX.fullmatch(secret.prefix)
        ),
        "the secret's header can't be one that frames or routes the request": same_name(secret.header) in RESERVED,
    }

"""The part of a tool specification that says which hosts the tool may reach, and how."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, combinations
from typing import Annotated, Any, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from broker.domain.canonical import JsonObject
from broker.domain.headers import RESERVED
from broker.domain.hosts import authority, check_host
from broker.domain.logins import MAX_BYTES, is_login_name
from broker.domain.run import EgressKind, EgressRule, SecretUse
from broker.domain.spec_parts import Label, Place, Size, SpecPart, Text, Whole, refuse_places

MAX_RULES = 32
"""Most hosts that one tool may list."""
PROXY_PORT = 3128
"""Where the HTTP proxy listens on the sandbox's loopback, so no forward can."""
MAX_RECORD = 16 * 2**20
"""Most bytes that all rules of a tool may have kept of one call, together: they are in memory while it runs."""
ANY_METHOD = ("GET", "HEAD")
"""What a rule without methods allows."""

_DEFAULT_PORTS: Mapping[str, int] = {
    EgressKind.HTTP: 80,
    EgressKind.HTTPS: 443,
    EgressKind.CONNECT: 443,
    EgressKind.POSTGRES: 5432,
}
_LOGIN = ("database", "user")
_PLAIN = (EgressKind.HTTP, EgressKind.HTTPS)
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,=:@/-]*")
Problem: TypeAlias = tuple[Place, str]


def _method(text: str) -> str:
    if text in {"CONNECT", "TRACE"}:
        raise ValueError(f"{text} can't be allowed: it is no request to the host itself")
    return text


def _path(text: str) -> str:
    if "%" in text or "?" in text or "#" in text:
        raise ValueError("is the beginning of a path as it is after decoding: no `%`, no query, no fragment")
    if not _PATH.fullmatch(text):
        raise ValueError("must begin with `/` and hold only what a path may, without spaces, `;` and backslashes")
    parts = text.split("/")[1:]
    if any(part in {".", ".."} for part in parts) or "" in parts[:-1]:
        raise ValueError("may not have empty, `.` or `..` segments: hosts read them in different ways")
    return text


def _login_name(text: str) -> str:
    if not is_login_name(text):
        raise ValueError(f"must be printable, of {MAX_BYTES} bytes at most, without space at its ends")
    return text


def _header(text: str) -> str:
    if text in RESERVED or text.startswith("proxy-"):
        raise ValueError(f"{text!r} belongs to the broker or to the connection; a secret can't stand in it")
    return text


def _without_default(schema: dict[str, Any]) -> None:
    # What stands for an absent key is no value that may be written.
    schema.pop("default", None)


class SpecSecret(SpecPart):
    """A header that the broker adds on the way out, or the password of its login; the tool never sees its value."""

    name: Label
    """Name of the secret in the broker's settings."""
    header: Annotated[
        Text,
        Field(pattern=r"^[a-z][a-z0-9-]{0,62}$", json_schema_extra=_without_default),
        AfterValidator(_header),
    ] = ""
    """Header of `https` that carries it, in lower case; the tool's own header of that name is dropped. `https` needs it."""
    prefix: Annotated[Text, Field(pattern=r"^([!-~][ -~]{0,63})?$")] = ""
    """What stands before the secret in the header's value, such as `Bearer ` with its space."""


class SpecEgress(SpecPart):
    """One host that the tool may reach, and how."""

    host: Annotated[Text, Field(min_length=1, max_length=255), AfterValidator(check_host)]
    """Name in lower case (A-labels for other scripts) or IP address in its shortest form; no wildcard."""
    port: Annotated[Whole, Field(ge=1, le=65535, json_schema_extra=_without_default)] = 0
    """Port of the host; where absent 80 of `http`, 443 of `https` and `connect`, 5432 of `postgres`. `tcp` needs it."""
    kind: EgressKind
    """`http`, `https` (asked for as http://HOST/ inside; the broker speaks TLS), `connect` (the tool's own TLS), `tcp`,
    `postgres` (in the clear and without a password inside; the broker speaks TLS and logs in)."""
    methods: Annotated[
        tuple[Annotated[Text, Field(pattern=r"^[A-Z][A-Z-]{0,31}$"), AfterValidator(_method)], ...],
        Field(max_length=16),
    ] = ()
    """Methods that `http` and `https` may use, in upper case; where absent GET and HEAD."""
    paths: Annotated[
        tuple[Annotated[Text, Field(min_length=1, max_length=256), AfterValidator(_path)], ...], Field(max_length=32)
    ] = ()
    """Beginnings of paths that `http` and `https` may ask for, by whole segments: `/v1` allows `/v1` and `/v1/x`, not
    `/v1x`; `/v1/` only what lies below. Where absent every path."""
    listen: Annotated[Whole, Field(ge=1024, le=65535, json_schema_extra=_without_default)] = 0
    """Port on the sandbox's loopback that leads to the host; of `tcp` and `postgres`, which need it."""
    database: Annotated[
        Text, Field(min_length=1, max_length=MAX_BYTES, json_schema_extra=_without_default), AfterValidator(_login_name)
    ] = ""
    """Database that the tool gets; of `postgres`, which needs it."""
    user: Annotated[
        Text, Field(min_length=1, max_length=MAX_BYTES, json_schema_extra=_without_default), AfterValidator(_login_name)
    ] = ""
    """User that the broker logs in as; of `postgres`, which needs it."""
    secret: SpecSecret | None = None
    """Secret that the broker adds to requests of `https`; or the user's password, which `postgres` needs."""
    record: Annotated[Size, Field(ge=2**10, le=MAX_RECORD, json_schema_extra=_without_default)] = 0
    """How much of what is asked of `http` and `https`, and of what the host answers, is kept encrypted of one call, so that it can
    be run again without the host; 1KiB at least, and 16MiB at most over all rules. Where absent nothing is kept."""

    @model_validator(mode="before")
    @classmethod
    def _usual_port(cls, value: Any) -> Any:  # noqa: ANN401 - whatever stands in the file
        # Filled in here and not read later, so that the version is the same with the port written out.
        if isinstance(value, dict) and "port" not in value:
            kind = value.get("kind")
            usual = _DEFAULT_PORTS.get(kind) if isinstance(kind, str) else None
            return value if usual is None else {**value, "port": usual}
        return value

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        refuse_places(self._misfits())
        return self

    def _misfits(self) -> Iterator[Problem]:
        yield from self._wrong_ports()
        hidden = () if self.kind in _PLAIN else ("methods", "paths")
        for name in hidden:
            if getattr(self, name):
                yield (name,), f"can't be kept: the broker doesn't see them of `{self.kind}`; take `http` or `https`"
        if self.record and self.kind not in _PLAIN:
            yield (
                ("record",),
                f"can't be kept of `{self.kind}`: only of `http` and `https` the broker sees what is answered",
            )
        yield from self._wrong_login()
        yield from self._wrong_secret()
        for name in ("methods", "paths"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                yield (name,), "says something twice"

    def _wrong_ports(self) -> Iterator[Problem]:
        if not self.kind.is_forward:
            if self.listen:
                yield ("listen",), f"is of `tcp` and `postgres`; a host of `{self.kind}` is reached through the proxy"
            return
        if not self.port:
            yield ("port",), f"is missing: `{self.kind}` has no usual port"
        if not self.listen:
            yield ("listen",), f"is missing: `{self.kind}` needs a port on the sandbox's loopback"
        if self.listen == PROXY_PORT:
            yield ("listen",), f"{PROXY_PORT} is the proxy's own port; take another"

    def _wrong_login(self) -> Iterator[Problem]:
        for name in _LOGIN:
            if self.kind is EgressKind.POSTGRES and not getattr(self, name):
                yield (name,), "is missing: `postgres` needs it"
            elif self.kind is not EgressKind.POSTGRES and getattr(self, name):
                yield (name,), f"is of `postgres` only; the broker doesn't log in for `{self.kind}`"

    def _wrong_secret(self) -> Iterator[Problem]:
        if self.secret is None:
            if self.kind is EgressKind.POSTGRES:
                yield ("secret",), "is missing: `postgres` needs the user's password, by the name of a secret"
        elif self.kind is EgressKind.HTTPS:
            if not self.secret.header:
                yield ("secret", "header"), "is missing: `https` needs it"
        elif self.kind is EgressKind.POSTGRES:
            for name in ("header", "prefix"):
                if getattr(self.secret, name):
                    yield ("secret", name), "is of `https` only; the secret of `postgres` is a password"
        else:
            yield ("secret",), f"can't be added to `{self.kind}`: only with `https` and `postgres` the broker encrypts"

    def rule(self) -> EgressRule:
        """The same as the sandbox takes it."""
        secret = self.secret
        return EgressRule(
            kind=self.kind,
            host=self.host,
            port=self.port,
            methods=self.methods,
            paths=self.paths,
            listen=self.listen,
            secret=None if secret is None else SecretUse(secret.name, secret.header, secret.prefix),
            database=self.database,
            user=self.user,
            record_bytes=self.record,
        )

    def normalised(self) -> JsonObject:
        """The rule as it stands in the specification's version; without what was unknown to the first ones and it hasn't."""
        value: JsonObject = self.model_dump(mode="json")
        for name in _LOGIN:
            if not value[name]:
                del value[name]
        if not self.record:
            del value["record"]
        if self.secret is not None and not self.secret.header:
            value["secret"] = {"name": self.secret.name}
        return value


def rule_conflicts(rules: Sequence[SpecEgress]) -> Iterator[Problem]:
    """Pairs of rules between which a request couldn't choose; the place is that of the second, within the list."""
    for (first, one), (second, two) in combinations(enumerate(rules), 2):
        why = _conflict(one, two)
        if why:
            yield (second,), f"{why} (rule {first})"


def record_conflicts(rules: Sequence[SpecEgress]) -> Iterator[Problem]:
    """Where more is to be kept of one call than may be; the place is within the list."""
    for number, total in enumerate(accumulate(rule.record for rule in rules)):
        if total > MAX_RECORD and rules[number].record:
            yield (
                (number, "record"),
                f"makes {total} bytes with the rules before it; all together may keep {MAX_RECORD}",
            )


def _conflict(one: SpecEgress, two: SpecEgress) -> str:
    if one.listen and one.listen == two.listen:
        return f"listens on port {two.listen}, as another rule does"
    if one.host != two.host:
        return ""
    if one.kind in _PLAIN and two.kind in _PLAIN and _unclear(one, two):
        return f"makes http://{two.host}/ mean two places; keep one of the two"
    return _repeats(one, two) if (one.kind, one.port) == (two.kind, two.port) else ""


def _unclear(one: SpecEgress, two: SpecEgress) -> bool:
    # Inside the sandbox both kinds are asked for as http://HOST/, where port 80 stands for the port of an `https` rule.
    if one.kind is two.kind:
        return one.kind is EgressKind.HTTPS and one.port != two.port and _overlap(one, two)
    http = one if one.kind is EgressKind.HTTP else two
    return http.port == _DEFAULT_PORTS[EgressKind.HTTP] or one.port == two.port


def _repeats(one: SpecEgress, two: SpecEgress) -> str:
    what = f"{two.kind} {authority(two.host, two.port)}"
    if (one.database, one.user) != (two.database, two.user):
        return ""
    if two.kind not in _PLAIN:
        return f"is for {what} again"
    if (set(one.methods), set(one.paths)) == (set(two.methods), set(two.paths)):
        return f"is for {what} again, with the same methods and paths"
    if one.secret != two.secret and _overlap(one, two):
        return f"fits requests to {what} that another rule fits too, and their secrets differ"
    return ""


def _overlap(one: SpecEgress, two: SpecEgress) -> bool:
    if not {*(one.methods or ANY_METHOD)} & {*(two.methods or ANY_METHOD)}:
        return False
    pairs = ((a, b) for a in one.paths or ("/",) for b in two.paths or ("/",))
    return any(_covers(a, b) or _covers(b, a) for a, b in pairs)


def _covers(prefix: str, path: str) -> bool:
    return path == prefix or path.startswith(prefix.removesuffix("/") + "/")

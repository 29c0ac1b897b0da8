"""http.request: one request that changes something at a service, seen before it is sent, with the one that takes it back.

The steps are `plan`, `apply`, `undo` and `verify`. What is sent is made anew from the arguments in each step, and has to
be what people saw, to the byte. It is sent once, through the proxy that the environment names, and no redirect is
followed. Standard library only. Exit codes: 0 done (the service answered 2xx), 3 refused and nothing was changed, 4 can't
tell, 5 the service isn't as it was, 6 it was sent and nobody knows what came of it.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

METHODS = ("POST", "PUT", "PATCH", "DELETE")
MAX_URL = 2048
MAX_HEADERS = 32
MAX_VALUE = 4096
MAX_BODY = 256 * 2**10
MAX_ANSWER = 2**20
MAX_SHOWN = 64 * 2**10
MAX_SAID = 4000
CONNECT_S = 10.0
EXCHANGE_S = 45
"""For one request with its answer, however slowly they move."""
URL = re.compile(
    r"http://(?P<host>[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?:[/?](?:[!$&'()*+,./0-9:;=?@A-Z\[\]_a-z~-]|%[0-9A-Fa-f]{2})*)?"
)
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
FORBIDDEN = {
    *("host", "content-length", "expect", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
    *("http2-settings", "forwarded", "max-forwards", "x-host", "x-http-host-override", "x-http-method"),
    *("x-http-method-override", "x-method-override", "x-original-host", "x-original-uri", "x-original-url"),
    *("x-override-url", "x-real-ip", "x-rewrite-url", "a-im", "accept-charset", "accept-encoding", "if-range", "range"),
    *("want-digest", "authorization", "cookie"),
}
"""They frame or route a message, or shape its answer, and the broker sets or drops them; or they are credentials, which
the broker adds."""
FORBIDDEN_STARTS = ("proxy-", "x-forwarded", "broker-")
NOT_SENT = {"NOT_LISTED", "ADDRESS_REFUSED", "UNRESOLVED", "MISMATCH", "SECRET_UNAVAILABLE"}
"""The broker's own verdicts that say that the service has heard nothing."""


class RefusedError(Exception):
    """Exit code 3. The text is `REASON: what, which, what to do next`; nothing was changed."""


class MovedError(Exception):
    """Exit code 5: the service isn't as it was when the request was planned; nothing was changed."""


class UnknownError(Exception):
    """Exit code 6: the request may have arrived, and may have had its effect."""


class UnreachableError(Exception):
    """There is no proxy to send anything to."""


@dataclass(frozen=True)
class Request:
    """What is sent, whole."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    """As they stand on the wire, with those that frame it."""
    body: bytes

    @property
    def text(self) -> str:
        """What people see: the request as it is sent, but that the lines of its head end in LF alone."""
        head = "".join(f"{name}: {value}\n" for name, value in self.headers)
        return f"{self.method} {self.url} HTTP/1.1\n{head}\n{self.body.decode()}"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    reason: str
    verdict: str
    """The broker's own, where the answer is the broker's."""
    body: bytes
    is_whole: bool

    @property
    def said(self) -> str:
        """Status and body for people, on one line."""
        text = printable(self.body[:MAX_SAID].decode("utf-8", "replace"))
        more = f" and {len(self.body) - MAX_SAID} bytes more" if len(self.body) > MAX_SAID else ""
        return f"{self.status} {printable(self.reason)} {text}{more}".rstrip()


def printable(text: str) -> str:
    """A text on one line, without what a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def request_of(arguments: Mapping[str, Any], field: str, methods: tuple[str, ...] = METHODS) -> Request:
    """Makes a request of an argument; the first of the methods is that of one that names none.

    Raises:
        RefusedError: it can't be sent exactly as it is written; says which part.
    """
    given = arguments.get(field)
    if not isinstance(given, dict):
        raise bad(field, "is no object")
    method, url, body = given.get("method", methods[0]), given.get("url"), given.get("body", "")
    if method not in methods:
        raise bad(f"{field}.method", f"is none of {', '.join(methods)}")
    match = URL.fullmatch(url) if isinstance(url, str) and len(url) <= MAX_URL else None
    if match is None or int(match["port"] or "80") > 65535:
        raise bad(
            f"{field}.url", f"is no http:// address in {MAX_URL} characters of ASCII, without user, fragment and spaces"
        )
    if not isinstance(body, str) or NO_TEXT.search(body):
        raise bad(f"{field}.body", "is no text")
    try:
        data = body.encode()
    except UnicodeEncodeError:
        raise bad(f"{field}.body", "is no text") from None
    if len(data) > MAX_BODY:
        raise bad(f"{field}.body", f"has more than {MAX_BODY} bytes")
    own = headers_of(given.get("headers") or {}, field)
    length = [("Content-Length", str(len(data)))] if data or method not in {"GET", "DELETE"} else []
    host = str(url).removeprefix("http://").replace("?", "/").partition("/")[0]
    framed = [("Host", host), *own, ("Accept-Encoding", "identity"), *length, ("Connection", "close")]
    return Request(method, str(url), tuple(framed), data)


def headers_of(given: object, field: str) -> list[tuple[str, str]]:
    """The caller's own headers, in their order."""
    if not isinstance(given, dict) or len(given) > MAX_HEADERS:
        raise bad(f"{field}.headers", f"is no object of at most {MAX_HEADERS} names and values")
    seen = set()
    for name, value in given.items():
        same = name.lower().replace("_", "-")
        if not HEADER.fullmatch(name) or same in seen:
            raise bad(f"{field}.headers", f"has a name twice, or one that is none: {name[:64]!r}")
        if same in FORBIDDEN or same.startswith(FORBIDDEN_STARTS):
            raise bad(f"{field}.headers", f"has {name}, which is the broker's to set")
        if not isinstance(value, str) or len(value) > MAX_VALUE or not VALUE.fullmatch(value):
            raise bad(f"{field}.headers", f"has a value that isn't one line of ASCII in {MAX_VALUE} characters: {name}")
        seen.add(same)
    return list(given.items())


def bad(field: str, what: str) -> RefusedError:
    """An argument that can't be used."""
    return RefusedError(f"ARGUMENTS_REFUSED: `{field}` {what}; write it in another way")


def send(request: Request) -> Answer:
    """Sends a request once and reads the answer.

    Raises:
        UnreachableError: nothing was sent.
        OSError: something may have been sent (also TimeoutError).
        http.client.HTTPException: the answer is no HTTP, or broke off.
    """
    proxy = urlsplit(os.environ.get("http_proxy", ""))
    if proxy.scheme != "http" or not proxy.hostname:
        raise UnreachableError("the environment names no http_proxy")
    connection = http.client.HTTPConnection(proxy.hostname, proxy.port or 80, timeout=CONNECT_S)
    connection.auto_open = 0  # it never connects by itself, and so never sends twice
    try:
        connection.connect()
    except OSError as error:
        raise UnreachableError(f"the proxy doesn't answer: {error.strerror}") from None
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(EXCHANGE_S)
    try:
        connection.sock.settimeout(EXCHANGE_S)
        connection.putrequest(request.method, request.url, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers:
            connection.putheader(name, value)
        connection.endheaders(request.body or None)
        response = connection.getresponse()
        body = response.read(MAX_ANSWER + 1)
        is_whole = len(body) <= MAX_ANSWER
        if is_whole and response.length:  # what was announced and never came; the library doesn't mind
            raise http.client.IncompleteRead(body, response.length)
        verdict = response.getheader("Broker-Verdict", "")
        return Answer(response.status, response.reason, verdict, body[:MAX_ANSWER], is_whole)
    finally:
        signal.alarm(0)
        connection.close()


def out_of_time(*_: object) -> NoReturn:
    """Ends an exchange, wherever it is."""
    raise TimeoutError("it took too long")


def change(request: Request) -> str:
    """Sends a request that changes something.

    Returns:
        What the service said, where that was 2xx.

    Raises:
        RefusedError: the broker didn't pass it on, or the service refused it.
        UnknownError: all else, once sending has begun.
    """
    try:
        answer = send(request)
    except UnreachableError as error:
        raise RefusedError(f"PROXY_UNREACHABLE: {error}, so nothing was sent; give the tool its way out") from None
    except (OSError, http.client.HTTPException) as error:
        raise UnknownError(f"no whole answer came ({why(error)})") from None
    not_sent = answer.verdict in NOT_SENT or (
        answer.verdict == "MALFORMED" and answer.status == http.HTTPStatus.BAD_REQUEST
    )
    if not_sent:
        raise RefusedError(
            f"EGRESS_REFUSED: the broker has not passed it on: {answer.said}; look at the tool's `egress`"
        )
    if answer.verdict:
        raise UnknownError(f"the broker broke it off ({answer.said})")
    if 200 <= answer.status < 300:
        return answer.said
    if 400 <= answer.status < 500:
        raise RefusedError(f"HTTP_REFUSED: the service answered {answer.said}; ask for something that it grants")
    if 300 <= answer.status < 400:
        raise UnknownError(f"the service answered with a redirect, which isn't followed ({answer.said})")
    raise UnknownError(f"the service answered {answer.said}")


def why(error: Exception) -> str:
    """What broke, in a few words."""
    return printable(str(getattr(error, "strerror", None) or error or type(error).__name__))[:200]


def observed(arguments: Mapping[str, Any]) -> str:
    """What the service answers to the request that only looks; sends that one.

    Raises:
        RefusedError: there is no answer that could be compared with another.
    """
    request = request_of(arguments, "observe", ("GET",))
    try:
        answer = send(request)
    except (UnreachableError, OSError, http.client.HTTPException) as error:
        raise RefusedError(
            f"OBSERVE_FAILED: {request.url}: {why(error)}; nothing was changed, try again later"
        ) from None
    status = answer.status
    if answer.verdict or not answer.is_whole or not (200 <= status < 300 or 400 <= status < 500):
        what = "has more than can be compared" if not answer.is_whole else f"answers {answer.said}"
        raise RefusedError(f"OBSERVE_FAILED: {request.url} {what}; observe an address that answers for itself")
    digest = hashlib.sha256(answer.body).hexdigest()
    try:
        shown = answer.body.decode() if len(answer.body) < MAX_SHOWN else ""
    except UnicodeDecodeError:
        shown = ""
    shown = "" if NO_TEXT.search(shown) else shown
    return f"GET {request.url}\nstatus {status}\nsha256 {digest}\nbytes {len(answer.body)}\n\n{shown}"


def as_expected(text: str, expect: Mapping[str, Any]) -> bool:
    """Whether what was observed is what the caller has said that it is."""
    lines = text.split("\n", 4)
    return all(f"{name} {expect[name]}" in lines[:4] for name in ("status", "sha256") if name in expect)


def items_of(arguments: Mapping[str, Any]) -> dict[str, str]:
    """The requests as items, made of the arguments alone."""
    return {"request": request_of(arguments, "request").text, "compensation": request_of(arguments, "compensate").text}


def items_in(folder: str) -> dict[str, str]:
    """The items of a folder: name -> content."""
    items = {}
    for file in Path(folder).glob("*"):
        if file.is_symlink() or not file.is_file():
            raise bad_items()
        items[file.name] = file.read_bytes().decode("utf-8", "surrogateescape")
    return items


def bad_items() -> RefusedError:
    """What `plan` didn't write of these arguments."""
    return RefusedError("ITEMS_INVALID: what is to be sent isn't what the arguments say; plan the call again")


def agreed(arguments: Mapping[str, Any], here: str, empty: str) -> str:
    """What was observed when the call was planned, empty where nothing was. All that was agreed to has to be here."""
    items = items_in(here)
    seen = items.pop("observed", "")
    if items != items_of(arguments) or items_in(empty) or bool(seen) != ("observe" in arguments):
        raise bad_items()
    return seen


def plan(arguments: Mapping[str, Any]) -> str:
    """Writes what would be sent, and what is observed now."""
    items = items_of(arguments)
    if "observe" in arguments:
        items["observed"] = text = observed(arguments)
        if not as_expected(text, arguments["observe"].get("expect", {})):
            raise RefusedError(
                f"NOT_AS_EXPECTED: {' '.join(text.splitlines()[:3])} isn't what `observe.expect` says; look at it again"
            )
    for name, text in items.items():
        Path("after").mkdir(exist_ok=True)
        Path("after", name).write_bytes(text.encode())
    return f"would send: {items['request'].partition(chr(10))[0]}"


def apply(arguments: Mapping[str, Any]) -> str:
    """Sends the request, if what is observed is as it was."""
    seen = agreed(arguments, "after", "before")
    if seen and observed(arguments) != seen:
        raise MovedError(f"observed: {arguments['observe']['url']} answers something else now")
    return change(request_of(arguments, "request"))


def undo(arguments: Mapping[str, Any]) -> str:
    """Sends the request that takes it back."""
    agreed(arguments, "before", "after")
    return change(request_of(arguments, "compensate"))


def verify(arguments: Mapping[str, Any]) -> str:
    """Leaves `now` empty where the service is as it was before the request. Refused where that can't be told."""
    here, empty = ("after", "before") if items_in("after") else ("before", "after")
    seen = agreed(arguments, here, empty)
    if not seen:
        raise RefusedError("NOT_OBSERVED: the call has no `observe`; look at the service")
    if observed(arguments) != seen:
        raise RefusedError("NOT_AS_BEFORE: the service isn't as it was before the request; look at it")
    return "as it was before the request"


STEPS = {"plan": plan, "apply": apply, "undo": undo, "verify": verify}


def main() -> int:
    """Takes the step that it is started for."""
    step, origin = sys.argv[1], Path("origin/arguments.json")
    file = origin if origin.is_file() else Path(os.environ["BROKER_ARGUMENTS"])
    try:
        if step not in STEPS:
            raise RefusedError(f"STEP_REFUSED: there is no step {step}; a request can't be tried without being sent")  # noqa: TRY301 - the one place that says so
        said, code = STEPS[step](json.loads(file.read_text("utf-8"))), 0
    except RefusedError as error:
        said, code = str(error), 4 if step == "verify" else 3
    except MovedError as error:
        said, code = f"STATE_MOVED: {error}; look at it, and call again", 5
    except UnknownError as error:
        said, code = f"OUTCOME_UNKNOWN: {error}; look at the service before anything is sent again", 6
    (sys.stderr if code else sys.stdout).write(f"{printable(said)}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())

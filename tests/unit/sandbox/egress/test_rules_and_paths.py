"""Which rule covers a request, and which paths can be compared at all."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.run import EgressKind, EgressRule, EgressVerdict, SecretUse
from broker.errors import InvalidArgumentError
from broker.sandbox.egress.paths import ambiguity, covers
from broker.sandbox.egress.refusal import RefusedError
from broker.sandbox.egress.rules import RuleBook

HTTP = EgressRule(EgressKind.HTTP, "a.example", 80, paths=("/v1/",))
HTTPS = EgressRule(EgressKind.HTTPS, "b.example", 443, methods=("GET", "POST"))
ODD = EgressRule(EgressKind.HTTPS, "b.example", 8443, paths=("/odd",))
CONNECT = EgressRule(EgressKind.CONNECT, "c.example", 443)
TCP = EgressRule(EgressKind.TCP, "d.example", 5432, listen=15432)
POSTGRES = EgressRule(
    EgressKind.POSTGRES, "e.example", 5432, listen=5432, secret=SecretUse("k"), database="shop", user="u"
)
BOOK = RuleBook((HTTP, HTTPS, ODD, CONNECT, TCP, POSTGRES))


def refused(host: str, port: int, method: str = "GET", path: str = "/") -> RefusedError:
    with pytest.raises(RefusedError) as error:
        BOOK.request(host, port, method, path)
    return error.value


def test_the_first_rule_that_covers_a_request_is_taken() -> None:
    assert BOOK.request("a.example", 80, "GET", "/v1/x") is HTTP
    assert BOOK.request("b.example", 80, "POST", "/odd") is HTTPS
    assert BOOK.request("b.example", 443, "GET", "/") is HTTPS
    assert BOOK.request("b.example", 8443, "HEAD", "/odd/x") is ODD
    assert BOOK.tunnel("c.example", 443) is CONNECT
    assert BOOK.forward(15432) is TCP
    assert BOOK.forward(5432) is POSTGRES


@pytest.mark.parametrize(
    ("host", "port", "method", "path", "rule"),
    [
        ("evil.example", 80, "GET", "/", None),
        ("a.example", 443, "GET", "/v1/x", None),
        ("b.example", 8080, "GET", "/", None),
        ("c.example", 443, "GET", "/", None),
        ("d.example", 5432, "GET", "/", None),
        ("e.example", 5432, "GET", "/", None),
        ("a.example", 80, "POST", "/v1/x", HTTP),
        ("a.example", 80, "GET", "/v2/x", HTTP),
        ("b.example", 8443, "POST", "/odd", ODD),
    ],
)
def test_what_no_rule_covers_says_which_is_missing(
    host: str, port: int, method: str, path: str, rule: EgressRule
) -> None:
    error = refused(host, port, method, path)
    assert (error.verdict, error.rule) == (EgressVerdict.NOT_LISTED, rule)
    assert error.hint


def test_tunnels_and_forwards_match_exactly() -> None:
    for host, port in (
        ("c.example", 80),
        ("b.example", 443),
        ("d.example", 5432),
        ("e.example", 5432),
        ("x.c.example", 443),
    ):
        with pytest.raises(RefusedError):
            BOOK.tunnel(host, port)
    assert BOOK.forward(5433) is None
    assert BOOK.forward(0) is None


@pytest.mark.parametrize(
    ("prefix", "path", "covered"),
    [
        ("/v1/", "/v1/x", True),
        ("/v1/", "/v1/", True),
        ("/v1/", "/v1", False),
        ("/v1", "/v1", True),
        ("/v1", "/v1/x", True),
        ("/v1", "/v1evil", False),
        ("/", "/anything", True),
        ("/v1", "/V1", False),
    ],
)
def test_a_prefix_ends_at_a_segment(prefix: str, path: str, covered: bool) -> None:  # noqa: FBT001  # a table
    assert covers(prefix, path) is covered


def _resolve(path: str) -> list[str]:
    """How the most lenient server reads a path: decoded to the end, parameters cut off, dots followed."""
    for _ in range(8):
        path = unquote(path).replace("\\", "/")
    read: list[str] = []
    for segment in path.split("/"):
        plain = segment.partition(";")[0].strip()
        if plain == "..":
            read = read[:-1]
        elif plain not in {"", "."}:
            read.append(plain)
    return read


_PARTS = st.sampled_from(
    [
        "v1",
        "admin",
        "/",
        "..",
        ".",
        "%2e",
        "%2E",
        "%2f",
        "%5c",
        "\\",
        "%252e",
        "%25",
        "25",
        "2e",
        ";",
        "%3b",
        "a",
        "%20",
        "%00",
        "//",
    ]
)


@given(st.lists(_PARTS, max_size=12).map(lambda parts: "/v1/" + "".join(parts)))
def test_a_path_that_passes_stays_under_its_prefix_for_the_most_lenient_server(path: str) -> None:
    if not ambiguity(path):
        assert _resolve(path)[:1] in (["v1"], [])
        assert path.startswith("/v1/")
        assert _resolve(path)[:1] == ["v1"]


@given(st.text(alphabet="abcXYZ019-_.~!$&'()*+,;=:@", min_size=1, max_size=20))
def test_a_plain_segment_is_never_ambiguous_but_for_dots(segment: str) -> None:
    dots = segment.partition(";")[0] in {".", ".."}
    assert bool(ambiguity(f"/v1/{segment}")) is dots


@pytest.mark.parametrize(
    "rule",
    [
        EgressRule(EgressKind.HTTP, "A.example", 80),
        EgressRule(EgressKind.HTTP, "a.example.", 80),
        EgressRule(EgressKind.HTTP, "bücher.example", 80),
        EgressRule(EgressKind.HTTP, "0x7f.1", 80),
        EgressRule(EgressKind.HTTP, "", 80),
        EgressRule(EgressKind.HTTP, "a.example", 0),
        EgressRule(EgressKind.HTTP, "a.example", 65536),
        EgressRule(EgressKind.HTTP, "a.example", 80, methods=("CONNECT",)),
        EgressRule(EgressKind.HTTP, "a.example", 80, paths=("v1",)),
        EgressRule(EgressKind.HTTP, "a.example", 80, paths=("/v1/../x",)),
        EgressRule(EgressKind.CONNECT, "a.example", 443, methods=("GET",)),
        EgressRule(EgressKind.TCP, "a.example", 443, paths=("/",), listen=5000),
        EgressRule(EgressKind.TCP, "a.example", 443),
        EgressRule(EgressKind.TCP, "a.example", 443, listen=80),
        EgressRule(EgressKind.TCP, "a.example", 443, listen=3128),
        EgressRule(EgressKind.HTTP, "a.example", 80, listen=5000),
        EgressRule(EgressKind.HTTP, "a.example", 80, secret=SecretUse("k", "x-key")),
        EgressRule(EgressKind.HTTPS, "a.example", 443, secret=SecretUse("k")),
        EgressRule(EgressKind.HTTPS, "a.example", 443, database="d"),
        EgressRule(EgressKind.TCP, "a.example", 443, listen=5000, user="u"),
        replace(POSTGRES, secret=None),
        replace(POSTGRES, secret=SecretUse("k", "x-key")),
        replace(POSTGRES, secret=SecretUse("k", "", "x")),
        replace(POSTGRES, listen=0),
        replace(POSTGRES, listen=3128),
        replace(POSTGRES, database=""),
        replace(POSTGRES, database="a\x00b"),
        replace(POSTGRES, user=""),
        replace(POSTGRES, user="x" * 64),
        replace(POSTGRES, paths=("/",)),
    ],
)
def test_a_rule_that_contradicts_itself_is_refused(rule: EgressRule) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        RuleBook((rule,))
    assert error.value.reason == "EGRESS_RULE_INVALID"
    assert error.value.hint


def test_two_forwards_on_one_port_are_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        RuleBook((TCP, EgressRule(EgressKind.TCP, "e.example", 1, listen=15432)))
    with pytest.raises(InvalidArgumentError):
        RuleBook((TCP, replace(POSTGRES, listen=15432)))

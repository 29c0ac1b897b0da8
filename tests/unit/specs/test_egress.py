"""Which hosts a specification may list, how, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from broker.domain.headers import RESERVED
from broker.domain.run import EgressKind, EgressRule, SecretUse
from broker.domain.spec import ToolSpec
from broker.domain.spec_egress import MAX_RULES, PROXY_PORT, SpecEgress
from broker.sandbox import engine
from broker.sandbox.egress.rules import RuleBook
from broker.specs.lint import lint_file

HTTP: dict[str, Any] = {"host": "example.com", "kind": "http", "methods": ["GET"], "paths": ["/data/"]}
SECRET: dict[str, Any] = {"name": "api-token", "header": "authorization", "prefix": "Bearer "}
HTTPS: dict[str, Any] = {
    "host": "api.example.com",
    "kind": "https",
    "methods": ["GET", "POST"],
    "paths": ["/v1/"],
    "secret": SECRET,
}
CONNECT: dict[str, Any] = {"host": "files.example.com", "kind": "connect"}
TCP: dict[str, Any] = {"host": "db.example.com", "port": 5432, "kind": "tcp", "listen": 15432}
POSTGRES: dict[str, Any] = {
    "host": "shop.example.com",
    "kind": "postgres",
    "listen": 5432,
    "database": "shop",
    "user": "broker_shop",
    "secret": {"name": "shop-db"},
}


def read(good: dict[str, Any], *rules: dict[str, Any]) -> ToolSpec:
    return ToolSpec.model_validate({**good, "egress": list(rules)})


def test_rules_of_every_kind(good: dict[str, Any]) -> None:
    spec = read(good, HTTP, HTTPS, CONNECT, TCP, POSTGRES)
    rules = (
        EgressRule(EgressKind.HTTP, "example.com", 80, ("GET",), ("/data/",)),
        EgressRule(
            EgressKind.HTTPS,
            "api.example.com",
            443,
            ("GET", "POST"),
            ("/v1/",),
            secret=SecretUse("api-token", "authorization", "Bearer "),
        ),
        EgressRule(EgressKind.CONNECT, "files.example.com", 443),
        EgressRule(EgressKind.TCP, "db.example.com", 5432, listen=15432),
        EgressRule(
            EgressKind.POSTGRES,
            "shop.example.com",
            5432,
            listen=5432,
            secret=SecretUse("shop-db"),
            database="shop",
            user="broker_shop",
        ),
    )
    assert {rule.kind for rule in rules} == set(EgressKind)
    assert spec.profile("sha256:abc").egress == spec.egress_rules == rules


def test_the_usual_port_may_be_written_out(good: dict[str, Any]) -> None:
    written = [{**HTTP, "port": 80}, {**HTTPS, "port": 443}, {**CONNECT, "port": 443}, {**POSTGRES, "port": 5432}]
    assert read(good, *written).digest({}) == read(good, HTTP, HTTPS, CONNECT, POSTGRES).digest({})


def test_what_was_unknown_to_the_first_specifications_is_not_in_their_versions(good: dict[str, Any]) -> None:
    rules = read(good, HTTP, HTTPS, CONNECT, TCP, POSTGRES).normalised()["egress"]
    assert isinstance(rules, list)
    first = {"host", "port", "kind", "methods", "paths", "listen", "secret"}
    assert [set(rule) for rule in rules if isinstance(rule, dict)] == [*[first] * 4, first | {"database", "user"}]
    assert rules[1] == {**HTTPS, "port": 443, "listen": 0}
    assert rules[4] == {**POSTGRES, "port": 5432, "methods": [], "paths": []}


@pytest.mark.parametrize(
    "change",
    [{"database": "other"}, {"user": "other"}, {"secret": {"name": "other"}}, {"listen": 15432}, {"port": 5433}],
)
def test_every_field_of_a_login_is_in_the_version(good: dict[str, Any], change: dict[str, Any]) -> None:
    assert read(good, {**POSTGRES, **change}).digest({}) != read(good, POSTGRES).digest({})


@pytest.mark.parametrize(
    "change",
    [
        {"host": "b.example.com"},
        {"port": 8443},
        {"methods": ["GET"]},
        {"paths": ["/v2/"]},
        {"secret": {**SECRET, "name": "other"}},
        {"secret": {**SECRET, "header": "x-token"}},
        {"secret": {**SECRET, "prefix": ""}},
        {"secret": None},
    ],
)
def test_every_field_of_a_rule_is_in_the_version(good: dict[str, Any], change: dict[str, Any]) -> None:
    assert read(good, {**HTTPS, **change}).digest({}) != read(good, HTTPS).digest({})


@pytest.mark.parametrize(
    ("rules", "listeners"),
    [
        ((), (False, ())),
        ((TCP,), (False, (15432,))),
        ((HTTP,), (True, ())),
        ((HTTPS,), (True, ())),
        ((CONNECT, TCP, {**TCP, "host": "b.example.com", "listen": 1024}), (True, (15432, 1024))),
        ((POSTGRES,), (False, (5432,))),
        ((POSTGRES, HTTPS, TCP), (True, (5432, 15432))),
    ],
)
def test_a_job_has_the_listeners_that_its_rules_need(
    good: dict[str, Any], rules: tuple[dict[str, Any], ...], listeners: tuple[bool, tuple[int, ...]]
) -> None:
    job = read(good, *rules).job({"text": "x"}, b"{}", (), {})
    assert (job.proxy, job.forwards) == listeners


def test_nothing_of_a_rule_goes_into_the_sandbox(good: dict[str, Any]) -> None:
    job = read({**good, "env": {"MODE": "C"}}, HTTPS, TCP, POSTGRES).job({"text": "x"}, b"{}", (), {})
    assert dict(job.env) == {"MODE": "C"}
    words = ("example.com", "api-token", "Bearer", "shop")
    assert not any(word in str((job.argv, job.code)) for word in words)


def test_the_proxys_port_is_the_runners() -> None:
    assert PROXY_PORT == engine.PROXY_PORT


@pytest.mark.parametrize("header", sorted(RESERVED))
def test_a_secret_may_stand_in_no_header_that_the_gate_refuses(header: str) -> None:
    secret = {"name": "api-token", "header": header}
    with pytest.raises(ValidationError, match="header"):
        SpecEgress.model_validate({"host": "api.example.com", "kind": "https", "secret": secret})


@given(st.text(st.sampled_from("/ab.~!$&'()*+,=:@_-%;?#\\"), max_size=8))
def test_the_gate_takes_every_path_that_a_rule_may_have(text: str) -> None:
    try:
        rule = SpecEgress.model_validate({**HTTP, "paths": [text]})
    except ValidationError:
        return
    RuleBook([rule.rule()])


def test_the_gate_takes_the_rules(good: dict[str, Any]) -> None:
    RuleBook(read(good, HTTP, HTTPS, CONNECT, TCP, POSTGRES).egress_rules)


@given(st.text(max_size=70))
def test_the_gate_takes_every_login_that_a_rule_may_have(text: str) -> None:
    try:
        rule = SpecEgress.model_validate({**POSTGRES, "database": text, "user": text})
    except ValidationError:
        return
    RuleBook([rule.rule()])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"kind": "http"}, "Field required"),
        ({"host": "example.com"}, "Field required"),
        ({**HTTP, "kind": "ftp"}, "Input should be 'http', 'https', 'connect', 'tcp' or 'postgres'"),
        ({**HTTP, "kind": "HTTP"}, "Input should be"),
        ({**HTTP, "kind": ["http"]}, "Input should be"),
        ({**HTTP, "host": "*.example.com"}, "wildcard"),
        ({**HTTP, "host": "127.1"}, "no IPv4 address"),
        ({**HTTP, "host": "Example.com"}, "write it example.com"),
        ({**HTTP, "port": 0}, "greater than or equal to 1"),
        ({**HTTP, "port": 65536}, "less than or equal to 65535"),
        ({**HTTP, "port": "80"}, "valid integer"),
        ({**HTTP, "methods": ["get"]}, "match pattern"),
        ({**HTTP, "methods": ["CONNECT"]}, "CONNECT can't be allowed"),
        ({**HTTP, "methods": ["TRACE"]}, "TRACE can't be allowed"),
        ({**HTTP, "methods": ["GET\r\n"]}, "match pattern"),
        ({**HTTP, "methods": ["GET", "GET"]}, "/methods says something twice"),
        ({**HTTP, "paths": ["data/"]}, "must begin with `/`"),
        ({**HTTP, "paths": ["/a b"]}, "must begin with `/`"),
        ({**HTTP, "paths": ["/a\\b"]}, "must begin with `/`"),
        ({**HTTP, "paths": ["/a;b"]}, "must begin with `/`"),
        ({**HTTP, "paths": ["/\u00fc"]}, "must begin with `/`"),
        ({**HTTP, "paths": ["/a\n"]}, "must begin with `/`"),
        ({**HTTP, "paths": ["/%2e"]}, "no `%`"),
        ({**HTTP, "paths": ["/a?b=c"]}, "no query"),
        ({**HTTP, "paths": ["/a#b"]}, "no fragment"),
        ({**HTTP, "paths": ["/a/../b"]}, "`..` segments"),
        ({**HTTP, "paths": ["/."]}, "`..` segments"),
        ({**HTTP, "paths": ["/a//b"]}, "may not have empty"),
        ({**HTTP, "paths": ["/", "/"]}, "/paths says something twice"),
        ({**HTTP, "secret": SECRET}, "only with `https`"),
        ({**CONNECT, "secret": SECRET}, "only with `https`"),
        ({**TCP, "secret": SECRET}, "only with `https`"),
        ({**CONNECT, "methods": ["GET"]}, "/methods can't be kept"),
        ({**CONNECT, "paths": ["/"]}, "/paths can't be kept"),
        ({**TCP, "methods": ["GET"]}, "/methods can't be kept"),
        ({**HTTP, "listen": 8080}, "/listen is of `tcp` and `postgres`"),
        ({**CONNECT, "listen": 8080}, "/listen is of `tcp` and `postgres`"),
        ({"host": "db", "kind": "tcp", "listen": 15432}, "/port is missing"),
        ({"host": "db", "kind": "tcp", "port": 5432}, "/listen is missing"),
        ({**TCP, "listen": 1023}, "greater than or equal to 1024"),
        ({**TCP, "listen": 65536}, "less than or equal to 65535"),
        ({**TCP, "listen": 3128}, "3128 is the proxy's own port"),
        ({**HTTPS, "secret": {"name": "api-token"}}, "/secret/header is missing"),
        ({**HTTPS, "secret": {"header": "x-key"}}, "Field required"),
        ({**HTTPS, "secret": {**SECRET, "header": ""}}, "match pattern"),
        ({**HTTPS, "secret": {**SECRET, "name": "API"}}, "match pattern"),
        ({**HTTPS, "secret": {**SECRET, "value": "s"}}, "Extra inputs"),
        ({**HTTPS, "secret": {**SECRET, "header": "Authorization"}}, "match pattern"),
        ({**HTTPS, "secret": {**SECRET, "header": "x\r\ny"}}, "match pattern"),
        ({**HTTPS, "secret": {**SECRET, "prefix": "a\r\nb: "}}, "match pattern"),
        ({**HTTPS, "secret": {**SECRET, "prefix": " a"}}, "match pattern"),
        ({**HTTPS, "unknown": 1}, "Extra inputs"),
        ({**HTTPS, "record": True}, "valid integer"),
        ({**HTTPS, "record": "1023B"}, "greater than or equal to 1024"),
        ({**HTTPS, "record": "17MiB"}, "less than or equal to 16777216"),
        *(({**rule, "record": "1MiB"}, "/record can't be kept of") for rule in (CONNECT, TCP, POSTGRES)),
        *(
            ({**rule, name: "shop"}, f"/{name} is of `postgres` only")
            for rule in (HTTP, HTTPS, CONNECT, TCP)
            for name in ("database", "user")
        ),
        *(
            ({key: value for key, value in POSTGRES.items() if key != name}, f"/{name} is missing")
            for name in ("listen", "database", "user", "secret")
        ),
        *(({**POSTGRES, name: text}, "at least 1 character") for name in ("database", "user") for text in ("",)),
        *(({**POSTGRES, name: "x" * 64}, "at most 63 characters") for name in ("database", "user")),
        *(
            ({**POSTGRES, name: text}, "must be printable, of 63 bytes at most")
            for name in ("database", "user")
            for text in ("\u00fc" * 32, "a\x00b", "a\nb", " a", "a ", "a\u202eb")
        ),
        ({**POSTGRES, "database": 1}, "valid string"),
        ({**POSTGRES, "secret": None}, "/secret is missing"),
        ({**POSTGRES, "secret": SECRET}, "/secret/header is of `https` only"),
        ({**POSTGRES, "secret": {"name": "shop-db", "prefix": "x"}}, "/secret/prefix is of `https` only"),
        ({**POSTGRES, "methods": ["GET"]}, "/methods can't be kept"),
        ({**POSTGRES, "paths": ["/"]}, "/paths can't be kept"),
        ({**POSTGRES, "listen": 3128}, "3128 is the proxy's own port"),
        *(
            ({**HTTPS, "secret": {**SECRET, "header": header}}, "belongs to the broker or to the connection")
            for header in ("host", "te", "proxy-authorization", "proxy-anything", "accept-encoding", "range")
        ),
    ],
)
def test_what_a_rule_may_not_say(good: dict[str, Any], rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(good, rule)
    assert message in str(caught.value)


PLAIN: dict[str, Any] = {"host": "example.com", "kind": "https"}


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (HTTP, PLAIN, "mean two places"),
        (PLAIN, HTTP, "mean two places"),
        ({**HTTP, "port": 8443}, {**PLAIN, "port": 8443}, "mean two places"),
        (PLAIN, {**PLAIN, "port": 8443}, "mean two places"),
        ({**PLAIN, "paths": ["/a/"]}, {**PLAIN, "paths": ["/a"], "port": 8443}, "mean two places"),
        (HTTP, HTTP, "with the same methods and paths"),
        ({**HTTP, "methods": ["GET", "PUT"]}, {**HTTP, "methods": ["PUT", "GET"]}, "with the same methods and paths"),
        (CONNECT, CONNECT, "is for connect files.example.com:443 again"),
        (TCP, {**TCP, "listen": 15433}, "is for tcp db.example.com:5432 again"),
        (TCP, {**TCP, "host": "b.example.com"}, "listens on port 15432, as another rule does"),
        (POSTGRES, {**POSTGRES, "listen": 5433}, "is for postgres shop.example.com:5432 again"),
        (
            POSTGRES,
            {**POSTGRES, "listen": 5433, "secret": {"name": "other"}},
            "is for postgres shop.example.com:5432 again",
        ),
        (TCP, {**POSTGRES, "listen": 15432}, "listens on port 15432, as another rule does"),
        (HTTPS, {**HTTPS, "paths": ["/"], "secret": None}, "their secrets differ"),
        (HTTPS, {**HTTPS, "paths": [], "methods": [], "secret": None}, "their secrets differ"),
        (HTTPS, {**HTTPS, "paths": ["/v1/admin"], "secret": {**SECRET, "name": "admin"}}, "their secrets differ"),
    ],
)
def test_rules_between_which_a_request_could_not_choose(
    good: dict[str, Any], one: dict[str, Any], two: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        read(good, TCP | {"host": "first.example", "listen": 2000}, one, two)
    assert message in str(caught.value)
    assert "/egress/2 " in str(caught.value)
    assert "(rule 1)" in str(caught.value)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (HTTP, {**HTTP, "methods": ["POST"]}),
        (HTTP, {**HTTP, "paths": ["/other/"]}),
        (HTTP, {**HTTP, "port": 8080}),
        ({**HTTP, "port": 8080}, PLAIN),
        ({**PLAIN, "paths": ["/a"]}, {**PLAIN, "paths": ["/ab"], "port": 8443}),
        ({**PLAIN, "methods": ["PUT"]}, {**PLAIN, "port": 8443}),
        (PLAIN, {**PLAIN, "kind": "connect"}),
        (HTTPS, {**HTTPS, "paths": ["/v2/"], "secret": None}),
        (HTTPS, {**HTTPS, "methods": ["PUT"], "secret": None}),
        (HTTPS, {**HTTPS, "paths": ["/v1/x"]}),
        (TCP, {**TCP, "port": 5433, "listen": 15433}),
        (TCP, {**POSTGRES, "host": "db.example.com"}),
        (POSTGRES, {**POSTGRES, "listen": 5433, "database": "other"}),
        (POSTGRES, {**POSTGRES, "listen": 5433, "user": "other"}),
    ],
)
def test_rules_that_go_together(good: dict[str, Any], one: dict[str, Any], two: dict[str, Any]) -> None:
    assert len(read(good, one, two).egress) == 2


def test_answers_are_kept_only_where_a_rule_says_so(good: dict[str, Any]) -> None:
    spec = read(good, {**HTTP, "record": "1MiB"}, HTTPS)
    assert [rule.record_bytes for rule in spec.egress_rules] == [2**20, 0]
    assert [rule.normalised().get("record") for rule in spec.egress] == [2**20, None]
    assert spec.digest({}) != read(good, HTTP, HTTPS).digest({})
    RuleBook(spec.egress_rules)


def test_all_rules_together_may_keep_so_much(good: dict[str, Any]) -> None:
    half: dict[str, Any] = {"record": "8MiB"}
    assert read(good, {**HTTP, **half}, {**HTTPS, **half}, CONNECT)
    other = {"host": "c.example.com", "kind": "http", "record": "1KiB"}
    with pytest.raises(ValidationError, match="/egress/2/record makes 16778240 bytes with the rules before it"):
        read(good, {**HTTP, **half}, {**HTTPS, **half}, other)


def test_there_is_a_most_of_rules(good: dict[str, Any]) -> None:
    rules = [{"host": f"h{number}.example", "kind": "connect"} for number in range(MAX_RULES + 1)]
    assert len(read(good, *rules[:-1]).egress) == MAX_RULES
    with pytest.raises(ValidationError, match="at most 32 items"):
        read(good, *rules)


def test_the_documented_rules_are_right(good: dict[str, Any], repository: Path) -> None:
    text = (repository / "docs" / "tools.md").read_text("utf-8")
    example = next(part for part in text.split("```") if part.startswith("yaml\negress:"))
    rules = yaml.safe_load(example.removeprefix("yaml\n"))["egress"]
    assert {rule.kind for rule in read(good, *rules).egress_rules} == set(EgressKind)


def test_lint_says_where(good: dict[str, Any], write: Callable[..., Path]) -> None:
    text = """\
secrets: []
egress:
  - {host: a.example, kind: connect, paths: [/x]}
  - host: B.example
    kind: http
  - host: api.example
    kind: https
    secret: {name: token, header: host}
"""
    path = write(good)
    path.write_text(path.read_text("utf-8") + text, "utf-8")
    lines = path.read_text("utf-8").splitlines()
    found = {item.field: (lines[item.line - 1].strip(), item.message) for item in lint_file(path)}
    assert "unknown key 'secrets'" in found["/secrets"][1]
    assert found["/egress/0/paths"][0].startswith("- {host: a.example")
    assert found["/egress/1/host"] == (
        "- host: B.example",
        "must be in lower case without a dot at its end: write it b.example",
    )
    assert found["/egress/2/secret/header"][0] == "secret: {name: token, header: host}"


def test_lint_says_where_of_a_pair(good: dict[str, Any], write: Callable[..., Path]) -> None:
    found = lint_file(write({**good, "egress": [CONNECT, dict(CONNECT)]}))
    assert [(item.field, item.warning) for item in found] == [("/egress/1", False)]


def test_lint_warns_of_what_is_wide(good: dict[str, Any], write: Callable[..., Path]) -> None:
    good["limits"]["inodes"] = 0
    found = lint_file(write({**good, "egress": [{**PLAIN, "secret": SECRET}, POSTGRES]}))
    assert [(item.field, item.warning) for item in found] == [("/limits/inodes", True), ("/egress/0/secret", True)]


def test_lint_warns_of_input_that_cannot_fit_only_where_it_is_written(
    good: dict[str, Any], write: Callable[..., Path]
) -> None:
    assert lint_file(write(good)) == ()
    found = lint_file(write({**good, "files": {"max_input_bytes": "2MiB"}}))
    assert [item.message for item in found] == ["input files of max_input_bytes don't fit within limits.disk"]

"""Attacks on a login at a database: servers that want the password or pretend to know it, tools that want another session."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import structlog.testing

from broker.domain.run import EgressRecord, EgressVerdict
from broker.sandbox.egress.limits import EgressLimits
from broker.sandbox.egress.postgres.messages import MAX_TOTAL
from broker.sandbox.egress.postgres.startup import MAX_BYTES
from tests.database_support import DATABASE, LISTEN, USER, postgres_rule
from tests.egress_support import NAME, WITHIN_S, Certificates, Host, Tool, World, make_certificates, serving
from tests.fake_postgres import AUTHENTICATED, BOUND, PLAIN, READY, Login, error_fields, lying, packet, startup

_PASSWORD = "pa55-word, with=signs"  # noqa: S105  # of this test
_LIMITS = EgressLimits(linger_s=0.01)
_STARTUP = startup("user", USER, "database", DATABASE)
Script = Callable[[Login], Awaitable[None]]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@dataclass
class Attack:
    """What came of one connection of a tool."""

    certificates: Certificates
    logs: list[Any]
    secrets: dict[str, str] = field(default_factory=lambda: {"key": _PASSWORD})
    limits: EgressLimits = _LIMITS
    trusted: bool = True
    world: World = field(init=False)
    host: Host = field(init=False)
    got: bytes = b""

    async def run(self, script: Script, said: bytes = _STARTUP, *, piece: int = 2**16, ends: bool = False) -> None:
        """Lets a tool say something while the server plays the script, until the gate is done."""
        async with serving(lying(script)) as self.host:
            self.world = World(
                postgres_rule(self.host.port),
                ca=self.certificates.ca if self.trusted else None,
                secrets=self.secrets,
                limits=self.limits,
            )
            tool = Tool(self.world.session, LISTEN)
            tool.send(said, piece)
            if ends:
                tool.close()
            self.got = await tool.all()

    @property
    def record(self) -> EgressRecord:
        return self.world.record

    def is_refused(self, verdict: EgressVerdict, state: str, *words: str) -> None:
        """The tool has read an error and nothing else, and the password is nowhere."""
        fields = error_fields(self.got)
        assert (fields["S"], fields["V"], fields["C"]) == ("FATAL", "FATAL", state), fields
        assert self.record.verdict is verdict
        for word in words:
            assert word in fields["M"]
            assert word in self.record.detail
        self.is_kept()

    def is_kept(self) -> None:
        """The password is nowhere."""
        said = _PASSWORD.encode()
        shapes = [
            said,
            base64.b64encode(said),
            said.hex().encode(),
            hashlib.md5((_PASSWORD + USER).encode()).hexdigest().encode(),  # noqa: S324  # that is what PostgreSQL's md5 is
        ]
        seen = b"".join(
            [
                self.got,
                *self.host.requests,
                repr((self.world.session.records(), self.world.session.warnings(), self.logs)).encode(),
            ]
        )
        assert not any(shape in seen for shape in shapes)


@pytest.fixture
def attack(certificates: Certificates) -> Iterator[Attack]:
    with structlog.testing.capture_logs() as logs:
        yield Attack(certificates, logs)


def logged_in(certificates: Certificates) -> Script:
    """An honest server, and what it says in the end."""

    async def script(login: Login) -> None:
        await login.start_tls(certificates.context())
        await login.startup()
        await login.prove(await login.scram(_PASSWORD, certificates.certificate.read_text()))
        await login.begin()

    return script


def after_startup(certificates: Certificates, then: Script) -> Script:
    """Honest until the tool's parameters have come."""

    async def script(login: Login) -> None:
        await login.start_tls(certificates.context())
        await login.startup()
        await then(login)

    return script


async def unreached(_: Login) -> None:
    raise AssertionError("the server was reached")


# Servers.


_METHODS: dict[str, tuple[int, bytes, str]] = {
    "trust": (0, b"", "without a proof"),
    "Kerberos": (2, b"", "Kerberos"),
    "clear text": (3, b"", "clear text"),
    "md5": (5, b"salt", "MD5"),
    "SCM": (6, b"", "SCM"),
    "GSSAPI": (7, b"", "GSSAPI"),
    "SSPI": (9, b"", "SSPI"),
    "unknown": (99, b"", "another kind"),
    "SASL without a name": (10, b"\x00", "offers no SCRAM-SHA-256"),
    "SASL with weaker names": (10, b"SCRAM-SHA-1\x00SCRAM-SHA-1-PLUS\x00PLAIN\x00\x00", "offers no SCRAM-SHA-256"),
    "OAuth": (10, b"OAUTHBEARER\x00\x00", "offers no SCRAM-SHA-256"),
}


@pytest.mark.parametrize("name", _METHODS)
async def test_a_server_that_asks_for_anything_but_scram_is_told_nothing(attack: Attack, name: str) -> None:
    how, more, words = _METHODS[name]
    await attack.run(after_startup(attack.certificates, lambda login: login.ask(how, more)))
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", words)
    assert len(attack.host.requests) == 1, "only the startup message was sent"


@pytest.mark.parametrize("answer", [b"N", b"", b"E", b"G", b"R"])
async def test_a_server_without_tls_is_told_nothing(attack: Attack, answer: bytes) -> None:
    async def script(login: Login) -> None:
        await login.asked_for_tls()
        await login.send(answer)
        if not answer:
            login.writer.write_eof()
        login.host.requests.append(await login.reader.read())

    await attack.run(script)
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", "TLS")
    assert attack.host.requests == [b""]


async def test_a_server_that_never_answers_the_question_for_tls_is_given_up(attack: Attack) -> None:
    attack.limits = replace(_LIMITS, connect_s=0.3)
    await attack.run(lambda login: login.asked_for_tls())
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", "in time")


async def test_a_server_with_another_names_certificate_is_told_nothing(
    attack: Attack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    attack.certificates = make_certificates(tmp_path_factory.mktemp("other"), "other.example.com")
    await attack.run(logged_in(attack.certificates))
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", "certificate")
    assert attack.host.requests == []


async def test_a_server_whose_certificate_nobody_vouches_for_is_told_nothing(attack: Attack) -> None:
    attack.trusted = False
    await attack.run(logged_in(attack.certificates))
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", "certificate")
    assert attack.host.requests == []


@pytest.mark.parametrize(
    "early",
    [AUTHENTICATED + READY, packet(b"R", (3).to_bytes(4)), packet(b"E", b"CXX000\x00\x00"), b"\x00", b"S"],
)
async def test_bytes_before_tls_are_never_taken_for_the_servers(attack: Attack, early: bytes) -> None:
    async def script(login: Login) -> None:
        await login.start_tls(attack.certificates.context(), before=early)
        await login.startup()

    await attack.run(script)
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", "TLS")
    assert attack.host.requests == []


async def test_a_server_that_does_not_know_the_password_is_found_out(attack: Attack) -> None:
    async def script(login: Login) -> None:
        server = await login.scram(_PASSWORD, attack.certificates.certificate.read_text())
        server.server_signature = bytes(32)
        await login.prove(server)
        await login.begin()

    await attack.run(after_startup(attack.certificates, script))
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", "doesn't prove that it knows the password")


@pytest.mark.parametrize("final", [b"", b"v=", b"v=AAAA", b"v=\xff", b"e=other-error", b"e=\x00", b"x=1", b"\xc3\xbc"])
async def test_a_proof_that_is_none_is_no_proof(attack: Attack, final: bytes) -> None:
    async def script(login: Login) -> None:
        await login.scram(_PASSWORD, attack.certificates.certificate.read_text())
        await login.ask(12, final)
        await login.ask(0)
        await login.begin()

    await attack.run(after_startup(attack.certificates, script))
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", "doesn't prove that it knows the password")


@pytest.mark.parametrize("after", ["offer", "challenge"])
async def test_a_server_that_lets_the_user_in_without_its_own_proof_is_not_believed(attack: Attack, after: str) -> None:
    async def script(login: Login) -> None:
        if after == "offer":
            await login.ask(10, f"{BOUND}\x00{PLAIN}\x00\x00".encode())
            await login.read()
        else:
            await login.scram(_PASSWORD, attack.certificates.certificate.read_text())
        await login.ask(0)
        await login.begin()

    await attack.run(after_startup(attack.certificates, script))
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", "without a proof")


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ("r={nonce}more,s=c2FsdHNhbHRzYWx0,i=1000001", "more than 1000000 rounds"),
        ("r={nonce}more,s=c2FsdHNhbHRzYWx0,i=999999999999", "challenge isn't accepted"),
        ("r={nonce}more,s=c2FsdHNhbHRzYWx0,i=4095", "challenge isn't accepted"),
        ("r={nonce}more,s=c2FsdHNhbHRzYWx0,i=1", "challenge isn't accepted"),
        ("r={nonce}more,s=c2Fs,i=4096", "challenge isn't accepted"),
        ("r={nonce},s=c2FsdHNhbHRzYWx0,i=4096", "challenge isn't accepted"),
        ("r=another,s=c2FsdHNhbHRzYWx0,i=4096", "challenge isn't accepted"),
        ("m=ext,r={nonce}more,s=c2FsdHNhbHRzYWx0,i=4096", "challenge isn't accepted"),
        ("e=no-resources", "challenge isn't accepted"),
        ("", "challenge isn't accepted"),
        ("\u00fc", "challenge isn't accepted"),
    ],
)
async def test_a_challenge_that_makes_the_proof_cheap_or_dear_gets_none(
    attack: Attack, challenge: str, words: str
) -> None:
    async def script(login: Login) -> None:
        await login.ask(10, f"{BOUND}\x00{PLAIN}\x00\x00".encode())
        nonce = (await login.read()).decode().partition(",r=")[2]
        await login.ask(11, challenge.format(nonce=nonce).encode())

    await attack.run(after_startup(attack.certificates, script))
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", words)
    assert len(attack.host.requests) == 2, "no proof was sent"


async def test_a_server_between_that_strikes_out_the_binding_is_found_out_by_the_real_one(attack: Attack) -> None:
    said: list[str] = []

    async def script(login: Login) -> None:
        await login.ask(10, f"{PLAIN}\x00\x00".encode())
        said.append((await login.read()).partition(b"\x00")[2][4:].decode())
        login.writer.close()

    await attack.run(after_startup(attack.certificates, script))
    assert said[0].startswith("y,,"), "the client says that it could have bound"


async def test_a_proof_is_bound_to_the_certificate_that_was_shown(
    attack: Attack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    real = make_certificates(tmp_path_factory.mktemp("real"))

    async def script(login: Login) -> None:
        # A relay with a certificate for the same name, before the real server with its own.
        with pytest.raises(Exception, match="channel bindings don't match"):
            await login.scram(_PASSWORD, real.certificate.read_text())
        await login.say(b"E", b"SFATAL\x00C28P01\x00Mno\x00\x00")

    await attack.run(after_startup(attack.certificates, script))
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", "28P01")


async def test_the_servers_own_words_about_a_refused_login_stay_outside(attack: Attack) -> None:
    words = b"SFATAL\x00C28000\x00Mno pg_hba.conf entry for host 10.1.2.3\x00\x00"
    await attack.run(after_startup(attack.certificates, lambda login: login.say(b"E", words)))
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", "SQLSTATE 28000")
    assert b"10.1.2.3" not in attack.got
    assert attack.logs == [
        {
            "event": "egress_login_refused",
            "log_level": "warning",
            "host": f"{NAME}:{attack.host.port}",
            "user": USER,
            "state": "28000",
        }
    ]


@pytest.mark.parametrize("steps", range(6))
async def test_a_server_that_ends_half_way_is_told_apart_from_a_session(attack: Attack, steps: int) -> None:
    def play(login: Login) -> list[Callable[[], Awaitable[object]]]:
        kept: list[Any] = []

        async def scram() -> None:
            kept.append(await login.scram(_PASSWORD, attack.certificates.certificate.read_text()))

        return [
            lambda: login.start_tls(attack.certificates.context()),
            login.startup,
            scram,
            lambda: login.ask(12, kept[0].get_server_final().encode()),
            lambda: login.ask(0),
            lambda: login.say(b"K", bytes(8)),
        ]

    async def script(login: Login) -> None:
        for step in play(login)[: steps + 1]:
            await step()
        login.writer.close()

    await attack.run(script)
    before = AUTHENTICATED if steps == 4 else AUTHENTICATED + packet(b"K", bytes(8)) if steps == 5 else b""
    assert attack.got.startswith(before)
    attack.got = attack.got.removeprefix(before)
    attack.is_refused(EgressVerdict.UNREACHABLE, "08001", "broke the connection off")


@pytest.mark.parametrize("kind", [b"R", b"E"])
@pytest.mark.parametrize("length", [0, 3, 2**16 + 1, 2**31, 2**32 - 1])
async def test_a_message_with_an_endless_length_is_not_waited_for(attack: Attack, kind: bytes, length: int) -> None:
    await attack.run(after_startup(attack.certificates, lambda login: login.send(kind + length.to_bytes(4))))
    attack.is_refused(EgressVerdict.MALFORMED, "08001", "impossible length")


async def test_endless_messages_before_the_session_are_cut(attack: Attack) -> None:
    async def script(login: Login) -> None:
        await login.prove(await login.scram(_PASSWORD, attack.certificates.certificate.read_text()))
        for _ in range(64):
            await login.say(b"N", b"Mbusy\x00\x00" * 1000)

    await attack.run(after_startup(attack.certificates, script))
    assert attack.record.verdict is EgressVerdict.MALFORMED
    assert len(attack.got) < MAX_TOTAL + 1000
    assert b"before its session began" in attack.got


@pytest.mark.parametrize("kind", [b"D", b"T", b"p", b"v", b"A", b"\x00"])
@pytest.mark.parametrize("when", ["before the login", "after the login"])
async def test_a_message_that_has_no_place_before_the_session_ends_it(attack: Attack, when: str, kind: bytes) -> None:
    async def script(login: Login) -> None:
        if when == "after the login":
            await login.prove(await login.scram(_PASSWORD, attack.certificates.certificate.read_text()))
        await login.say(kind, bytes(4))

    await attack.run(after_startup(attack.certificates, script))
    attack.got = attack.got.removeprefix(AUTHENTICATED)
    attack.is_refused(EgressVerdict.MALFORMED, "08001", "no place")


async def test_what_comes_with_the_sessions_beginning_is_not_lost(attack: Attack) -> None:
    notice = packet(b"N", b"Mlater\x00\x00")

    async def script(login: Login) -> None:
        await login.prove(await login.scram(_PASSWORD, attack.certificates.certificate.read_text()))
        await login.send(READY + notice)

    await attack.run(after_startup(attack.certificates, script), ends=True)
    assert attack.got == AUTHENTICATED + READY + notice


async def test_the_server_hears_in_tls_which_protocol_is_meant(attack: Attack) -> None:
    agreed: list[str | None] = []
    context = attack.certificates.context()
    context.set_alpn_protocols(["postgresql"])

    async def script(login: Login) -> None:
        await login.start_tls(context)
        agreed.append(login.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        login.writer.close()

    await attack.run(script)
    assert agreed == ["postgresql"], "a server of version 17 refuses who names another"


async def test_a_server_that_stops_in_the_login_is_given_up(attack: Attack) -> None:
    attack.limits = replace(_LIMITS, login_s=0.3)
    await attack.run(after_startup(attack.certificates, lambda login: login.send(b"R")))
    attack.is_refused(EgressVerdict.LIMIT, "08001", "didn't begin within 0.3 s")


async def test_the_key_that_cancels_never_enters_the_sandbox(attack: Attack) -> None:
    await attack.run(logged_in(attack.certificates), ends=True)
    assert attack.got.startswith(AUTHENTICATED)
    assert attack.got.endswith(packet(b"K", (77).to_bytes(4) + bytes(4)) + READY)
    assert attack.record.verdict is EgressVerdict.ALLOWED
    attack.is_kept()


async def test_at_the_runs_end_a_login_is_cut_at_once(attack: Attack) -> None:
    reached = asyncio.Event()

    async def script(_: Login) -> None:
        reached.set()

    async with serving(lying(after_startup(attack.certificates, script))) as host:
        world = World(postgres_rule(host.port), ca=attack.certificates.ca, secrets=attack.secrets)
        tool = Tool(world.session, LISTEN)
        tool.send(_STARTUP)
        async with asyncio.timeout(WITHIN_S):
            await reached.wait()
        tool.serving.cancel()
        await asyncio.gather(tool.serving, return_exceptions=True)
        async with asyncio.timeout(WITHIN_S):
            await host.closed.wait()
    assert tool.got == b""


# Tools.


_NO_SESSIONS: dict[str, tuple[bytes, EgressVerdict, str, str]] = {
    "another user": (startup("user", "postgres"), EgressVerdict.MISMATCH, "28000", "another user"),
    "a user like it": (startup("user", USER.upper()), EgressVerdict.MISMATCH, "28000", "another user"),
    "an empty user": (startup("user", ""), EgressVerdict.MISMATCH, "28000", "another user"),
    "another database": (startup("database", "postgres"), EgressVerdict.MISMATCH, "28000", "another database"),
    "replication": (startup("replication", "database"), EgressVerdict.MALFORMED, "08P01", "replication"),
    "no replication": (startup("replication", "false"), EgressVerdict.MALFORMED, "08P01", "replication"),
    "options": (startup("options", "-c role=boss"), EgressVerdict.MALFORMED, "08P01", "options"),
    "two users": (startup("user", USER, "user", "postgres"), EgressVerdict.MALFORMED, "08P01", "twice"),
    "an extension": (startup("_pq_.x", "1"), EgressVerdict.MALFORMED, "08P01", "extension"),
    "cancel": (bytes.fromhex("0000001004d2162e") + bytes(8), EgressVerdict.MALFORMED, "08P01", "cancel"),
    "cancel with a long key": (
        bytes.fromhex("0000010c04d2162e") + bytes(260),
        EgressVerdict.MALFORMED,
        "08P01",
        "cancel",
    ),
    "version 2": (startup(version=2 << 16), EgressVerdict.MALFORMED, "08P01", "isn't PostgreSQL's protocol"),
    "version 3.2": (startup("user", USER, version=(3 << 16) + 2), EgressVerdict.MALFORMED, "08P01", "3.2"),
    "version 4": (startup(version=4 << 16), EgressVerdict.MALFORMED, "08P01", "isn't PostgreSQL's protocol"),
    "too long": (startup("application_name", "x" * MAX_BYTES), EgressVerdict.MALFORMED, "08P01", "longer than"),
    "endless": (b"\xff" * 2**17, EgressVerdict.MALFORMED, "08P01", "longer than"),
    "too short": ((7).to_bytes(4) + bytes(3), EgressVerdict.MALFORMED, "08P01", "longer than"),
    "no end": (startup()[:-1] + b"x", EgressVerdict.MALFORMED, "08P01", "end"),
    "no value": ((13).to_bytes(4) + (3 << 16).to_bytes(4) + b"abc\x00\x00", EgressVerdict.MALFORMED, "08P01", "value"),
    "behind the end": (
        (12).to_bytes(4) + (3 << 16).to_bytes(4) + b"\x00a\x00\x00",
        EgressVerdict.MALFORMED,
        "08P01",
        "behind its end",
    ),
    "TLS": (bytes.fromhex("16030100c8010000c4"), EgressVerdict.MALFORMED, "08P01", "TLS"),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", EgressVerdict.MALFORMED, "08P01", "isn't PostgreSQL's protocol"),
}


@pytest.mark.parametrize("name", _NO_SESSIONS)
@pytest.mark.parametrize("piece", [1, 2**16])
async def test_what_begins_no_session_reaches_nobody(attack: Attack, name: str, piece: int) -> None:
    said, verdict, state, words = _NO_SESSIONS[name]
    await attack.run(unreached, said, piece=piece)
    attack.is_refused(verdict, state, words)
    assert attack.host.connections == 0
    assert attack.world.names.asked == []


@pytest.mark.parametrize("said", [b"", b"\x00", _STARTUP[:4], _STARTUP[:-1]])
async def test_a_startup_that_stops_is_cut_in_time(attack: Attack, said: bytes) -> None:
    attack.limits = replace(_LIMITS, hello_s=0.3)
    await attack.run(unreached, said, piece=1)
    attack.is_refused(EgressVerdict.LIMIT, "08001", "within 0.3 s")
    assert attack.host.connections == 0


async def test_a_startup_that_trickles_is_cut_in_time() -> None:
    world = World(postgres_rule(5432), limits=replace(_LIMITS, hello_s=0.3))
    tool = Tool(world.session, LISTEN)
    tool.send(MAX_BYTES.to_bytes(4) + (3 << 16).to_bytes(4))
    while not tool.ended:
        tool.send(b"x")
        await asyncio.sleep(0.05)  # slower than the whole message may take, faster than silence
    assert error_fields(await tool.all())["C"] == "08001"
    assert world.record.verdict is EgressVerdict.LIMIT
    assert world.names.asked == []


async def test_a_startup_that_breaks_off_reaches_nobody(attack: Attack) -> None:
    await attack.run(unreached, _STARTUP[:-1], ends=True)
    attack.is_refused(EgressVerdict.MALFORMED, "08P01", "before its first message was complete")
    assert attack.host.connections == 0


async def test_a_run_that_ends_before_the_startup_has_asked_for_nothing() -> None:
    world = World(postgres_rule(5432))
    tool = Tool(world.session, LISTEN)
    tool.send(bytes.fromhex("0000000804d2162f") + _STARTUP[:-1])
    await tool.until(b"N")
    tool.serving.cancel()
    await asyncio.gather(tool.serving, return_exceptions=True)
    assert world.record.verdict is EgressVerdict.MALFORMED
    assert "before it said what it wanted" in world.record.detail


async def test_questions_for_encryption_are_answered_once_each(attack: Attack) -> None:
    tls, gss = bytes.fromhex("0000000804d2162f"), bytes.fromhex("0000000804d21630")
    await attack.run(unreached, gss + tls + tls)
    assert attack.got.startswith(b"NNE")
    attack.got = attack.got[2:]
    attack.is_refused(EgressVerdict.MALFORMED, "08P01", "again")
    await attack.run(unreached, (9).to_bytes(4) + tls[4:] + b"x")
    attack.is_refused(EgressVerdict.MALFORMED, "08P01", "longer than such a question")


async def test_of_the_tools_parameters_two_are_passed_on_and_its_user_and_database_are_the_rules(
    attack: Attack,
) -> None:
    given: list[dict[str, str]] = []

    async def script(login: Login) -> None:
        await login.start_tls(attack.certificates.context())
        given.append(await login.startup())
        login.writer.close()

    more = ("application_name", "a\n\u00fc", "search_path", "evil", "client_encoding", "UTF8", "role", "boss")
    await attack.run(script, startup(*more))
    assert given == [
        {"user": USER, "database": DATABASE, "client_encoding": "UTF8", "application_name": "a\n\u00fc"},
    ]


async def test_what_a_tool_sends_too_early_waits_for_the_login(attack: Attack) -> None:
    early = packet(b"p", b"mine\x00") + packet(b"Q", b"DROP TABLE prices\x00")

    async def script(login: Login) -> None:
        await logged_in(attack.certificates)(login)
        login.host.requests.append(await login.reader.readexactly(len(early)))

    await attack.run(script, _STARTUP + early, ends=True)
    assert attack.host.requests[-1] == early
    assert not any(b"DROP" in said for said in attack.host.requests[:-1])


@pytest.mark.parametrize("secrets", [{}, {"key": "short"}, {"key": "line\r\nbreak"}])
async def test_without_a_usable_secret_nobody_is_asked(attack: Attack, secrets: dict[str, str]) -> None:
    attack.secrets = secrets
    await attack.run(unreached)
    attack.is_refused(EgressVerdict.SECRET_UNAVAILABLE, "28000", "'key'")
    assert len(attack.world.session.warnings()) == 1
    assert attack.host.connections == 0
    assert attack.world.names.asked == []


async def test_more_connections_than_allowed_are_told_so(attack: Attack) -> None:
    attack.limits = EgressLimits(connections=0, linger_s=0.01)
    await attack.run(unreached)
    attack.is_refused(EgressVerdict.LIMIT, "08001", "more than 0 connections")


async def test_an_address_inside_is_refused_before_it_is_reached() -> None:
    world = World(postgres_rule(5432), names={NAME: [("10.0.0.1",)]})
    assert error_fields(await world.raw(_STARTUP, listener=LISTEN))["C"] == "08001"
    assert world.record.verdict is EgressVerdict.ADDRESS_REFUSED


async def test_the_calls_bytes_end_with_its_session(attack: Attack) -> None:
    attack.limits = EgressLimits(total_bytes=300_000, linger_s=0.01)

    async def script(login: Login) -> None:
        await logged_in(attack.certificates)(login)
        for _ in range(200):
            await login.say(b"D", bytes(4096))

    await attack.run(script)
    assert attack.record.verdict is EgressVerdict.LIMIT
    assert len(attack.got) < 300_000 + 2 * 2**16

"""A small witness (c2sp.org/tlog-witness) on loopback. It shares no code with the broker: notes and proofs are read here anew."""

from __future__ import annotations

import base64
import hashlib
import http.server
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Reply = tuple[int, str, bytes]
PLAIN = "text/plain"


@dataclass
class WitnessState:
    """What a witness knows, and how it may be made to misbehave."""

    name: str = "witness.example/w1"
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    logs: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Origin -> name and public key of the log."""
    seen: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Origin -> size and root of the last checkpoint that it cosigned."""
    clock: Callable[[], float] = time.time
    instead: Callable[[Reply], Reply] | None = None
    """Changes an answer on its way out."""
    before: Callable[[], Reply | None] | None = None
    """Answers in place of the witness."""
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    gate: threading.Lock = field(default_factory=threading.Lock)

    @property
    def vkey(self) -> str:
        return vkey(self.name, 4, self.private.public_key())

    def trust(self, log_vkey: str) -> None:
        name, _, encoded = log_vkey.split("+", 2)
        self.logs[name] = (name, base64.b64decode(encoded)[1:])


def key_id(name: str, kind: int, public: Ed25519PublicKey) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public.public_bytes_raw()).digest()[:4]


def vkey(name: str, kind: int, public: Ed25519PublicKey) -> str:
    typed = base64.b64encode(bytes([kind]) + public.public_bytes_raw()).decode()
    return f"{name}+{key_id(name, kind, public).hex()}+{typed}"


def add_checkpoint(state: WitnessState, body: bytes) -> Reply:  # noqa: PLR0911 - one for each status
    """As the specification says, step by step."""
    head, _, note = body.partition(b"\n\n")
    first, *proof_lines = head.decode().split("\n")
    word, _, old_text = first.partition(" ")
    if word != "old" or str(int(old_text)) != old_text or len(proof_lines) > 63:
        return 400, PLAIN, b"request\n"
    text, _, signatures = note.rpartition(b"\n\n")
    text += b"\n"
    origin, size_text, root_text = text.decode().split("\n")[:3]
    size, root, old = int(size_text), base64.b64decode(root_text), int(old_text)
    if origin not in state.logs:
        return 404, PLAIN, b"origin\n"
    if not _signed(state.logs[origin], text, signatures.decode()):
        return 403, PLAIN, b"signature\n"
    if old > size:
        return 400, PLAIN, b"old size\n"
    with state.gate:
        seen_size, seen_root = state.seen.get(origin, (0, b""))
        if old != seen_size or (old == size and seen_root != root):
            return 409, "text/x.tlog.size", f"{seen_size}\n".encode()
        if not _consistent(old, seen_root, size, root, [base64.b64decode(line) for line in proof_lines]):
            return 422, PLAIN, b"proof\n"
        state.seen[origin] = (size, root)
    return 200, PLAIN, cosignature(state, text)


def cosignature(state: WitnessState, text: bytes) -> bytes:
    moment = int(state.clock())
    signed = state.private.sign(f"cosignature/v1\ntime {moment}\n".encode() + text)
    data = key_id(state.name, 4, state.private.public_key()) + moment.to_bytes(8, "big") + signed
    return f"\u2014 {state.name} {base64.b64encode(data).decode()}\n".encode()


def _signed(log: tuple[str, bytes], text: bytes, lines: str) -> bool:
    name, public = log
    for line in lines.splitlines():
        _, who, data = line.split(" ")
        raw = base64.b64decode(data)
        if who == name and raw[:4] == hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4]:
            try:
                Ed25519PublicKey.from_public_bytes(public).verify(raw[4:], text)
            except InvalidSignature:
                return False
            return True
    return False


def _consistent(old: int, old_root: bytes, new: int, new_root: bytes, proof: list[bytes]) -> bool:
    """RFC 9162, section 2.1.4.2."""
    if old in {0, new}:
        return not proof and (old == 0 or old_root == new_root)
    path = [old_root, *proof] if old & (old - 1) == 0 else proof
    if not path:
        return False
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for node in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = _node(node, fr), _node(node, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = _node(sr, node)
        fn, sn = fn >> 1, sn >> 1
    return fr == old_root and sr == new_root and sn == 0


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class _Handler(http.server.BaseHTTPRequestHandler):
    answer: ClassVar[Callable[[str, bytes, Any], Reply]]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, content_type, data = type(self).answer(self.path, body, self.headers)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        if 300 <= status < 400:
            self.send_header("Location", self.path)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Keeps the tests' output clean."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that went away is part of the tests."""


@contextmanager
def http_server(
    answer: Callable[[str, bytes, Any], Reply], *, context: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[str]:
    """Serves POSTs on loopback; gives the base address."""
    handler = type("Handler", (_Handler,), {"answer": staticmethod(answer)})
    server = _Server(("127.0.0.1", port), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def witness_server(state: WitnessState, *, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serves a witness; gives its submission prefix."""

    def answer(path: str, body: bytes, _: object) -> Reply:
        state.bodies.append(body)
        state.paths.append(path)
        early = state.before() if state.before is not None else None
        if early is not None:
            return early
        reply = add_checkpoint(state, body) if path == "/add-checkpoint" else (404, PLAIN, b"path\n")
        return reply if state.instead is None else state.instead(reply)

    with http_server(answer, context=context) as base:
        yield base

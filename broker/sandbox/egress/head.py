"""The head of a request, checked byte by byte before a lenient parser sees it. Pure."""

from __future__ import annotations

import re

from broker.sandbox.egress.refusal import malformed

END = b"\r\n\r\n"
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e]*)")
_REQUEST = re.compile(rb"[A-Za-z-]{1,32} [\x21-\x7e]+ HTTP/1\.[01]")
_DIGITS = re.compile(rb"[0-9]{1,15}")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_END = re.compile(re.escape(END))


def end_of(data: bytes | bytearray, since: int = 0) -> int:
    """Where the empty line that ends a head begins; -1 where it hasn't come.

    Args:
        data: all that has come so far.
        since: how much of it was there at the last call. It isn't looked through again: the tool chooses the pieces.
    """
    found = _END.search(data, max(0, since - len(END) + 1))
    return found.start() if found else -1


def check_start(data: bytes | bytearray, since: int = 0) -> None:
    """Refuses what can't become a head any more, however much follows.

    Args:
        data: all that has come so far, without the end of a head in it.
        since: how much of it has passed before. Only its last byte is looked at again: it may be a CR whose LF was missing.

    Raises:
        RefusedError: ``MALFORMED``.
    """
    if data[:1] and not (data[:1].isalpha()):
        raise malformed("this is no HTTP request", "The proxy of the sandbox speaks HTTP/1.1 without TLS.")
    if _BARE.search(data, max(0, since - 1), len(data) - data.endswith(b"\r")):
        raise malformed("the head holds a CR or LF that stands alone")


def check_head(head: bytes) -> None:
    """Refuses every head that two servers might read differently.

    Args:
        head: up to and with the empty line.

    Raises:
        RefusedError: ``MALFORMED``; says what is wrong.
    """
    check_start(head)
    lines = head.removesuffix(END).split(b"\r\n")
    if not _REQUEST.fullmatch(lines[0]):
        raise malformed("the request line is no `METHOD target HTTP/1.1` in ASCII without control characters")
    seen: dict[bytes, list[bytes]] = {}
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t"):
            raise malformed("a header goes on in the next line (obsolete folding)")
        field = _FIELD.fullmatch(line)
        if field is None:
            raise malformed(
                "a header isn't `Name: value` in ASCII, without control characters or space before the colon"
            )
        # Some servers take `_` for `-`: what they would take for framing counts as framing.
        seen.setdefault(field[1].lower().replace(b"_", b"-"), []).append(field[2].strip(b" \t"))
    _check_framing(seen)


def _check_framing(seen: dict[bytes, list[bytes]]) -> None:
    lengths, codings = seen.get(b"content-length", []), seen.get(b"transfer-encoding", [])
    if lengths and codings:
        raise malformed("Content-Length and Transfer-Encoding stand together")
    if len(lengths) > 1 or any(not _DIGITS.fullmatch(value) for value in lengths):
        raise malformed("Content-Length isn't one number")
    if len(codings) > 1 or any(value.lower() != b"chunked" for value in codings):
        raise malformed("Transfer-Encoding isn't `chunked`, once")
    if len(seen.get(b"host", [])) > 1:
        raise malformed("Host stands there more than once")
    if b"upgrade" in seen or b"http2-settings" in seen:
        raise malformed("another protocol (Upgrade) isn't passed on", "Speak HTTP/1.1 without Upgrade.")
    if any(value.lower() != b"100-continue" for value in seen.get(b"expect", [])):
        raise malformed("Expect asks for something other than 100-continue")

"""HTTP/1.1 with the tool: one request at a time, heads checked before they are parsed, bodies in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus

import h11

from broker.sandbox.egress.head import END, check_head, check_start, end_of
from broker.sandbox.egress.line import Line, Turns
from broker.sandbox.egress.refusal import limit, malformed

_PIECE_BYTES = 64 * 1024


class ToolSide:
    """The server's role on the tool's connection.

    Args:
        line: the connection.
        header_bytes: longest head of a request.
    """

    def __init__(self, line: Line, header_bytes: int) -> None:
        self._line = line
        self._header_bytes = header_bytes
        self._unread = b""
        self._turns = Turns()
        self._http = self._fresh()
        self.answering = False
        """Whether an answer to the present request has begun."""

    async def request(self) -> h11.Request | None:
        """The head of the next request; ``None`` where the tool has ended the connection before it.

        Raises:
            RefusedError: ``MALFORMED`` or ``LIMIT``.
            ConnectionError: it broke.
        """
        head = await self._head()
        if head is None:
            return None
        check_head(head)
        self.answering = False
        self._http = self._fresh()
        try:
            self._http.receive_data(head)
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise malformed(f"the request isn't proper HTTP: {error}") from error
        if not isinstance(event, h11.Request):
            raise malformed("the request isn't proper HTTP")
        return event

    async def body(self) -> AsyncIterator[bytes]:
        """The request's body, in pieces of as much as came together; trailers are dropped.

        Raises:
            RefusedError: ``MALFORMED`` or ``LIMIT``.
            ConnectionError: it broke.
        """
        if self._unread:
            self._http.receive_data(self._unread)
            self._unread = b""
        piece = bytearray()
        while True:
            await self._turns.step()
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise malformed(f"the request's body isn't proper HTTP: {error}") from error
            if isinstance(event, h11.Data):
                piece += event.data
                if len(piece) < _PIECE_BYTES:
                    continue
            if piece:
                # One write for many small chunks: each on its own would cost as much as a whole read.
                yield bytes(piece)
                piece.clear()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._line.read())
            elif not isinstance(event, h11.Data):
                self._unread = self._http.trailing_data[0]
                return

    async def go_on(self) -> None:
        """Asks a tool that waits for ``100 Continue`` to send its body.

        Raises:
            ConnectionError: it broke.
        """
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))

    async def answer(self, status: int, reason: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Begins the answer.

        Raises:
            RefusedError: ``LIMIT``.
            ConnectionError: it broke.
        """
        self.answering = True
        await self._send(h11.Response(status_code=status, reason=reason, headers=headers))

    async def data(self, data: bytes) -> None:
        """A piece of the answer's body; the same errors."""
        if data:
            await self._send(h11.Data(data=data))

    async def finish(self) -> None:
        """The answer is complete; the same errors."""
        await self._send(h11.EndOfMessage())

    @property
    def reusable(self) -> bool:
        """Whether request and answer are complete and another request may follow."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def rest(self) -> bytes:
        """What came behind the head of a CONNECT: no longer HTTP."""
        rest, self._unread = self._unread, b""
        return rest

    async def _head(self) -> bytes | None:
        data, since = bytearray(self._unread), 0
        while (end := end_of(data, since)) < 0:
            if len(data) > self._header_bytes:
                raise limit(f"the head is longer than {self._header_bytes} bytes", HTTPStatus.BAD_REQUEST)
            check_start(data, since)
            since = len(data)
            more = await self._line.read()
            if not more:
                if data:
                    raise malformed("the connection ended inside a request's head")
                return None
            data += more
        if end > self._header_bytes:
            raise limit(f"the head is longer than {self._header_bytes} bytes", HTTPStatus.BAD_REQUEST)
        self._unread = bytes(data[end + len(END) :])
        return bytes(data[: end + len(END)])

    def _fresh(self) -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=self._header_bytes)

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._line.write(data)

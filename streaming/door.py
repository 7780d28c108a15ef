"""The port's first look at a connection: websockets and plain GETs pass through, a request with a body is held open.

The websocket library parses requests without a body only. Where a POST comes, it is shown the same request as a GET;
the body is kept from it, for the server to read from `Door.body`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Response

from streaming.gate import Visitor
from streaming.lobby import Lobby
from streaming.protocols import Dialect

__all__ = ["Door", "Sent"]

_HEAD_BYTES = 16_384
_OPEN_SECONDS = 10.0
_BUFFER_BYTES = 65_536
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class Door(ServerConnection):
    """A connection. One that has not made its request within ten seconds is cut."""

    body: asyncio.StreamReader | None = None
    """Of a POST; flow control holds the sender back while nobody reads."""
    length: int | None = None
    """The body's, in bytes; `None`: not stated."""
    dialect: Dialect | None = None
    """Made when the request is answered, for when the websocket is open."""
    visitor: Visitor | None = None
    """Who asks; `None`: nobody that brings a token where one is needed."""

    def __init__(self, *args: Any, lobby: Lobby, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._lobby = lobby
        self._address: str | None = None  # while in the lobby
        self._head: bytearray | None = bytearray()
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        address = str((self.remote_address or ("",))[0])
        if self._lobby.enter(address):
            self._address = address
            self._deadline = self.loop.call_later(_OPEN_SECONDS, self.transport.abort)
        else:
            self.transport.write(_FULL)
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.body is not None:
            self.body.feed_data(data)
            return
        if self._head is not None:
            self._head += data
            if (data := self._pass_on()) == b"":
                return
        super().data_received(data)
        if self.request is not None:
            self._leave_lobby()

    def _leave_lobby(self) -> None:
        if self._deadline is not None and self._address is not None:
            self._deadline.cancel()
            self._lobby.leave(self._address)
            self._deadline = None

    def eof_received(self) -> None:
        if self.body is not None:
            self.body.feed_eof()
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave_lobby()
        if self.body is not None:
            self.body.feed_eof()
        super().connection_lost(exc)

    def _pass_on(self) -> bytes:
        """What the websocket library is to see of what has come so far."""
        head = self._head
        assert head is not None
        if not b"POST ".startswith(head[:5]):
            self._head = None
            return bytes(head)
        end = head.find(b"\r\n\r\n")
        if end < 0:
            if len(head) > _HEAD_BYTES:
                self.transport.abort()
            return b""
        self._head = None
        self.body = asyncio.StreamReader(limit=_BUFFER_BYTES)
        self.body.set_transport(self.transport)
        lines = bytes(head[:end]).split(b"\r\n")
        kept = [b"GET " + lines[0][5:]]
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length" and value.strip().isdigit():
                self.length = int(value.strip()[:18])
            elif name.lower() not in (b"content-length", b"transfer-encoding", b"upgrade"):
                kept.append(line)
        if rest := bytes(head[end + 4 :]):
            self.body.feed_data(rest)
        # `data_received` goes on to the library with this.
        return b"\r\n".join(kept) + b"\r\n\r\n"


class Sent(Response):
    """A response that has been written already: the library only closes the connection."""

    def serialize(self) -> bytes:
        return b""

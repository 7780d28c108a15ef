"""What is to be sent to one client: bounded, because partials replace one another and finals are counted."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from streaming.events import Event, Final, Heard, Partial, Settled

__all__ = ["Outbox", "Outgoing"]


@dataclass(frozen=True)
class Outgoing:
    """An event with the lag it had, a ready message, or nothing. The connection closes after the `last`."""

    item: Event | str | None
    lag: float = 0.0
    last: bool = False


class Outbox:
    """A queue for one reader, the connection's writer. Its length is that of the finals it holds and little
    more.
    """

    def __init__(self, *, finals: int) -> None:
        self._limit = finals
        self._items: deque[Outgoing] = deque()
        self._finals = 0
        self._messages = 0
        self._filled = asyncio.Event()
        self._roomy = asyncio.Event()
        self._roomy.set()

    @property
    def overfull(self) -> bool:
        """More finals wait than the client may leave unread."""
        return self._finals > self._limit

    def put(self, *items: Outgoing) -> None:
        for outgoing in items:
            # A partial says all that an unsent earlier one said: the client misses nothing but a stage of
            # typing.
            if isinstance(outgoing.item, Partial | Final | Heard):
                self._drop_last(Heard)
            if isinstance(outgoing.item, Final | Settled):
                self._drop_last(Settled)
            if isinstance(outgoing.item, Partial | Final):
                self._drop_last(Partial)
            self._items.append(outgoing)
            self._finals += isinstance(outgoing.item, Final)
            self._messages += isinstance(outgoing.item, str)
        if self._messages > self._limit:
            self._roomy.clear()
        self._filled.set()

    async def room(self) -> None:
        """Until few enough answers wait for a client that asks more than it reads."""
        await self._roomy.wait()

    def _drop_last(self, kind: type[Event]) -> None:
        if self._items and isinstance(self._items[-1].item, kind):
            self._items.pop()

    async def take(self) -> list[Outgoing]:
        """All that waits, at least one item."""
        await self._filled.wait()
        items = list(self._items)
        self._items.clear()
        self._finals = self._messages = 0
        self._filled.clear()
        self._roomy.set()
        return items

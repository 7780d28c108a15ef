"""What is to be sent to one client: bounded, because partials replace one another and finals are counted."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from streaming.events import Ended, Event, Failed, Final, Partial

__all__ = ["Outbox", "Outgoing"]


@dataclass(frozen=True)
class Outgoing:
    """An event with the lag it had, a ready message, or `None`: close now."""

    item: Event | str | None
    lag: float = 0.0

    @property
    def last(self) -> bool:
        """The connection closes after this one."""
        return self.item is None or isinstance(self.item, Ended | Failed)


class Outbox:
    """A queue for one reader, the connection's writer. Its length is that of the finals it holds and little
    more.
    """

    def __init__(self, *, finals: int) -> None:
        self._limit = finals
        self._items: deque[Outgoing] = deque()
        self._finals = 0
        self._filled = asyncio.Event()

    @property
    def overfull(self) -> bool:
        """More finals wait than the client may leave unread."""
        return self._finals > self._limit

    def put(self, *items: Outgoing) -> None:
        for outgoing in items:
            # A partial says all that an unsent earlier one said: the client misses nothing but a stage of
            # typing.
            if (
                isinstance(outgoing.item, Partial | Final)
                and self._items
                and isinstance(self._items[-1].item, Partial)
            ):
                self._items.pop()
            self._items.append(outgoing)
            self._finals += isinstance(outgoing.item, Final)
        self._filled.set()

    async def take(self) -> list[Outgoing]:
        """All that waits, at least one item."""
        await self._filled.wait()
        items = list(self._items)
        self._items.clear()
        self._finals = 0
        self._filled.clear()
        return items

"""A server with the toy engine for the length of a test, and a client by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from streaming.server import Server, Settings
from tests.streaming.toy_engine import ToyEngine, silence, speech

TALK = np.concatenate(
    [silence(0.32), speech(1, 2, 3, frames=3), silence(1.52), speech(7, 4, frames=5), silence(0.4)]
)
WANTED = ["one two three", "seven four"]
START = '{"type": "start"}'
END = '{"type": "end"}'

Message = str | bytes


def serve(
    test: Callable[[Server], Awaitable[None]],
    engine: ToyEngine | dict[str, ToyEngine] | None = None,
    *,
    seconds: float = 30.0,
    **settings: Any,
) -> None:
    async def body() -> None:
        async with (
            asyncio.timeout(seconds),
            Server(engine or ToyEngine(), Settings(port=0, **settings)) as server,
        ):
            await test(server)

    asyncio.run(body())


async def talk(url: str, messages: Sequence[Message], **options: Any) -> tuple[list[Any], int, str]:
    """Send, then read to the end: all messages (JSON where they are), the close code and reason."""
    heard = []
    async with connect(url, max_size=None, **options) as client:
        with contextlib.suppress(ConnectionClosed):  # what came before the close can still be read
            for message in messages:
                await client.send(message)
        with contextlib.suppress(ConnectionClosed):
            while True:
                text = await client.recv()
                heard.append(json.loads(text) if str(text).startswith("{") else text)
    assert client.close_code is not None
    return heard, client.close_code, client.close_reason or ""


def finals(heard: Sequence[Any]) -> list[str]:
    return [x["text"] for x in heard if x.get("type") == "final"]


def get(server: Server, path: str, **headers: str) -> tuple[int, str]:
    url = server.url.replace("ws:", "http:").replace("/v1/stream", path)
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def fetch(server: Server, path: str, **headers: str) -> tuple[int, str]:
    return await asyncio.to_thread(get, server, path, **headers)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)

"""The page in a real browser, headless, with a file for a microphone: driven over Chromium's debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from websockets.asyncio.client import ClientConnection, connect

from streaming.server import Server, Settings
from tests.streaming.toy_engine import ToyEngine, silence, speech

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium: the page is tested where one is installed"),
]


class Tab:
    """One page of the browser."""

    def __init__(self, socket: ClientConnection, folder: Path) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._folder = folder

    async def command(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    async def evaluate(self, expression: str) -> Any:
        result = await self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, userGesture=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str) -> Any:
        try:
            async with asyncio.timeout(20):
                while not (value := await self.evaluate(expression)):
                    await asyncio.sleep(0.05)
                return value
        except TimeoutError:
            shown = await self.evaluate("document.body.innerText")
            raise AssertionError(f"{expression} did not come true; the page says: {shown}") from None

    async def choose_file(self, path: Path) -> None:
        root = await self.command("DOM.getDocument")
        node = await self.command("DOM.querySelector", nodeId=root["root"]["nodeId"], selector="#file")
        await self.command("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])

    async def screenshot(self, name: str) -> None:
        """Kept where RILL_SCREENSHOTS names a folder, to be looked at."""
        if folder := os.environ.get("RILL_SCREENSHOTS"):
            picture = await self.command("Page.captureScreenshot")
            (Path(folder) / name).write_bytes(base64.b64decode(picture["data"]))


@asynccontextmanager
async def browse(url: str, folder: Path, *arguments: str) -> AsyncIterator[Tab]:
    assert BROWSER is not None
    process = subprocess.Popen(
        [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-port=0",
            f"--user-data-dir={folder / 'profile'}",
            *arguments,
            url,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port_file = folder / "profile" / "DevToolsActivePort"
        async with asyncio.timeout(60):
            while not port_file.exists() or "\n" not in port_file.read_text():
                await asyncio.sleep(0.1)
            port, path = port_file.read_text().split("\n")[:2]
            async with connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as browser:
                target = None
                while target is None:
                    await browser.send('{"id": 1, "method": "Target.getTargets"}')
                    targets = json.loads(await browser.recv())["result"]["targetInfos"]
                    target = next((x["targetId"] for x in targets if x["url"].startswith(url)), None)
        async with connect(f"ws://127.0.0.1:{port}/devtools/page/{target}", max_size=None) as socket:
            yield Tab(socket, folder)
    finally:
        process.terminate()
        process.wait(10)


TALK = np.concatenate(
    [silence(0.32), speech(1, 2, 3, frames=3), silence(2), speech(7, 4, frames=5), silence(0.2)]
)


def test_a_file_and_a_microphone(tmp_path: Path) -> None:
    recording, tone = tmp_path / "talk.wav", tmp_path / "tone.wav"
    soundfile.write(recording, TALK, 16_000)
    seconds = np.arange(48_000 * 3) / 48_000
    soundfile.write(
        tone, 0.6 * np.sin(2 * np.pi * 440 * seconds) * (seconds % 0.5 < 0.3), 48_000, subtype="PCM_16"
    )

    async def test() -> None:
        engine = ToyEngine()
        async with Server(engine, Settings(port=0)) as server:
            url = f"http://127.0.0.1:{server.port}/"
            capture = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
            async with browse(url, tmp_path, *capture, f"--use-file-for-fake-audio-capture={tone}") as tab:
                await tab.until("document.getElementById('status')?.textContent === 'Ready'")
                options = await tab.evaluate(
                    "[...document.getElementById('latency').options].map((x) => x.text)"
                )
                assert options == ["160 ms", "320 ms", "640 ms"]

                await tab.choose_file(recording)
                await tab.until("document.querySelectorAll('#transcript p').length === 2")
                await tab.until("document.getElementById('status').textContent === 'Ready'")
                text = await tab.evaluate("document.getElementById('transcript').innerText")
                assert text.split() == "one two three seven four".split()
                title = await tab.evaluate("document.querySelector('.word').title")
                assert title == "0.32–0.36 s · 88 %"
                await tab.screenshot("file.png")

                await tab.evaluate("document.getElementById('latency').value = '160'")
                await tab.evaluate("document.getElementById('record').click()")
                await tab.until("document.querySelector('.partial .word') !== null")
                assert await tab.evaluate("document.getElementById('level').value") > 0
                assert await tab.evaluate("document.getElementById('record').textContent") == "Stop"
                await tab.screenshot("microphone.png")
                await tab.evaluate("document.getElementById('record').click()")
                await tab.until("document.getElementById('record').textContent === 'Speak'")
                await tab.until("!document.querySelector('.partial')")
                assert await tab.evaluate("document.querySelectorAll('#transcript p').length") >= 3
                assert engine.groups[-1][0].frames * 40 == 160

                subtitles = await tab.evaluate(
                    "new Promise((done) => { URL.createObjectURL = (blob) => { blob.text().then(done); return '#'; };"
                    "document.querySelector('[data-format=srt]').click(); })"
                )
                assert subtitles.startswith("1\n00:00:00,320 --> 00:00:00,")
                assert (
                    await tab.evaluate("document.getElementById('status').classList.contains('error')")
                    is False
                )

    asyncio.run(test())

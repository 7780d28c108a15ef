"""The page in a real browser, headless, with a file for a microphone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

import asr
from asr import audio
from asr.transcript import Transcript, Word
from streaming.engine import Engine, TorchEngine
from streaming.events import Final, Options
from streaming.protocols import Limits
from streaming.runner import Runner
from streaming.server import Server, Settings
from streaming.session import run
from tests.streaming.browser import BROWSER, Tab, browse
from tests.streaming.toy_engine import ToyEngine, silence, speech

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium: the page is tested where one is installed"),
]

DATA = Path(__file__).parents[2] / "data"
TALK = np.concatenate(
    [silence(0.32), speech(1, 2, 3, frames=3), silence(2), speech(7, 4, frames=5), silence(0.2)]
)
READY = "document.getElementById('status')?.textContent === 'Ready'"
WORDS = "[...document.querySelectorAll('#settled .word')].map((x) => x.textContent)"


def visit(engine: Engine, folder: Path, heard: Path, test: Callable[[Tab], Awaitable[None]]) -> None:
    """The page of a server with this engine, whose microphone hears a WAV file, again and again."""
    capture = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")

    async def body() -> None:
        limits = Limits(lag_seconds=60.0)  # a busy machine is no reason to refuse the page
        async with Server(engine, Settings(port=0, limits=limits)) as server:
            url = f"http://127.0.0.1:{server.port}/"
            file = f"--use-file-for-fake-audio-capture={heard}"
            async with asyncio.timeout(300), browse(url, folder, *capture, file) as tab:
                await tab.until(READY)
                await test(tab)

    asyncio.run(body())


async def click(tab: Tab, name: str) -> None:
    await tab.evaluate(f"document.getElementById('{name}').click()")


async def downloaded(tab: Tab, form: str) -> str:
    catch = "URL.createObjectURL = (blob) => { blob.text().then(done); return '#'; };"
    press = f"document.querySelector('[data-format={form}]').click();"
    return str(await tab.evaluate(f"new Promise((done) => {{ {catch} {press} }})"))


def wav(path: Path, samples: np.ndarray) -> Path:
    soundfile.write(path, samples, 48_000, subtype="PCM_16")
    return path


def test_a_file(tmp_path: Path) -> None:
    recording = tmp_path / "talk.wav"
    soundfile.write(recording, TALK, 16_000)
    engine = ToyEngine()

    async def test(tab: Tab) -> None:
        await tab.window(1000, 700)
        choices = await tab.evaluate("[...document.querySelectorAll('#latency option')].map((x) => x.text)")
        assert choices == ["160 ms", "320 ms", "640 ms"]
        await tab.evaluate("document.getElementById('latency').value = '160'")
        models = await tab.evaluate("[...document.querySelectorAll('#model option')].map((x) => x.text)")
        assert models == ["rill, ctc", "rill, transducer"]
        await tab.evaluate("document.getElementById('model').value = 1")
        await tab.evaluate("document.getElementById('phrases').value = '\\n Æther \\n'")
        await tab.choose_file(recording)
        await tab.until("document.querySelectorAll('#settled .segment').length === 2")
        await tab.until("document.getElementById('record').textContent === 'Speak'")
        assert await tab.evaluate(WORDS) == "one two three seven four".split()
        status = await tab.evaluate("document.getElementById('status').textContent")
        assert status == "The model cannot write: Æther"
        assert engine.groups[-1][0].frames * 40 == 160 and engine.groups[-1][1] == "transducer"
        facts = await tab.evaluate("document.getElementById('facts').textContent")
        assert facts.startswith("latency 160 ms · lag ")

        await tab.evaluate("document.getElementById('transcript').focus()")
        for key in ("ArrowRight", "ArrowRight", "End", "ArrowLeft", "Home"):
            await tab.press(key)
        tip = "document.getElementById('tip').textContent"
        assert await tab.evaluate(tip) == "0.32 – 0.36 s · 88 %"
        await tab.press("ArrowRight")
        assert await tab.evaluate("document.querySelector('.word.here').textContent") == "two"
        await tab.screenshot("file.png")
        await tab.press("Escape")
        assert await tab.evaluate("document.getElementById('tip').hidden")

        tree = json.loads(await downloaded(tab, "json"))
        words = [Word(**word) for segment in tree["segments"] for word in segment["words"]]
        wanted = Transcript(tuple(words), len(TALK) / 16_000)
        assert wanted.text == tree["text"] == "one two three seven four"
        assert await downloaded(tab, "txt") == "one two three\nseven four\n"
        assert await downloaded(tab, "srt") == wanted.to_srt()
        assert await downloaded(tab, "vtt") == wanted.to_vtt()
        await click(tab, "clear")
        assert await tab.evaluate(WORDS) == []
        assert await tab.evaluate("document.querySelector('[data-format=txt]').disabled")

    visit(engine, tmp_path, wav(tmp_path / "nothing.wav", np.zeros(48_000)), test)


def test_a_microphone_hears_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the key that starts it to the words: those of a session that is given the audio which the browser sent,
    and that is the recording.
    """
    engine = TorchEngine(asr.load(DATA / "models" / "mini"))
    samples = audio.read(DATA / "mini" / "audio" / "test" / "goforward.flac")
    room = np.tile(samples[:4000], 12)  # nobody speaks; the model has never heard pure silence
    talk = soxr.resample(np.concatenate([room[:8000], samples, room]), 16_000, 48_000)
    sent: list[bytes] = []
    chosen: list[Options] = []
    push, start = Runner.push, Runner.open

    def pushed(runner: Runner, key: Any, data: bytes) -> None:
        sent.append(data)
        push(runner, key, data)

    def opened(runner: Runner, key: Any, options: Options) -> None:
        chosen.append(options)
        start(runner, key, options)

    monkeypatch.setattr(Runner, "push", pushed)
    monkeypatch.setattr(Runner, "open", opened)

    async def test(tab: Tab) -> None:
        await tab.press(" ", code=32, text=" ")
        await tab.until("document.querySelector('#running .word')")
        assert await tab.evaluate("document.getElementById('record').textContent") == "Stop"
        await tab.until("Number(document.getElementById('level').ariaValueNow) > 0")
        grey, black = [
            await tab.evaluate(f"getComputedStyle(document.querySelector('{where}')).color")
            for where in ("#running .word", "body")
        ]
        assert grey != black
        await tab.screenshot("microphone.png")
        await tab.until(f"{WORDS}.length >= 3")
        assert "shown after" in await tab.evaluate("document.getElementById('facts').textContent")
        await tab.press(" ", code=32, text=" ")
        await tab.until(READY)
        assert not await tab.evaluate("document.querySelector('#running .word')")
        finals = [event for event in run(engine, chosen[0], sent) if isinstance(event, Final)]
        assert await tab.evaluate(WORDS) == " ".join(event.text for event in finals).split()

    visit(engine, tmp_path, wav(tmp_path / "talk.wav", talk), test)
    heard = np.frombuffer(b"".join(sent), "<i2") / 32768
    heard = soxr.resample(heard, chosen[0].sample_rate, 16_000)
    first = samples[6000:12_000]  # the first word, wherever the browser began to listen
    around = np.sqrt(np.convolve(heard**2, np.ones(len(first)), "valid").clip(1e-9))
    likeness = np.correlate(heard, first, "valid") / around / np.linalg.norm(first)
    assert likeness.max() > 0.8


SEEN = """(() => {
  const seen = [...document.querySelectorAll('button, .button, select, textarea')].filter((x) => x.offsetParent);
  const boxes = seen.map((x) => x.getBoundingClientRect());
  return [document.documentElement.scrollWidth, ...boxes.map((x) => Math.min(x.width, x.height)), ...boxes.map((x) => x.right)];
})()"""
CONTRAST = """((name) => {
  const light = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255)
    .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4).reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const probe = document.createElement('span');
  document.body.append(probe);
  probe.style.color = `var(--${name})`;
  const [a, b] = [getComputedStyle(probe).color, getComputedStyle(document.body).backgroundColor].map(light);
  probe.remove();
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
})"""


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_can_be_read(tmp_path: Path, dark: bool) -> None:
    """WCAG 2.2: text has a contrast of 4.5 at least, what is touched is 36 pixels high, and nothing overflows."""

    async def test(tab: Tab) -> None:
        await tab.window(360, 640, dark=dark)
        await click(tab, "settings-button")
        width, *sizes = await tab.evaluate(SEEN)
        count = len(sizes) // 2
        assert width <= 360 and max(sizes[count:]) <= 360
        assert min(sizes[:count]) >= 36
        for name in ("ink", "faint", "grey", "accent", "live"):
            assert await tab.evaluate(f"{CONTRAST}('{name}')") >= 4.5, name
        await tab.screenshot(f"phone-{'dark' if dark else 'light'}.png")
        await tab.press("Escape")
        assert await tab.evaluate("document.getElementById('settings').hidden")

    visit(ToyEngine(), tmp_path, wav(tmp_path / "nothing.wav", np.zeros(48_000)), test)


def test_it_says_what_went_wrong(tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("no audio")
    said: Any = "document.getElementById('status').textContent"

    async def test(tab: Tab) -> None:
        await tab.choose_file(text)
        await tab.until("document.getElementById('status').classList.contains('error')")
        assert await tab.evaluate(said) == "text.wav: this browser cannot decode it as audio"
        soundfile.write(text, np.concatenate([TALK, speech(5, frames=20)]), 16_000)
        await tab.choose_file(text)
        await tab.until(f"{said}.startsWith('the recogniser failed on this stream')")
        assert await tab.evaluate("document.getElementById('record').textContent") == "Speak"

    visit(ToyEngine(poison=5), tmp_path, wav(tmp_path / "nothing.wav", np.zeros(48_000)), test)


def test_it_goes_on_where_a_server_dies_or_drains(tmp_path: Path) -> None:
    """At the same address, as behind a load balancer: no word is lost, and none comes twice."""
    recording, times = tmp_path / "talk.wav", 8
    soundfile.write(recording, np.tile(TALK, times), 16_000)
    said = "document.getElementById('status').textContent"

    async def body() -> None:
        servers = [Server(ToyEngine(seconds=0.03), Settings(port=0))]
        await servers[0].start()
        port = servers[0].port
        async with asyncio.timeout(120), browse(f"http://127.0.0.1:{port}/", tmp_path) as tab:
            await tab.until(READY)
            await tab.choose_file(recording)
            for words, kill in ((6, True), (20, False)):
                await tab.until(f"{WORDS}.length >= {words}")
                if kill:
                    for connection in servers[-1]._connections.values():
                        connection.abort()
                stopping = asyncio.create_task(servers[-1].stop())
                await tab.until(f"{said}.startsWith('The connection was lost: looking')")
                await stopping
                servers.append(Server(ToyEngine(seconds=0.03), Settings(port=port)))
                await servers[-1].start()
                await tab.until(f"{said} === 'Transcribing talk.wav …'")
            await tab.until(READY)
            assert await tab.evaluate(WORDS) == "one two three seven four".split() * times
            tree = json.loads(await downloaded(tab, "json"))
            starts = [word["start"] for segment in tree["segments"] for word in segment["words"]]
            assert starts == sorted(starts)
            each = [starts[i + 5] - starts[i] for i in range(len(starts) - 5)]
            assert each == pytest.approx([len(TALK) / 16_000] * len(each), abs=0.05)
            # And where there is none any more, that is said, with the words that were heard.
            await tab.evaluate(
                "window.performance.now = ((now) => () => 1000 * now.call(performance))(performance.now)"
            )
            await tab.choose_file(recording)
            await tab.until(f"{WORDS}.length >= {5 * times + 3}")
            for connection in servers[-1]._connections.values():
                connection.abort()
            await servers[-1].stop()
            await tab.until(f"{said} === 'The connection was lost'")
            assert await tab.evaluate("document.getElementById('record').textContent") == "Speak"

    asyncio.run(body())

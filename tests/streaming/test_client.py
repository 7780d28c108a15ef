"""The client against the server, and the server as a process: signals and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.errors import AudioError, ProtocolError
from streaming.client import Summary, stream, stream_file
from streaming.events import Final, Partial
from streaming.protocols import Limits
from streaming.server import Server, Settings
from tests.streaming.toy_engine import ToyEngine, silence, speech

TALK = np.concatenate([silence(0.32), speech(1, 2, 3, frames=3), silence(0.2), speech(7, 4, frames=2)])
TEXT = "one two three seven four"


async def collect(server: Server, source: object, **options: object) -> tuple[list[Partial | Final], Summary]:
    events = [x async for x in stream(source, server.url, **options)]  # type: ignore[arg-type]
    assert isinstance(events[-1], Summary)
    return events[:-1], events[-1]  # type: ignore[return-value]


def test_a_recording_at_the_pace_it_was_spoken() -> None:
    async def test() -> None:
        async with Server(ToyEngine(), Settings(port=0)) as server:
            events, summary = await collect(server, TALK, latency_ms=160)
            assert summary.text == TEXT == " ".join(x.text for x in summary.words)
            assert summary.duration == pytest.approx(len(TALK) / 16_000)
            assert len([x for x in events if isinstance(x, Partial)]) >= 2
            # The chunk (160 ms), the look-ahead (130 ms) and a packet (100 ms) are the least and about the most.
            assert summary.first_word_latency is not None
            assert 0.1 < summary.first_word_latency < 1.0
            assert summary.final_latency is not None
            assert summary.final_latency < 1.0

    asyncio.run(test())


def test_a_file_of_another_rate_and_options(tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.repeat(TALK, 3), 48_000)

    async def test() -> None:
        async with Server(ToyEngine(), Settings(port=0, tokens=("secret",))) as server:
            for encoding in ("s16le", "f32le"):
                _, summary = await collect(server, path, realtime=False, encoding=encoding, token="secret")
                assert summary.text == TEXT
            events, _ = await collect(
                server, path, realtime=False, token="secret", options={"partials": False, "words": False}
            )
            assert [type(x) for x in events] == [Final]
            with pytest.raises(ProtocolError, match="HTTP 401: bring a token"):
                await collect(server, path)
            with pytest.raises(ProtocolError, match='did you mean "head"'):
                await collect(server, path, token="secret", options={"heat": "ctc"})
            text = tmp_path / "text.wav"
            text.write_text("no audio")
            with pytest.raises(AudioError):
                await collect(server, text, token="secret")

    asyncio.run(test())


def test_the_client_names_what_went_wrong(unused_port: int) -> None:
    with pytest.raises(ProtocolError, match="is `asr serve` running there"):
        stream_file(TALK, f"ws://127.0.0.1:{unused_port}/v1/stream")

    async def test() -> None:
        limits = Limits(session_seconds=0.5)
        async with Server(ToyEngine(), Settings(port=0, limits=limits)) as server:
            with pytest.raises(ProtocolError, match=r"closed the stream: 0\.5 s of audio in one session"):
                await collect(server, TALK, realtime=False)
        async with Server(ToyEngine(poison=4), Settings(port=0)) as server:
            with pytest.raises(ProtocolError, match="the recogniser failed on this stream"):
                await collect(server, TALK, realtime=False)

    asyncio.run(test())


SERVER = """
import sys
from tests.streaming.toy_engine import ToyEngine
from streaming.protocols import Limits
from streaming.server import Settings, run
settings = Settings(port=0, limits=Limits(drain_seconds=3.0), certificate=sys.argv[1] or None, private_key=sys.argv[2] or None)
run(ToyEngine(), settings, started=lambda server: print(server.url, flush=True))
"""


def start(certificate: str = "", key: str = "") -> tuple[subprocess.Popen[str], str]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, certificate, key],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_sigterm_sends_finals_and_ends_the_process() -> None:
    process, url = start()
    try:
        heard: list[str] = []

        def hear(event: Partial | Final) -> None:
            heard.append(event.text)
            if event.text == "one two three":
                process.send_signal(signal.SIGTERM)

        with pytest.raises(ProtocolError, match="shutting down"):
            stream_file(np.concatenate([TALK[:12_000], silence(30)]), url, on_event=hear, patience=0)
        assert heard[-1] in ("one two", "one two three")  # the last word might have been cut
        assert process.wait(timeout=8) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command to make a certificate with")
def test_tls_and_a_certificate_renewed_on_sighup(tmp_path: Path) -> None:
    def make() -> str:
        subprocess.run(
            (
                "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost "
                "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
            ).split(),
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
        return (tmp_path / "cert.pem").read_text()

    first = make()
    process, url = start(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    try:
        assert url.startswith("wss://")
        trusting_first = ssl.create_default_context(cadata=first)
        assert stream_file(TALK, url, realtime=False, tls=trusting_first).text == TEXT
        trusting_second = ssl.create_default_context(cadata=make())
        process.send_signal(signal.SIGHUP)
        for _ in range(100):  # until the signal has come through
            with contextlib.suppress(ProtocolError):
                assert stream_file(TALK, url, realtime=False, tls=trusting_second).text == TEXT
                break
            time.sleep(0.05)
        with pytest.raises(ProtocolError, match="cannot connect"):
            stream_file(TALK, url, realtime=False, tls=trusting_first)
    finally:
        process.kill()
        process.communicate()

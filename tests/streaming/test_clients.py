"""Clients that nobody here wrote, from the package index, on an embedded recording. Those that are absent are skipped."""

from __future__ import annotations

import asyncio
import base64
import gc
import importlib
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

import asr
from asr import audio
from asr.model import Model
from streaming.engine import TorchEngine
from streaming.server import Server, Settings

ROOT = Path(__file__).parents[2]
LATENCY = 450


@pytest.fixture(scope="module")
def model() -> Model:
    return asr.load(ROOT / "data" / "models" / "mini")


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    return audio.read(ROOT / "data" / "mini" / "audio" / "test" / "goforward.flac")


@pytest.fixture(scope="module")
def wanted(model: Model, recording: np.ndarray) -> str:
    text = model.transcribe(recording, latency_ms=LATENCY).text
    assert len(text.split()) > 2
    return text


def package(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages' own imports
        try:
            return importlib.import_module(name)
        except ImportError:
            pytest.skip(f"{name} is not installed")


def serve(model: Model, test: Callable[[Server], Awaitable[Any]], **settings: Any) -> Any:
    async def body() -> Any:
        chosen = Settings(port=0, default_latency_ms=LATENCY, **settings)
        async with asyncio.timeout(120), Server(TorchEngine(model), chosen) as server:
            return await test(server)

    return asyncio.run(body())


def s16le(samples: np.ndarray) -> bytes:
    return (samples * 32768).round().clip(-32768, 32767).astype("<i2").tobytes()


def packets(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


# ---- deepgram-sdk


@pytest.mark.filterwarnings(
    "ignore:.*(legacy|Pydantic V2|pydantic).*"
)  # deepgram-sdk uses what is deprecated
@pytest.mark.parametrize("encoding", ["linear16", "mulaw"])
def test_deepgram(model: Model, recording: np.ndarray, tmp_path: Path, encoding: str) -> None:
    deepgram = package("deepgram")
    environment = package("deepgram.environment").DeepgramClientEnvironment
    package("deepgram.listen.v1.client")
    rate, subtype = (16_000, "PCM_16") if encoding == "linear16" else (8000, "ULAW")
    samples, path = soxr.resample(recording, 16_000, rate), tmp_path / "talk"
    soundfile.write(path, samples, rate, format="RAW", subtype=subtype)  # another encoder than ours
    data = path.read_bytes()
    soundfile.write(path, samples, rate, format="WAV", subtype=subtype)
    wanted = model.transcribe(path, latency_ms=LATENCY).text

    async def test(server: Server) -> list[Any]:
        base = f"ws://127.0.0.1:{server.port}"
        client = deepgram.AsyncDeepgramClient(
            api_key="secret",
            environment=environment(base=base, production=base, agent=base, agent_rest=base),
        )
        options = {"model": "nova-3", "encoding": encoding, "sample_rate": rate, "utterance_end_ms": 1000}
        async with client.listen.v1.connect(**options, interim_results=True, vad_events=True) as live:
            await live.send_keep_alive()
            for packet in packets(data, 4000):
                await live.send_media(packet)
            await live.send_finalize()
            await live.send_media((b"\0" if encoding == "linear16" else b"\xff") * rate * 4)
            await live.send_close_stream()
            return [message async for message in live]

    heard = serve(model, test, tokens=("secret",))
    assert heard[-1].type == "Metadata"
    expected = (len(data) + rate * 4) / (rate * 2 if encoding == "linear16" else rate)
    assert heard[-1].duration == pytest.approx(expected, abs=0.01)
    results = [x for x in heard if x.type == "Results"]
    finals = [x for x in results if x.is_final]
    flushed = next(i for i, x in enumerate(finals) if x.from_finalize)
    assert " ".join(x.channel.alternatives[0].transcript for x in finals[: flushed + 1]).strip() == wanted
    assert any(not x.is_final for x in results)
    words = [word for x in finals for word in x.channel.alternatives[0].words]
    assert all(0 <= a.start <= a.end <= b.end for a, b in pairwise(words))
    assert "SpeechStarted" in {x.type for x in heard}


# ---- openai


def openai_client(server: Server) -> Any:
    base = f"127.0.0.1:{server.port}/v1"
    return package("openai").AsyncOpenAI(
        api_key="secret", base_url=f"http://{base}", websocket_base_url=f"ws://{base}", max_retries=0
    )


@pytest.mark.parametrize("turns", [True, False])
def test_openai_realtime(model: Model, recording: np.ndarray, wanted: str, turns: bool) -> None:
    package("openai")
    data = s16le(soxr.resample(recording, 16_000, 24_000))

    async def test(server: Server) -> list[Any]:
        heard = []
        async with openai_client(server).realtime.connect(extra_query={"intent": "transcription"}) as live:
            heard.append(await live.recv())
            turn = {"type": "server_vad", "silence_duration_ms": 5000} if turns else None
            form = {"type": "audio/pcm", "rate": 24_000}
            await live.session.update(
                session={
                    "type": "transcription",
                    "audio": {"input": {"format": form, "turn_detection": turn}},
                }
            )
            for packet in packets(data, 4801):
                await live.input_audio_buffer.append(audio=base64.b64encode(packet).decode())
            await live.input_audio_buffer.commit()
            async for event in live:
                heard.append(event)
                if event.type == "conversation.item.input_audio_transcription.completed":
                    return heard
        return heard

    heard = serve(model, test, tokens=("secret",))
    assert [x.type for x in heard[:2]] == ["session.created", "session.updated"]
    assert heard[1].session.audio.input.format.rate == 24_000
    assert heard[-1].transcript.split()[:3] == wanted.split()[:3]
    deltas = [x for x in heard if x.type.endswith(".delta")]
    assert "".join(x.delta for x in deltas) == heard[-1].transcript
    assert {x.item_id for x in deltas} == {heard[-1].item_id}
    committed = next(x for x in heard if x.type == "input_audio_buffer.committed")
    assert committed.item_id == heard[-1].item_id
    assert ("input_audio_buffer.speech_started" in {x.type for x in heard}) <= turns


def test_openai_rest(model: Model, recording: np.ndarray, wanted: str, tmp_path: Path) -> None:
    openai = package("openai")
    path = ROOT / "data" / "mini" / "audio" / "test" / "goforward.flac"
    webm = tmp_path / "talk.webm"
    write_media(webm, recording)

    async def test(server: Server) -> dict[str, Any]:
        create = openai_client(server).audio.transcriptions.create
        found: dict[str, Any] = {}
        for form in ("json", "text", "srt", "vtt"):
            found[form] = await create(model="whisper-1", file=path, response_format=form)
        found["verbose"] = await create(
            model="whisper-1",
            file=path,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            language="en",
        )
        found["logprobs"] = await create(model="whisper-1", file=path, include=["logprobs"])
        found["webm"] = await create(model="whisper-1", file=webm)
        found["stream"] = [x async for x in await create(model="whisper-1", file=path, stream=True)]
        for name, file in (("garbage", b"\x00\x01" * 500), ("empty", b"")):
            with pytest.raises(openai.BadRequestError) as error:
                await create(model="whisper-1", file=(f"{name}.wav", file))
            found[name] = error.value
        found["models"] = [x.id async for x in openai_client(server).models.list()]
        return found

    found = serve(model, test, tokens=("secret",))
    assert found["json"].text == wanted
    assert found["text"].strip() == wanted
    assert found["srt"].startswith("1\n00:00:00,") and found["vtt"].startswith("WEBVTT\n")
    assert " ".join(found["srt"].split("\n")[2:]).split() == wanted.split()
    verbose = found["verbose"]
    assert verbose.text == wanted == " ".join(x.word for x in verbose.words)
    assert verbose.duration == pytest.approx(len(recording) / 16_000, abs=0.01)
    assert "".join(x.text for x in verbose.segments).strip() == wanted
    tokens = found["logprobs"].logprobs
    assert "".join(x.token for x in tokens).strip() == wanted and all(x.logprob <= 0 for x in tokens)
    assert found["webm"].text.split()[:3] == wanted.split()[:3]
    assert found["stream"][-1].type == "transcript.text.done" and found["stream"][-1].text == wanted
    assert "".join(x.delta for x in found["stream"][:-1]) == wanted and len(found["stream"]) > 2
    assert found["garbage"].param == "file" and "file" in found["garbage"].message
    assert found["empty"].param == "file"
    assert found["models"] == ["rill"]


def write_media(path: Path, samples: np.ndarray) -> None:
    av = package("av")
    with av.open(str(path), "w") as media:
        stream = media.add_stream("libopus", rate=48_000, layout="mono")
        pcm = soxr.resample(samples, 16_000, 48_000)
        for i in range(0, len(pcm), 960):
            frame = av.AudioFrame.from_ndarray(
                np.pad(pcm[i : i + 960], (0, max(0, 960 - len(pcm[i : i + 960]))))[None], "flt", "mono"
            )
            frame.sample_rate = 48_000
            media.mux(stream.encode(frame))
        media.mux(stream.encode(None))


# ---- sherpa-onnx's C++ client, of the package sherpa-onnx-bin


def test_sherpa_onnx_client(model: Model, recording: np.ndarray, wanted: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("sherpa-onnx-online-websocket-client")
    if not program.exists():
        pytest.skip("sherpa-onnx-bin is not installed")
    path = tmp_path / "talk.wav"
    soundfile.write(path, recording, 16_000, subtype="PCM_16")

    async def test(server: Server) -> str:
        command = [str(program), f"--server-port={server.port}", "--seconds-per-message=0.05", str(path)]
        run = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=60)
        return (run.stdout + run.stderr).decode()

    out = serve(model, test)
    assert wanted in out
    assert "Done!" in out


# ---- the server mode of vosk-transcriber


def test_vosk_transcriber(model: Model, recording: np.ndarray, wanted: str) -> None:
    transcriber = package("vosk.transcriber.transcriber").Transcriber

    async def test(server: Server) -> list[dict[str, Any]]:
        client = transcriber.__new__(transcriber)  # without its model: the server has one
        client.args = types.SimpleNamespace(server=f"ws://127.0.0.1:{server.port}")
        stdout = asyncio.StreamReader()
        stdout.feed_data(s16le(recording))
        stdout.feed_eof()
        results, _ = await client.recognize_stream_server(types.SimpleNamespace(stdout=stdout))
        return list(results)

    results = serve(model, test, root="vosk")
    assert " ".join(x["text"] for x in results if x["text"]) == wanted
    words = [word for x in results for word in x.get("result", [])]
    assert " ".join(x["word"] for x in words) == wanted
    assert all(0 <= x["conf"] <= 1 and x["start"] <= x["end"] for x in words)


# ---- funasr-client


@pytest.mark.parametrize("mode", ["offline", "online", "2pass"])
def test_funasr_client(model: Model, recording: np.ndarray, wanted: str, tmp_path: Path, mode: str) -> None:
    client = package("funasr_client.file_asr")
    path = tmp_path / "talk.wav"
    soundfile.write(path, recording, 16_000, subtype="PCM_16")

    async def test(server: Server) -> list[dict[str, Any]]:
        url = f"ws://127.0.0.1:{server.port}/funasr"
        found = client.async_file_asr_stream(path, url, mode=mode, hotwords={"ZEBRA": 20}, itn=True)
        return [message async for message in found]

    heard = serve(model, test)
    final = {"2pass": "2pass-offline"}.get(mode, mode)
    assert heard[-1]["is_final"] and {x["wav_name"] for x in heard} == {"talk.wav"}
    text = "".join(x["text"] for x in heard if x["mode"] == final)
    largest = model.transcribe(recording, latency_ms=model.latencies[-1]).text
    # boosted words may stand in place of others
    assert text == (largest if mode == "offline" else wanted)  # which a word that nobody says does not change
    if mode != "online":
        times = [time for x in heard for time in x.get("timestamp", [])]
        assert len(times) == len(text.split()) and all(a <= b for a, b in times)


# ---- whisper-live


# websocket-client, which it uses, leaves its socket to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_whisper_live(
    model: Model, recording: np.ndarray, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package("websocket")
    monkeypatch.setitem(sys.modules, "pyaudio", types.ModuleType("pyaudio"))  # no microphone is used
    client_class = package("whisper_live.client").Client

    async def test(server: Server) -> Any:
        def talk() -> Any:
            heard = []
            client = client_class(
                "127.0.0.1", server.port, lang="en", transcription_callback=lambda _, x: heard.append(x)
            )
            waiting = threading.Event()
            while not client.recording and not client.server_error:
                waiting.wait(0.01)
            for packet in packets(recording.astype("<f4").tobytes(), 16_384):
                client.send_packet_to_server(packet)
            client.send_packet_to_server(b"END_OF_AUDIO")
            client.ws_thread.join(30)
            transcript = client.transcript
            client_class.INSTANCES.clear()
            return transcript, heard

        return await asyncio.to_thread(talk)

    transcript, heard = serve(model, test, root="whisperlive")
    gc.collect()
    assert "".join(x["text"] for x in transcript).strip() == wanted
    assert any(not x[-1]["completed"] for x in heard)

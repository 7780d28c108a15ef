"""A client for each protocol, written to its documents: samples in, all final text out.

`pcm` is 16-bit, 16 kHz, mono; it is sent in messages of `packet` samples, as fast as the server takes it.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Client = Callable[[str, bytes, int], Coroutine[Any, Any, str]]


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


def floats(pcm: bytes) -> bytes:
    return (np.frombuffer(pcm, "<i2").astype("<f4") / 32768).tobytes()


async def heard(
    url: str, messages: Iterator[str | bytes], *, until: Callable[[Any], bool] = lambda _: False
) -> list[Any]:
    """All messages of a connection, JSON where they are. It ends with the server's close, or after `until`."""
    async with connect(url, max_size=None, compression=None, ping_timeout=None, open_timeout=None) as socket:

        async def send() -> None:
            for message in messages:
                await socket.send(message)

        sender = asyncio.create_task(send())
        found = []
        async for message in received(socket):
            found.append(json.loads(message) if message.startswith("{") else message)
            if until(found[-1]):
                break
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        return found


async def received(socket: ClientConnection) -> AsyncIterator[str]:
    try:
        async for message in socket:
            yield str(message)
    except ConnectionClosed as closed:
        raise AssertionError(f"closed with {closed}") from closed


async def native(url: str, pcm: bytes, packet: int) -> str:
    def messages() -> Iterator[str | bytes]:
        yield '{"type": "start", "partials": false}'
        yield from cut(pcm, 2 * packet)
        yield '{"type": "end"}'

    return "".join(x["text"] for x in await heard(f"{url}/v1/stream", messages()) if x["type"] == "final")


async def sherpa(url: str, pcm: bytes, packet: int) -> str:
    def messages() -> Iterator[str | bytes]:
        yield from cut(floats(pcm), 4 * packet)
        yield "Done"

    found = await heard(f"{url}/sherpa", messages())
    assert found.pop() == "Done!" and found[-1]["is_eof"]
    return "".join(x["text"] for x in found if x["is_final"])


async def sherpa_python(url: str, pcm: bytes, packet: int) -> str:
    def messages() -> Iterator[str | bytes]:
        yield from cut(floats(pcm), 4 * packet)
        yield "Done"

    texts: dict[int, str] = {}
    for message in await heard(f"{url}/sherpa/python", messages()):
        assert message.keys() == {"text", "segment"}
        texts[message["segment"]] = message["text"]
    return "".join(texts.values())


async def vosk(url: str, pcm: bytes, packet: int) -> str:
    """In lock-step, as its own client does."""
    texts = []
    async with connect(f"{url}/vosk", compression=None, open_timeout=None) as socket:
        await socket.send('{ "config" : { "sample_rate" : 16000.0 } }')
        for message in [*cut(pcm, 2 * packet), '{"eof" : 1}']:
            await socket.send(message)
            texts.append(json.loads(await socket.recv()).get("text", ""))
    return "".join(texts)


async def wenet(url: str, pcm: bytes, packet: int) -> str:
    def messages() -> Iterator[str | bytes]:
        yield '{"signal": "start", "nbest": 1, "continuous_decoding": true}'
        yield from cut(pcm, 2 * packet)
        yield '{"signal": "end"}'

    found = await heard(f"{url}/wenet", messages())
    assert all(x["status"] == "ok" for x in found)
    assert (found[0]["type"], found[-1]["type"]) == ("server_ready", "speech_end")
    finals = [json.loads(x["nbest"]) for x in found if x["type"] == "final_result"]
    return "".join(path["sentence"] for (path,) in finals)


def funasr(mode: str) -> Client:
    async def client(url: str, pcm: bytes, packet: int) -> str:
        def messages() -> Iterator[str | bytes]:
            yield json.dumps(
                {
                    "mode": mode,
                    "chunk_size": [5, 10, 5],
                    "chunk_interval": 10,
                    "wav_name": "demo",
                    "wav_format": "pcm",
                    "audio_fs": 16_000,
                    "is_speaking": True,
                    "hotwords": "",
                    "itn": True,
                }
            )
            yield from cut(pcm, 2 * packet)
            yield '{"is_speaking": false, "is_end": true}'

        found = await heard(f"{url}/funasr", messages(), until=lambda x: x.get("is_end"))
        assert [x["is_final"] for x in found] == [False] * (len(found) - 2) + [True, True]
        assert all(x["wav_name"] == "demo" for x in found)
        final = "2pass-offline" if mode == "2pass" else mode
        return "".join(x["text"] for x in found[:-1] if x["mode"] == final)

    return client


async def whisperlive(url: str, pcm: bytes, packet: int) -> str:
    def messages() -> Iterator[str | bytes]:
        yield json.dumps(
            {"uid": "c1", "language": "en", "task": "transcribe", "model": "small", "use_vad": True}
        )
        yield from cut(floats(pcm), 4 * packet)
        yield b"END_OF_AUDIO"

    ready, *rest = await heard(f"{url}/whisperlive", messages())
    assert ready["message"] == "SERVER_READY"
    done = {x["start"]: x["text"] for message in rest for x in message["segments"] if x["completed"]}
    return "".join(done.values())


async def deepgram(url: str, pcm: bytes, packet: int) -> str:
    def messages() -> Iterator[str | bytes]:
        yield from cut(pcm, 2 * packet)
        yield '{"type": "CloseStream"}'

    found = await heard(f"{url}/v1/listen?encoding=linear16&sample_rate=16000&model=nova-3", messages())
    assert found[-1]["type"] == "Metadata"
    results = [x for x in found if x["type"] == "Results"]
    return "".join(x["channel"]["alternatives"][0]["transcript"] for x in results if x["is_final"])


async def openai(url: str, pcm: bytes, packet: int) -> str:
    """Without turns, so that the last `completed` is known: that of the one commit."""
    form = {"format": {"type": "audio/pcm", "rate": 16_000}, "turn_detection": None}
    session = {"type": "transcription", "audio": {"input": form}}

    def messages() -> Iterator[str | bytes]:
        yield json.dumps({"type": "session.update", "session": session})
        for data in cut(pcm, 2 * packet):
            yield json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()})
        yield '{"type": "input_audio_buffer.commit"}'

    found = await heard(f"{url}/v1/realtime", messages(), until=lambda x: x["type"].endswith(".completed"))
    deltas = "".join(x["delta"] for x in found if x["type"].endswith(".delta"))
    assert deltas.replace(" ", "") == found[-1]["transcript"].replace(" ", "")
    return str(found[-1]["transcript"])


async def openai_rest(url: str, pcm: bytes, packet: int) -> str:
    """The body in pieces of a packet: its form, then a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, 16_000, 0, "NONE", ""))
        wav.writeframes(pcm)
    part = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    body = part % (b"response_format", b"", b"text")
    body += part % (b"file", b'; filename="a.wav"', file.getvalue()) + b"--b--\r\n"
    host, _, port = url.removeprefix("ws://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" % len(body)
    )
    for data in cut(body, 2 * packet):
        writer.write(data)
        await writer.drain()
    head, _, text = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 200 "), head
    return text.decode()


CLIENTS: dict[str, Client] = {
    "native": native,
    "sherpa": sherpa,
    "sherpa-python": sherpa_python,
    "vosk": vosk,
    "wenet": wenet,
    "funasr-2pass": funasr("2pass"),
    "funasr-online": funasr("online"),
    "funasr-offline": funasr("offline"),
    "whisperlive": whisperlive,
    "deepgram": deepgram,
    "openai": openai,
    "openai-rest": openai_rest,
}
OFFLINE = ("funasr-offline", "openai-rest")
"""Those that are recognised at the model's largest latency."""

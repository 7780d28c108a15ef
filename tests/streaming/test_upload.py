"""Requests with a body, on the port of the websockets: what is answered, and what the port does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from typing import Any

import numpy as np
import pytest
import soundfile
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from asr.errors import ConfigError
from streaming.protocols import Limits
from streaming.server import Server, Settings
from tests.streaming.serving import END, START, TALK, WANTED, finals, serve, talk, until
from tests.streaming.toy_engine import ToyEngine, s16le

PATH = "/v1/audio/transcriptions"


def form(data: bytes, **fields: str) -> bytes:
    parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts.append(('name="file"; filename="../../etc/passwd"', data))
    body = b"".join(
        b"--xyz\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (n.encode(), v) for n, v in parts
    )
    return body + b"--xyz--\r\n"


def head(length: int | None, *lines: str, path: str = PATH) -> bytes:
    stated = [] if length is None else [f"Content-Length: {length}"]
    kind = "Content-Type: multipart/form-data; boundary=xyz"
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", kind, *stated, *lines, "", ""]).encode()


async def exchange(server: Server, *messages: bytes, wait: float = 0.0) -> tuple[int, str, str]:
    """Status, head and body of the answer to what is sent piece by piece."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for message in messages:
        writer.write(message)
        await asyncio.sleep(wait)
    data = (await reader.read()).decode().removeprefix("HTTP/1.1 100 Continue\r\n\r\n")
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    top, _, body = data.partition("\r\n\r\n")
    return int(top.split(" ")[1]) if top else 0, top, body


def flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="FLAC")
    return file.getvalue()


def test_a_request_in_pieces_beside_live_streams() -> None:
    body = form(flac(TALK), model="x", response_format="json")
    request = head(len(body), "Expect: 100-continue") + body

    async def test(server: Server) -> None:
        live = asyncio.create_task(talk(server.url, [START, s16le(TALK), END]))
        for pieces in ([request], [request[:3], request[3:70], request[70:500], request[500:]]):
            status, _, answer = await exchange(server, *pieces, wait=0.02)
            assert status == 200
            assert json.loads(answer) == {
                "text": " ".join(WANTED),
                "usage": {"type": "duration", "seconds": 3},
            }
        assert finals((await live)[0]) == WANTED
        await until(lambda: not server._connections)
        assert len(server._runner._scheduler) == 0

    serve(test)


def test_server_sent_events() -> None:
    body = form(flac(TALK), stream="true")

    async def test(server: Server) -> None:
        status, top, answer = await exchange(server, head(len(body)) + body)
        assert (status, "text/event-stream" in top) == (200, True)
        events = [json.loads(x.removeprefix("data: ")) for x in answer.split("\n\n") if x]
        assert "".join(x["delta"] for x in events[:-1]) == events[-1]["text"] == " ".join(WANTED)

    serve(test)


@pytest.mark.parametrize(
    ("request_bytes", "status", "words"),
    [
        (head(None), 411, "Content-Length"),
        (head(None, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n", 411, "Content-Length"),
        (head(999_999_999_999), 413, "bytes"),
        (head(3) + b"abc", 400, "between boundaries"),
        (head(len(form(b""))) + form(b""), 400, "file is empty"),
        (head(len(form(b"x" * 50))) + form(b"x" * 50), 400, "file"),
        (head(len(form(b"x", stream="maybe"))) + form(b"x", stream="maybe"), 400, "true or false"),
        (head(len(form(b"x", response_format="diarized_json"))) + form(b"x", response_format="diarized_json"), 400, "verbose_json"),
    ],
)  # fmt: skip
def test_bad_requests_get_openais_error(request_bytes: bytes, status: int, words: str) -> None:
    async def test(server: Server) -> None:
        found, _, body = await exchange(server, request_bytes)
        assert found == status
        error = json.loads(body)["error"]
        assert words in error["message"] and error["type"] == "invalid_request_error"
        assert "/" not in error["message"].replace("multipart/form-data", "")
        await until(lambda: not server._connections)

    serve(test)


def test_other_paths_tokens_and_vanished_senders() -> None:
    body = form(flac(TALK))

    async def test(server: Server) -> None:
        assert (await exchange(server, head(3, path="/etc/passwd") + b"abc"))[0] == 404
        assert (await exchange(server, head(len(body)) + body))[0] == 401
        bearer = "Authorization: Bearer secret"
        assert (await exchange(server, head(len(body), bearer, "Origin: https://evil.example") + body))[
            0
        ] == 403
        assert (await exchange(server, head(len(body), bearer) + body))[0] == 200
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head(len(body), bearer) + body[:100])
        await until(lambda: len(server._connections) == 1)
        writer.close()
        await until(lambda: not server._connections)
        assert (await exchange(server, b"POST " + b"x" * 20_000))[0] == 0
        url, audio = server.url + "?token=secret", [START, s16le(TALK), END]
        assert finals((await talk(url, audio, origin="https://good.example"))[0]) == WANTED

    serve(test, tokens=("secret",), origins=("https://good.example",))


def test_an_upload_that_stops_coming() -> None:
    async def test(server: Server) -> None:
        status, _, body = await exchange(server, head(1000) + b"abc")
        assert (status, "nothing came" in body) == (408, True)

    serve(test, limits=Limits(idle_seconds=0.3))


def test_an_engine_fault_and_a_shutdown_are_errors() -> None:
    body = form(flac(TALK))

    async def fault(server: Server) -> None:
        status, _, answer = await exchange(server, head(len(body)) + body)
        assert (status, json.loads(answer)["error"]["code"]) == (500, "engine")

    serve(fault, ToyEngine(poison=7))

    async def shutdown(server: Server) -> None:
        long = form(flac(np.tile(TALK, 20)))
        asked = asyncio.create_task(exchange(server, head(len(long)) + long))
        await until(lambda: len(server._runner._scheduler) == 1)
        await server.stop()
        status, _, answer = await asked
        assert (status, json.loads(answer)["error"]["code"]) == (503, "shutdown")

    serve(shutdown, ToyEngine(seconds=0.02))


# ---- routes


@pytest.mark.parametrize("root", ["sherpa", "vosk", "wenet", "native"])
def test_the_root_speaks_what_was_chosen(root: str) -> None:
    audio: dict[str, list[Any]] = {
        "sherpa": [TALK.astype("<f4").tobytes(), "Done"],
        "vosk": ['{"config": {"sample_rate": 16000}}', s16le(TALK), '{"eof" : 1}'],
        "wenet": ['{"signal": "start", "continuous_decoding": true}', s16le(TALK), '{"signal": "end"}'],
        "native": [START, s16le(TALK), END],
    }

    async def test(server: Server) -> None:
        heard, code, _ = await talk(server.url.replace("/v1/stream", "/"), audio[root])
        assert code == 1000
        assert all(word in json.dumps(heard) for word in " ".join(WANTED).split())

    serve(test, root=root)


def test_what_is_not_served_is_refused() -> None:
    async def test(server: Server) -> None:
        for path, status in (("/v1/listen?encoding=flac", 400), ("/v2", 404)):
            with pytest.raises(InvalidStatus) as refused:
                await connect(server.url.replace("/v1/stream", path))
            assert refused.value.response.status_code == status
        assert b"/vosk" in refused.value.response.body

    serve(test)
    with pytest.raises(ConfigError, match="no protocol 'kaldi' for the root; known: native"):
        Server(ToyEngine(), Settings(root="kaldi"))


def test_sessions_follow_one_another_on_a_connection() -> None:
    config = '{"mode": "offline", "wav_name": "a", "is_speaking": true}'
    end = '{"is_speaking": false, "is_end": true}'

    async def test(server: Server) -> None:
        async with connect(server.url.replace("/v1/stream", "/funasr")) as client:
            for _ in range(3):
                for message in (config, s16le(TALK), end):
                    await client.send(message)
            heard = [json.loads(await client.recv()) for _ in range(6)]
            assert [x["text"] for x in heard if not x.get("is_end")] == [" ".join(WANTED)] * 3
            assert len(server._connections) == 1
            await client.send(s16le(TALK))
            await client.send("garbage")
            assert json.loads(await client.recv())["error"]
        await until(lambda: not server._connections and len(server._runner._scheduler) == 0)

    serve(test)


def test_bad_audio_gets_each_protocols_own_error() -> None:
    async def test(server: Server) -> None:
        for path, messages, field in (
            ("/wenet", ['{"signal": "start"}', b"abc"], "message"),
            ("/whisperlive", ['{"uid": "c1"}', b"abc"], "message"),
            ("/whisperlive", ['{"uid": "c1"}', np.array([np.nan], "<f4").tobytes()], "message"),
            ("/v1/listen", [b"RIFF" + bytes(100)], "description"),
            ("/v1/listen?encoding=linear16&sample_rate=8000", [b"abc"], "description"),
            ("/funasr", ['{"mode": "2pass", "wav_format": "webm"}', bytes(100)], "error"),
        ):
            heard, code, reason = await talk(server.url.replace("/v1/stream", path), messages)
            assert heard[-1][field] and code == 1007 and reason, path

    serve(test)

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from asr.errors import ConfigError, RillError
from streaming.events import Final, Options
from streaming.protocols import Limits
from streaming.server import Server, Settings
from streaming.session import run
from tests.streaming.serving import END, START, TALK, WANTED, Message, fetch, finals, serve, talk, until
from tests.streaming.toy_engine import ToyEngine, packets, s16le, speech

# ---- the same words through every protocol and packet size


@pytest.mark.parametrize("size", [2, 2 * 997, 10**6])
def test_native_through_the_socket(size: int) -> None:
    data = s16le(TALK if size > 2 else TALK[:30_000])
    wanted = [x.text for x in run(ToyEngine(), Options(latency_ms=320), [data]) if isinstance(x, Final)]

    async def test(server: Server) -> None:
        heard, code, _ = await talk(server.url, [START, *packets(data, size), END])
        assert [x["type"] for x in heard[:2]] == ["hello", "started"]
        assert finals(heard) == wanted
        assert (heard[-1]["type"], heard[-1]["code"], code) == ("bye", "ended", 1000)
        assert heard[-1]["duration"] == pytest.approx(len(data) / 32_000, abs=1e-3)

    serve(test, limits=Limits(messages_per_second=1e6))


@pytest.mark.parametrize("path", ["/", "/sherpa"])
@pytest.mark.parametrize("size", [4 * 997, 4 * 8000])
def test_sherpa_through_the_socket(path: str, size: int) -> None:
    async def test(server: Server) -> None:
        url = server.url.replace("/v1/stream", path)
        heard, code, _ = await talk(url, [*packets(TALK.astype("<f4").tobytes(), size), "Done"])
        assert (heard.pop(), code) == ("Done!", 1000)
        assert [x["text"] for x in heard if x["is_final"]] == WANTED
        assert heard[-1]["is_eof"]

    serve(test)


def test_many_streams_at_once() -> None:
    engine = ToyEngine(seconds=0.002)

    async def test(server: Server) -> None:
        async def one(i: int) -> list[str]:
            await asyncio.sleep(0.01 * i)
            start = json.dumps({"type": "start", "latency_ms": engine.latencies[i % 3]})
            return finals(
                (await talk(server.url, [start, *packets(s16le(TALK), 2 * (500 + 37 * i)), END]))[0]
            )

        assert await asyncio.gather(*map(one, range(20))) == [WANTED] * 20

    serve(test, engine)
    assert max(engine.batches) > 3


def test_a_fast_sender_is_held_back_and_loses_nothing() -> None:
    data = s16le(np.tile(TALK, 12))

    async def test(server: Server) -> None:
        heard, code, _ = await talk(server.url, [START, *packets(data, 400_000), END])
        assert code == 1000
        assert " ".join(finals(heard)) == " ".join(WANTED * 12)
        assert max(x.get("lag_ms", 0) for x in heard) < 5000

    serve(test, ToyEngine(seconds=0.002), limits=Limits(backlog_seconds=4.0))


# ---- what clients do wrong

BAD = [
    ([b"ab"], "audio_before_start", 1003),
    (["hello"], "bad_json", 1007),
    ([START, "some text instead of audio"], "bad_json", 1007),
    ([START, b"abc"], "bad_audio", 1007),
    (['{"type": "start", "encoding": "int16"}'], "bad_field", 1008),
    (['{"type": "start", "samplerate": 8000}'], "unknown_field", 1008),
    (['{"type": "start", "encoding": "f32le"}', np.array([np.nan], "<f4").tobytes()], "bad_audio", 1007),
    (['{"type": "start", "encoding": "f32le"}', np.array([9e4], "<f4").tobytes()], "bad_audio", 1007),
    ([START, END, END], "after_end", 1008),
]


@pytest.mark.parametrize(("messages", "code", "close"), BAD)
def test_bad_input_is_answered_and_harms_nobody(messages: list[Message], code: str, close: int) -> None:
    async def test(server: Server) -> None:
        good = asyncio.create_task(talk(server.url, [START, *packets(s16le(TALK), 8000), END]))
        heard, closed, reason = await talk(server.url, messages)
        if code == "after_end" and heard[-1]["code"] == "ended":
            return  # the stream had ended, rightly, before the second end came
        error = next(x for x in heard if x["type"] == "error")
        assert error["code"] == code
        assert heard[-1]["type"] == "bye"
        assert heard[-1]["code"] == code
        assert closed == close
        assert reason
        assert finals((await good)[0]) == WANTED

    serve(test)


def test_sherpa_closes_with_a_reason() -> None:
    async def test(server: Server) -> None:
        url = server.url.replace("/v1/stream", "/")
        heard, code, reason = await talk(url, ["hello"])
        assert (heard, code) == ([], 1003)
        assert "float32" in reason
        assert (await talk(url, [bytes(7)]))[1] == 1007
        assert (await talk(url, [np.array([np.inf], "<f4").tobytes()]))[1] == 1007

    serve(test)


def test_a_client_that_vanishes_mid_word_is_cleaned_up() -> None:
    async def test(server: Server) -> None:
        client = await connect(server.url)
        await client.send(START)
        await client.send(s16le(speech(1, 2, frames=10)))
        await until(lambda: len(server._runner._scheduler) == 1)
        client.transport.abort()
        await until(lambda: not server._connections and len(server._runner._scheduler) == 0)
        assert 'rill_sessions_closed_total{reason="vanished"} 1.0' in (await fetch(server, "/metrics"))[1]
        assert finals((await talk(server.url, [START, s16le(TALK), END]))[0]) == WANTED

    serve(test)


def test_a_client_that_never_reads_is_closed() -> None:
    data = s16le(np.tile(speech(*[7, 0] * 20), 80))

    async def test(server: Server) -> None:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", server.port))
        client = await connect(server.url, sock=raw, max_queue=1, ping_interval=None, close_timeout=0.1)
        await client.send(START)

        async def send() -> None:
            for packet in packets(data, 64_000):
                await client.send(packet)

        sender = asyncio.create_task(send())
        await until(lambda: not server._connections)
        sender.cancel()
        client.transport.abort()
        await asyncio.gather(sender, return_exceptions=True)
        assert 'rill_sessions_closed_total{reason="slow_reader"} 1.0' in (await fetch(server, "/metrics"))[1]
        assert finals((await talk(server.url, [START, s16le(TALK), END]))[0]) == WANTED

    serve(test, limits=Limits(send_seconds=0.3))


def test_an_engine_fault_ends_its_own_stream_only() -> None:
    async def test(server: Server) -> None:
        good = asyncio.create_task(talk(server.url, [START, *packets(s16le(TALK), 8000), END]))
        heard, code, _ = await talk(server.url, [START, s16le(speech(1, 6, frames=20)), END])
        assert (heard[-2]["type"], heard[-2]["code"], code) == ("error", "engine", 1011)
        assert finals((await good)[0]) == WANTED
        assert (await fetch(server, "/health"))[0] == 200

    serve(test, ToyEngine(poison=6))


# ---- limits


def test_too_many_sessions_are_refused_with_a_time_to_retry() -> None:
    async def test(server: Server) -> None:
        async with connect(server.url) as client:
            await client.recv()
            with pytest.raises(InvalidStatus) as refused:
                await connect(server.url)
            assert refused.value.response.status_code == 503
            assert int(refused.value.response.headers["Retry-After"]) > 0
            assert b"all 1 sessions are taken" in refused.value.response.body
            assert (await fetch(server, "/ready"))[0] == 503
        await until(lambda: not server._connections)
        assert finals((await talk(server.url, [START, s16le(TALK), END]))[0]) == WANTED

    serve(test, limits=Limits(sessions=1))


def test_an_overloaded_server_refuses_new_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(server: Server) -> None:
        monkeypatch.setattr(server._runner, "load", lambda *, streams: 1.5)
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.url)
        assert b"cannot keep up" in refused.value.response.body

    serve(test)


def test_idle_and_overlong_sessions_get_their_finals() -> None:
    async def test(server: Server) -> None:
        heard, code, reason = await talk(server.url, [START, s16le(TALK)])
        assert finals(heard) == WANTED
        assert (heard[-1]["code"], code) == ("idle", 1008)
        assert "0.4 s" in reason
        assert heard[-1]["limits"]["idle_seconds"] == 0.4
        heard, code, _ = await talk(server.url, [])
        assert (heard[-1]["code"], code) == ("idle", 1008)
        heard, code, _ = await talk(server.url, [START, *packets(s16le(np.tile(TALK, 2)), 16_000)])
        assert heard[-1]["code"] == "session_length"
        assert finals(heard) == ["one two three", "seven four one two three"]

    serve(test, limits=Limits(idle_seconds=0.4, session_seconds=4.5))


def test_a_message_over_the_limit_closes_the_connection() -> None:
    async def test(server: Server) -> None:
        _, code, reason = await talk(server.url, [START, bytes(20_000)])
        assert code == 1009
        assert "10000" in reason
        await until(lambda: not server._connections)
        assert 'closed_total{reason="message_bytes"} 1.0' in (await fetch(server, "/metrics"))[1]

    serve(test, limits=Limits(message_bytes=10_000))


# ---- HTTP, tokens, draining


def test_pages_and_probes() -> None:
    async def test(server: Server) -> None:
        status, page = await fetch(server, "/")
        assert status == 200
        assert "<title>Rill" in page
        assert "http://" not in page
        for name in ("app.js", "live.js", "worklet.js", "style.css"):
            assert (await fetch(server, f"/{name}"))[0] == 200
        assert await fetch(server, "/health") == (200, "ok\n")
        assert await fetch(server, "/ready") == (200, "ready\n")
        await talk(server.url, [START, s16le(TALK), END])
        metrics = (await fetch(server, "/metrics"))[1]
        assert "rill_step_seconds_count" in metrics
        assert 'rill_sessions_opened_total{protocol="native"} 1.0' in metrics
        assert (await fetch(server, "/v1/stream"))[0] == 426
        assert (await fetch(server, "/../setup.cfg"))[0] == 404
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.url.replace("/v1/stream", "/v2"))
        assert b"/v1/stream" in refused.value.response.body

    serve(test)


def test_tokens_by_header_query_and_subprotocol() -> None:
    async def test(server: Server) -> None:
        audio = [START, s16le(TALK), END]
        ways: list[tuple[str, dict[str, Any]]] = [
            ("", {"additional_headers": {"Authorization": "Bearer secret-2"}}),
            ("?token=secret-1", {}),
            ("", {"subprotocols": ["rill.v1", "bearer.secret-1"]}),
        ]
        for query, options in ways:
            assert finals((await talk(server.url + query, audio, **options))[0]) == WANTED
        for query, options in [("", {}), ("?token=secret", {}), ("?token=", {}), ("?token=secret-1%00", {})]:
            with pytest.raises(InvalidStatus) as refused:
                await connect(server.url + query, **options)
            assert refused.value.response.status_code == 401
        assert (await fetch(server, "/metrics"))[0] == 401
        assert (await fetch(server, "/metrics", Authorization="Bearer secret-1"))[0] == 200
        assert (await fetch(server, "/health"))[0] == 200

    serve(test, tokens=("secret-1", "secret-2"))


def test_pages_of_other_origins_are_refused() -> None:
    async def test(server: Server) -> None:
        with pytest.raises(InvalidStatus) as refused:
            await connect(server.url, origin="https://evil.example")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
        async with connect(server.url, origin="https://good.example"):  # type: ignore[arg-type]
            pass

    serve(test, origins=("https://good.example",))


def test_draining_sends_finals_and_refuses_new_sessions() -> None:
    async def test(server: Server) -> None:
        client = await connect(server.url)
        await client.send(START)
        await client.send(s16le(TALK))
        waiting = await connect(server.url)
        await until(lambda: len(server._runner._scheduler) == 1)
        port = server.port
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        await client.send(END)  # which crosses the server's own end on its way
        heard = [json.loads(x) async for x in client]
        assert finals(heard) == WANTED
        assert heard[-1]["code"] == "shutdown"
        assert client.close_code == 1001
        assert [json.loads(x)["type"] async for x in waiting] == ["hello", "bye"]
        await stopping
        with pytest.raises(OSError):
            await connect(f"ws://127.0.0.1:{port}/v1/stream")

    serve(test)


# ---- settings and start


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="this model offers 160, 320, 640"):
        Server(ToyEngine(), Settings(default_latency_ms=100))
    with pytest.raises(ConfigError, match=r"backlog_seconds is 0\.5"):
        Server(ToyEngine(), Settings(limits=Limits(backlog_seconds=0.5)))
    with pytest.raises(ConfigError, match="TLS needs both"):
        Server(ToyEngine(), Settings(private_key="key.pem"))
    with pytest.raises(ConfigError, match=r"no-such\.pem: not a certificate"):
        Server(ToyEngine(), Settings(certificate="no-such.pem"))


def test_an_engine_that_fails_its_warm_up_is_reported() -> None:
    class Broken(ToyEngine):
        def step(self, batch: Any) -> Any:
            raise RuntimeError("no such device")

    with pytest.raises(RillError, match="failed its warm-up"):
        serve(lambda _: asyncio.sleep(0), Broken())

"""The server: sockets, limits and signals around the scheduler. The event loop never computes.

One port serves every protocol by path, the page, `/health`, `/ready` and `/metrics`.

    async with Server(engine, Settings(port=8000)):
        ...
    run(engine, Settings(port=8000))    # until SIGTERM or Ctrl-C
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET
from typing import TYPE_CHECKING, Self

from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Origin

from asr.audio import SAMPLE_RATE
from asr.errors import ConfigError, RillError
from streaming import http
from streaming.connection import Connection
from streaming.engine import Engine
from streaming.log import log_event
from streaming.metrics import CONTENT_TYPE, Metrics
from streaming.protocols import Dialect, Limits, Offer
from streaming.protocols.native import Native
from streaming.protocols.sherpa import Sherpa
from streaming.runner import Runner
from streaming.scheduler import Result, Scheduler

if TYPE_CHECKING:
    from websockets.asyncio.server import Server as SocketServer
    from websockets.http11 import Request, Response

__all__ = ["ROUTES", "Server", "Settings", "run"]

_log = logging.getLogger(__name__)

ROUTES: dict[str, tuple[str, Callable[[Offer], Dialect]]] = {
    "/v1/stream": ("native", Native),
    "/sherpa": ("sherpa", Sherpa),
    "/": ("sherpa", Sherpa),
}
"""Path of a websocket -> protocol. Plain HTTP on `/` is the page."""

_SOCKET_BYTES = 131_072
"""The kernel's buffers per connection and direction. Larger ones would hold minutes of audio that nobody can
see.
"""
_STUCK_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`certificate` and `private_key` are PEM files; with them the server speaks TLS only, and SIGHUP reloads
    them.

    With `tokens`, each client must bring one of them. `origins` are the pages that browsers may connect from;
    `None` means any. `default_latency_ms` is for clients that do not choose. `port` 0 takes a free one.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    limits: Limits = field(default_factory=Limits)
    tokens: tuple[str, ...] = ()
    origins: tuple[str, ...] | None = None
    certificate: str | None = None
    private_key: str | None = None
    default_latency_ms: int | None = None
    max_batch: int = 64
    name: str = "rill"


class Server:
    """Raises ConfigError for settings that cannot work with this engine, OSError where the port is taken."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.draining = False
        self._offer = _offer(engine, settings)
        self._tls = _tls(settings)
        self._pages = http.load_pages()
        self._connections: dict[str, Connection] = {}
        scheduler = Scheduler(engine, max_batch=settings.max_batch, backlog=settings.limits.backlog_seconds)
        self._runner = Runner(scheduler, deliver=self._deliver, observer=self.metrics)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: SocketServer | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        try:
            await self.wait_ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        assert self._sockets is not None
        return int(self._sockets.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Of the native protocol."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"{'ws' if self._tls is None else 'wss'}://{host}:{self.port}/v1/stream"

    async def start(self) -> None:
        """Listen. `/ready` answers 503 until the engine is warm."""
        settings = self.settings
        self._loop = asyncio.get_running_loop()
        quiet = logging.getLogger("streaming.websockets")
        quiet.setLevel(
            logging.CRITICAL
        )  # it logs each scan of the port with a traceback, and audio when debugging
        self._sockets = await serve(
            self._handle,
            settings.host,
            settings.port,
            process_request=self._answer,
            select_subprotocol=lambda _, offered: http.select_subprotocol(offered),
            origins=None if settings.origins is None else [Origin(x) for x in settings.origins],
            ssl=self._tls,
            compression=None,
            max_size=settings.limits.message_bytes,
            max_queue=2,
            # While a fast sender is held back its pongs are too, so a missing pong says nothing;
            # `idle_seconds` does.
            ping_interval=20,
            ping_timeout=None,
            close_timeout=5,
            server_header=settings.name,
            logger=quiet,
        )
        for listening in self._sockets.sockets:
            for option in (SO_RCVBUF, SO_SNDBUF):
                listening.setsockopt(SOL_SOCKET, option, _SOCKET_BYTES)
        self._runner.start()
        log_event(_log, "listening", host=settings.host, port=self.port, tls=self._tls is not None)

    async def wait_ready(self) -> None:
        """Until the engine is warm. Raises RillError if it fails."""
        while not self._runner.ready:
            if self._runner.failed:
                raise RillError(
                    "the engine failed its warm-up; the log holds its error. `asr doctor` checks a model"
                )
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Drain: refuse new sessions, end the open ones, send their finals; after `drain_seconds` cut what is
        left.
        """
        if self._sockets is None:
            return
        self.draining = True
        sockets, self._sockets = self._sockets, None
        open_now = list(self._connections.values())
        log_event(_log, "draining", sessions=len(open_now))
        for connection in open_now:
            connection.wind_up(1001, "shutdown", "the server is shutting down: connect again for more audio")
        sockets.close(close_connections=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.limits.drain_seconds):
                await sockets.wait_closed()
        for connection in list(self._connections.values()):
            connection.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await sockets.wait_closed()
        await asyncio.to_thread(self._runner.stop)
        log_event(_log, "stopped")

    def reload_certificate(self) -> None:
        """Read certificate and key again, for connections from now on."""
        settings = self.settings
        if self._tls is not None and settings.certificate is not None:
            try:
                self._tls.load_cert_chain(settings.certificate, settings.private_key)
                log_event(_log, "certificate_reloaded")
            except (OSError, ssl.SSLError):
                _log.exception("the certificate cannot be read again; the old one stays in use")

    # ---- from the engine's thread

    def _deliver(self, results: list[Result]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._dispatch, results)

    def _dispatch(self, results: list[Result]) -> None:
        for result in results:
            if (connection := self._connections.get(str(result.key))) is not None:
                connection.deliver(result)

    # ---- a request

    def _answer(self, _connection: ServerConnection, request: Request) -> Response | None:
        """A response to plain HTTP or a refusal; `None` lets the websocket open."""
        path, _, query = request.path.partition("?")
        open_to_all = not self.settings.tokens or http.authorised(request, query, self.settings.tokens)
        if not http.is_websocket(request):
            return self._page(path, open_to_all)
        if path not in ROUTES:
            return http.reply(
                HTTPStatus.NOT_FOUND, f"no protocol here; there is one at each of {', '.join(ROUTES)}\n"
            )
        if not open_to_all:
            return self._unauthorised()
        refusal = self._refusal()
        if refusal is None:
            return None
        reason, text, seconds = refusal
        self.metrics.refused.labels(reason).inc()
        return http.reply(HTTPStatus.SERVICE_UNAVAILABLE, text + "\n", headers={"Retry-After": str(seconds)})

    def _refusal(self) -> tuple[str, str, int] | None:
        """Why no session can be opened now, and when to try again in seconds."""
        limit = self.settings.limits.sessions
        if self.draining:
            return "draining", "the server is shutting down: connect to another", 10
        if not self._runner.ready:
            return "warming_up", "the model is being loaded", 5
        if len(self._connections) >= limit:
            return "sessions", f"all {limit} sessions are taken", 5
        if self._runner.load() > 1:
            return "overload", "the machine cannot keep up with the streams it has", 5
        return None

    def _unauthorised(self) -> Response:
        self.metrics.refused.labels("unauthorised").inc()
        text = "bring a token: header Authorization: Bearer ..., query token=..., or subprotocol bearer....\n"
        return http.reply(HTTPStatus.UNAUTHORIZED, text, headers={"WWW-Authenticate": 'Bearer realm="rill"'})

    def _page(self, path: str, authorised: bool) -> Response:
        if path in self._pages:
            return http.page(*self._pages[path])
        if path == "/health":
            good = self._runner.stuck() < _STUCK_SECONDS and not self._runner.failed
            status = HTTPStatus.OK if good else HTTPStatus.INTERNAL_SERVER_ERROR
            return http.reply(status, "ok\n" if good else "the engine does not answer\n")
        if path == "/ready":
            refusal = self._refusal()
            status = HTTPStatus.OK if refusal is None else HTTPStatus.SERVICE_UNAVAILABLE
            return http.reply(status, "ready\n" if refusal is None else refusal[1] + "\n")
        if path == "/metrics":
            if not authorised:
                return self._unauthorised()
            self.metrics.load.set(self._runner.load())
            return http.reply(HTTPStatus.OK, self.metrics.exposition(), kind=CONTENT_TYPE)
        if path in ROUTES:
            return http.reply(
                HTTPStatus.UPGRADE_REQUIRED,
                "a websocket is expected here\n",
                headers={"Upgrade": "websocket"},
            )
        return http.reply(HTTPStatus.NOT_FOUND, "not found\n")

    async def _handle(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        path = socket.request.path.partition("?")[0]
        protocol, dialect = ROUTES[path]
        if (refusal := self._refusal()) is not None:  # many may have passed `_answer` at once
            self.metrics.refused.labels(refusal[0]).inc()
            await socket.close(1013, refusal[1])
            return
        key = secrets.token_hex(6)
        connection = Connection(
            socket,
            dialect(self._offer),
            key=key,
            protocol=protocol,
            runner=self._runner,
            limits=self.settings.limits,
            metrics=self.metrics,
        )
        self._connections[key] = connection
        self.metrics.sessions.set(len(self._connections))
        log_event(_log, "opened", session=key, protocol=protocol, sessions=len(self._connections))
        try:
            await connection.run()
        except Exception:
            _log.exception("the connection of session %s failed", key)
            await socket.close(1011, "an error in the server")
        finally:
            del self._connections[key]
            self.metrics.sessions.set(len(self._connections))


def run(engine: Engine, settings: Settings, *, started: Callable[[Server], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `started` is called when the first session can be opened."""
    asyncio.run(_run(engine, settings, started))


async def _run(engine: Engine, settings: Settings, started: Callable[[Server], None] | None) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    server = Server(engine, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, server.reload_certificate)
    await server.start()
    try:
        warm = asyncio.create_task(server.wait_ready())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({warm, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if warm.done():
            warm.result()
            if started is not None:
                started(server)
        await stopped
    finally:
        await server.stop()


def _offer(engine: Engine, settings: Settings) -> Offer:
    latencies, limits = tuple(sorted(engine.latencies)), settings.limits
    default = settings.default_latency_ms
    if default is None:
        # As quick as reads well: below 300 ms a model guesses more than it gains.
        default = next((x for x in latencies if x >= 300), latencies[-1])
    elif default not in latencies:
        raise ConfigError(
            f"default_latency_ms is {default}; this model offers {', '.join(map(str, latencies))}"
        )
    longest = max(engine.samples_first(engine.chunk_for(x)) for x in latencies) / SAMPLE_RATE
    if limits.backlog_seconds < 2 * longest + 1:
        raise ConfigError(
            f"backlog_seconds is {limits.backlog_seconds:g}; this model's steps need {2 * longest + 1:.1f}"
        )
    return Offer(
        server=settings.name,
        latencies=latencies,
        heads=engine.heads,
        default_latency=default,
        default_head=engine.heads[0],
        limits=limits,
    )


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        if settings.private_key is not None:
            raise ConfigError("a private key without a certificate: TLS needs both")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.private_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{settings.certificate}: not a certificate with its private key in PEM form ({error}); "
            "give both files, or one that holds both"
        ) from error
    return context

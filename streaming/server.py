"""The server: sockets, limits and signals around the scheduler. The event loop never computes.

One port serves every protocol by path, the page, `/health`, `/ready` and `/metrics`.

    async with Server(engine, Settings(port=8000)):
        ...
    run(engine, Settings(port=8000))    # until SIGTERM or Ctrl-C
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import secrets
import signal
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET
from typing import TYPE_CHECKING, Self, cast
from urllib.parse import parse_qs

from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Origin

from asr.errors import ConfigError, RillError
from streaming import http
from streaming.connection import Connection
from streaming.crew import Crew
from streaming.door import Door
from streaming.engine import Engine
from streaming.gate import Gate, Refusal
from streaming.lobby import Lobby, raise_open_files
from streaming.log import log_event
from streaming.metrics import CONTENT_TYPE, Metrics
from streaming.protocols import QueryError, to_json
from streaming.routes import TRANSCRIPTIONS, routes
from streaming.runner import Runner
from streaming.scheduler import Result, Scheduler, Tick
from streaming.settings import Settings, offer, tls_context
from streaming.upload import Upload

if TYPE_CHECKING:
    from websockets.asyncio.server import Server as SocketServer
    from websockets.http11 import Request, Response

__all__ = ["Server", "Settings", "run"]

_log = logging.getLogger(__name__)

_SOCKET_BYTES = 131_072
"""The kernel's buffers per connection and direction. Larger ones would hold minutes of audio that nobody can
see.
"""
_STUCK_SECONDS = 30.0
_TLS_SECONDS = 10.0
_SPARE_FILES = 2048  # beyond one for each session
_GARBAGE_CONNECTIONS = 20
_UNAUTHORISED = Refusal(
    "unauthorised",
    "bring a token: header Authorization: Bearer ..., query token=..., or subprotocol bearer....",
    0,
    HTTPStatus.UNAUTHORIZED,
)


class Server:
    """One engine, or several by the names of their models; a client that does not choose gets the first.

    Raises ConfigError for settings that cannot work with them, OSError where the port is taken.
    """

    def __init__(self, engines: Engine | Mapping[str, Engine], settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._offer = offer(engines, settings)
        self._tls = tls_context(settings)
        self._routes = routes(settings.root)
        self._pages = http.load_pages()
        self._connections: dict[str, Connection | Upload] = {}
        self._over = 0  # connections so far
        limits = settings.limits
        scheduler = Scheduler(engines, max_batch=settings.max_batch, backlog=limits.backlog_seconds)
        self._runner: Runner | Crew
        if settings.processes == 1:
            self._runner = Runner(scheduler, tell=self._told, lag=limits.lag_seconds)
        else:
            self._runner = Crew(scheduler, settings.processes, tell=self._told, lag=limits.lag_seconds)
        self._gate = Gate(settings, self._runner)
        self._lobby = Lobby()
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
        self._runner.start()
        quiet = logging.getLogger("streaming.websockets")
        quiet.setLevel(
            logging.CRITICAL
        )  # it logs each scan of the port with a traceback, and audio when debugging
        self._sockets = await serve(
            self._handle,
            settings.host,
            settings.port,
            process_request=self._answer,
            create_connection=cast("type[ServerConnection]", partial(Door, lobby=self._lobby)),
            open_timeout=None,  # `Door` has its own, which lets uploads take longer
            ssl_handshake_timeout=None if self._tls is None else _TLS_SECONDS,
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
        self._gate.draining = True
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
                tls_context(settings)  # raises before half of a pair that does not fit is in use
                self._tls.load_cert_chain(settings.certificate, settings.private_key)
                log_event(_log, "certificate_reloaded")
            except (ConfigError, OSError, ssl.SSLError):
                _log.exception("the certificate cannot be read again; the old one stays in use")

    # ---- from the engine's threads

    def _told(self, tick: Tick, seconds: float) -> None:
        if tick.streams:
            self.metrics.stepped(tick, seconds)
        if tick.results:
            assert self._loop is not None
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
                self._loop.call_soon_threadsafe(self._dispatch, tick.results)

    def _dispatch(self, results: list[Result]) -> None:
        for result in results:
            if (connection := self._connections.get(str(result.key).partition("/")[0])) is not None:
                connection.deliver(result)

    # ---- a request

    def _answer(self, door: ServerConnection, request: Request) -> Response | Awaitable[Response] | None:
        """A response to plain HTTP or a refusal; `None` lets the websocket open."""
        assert isinstance(door, Door)
        path, _, query = request.path.partition("?")
        door.visitor = self._gate.visitor(request, query, str((door.remote_address or ("",))[0]))
        upload = door.body is not None
        if not upload and not http.is_websocket(request):
            return self._page(path, authorised=door.visitor is not None)
        if path not in ((TRANSCRIPTIONS,) if upload else self._routes):
            known = ", ".join((TRANSCRIPTIONS,) if upload else self._routes)
            return http.reply(HTTPStatus.NOT_FOUND, f"nothing is served here; known: {known}\n")
        if (refusal := self._refusal(door)) is not None:
            return refusal.response()
        if upload:
            return self._upload(door, request)
        try:
            wanted = parse_qs(query, max_num_fields=50) if query.count("&") < 50 else {}
            offer = self._offer.named(*wanted.get("model", ()), *wanted.get("language", ()))
            door.dialect = self._routes[path][1](offer, query)
        except QueryError as error:
            return http.reply(HTTPStatus.BAD_REQUEST, to_json(error.body), kind="application/json")
        return None

    def _refusal(self, door: Door) -> Refusal | None:
        """Counted, too."""
        refusal = _UNAUTHORISED if door.visitor is None else self._gate.refusal(door.visitor)
        if refusal is not None:
            self.metrics.refused.labels(refusal.kind).inc()
        return refusal

    def _page(self, path: str, *, authorised: bool) -> Response:
        if path in self._pages:
            return http.page(*self._pages[path])
        if path == "/health":
            good = self._runner.stuck() < _STUCK_SECONDS and not self._runner.failed
            status = HTTPStatus.OK if good else HTTPStatus.INTERNAL_SERVER_ERROR
            return http.reply(status, "ok\n" if good else "the engine does not answer\n")
        if path == "/ready":
            refusal = self._gate.refusal()
            return http.reply(HTTPStatus.OK, "ready\n") if refusal is None else refusal.response()
        if path == "/metrics":
            if not authorised:
                return _UNAUTHORISED.response()
            self.metrics.load.set(self._runner.load())
            return http.reply(HTTPStatus.OK, self.metrics.exposition(), kind=CONTENT_TYPE)
        if path == TRANSCRIPTIONS:
            return http.reply(
                HTTPStatus.METHOD_NOT_ALLOWED, "a POST is expected here\n", headers={"Allow": "POST"}
            )
        if path == "/v1/models":
            about = {"object": "model", "created": 0, "owned_by": self.settings.name}
            models = {"object": "list", "data": [{"id": name} | about for name in self._offer.names]}
            return http.reply(HTTPStatus.OK, to_json(models), kind="application/json")
        if path in self._routes:
            return http.reply(
                HTTPStatus.UPGRADE_REQUIRED,
                "a websocket is expected here\n",
                headers={"Upgrade": "websocket"},
            )
        return http.reply(HTTPStatus.NOT_FOUND, "not found\n")

    async def _upload(self, door: Door, request: Request) -> Response:
        origins, origin = self.settings.origins, request.headers.get("Origin")
        if origins is not None and origin is not None and origin not in origins:
            return http.reply(HTTPStatus.FORBIDDEN, "pages of this origin are not served\n")
        upload = Upload(
            door,
            key=secrets.token_hex(6),
            runner=self._runner,
            limits=self.settings.limits,
            offer=self._offer,
            metrics=self.metrics,
        )
        with self._registered(upload, door):
            return await upload.run(request)

    @contextlib.contextmanager
    def _registered(self, connection: Connection | Upload, door: Door) -> Iterator[None]:
        assert door.visitor is not None
        self._connections[connection.key] = connection
        try:
            with self._gate.entered(door.visitor):
                self.metrics.sessions.set(len(self._gate))
                yield
        finally:
            del self._connections[connection.key]
            self.metrics.sessions.set(len(self._gate))
            # A connection that is over is a cycle of objects, with buffers. Python would look for it so rarely that
            # memory rises for thousands of sessions; what was there at the start is frozen, so looking is quick.
            self._over += 1
            if self._over % _GARBAGE_CONNECTIONS == 0:
                gc.collect()

    async def _handle(self, socket: ServerConnection) -> None:
        assert isinstance(socket, Door) and socket.request is not None and socket.dialect is not None
        protocol, _ = self._routes[socket.request.path.partition("?")[0]]
        if (refusal := self._refusal(socket)) is not None:  # many may have passed `_answer` at once
            await socket.close(1013, refusal.text)
            return
        key = secrets.token_hex(6)
        connection = Connection(
            socket,
            socket.dialect,
            key=key,
            protocol=protocol,
            runner=self._runner,
            limits=self.settings.limits,
            metrics=self.metrics,
        )
        with self._registered(connection, socket):
            address = "" if socket.visitor is None else socket.visitor.address
            log_event(
                _log, "opened", session=key, protocol=protocol, address=address, sessions=len(self._gate)
            )
            try:
                await connection.run()
            except Exception:
                _log.exception("the connection of session %s failed", key)
                await socket.close(1011, "an error in the server")


def run(
    engines: Engine | Mapping[str, Engine],
    settings: Settings,
    *,
    started: Callable[[Server], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `started` is called when the first session can be opened."""
    asyncio.run(_run(Server(engines, settings), started))


async def _run(server: Server, started: Callable[[Server], None] | None) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    raise_open_files(server.settings.limits.sessions + _SPARE_FILES)
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

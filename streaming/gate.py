"""Who may come in: tokens, limits on sessions by address and token, readiness and load. No sockets, no clock."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from websockets.http11 import Request, Response

from streaming import http
from streaming.settings import Settings

__all__ = ["Gate", "Refusal", "Visitor"]

_AGAIN_SECONDS = 5


@dataclass(frozen=True)
class Refusal:
    """`kind` is the metrics' label; `seconds`: after so long it is worth another try."""

    kind: str
    text: str
    seconds: int = _AGAIN_SECONDS
    status: HTTPStatus = HTTPStatus.SERVICE_UNAVAILABLE

    def response(self) -> Response:
        headers = {"Retry-After": str(self.seconds)} if self.seconds else {}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Bearer realm="rill"'
        return http.reply(self.status, self.text + "\n", headers=headers)


@dataclass(frozen=True)
class Visitor:
    """Where a request comes from; `token` is a digest of the one that it brought, with which nothing can be done."""

    address: str
    token: bytes | None = None


class Machine(Protocol):
    """What the gate asks about the engine; `streaming.runner.Runner` is one, `streaming.crew.Crew` another."""

    @property
    def ready(self) -> bool: ...

    def load(self, *, streams: int = 0) -> float: ...


class Gate:
    """Counts those who are in. `draining` shuts it."""

    def __init__(self, settings: Settings, machine: Machine) -> None:
        self.draining = False
        self._settings = settings
        self._machine = machine
        self._salt = secrets.token_bytes(16)
        self._proxies = tuple(ipaddress.ip_network(x) for x in settings.proxies)
        self._inside: Counter[str | bytes] = Counter()
        self._count = 0

    def __len__(self) -> int:
        """Sessions that are open."""
        return self._count

    def visitor(self, request: Request, query: str, address: str) -> Visitor | None:
        """`None`: it brings no token, and needs one."""
        address = self._behind_proxy(request, address)
        if not self._settings.tokens:
            return Visitor(address)
        token = http.token_of(request, query, self._settings.tokens)
        if token is None:
            return None
        return Visitor(address, hashlib.blake2b(token.encode(), key=self._salt).digest())

    def refusal(self, visitor: Visitor | None = None) -> Refusal | None:
        """Why no session can be opened now, by this visitor or by anyone."""
        limits = self._settings.limits
        if self.draining:
            return Refusal("draining", "the server is shutting down: connect to another", 10)
        if not self._machine.ready:
            return Refusal("warming_up", "the model is being loaded")
        if self._count >= limits.sessions:
            return Refusal("sessions", f"all {limits.sessions} sessions are taken")
        if limits.lag_seconds is not None and self._machine.load(streams=self._count + 1) > 1:
            return Refusal("overload", "the machine cannot keep up with one stream more")
        return None if visitor is None else self._own(visitor)

    def _own(self, visitor: Visitor) -> Refusal | None:
        limits, many = self._settings.limits, HTTPStatus.TOO_MANY_REQUESTS
        for key, limit, whose in (
            (visitor.address, limits.address_sessions, "address"),
            (visitor.token, limits.token_sessions, "token"),
        ):
            if key is not None and limit is not None and self._inside[key] >= limit:
                text = f"all {limit} sessions of this {whose} are taken"
                return Refusal(f"{whose}_sessions", text, status=many)
        return None

    @contextmanager
    def entered(self, visitor: Visitor) -> Iterator[None]:
        """While a session is open."""
        keys = [key for key in (visitor.address, visitor.token) if key is not None]
        self._inside.update(keys)
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            for key in keys:
                self._inside[key] -= 1
                if not self._inside[key]:
                    del self._inside[key]

    def _behind_proxy(self, request: Request, address: str) -> str:
        """The address of the client: what a proxy that is trusted says of it, nearest first."""
        forwarded = [x.strip() for v in request.headers.get_all("X-Forwarded-For") for x in v.split(",")]
        while forwarded and self._trusted(address):
            address = forwarded.pop()
        return address

    def _trusted(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)

"""The plain HTTP that a server answers on its websocket port: the page, health, readiness, metrics, and
refusals.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from http import HTTPStatus
from importlib.resources import files
from pathlib import PurePath
from urllib.parse import parse_qs

from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

__all__ = ["is_websocket", "load_pages", "page", "reply", "select_subprotocol", "token_of"]

_BEARER = ("bearer.", "openai-insecure-api-key.")
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_SECURITY = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def load_pages() -> dict[str, tuple[bytes, str]]:
    """path -> (body, type). Read once, at the start: no client's path ever reaches the file system."""
    pages = {}
    for file in (files("streaming") / "web").iterdir():
        if (kind := _KINDS.get(PurePath(file.name).suffix)) is not None:
            path = "/" if file.name == "index.html" else f"/{file.name}"
            pages[path] = (file.read_bytes(), f"{kind}; charset=utf-8")
    return pages


def page(body: bytes, kind: str) -> Response:
    return reply(HTTPStatus.OK, body, kind=kind, headers=_SECURITY | {"Cache-Control": "no-cache"})


def reply(
    status: HTTPStatus,
    body: str | bytes,
    *,
    kind: str = "text/plain; charset=utf-8",
    headers: dict[str, str] | None = None,
) -> Response:
    data = body.encode() if isinstance(body, str) else body
    fields = {"Content-Type": kind, "Content-Length": str(len(data)), "Connection": "close"} | (headers or {})
    return Response(status.value, status.phrase, Headers(fields), data)


def is_websocket(request: Request) -> bool:
    return any("websocket" in value.lower() for value in request.headers.get_all("Upgrade"))


def token_of(request: Request, query: str, tokens: Sequence[str]) -> str | None:
    """The one of `tokens` that stands in the header `Authorization: Bearer` (or `Token`, as Deepgram's clients
    say), the query's `token`, or a subprotocol: `bearer.` or `openai-insecure-api-key.` before it, or `token` or
    `bearer` ahead of it.

    Browsers can set no header on a websocket, hence the other two. Every pair is compared, in constant time.
    """
    schemes = [value.strip().partition(" ") for value in request.headers.get_all("Authorization")]
    offered = [token.strip() for scheme, _, token in schemes if scheme.lower() in ("bearer", "token")]
    offered += parse_qs(query, max_num_fields=50).get("token", []) if query.count("&") < 50 else []
    protocols = _subprotocols(request)
    offered += [x.removeprefix(mark) for x in protocols for mark in _BEARER if x.startswith(mark)]
    if len(protocols) == 2 and protocols[0] in ("token", "bearer"):
        offered.append(protocols[1])
    found = None
    for given in offered[:10]:
        for token in tokens:
            if hmac.compare_digest(given.encode(errors="surrogateescape"), token.encode()):
                found = token
    return found


def select_subprotocol(offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Browsers insist on an answer to what they offer: the first that is no token, or that token back to its
    owner.
    """
    return next((x for x in offered if not x.startswith(_BEARER)), offered[0] if offered else None)


def _subprotocols(request: Request) -> list[str]:
    return [
        x.strip() for value in request.headers.get_all("Sec-WebSocket-Protocol") for x in value.split(",")
    ]

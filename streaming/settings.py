"""What a server is told, and what follows from it: the offer to clients, the TLS context."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from asr.audio import SAMPLE_RATE
from asr.errors import ConfigError
from asr.search.config import SearchConfig
from streaming import voice
from streaming.engine import Engine, named
from streaming.protocols import Limits, Offer

__all__ = ["Settings", "offer", "tls_context"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`certificate` and `private_key` are PEM files; with them the server speaks TLS only, and SIGHUP reloads
    them.

    With `tokens`, each client must bring one of them. `origins` are the pages that browsers may connect from;
    `None` means any. `default_latency_ms` and `search` are for clients that do not choose. `port` 0 takes a free one.
    `root` is the protocol of websockets on `/` (`streaming.routes`). `proxies` are the addresses or networks of those
    in front whose `X-Forwarded-For` is believed. `processes` is how many run steps beside one another, on Linux; 1: a
    thread of the server's own runs them.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    limits: Limits = field(default_factory=Limits)
    tokens: tuple[str, ...] = ()
    origins: tuple[str, ...] | None = None
    proxies: tuple[str, ...] = ()
    certificate: str | None = None
    private_key: str | None = None
    default_latency_ms: int | None = None
    root: str = "sherpa"
    max_batch: int = 64
    search: SearchConfig = SearchConfig()
    processes: int = 1
    name: str = "rill"

    def __post_init__(self) -> None:
        for proxy in self.proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ConfigError(
                    f"proxies: {proxy!r} is no address or network such as 10.0.0.0/8 ({error})"
                ) from error


def offer(engines: Engine | Mapping[str, Engine], settings: Settings) -> Offer:
    """Raises ConfigError for settings that cannot work with these engines."""
    first, *others = (_offer(name, engine, settings) for name, engine in named(engines).items())
    return replace(first, others=tuple(others))


def _offer(name: str, engine: Engine, settings: Settings) -> Offer:
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
    engine.init_state(engine.chunk_for(default), engine.heads[0], engine.search(settings.search))
    return Offer(
        server=settings.name,
        model=name or None,
        latencies=latencies,
        heads=engine.heads,
        default_latency=default,
        default_head=engine.heads[0],
        limits=limits,
        voice=voice.available(),
        searches={head: engine.kinds(head) for head in engine.heads},
        language_models=engine.language_models,
        bigrams=engine.bigrams,
        search=settings.search,
    )


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """`None` without a certificate. Raises ConfigError."""
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

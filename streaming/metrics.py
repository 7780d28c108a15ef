"""What a server tells Prometheus. Each server has its own registry, so several may live in one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from streaming.scheduler import Tick

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The counts and times of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Gauge("rill_sessions", "Connections with a session now", registry=self.registry)
        self.opened = Counter("rill_sessions_opened", "Sessions opened", ["protocol"], registry=self.registry)
        self.closed = Counter(
            "rill_sessions_closed", "Sessions closed, by why", ["reason"], registry=self.registry
        )
        self.refused = Counter(
            "rill_refused", "Connections refused, by why", ["reason"], registry=self.registry
        )
        self.errors = Counter(
            "rill_errors", "Sessions that failed, by kind", ["kind"], registry=self.registry
        )
        self.audio = Counter("rill_audio_seconds", "Audio received", registry=self.registry)
        self.lag = Histogram(
            "rill_lag_seconds",
            "Delay of text behind the audio it needs",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.wait = Histogram(
            "rill_wait_seconds",
            "Wait of the stream that waited longest for a step",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.step = Histogram(
            "rill_step_seconds", "Time of a batched step", buckets=_SECONDS, registry=self.registry
        )
        self.batch = Histogram(
            "rill_batch_streams",
            "Streams in a step",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self.load = Gauge(
            "rill_load", "Share of the allowed lag that is used; 1 is too much", registry=self.registry
        )

    def stepped(self, tick: Tick, seconds: float) -> None:
        """Called in the engine's thread after each step."""
        self.step.observe(seconds)
        self.batch.observe(tick.streams)
        self.wait.observe(tick.waited)
        for result in tick.results:
            if result.events:
                self.lag.observe(result.lag)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)

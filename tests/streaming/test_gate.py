from __future__ import annotations

from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request

from asr.errors import ConfigError
from streaming.gate import Gate
from streaming.pace import Pace
from streaming.protocols import Limits
from streaming.settings import Settings


class Machine:
    ready = True

    def load(self, *, streams: int = 0) -> float:
        return streams / 5


def gate(**settings: Any) -> Gate:
    return Gate(Settings(**settings), Machine())


def request(**headers: str) -> Request:
    return Request("/", Headers({name.replace("_", "-"): value for name, value in headers.items()}))


def test_limits_of_an_address_and_a_token() -> None:
    door = gate(tokens=("secret", "other"), limits=Limits(address_sessions=2, token_sessions=1))
    with_token = request(Authorization="Bearer secret")
    assert door.visitor(request(), "", "10.0.0.1") is None
    one = door.visitor(with_token, "", "10.0.0.1")
    two = door.visitor(request(), "token=other", "10.0.0.1")
    third = door.visitor(with_token, "", "10.0.0.2")
    assert one and two and third and one.token == third.token != two.token
    assert b"secret" not in repr(one).encode()
    with door.entered(one):
        assert door.refusal(two) is None
        refused = door.refusal(third)
        assert refused and refused.kind == "token_sessions" and refused.response().status_code == 429
        with door.entered(two):
            refused = door.refusal(two)
            assert refused and refused.kind == "address_sessions"
            assert int(refused.response().headers["Retry-After"]) > 0
            assert door.refusal() is None and len(door) == 2
    assert door.refusal(third) is None and len(door) == 0 and not door._inside


def test_the_stream_that_would_be_too_much_is_refused() -> None:
    door = gate()
    visitor = door.visitor(request(), "", "::1")
    assert visitor
    with door.entered(visitor), door.entered(visitor), door.entered(visitor), door.entered(visitor):
        assert door.refusal() is None
        with door.entered(visitor):
            refused = door.refusal()
    assert refused and (refused.kind, refused.response().status_code) == ("overload", 503)


@pytest.mark.parametrize(
    ("address", "forwarded", "seen"),
    [
        ("1.2.3.4", "9.9.9.9", "1.2.3.4"),
        ("10.0.0.7", "9.9.9.9", "9.9.9.9"),
        ("10.0.0.7", "6.6.6.6, 9.9.9.9", "9.9.9.9"),
        ("10.0.0.7", "6.6.6.6, 9.9.9.9, 10.0.0.8", "9.9.9.9"),
        ("10.0.0.7", "not an address", "not an address"),
        ("", "9.9.9.9", ""),
    ],
)
def test_only_proxies_that_are_trusted_are_believed(address: str, forwarded: str, seen: str) -> None:
    visitor = gate(proxies=("10.0.0.0/8",)).visitor(request(X_Forwarded_For=forwarded), "", address)
    assert visitor and visitor.address == seen


def test_a_proxy_that_is_no_network_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"proxies: 'nginx' is no address or network"):
        Settings(proxies=("nginx",))


def test_a_connection_is_read_no_faster_than_its_pace() -> None:
    now = [0.0]
    pace = Pace(100, clock=lambda: now[0])
    assert [pace.take() for _ in range(1000)] == [0.0] * 1000
    assert pace.take() == pytest.approx(0.01)
    now[0] = 5.0
    assert [pace.take() for _ in range(499)] == [0.0] * 499
    assert pace.take() == pytest.approx(0.01)
    now[0] = 1e9  # days of silence fill no more than the bucket
    assert [pace.take() for _ in range(1000)] == [0.0] * 1000
    assert pace.take() > 0

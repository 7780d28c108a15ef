from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr import config
from asr.calibration import PLAIN, Calibration, Heard
from asr.errors import ConfigError
from asr.model import ModelConfig


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 100), st.floats(-50, 50))
def test_confidence_stays_in_its_range_and_order(a: float, b: float, temperature: float, bias: float) -> None:
    known = Calibration(head="ctc", temperature=temperature, bias=bias, tokens=-1.0, pace=-2.0)
    low, high = (known.confidence(Heard(p, 3, 9)) for p in sorted((a, b)))
    assert 0 <= low <= high <= 1
    assert PLAIN.confidence(Heard(a, 3, 9)) == a


def test_by_hand() -> None:
    assert Calibration(head="ctc", temperature=2.0).confidence(Heard(0.8)) == pytest.approx(2 / 3)
    assert Calibration(head="ctc", bias=-1.0).confidence(Heard(0.5, 4)) == pytest.approx(0.26894, abs=1e-5)
    known = Calibration(head="ctc", tokens=-1.0, pace=-0.5)
    assert known.confidence(Heard(0.5, 4, 16)) == pytest.approx(1 / 9)  # odds of 1 / 4 / sqrt(4)


def test_it_is_a_part_of_the_configuration() -> None:
    known = Calibration(
        head="ctc", latency_ms=450, temperature=1.5, bias=-0.25, tokens=-1.0, pace=-0.5, start=-0.06, end=0.3
    )
    tree = config.to_dict(ModelConfig(calibration=(known,)))
    assert config.from_dict(ModelConfig, tree).calibration == (known,)
    with pytest.raises(ConfigError, match="temperature must be more than 0"):
        config.from_dict(ModelConfig, {"calibration": [{"head": "ctc", "temperature": 0}]}, where="here")

from __future__ import annotations

import numpy as np
import pytest

from asr.dataset.augment import Room
from asr.dataset.augment.room import TAPS, early_echoes, heard, impulse_response, reflection, reverberate

SIZE, MOUTH, EAR = np.array([5.0, 4.0, 3.0]), np.array([1.0, 1.5, 1.2]), np.array([3.2, 2.1, 1.6])


def fall(response: np.ndarray) -> float:
    """Seconds to 60 dB, from the straight part of Schroeder's backward integral."""
    energy = np.cumsum(response[::-1].astype(float) ** 2)[::-1]
    level = 10 * np.log10(energy / energy[0])
    inside = np.flatnonzero((level < -5) & (level > -25))
    return -60 / np.polyfit(inside / 16_000, level[inside], 1)[0]


@pytest.mark.parametrize("t60", [0.2, 0.4, 0.8])
def test_the_sound_falls_by_60_db_in_the_time_asked_for(t60):
    found = [fall(impulse_response(SIZE, MOUTH, EAR, t60, np.random.default_rng(seed))) for seed in range(5)]
    assert np.mean(found) == pytest.approx(t60, rel=0.2)


def test_the_direct_sound_stands_at_its_place_and_is_the_loudest():
    response = impulse_response(SIZE, MOUTH, EAR, 0.4, np.random.default_rng(0))
    assert int(np.abs(response).argmax()) == TAPS
    assert response[TAPS] == pytest.approx(1 / np.linalg.norm(MOUTH - EAR), rel=1e-3)
    assert len(response) == TAPS + 6400


def test_echoes_are_those_of_pyroomacoustics():
    """Sums of the amplitudes of its images (0.10.1, ShoeBox of order 14, 343 m/s) up to places between two of them:
    ours are spread over neighbouring samples."""
    golden = {30: 0.4319342, 100: 1.3131027, 200: 3.2363161, 300: 5.8533581, 400: 8.7544671}
    echoes = early_echoes(SIZE, MOUTH, EAR, reflection(SIZE, 0.4), 0.03)[TAPS:]
    for end, amplitudes in golden.items():
        assert echoes[:end].sum() == pytest.approx(amplitudes, rel=5e-3)


def test_reflection_is_that_of_eyring():
    # 60 m3, 94 m2: absorption 0.161 * 60 / 94 / 0.4 by Sabine, less by Eyring's logarithm.
    assert reflection(SIZE, 0.4) ** 2 == pytest.approx(np.exp(-0.1611 * 60 / (94 * 0.4)), rel=1e-3)


def test_what_is_heard_stays_in_its_place_as_long_and_as_loud():
    clean = np.zeros(8000, dtype=np.float32)
    clean[3000:3400] = np.random.default_rng(0).standard_normal(400)
    for seed in range(10):
        wet = reverberate(Room(), clean, np.random.default_rng(seed))
        assert wet.shape == clean.shape and wet.dtype == np.float32
        assert np.mean(wet**2) == pytest.approx(np.mean(clean**2), rel=1e-3)
        assert np.abs(wet[:2900]).max() < 1e-3 < np.abs(wet[3400:4000]).max()
    impulse = np.zeros(100, dtype=np.float32)
    impulse[17] = -0.5
    np.testing.assert_allclose(heard(clean, impulse, 17), -clean, atol=1e-5)


def test_rooms_of_all_ranges_give_sound():
    tight = Room(
        length=(1.5, 1.6), width=(1.5, 1.6), height=(1.5, 1.6), distance=(2.0, 3.0), t60=(0.05, 0.06)
    )
    for seed in range(20):
        wet = reverberate(tight, np.ones(500, dtype=np.float32), np.random.default_rng(seed))
        assert np.isfinite(wet).all()

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording

from asr.dataset import Batch, DataConfig, Loader
from asr.dataset.augment import BandLimit, Codec, Concatenate, Noise, Room, Speed, Volume
from asr.dataset.cuts import Cache, load_audio, text_of
from asr.errors import DataError
from asr.tokenizer import Tokenizer

DURATIONS = [0.5 + 0.13 * i for i in range(20)]


class Letters:
    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def make(path: Path, *, training: bool = True, world_size: int = 1, **options) -> Loader:
    settings = {"max_duration": 12.0, "max_seconds": 5.0, "workers": 0} | options
    config = DataConfig(train=(path,), **settings)
    return Loader([path], config, Letters(), training=training, world_size=world_size)


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.ids == b.ids
        and a.texts == b.texts
        and torch.equal(a.samples, b.samples)
        and torch.equal(a.sample_lens, b.sample_lens)
        and torch.equal(a.tokens, b.tokens)
        for a, b in zip(one, other, strict=True)
    )


def test_a_batch_holds_padded_samples_and_tokens(corpus):
    path = corpus([1.0, 0.75])
    (batch,) = make(path, training=False, case="upper")
    assert batch.ids == ("u000", "u001")
    assert batch.samples.shape == (2, 16_000)
    assert batch.samples.dtype == torch.float32
    assert batch.sample_lens.tolist() == [16_000, 12_000]
    assert batch.samples[1, 12_000:].abs().max() == 0
    expected, _ = soundfile.read(path.parent / "audio/001.flac", dtype="float32")
    np.testing.assert_array_equal(batch.samples[1, :12_000].numpy(), expected)
    assert batch.texts == ("WORD 0", "WORD 1")
    assert batch.tokens.tolist() == [[ord(c) for c in "WORD 0"], [ord(c) for c in "WORD 1"]]
    assert batch.token_lens.tolist() == [6, 6]


def test_any_number_of_workers_gives_the_same_batches(corpus):
    path = corpus(DURATIONS)
    alone = list(make(path))
    assert len(alone) == len(make(path))
    assert sorted(id for batch in alone for id in batch.ids) == [f"u{i:03}" for i in range(20)]
    for workers in (1, 2):
        assert same(alone, list(make(path, workers=workers)))
    assert not same(alone, list(make(path, seed=1)))


def test_the_model_draws_the_same_whether_or_not_data_is_loaded(corpus):
    path = corpus(DURATIONS)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(make(path, workers=1))
    assert torch.equal(torch.rand(3), expected)


def test_resuming_goes_on_with_the_next_batch(corpus):
    path = corpus(DURATIONS)
    straight = make(path)
    order = [*straight, *straight, *straight]
    assert straight.epoch == 3
    for place in (1, len(straight) - 1, len(straight), len(straight) + 2):
        begun = make(path, workers=1)  # its worker reads ahead: only batches handed out may count
        taken: list[Batch] = []
        while len(taken) < place:
            for batch in begun:
                taken.append(batch)
                if len(taken) == place:
                    break
        resumed = make(path)
        resumed.load_state_dict(begun.state_dict())
        rest = [batch for _ in range(3) for batch in resumed]
        assert same(order[: len(taken)], taken)
        assert same(order[len(taken) :], rest[: len(order) - len(taken)])


def noisy(tone, path: Path) -> dict[str, object]:
    tone("noises/one.wav", 0.7)
    return {
        "augment": (
            Speed(),
            Concatenate(probability=0.5, max_seconds=6.0),
            Volume(),
            Noise(folder=path.parent / "noises"),
            Room(),
            Codec(),
            BandLimit(),
        )
    }


def test_augmented_batches_are_the_same_for_any_number_of_workers_and_when_resumed(corpus, tone):
    path = corpus(DURATIONS)
    options = noisy(tone, path)
    whole = make(path, **options)
    order = [*whole, *whole]
    assert same(order[: len(whole)], list(make(path, workers=2, **options)))
    for place in (1, len(whole), len(whole) + 2):
        resumed = make(path, workers=1, **options)
        resumed.load_state_dict(
            {**resumed.state_dict(), "epoch": place // len(whole), "batch": place % len(whole)}
        )
        assert same(order[place:], [batch for _ in range(2) for batch in resumed][: len(order) - place])
    first, second = (dict(zip(batch.ids, batch.samples, strict=True)) for batch in order[:: len(whole)])
    assert not any(id in second and torch.equal(first[id], second[id]) for id in first)


def test_texts_and_audio_follow_when_utterances_are_joined(corpus):
    path = corpus(DURATIONS)
    augment = (Concatenate(probability=0.7, max_seconds=6.0, pause=0.25),)
    plain = {
        id: (samples[:n], text) for batch in make(path, augment=()) for id, samples, n, text in rows(batch)
    }
    joined = 0
    seen: list[str] = []
    for batch in make(path, augment=augment):
        for id, samples, length, text in rows(batch):
            ids = id.split("+")
            seen += ids
            joined += len(ids) > 1
            assert text == " ".join(plain[one][1] for one in ids)
            parts = [plain[ids[0]][0]]
            for one in ids[1:]:
                parts += [torch.zeros(4000), plain[one][0]]
            assert torch.equal(samples[:length], torch.cat(parts))
            assert length <= 6 * 16_000
    assert joined > 2
    assert sorted(seen) == sorted(plain)
    first_plain = make(path, augment=augment, plain_epochs=1)
    assert not any("+" in id for batch in first_plain for id in batch.ids)
    assert any("+" in id for batch in first_plain for id in batch.ids)


def rows(batch: Batch):
    return zip(batch.ids, batch.samples, batch.sample_lens.tolist(), batch.texts, strict=True)


def test_a_state_of_other_data_is_refused(corpus):
    path = corpus(DURATIONS)
    state = make(path).state_dict()
    with pytest.raises(DataError, match=r"seed: 0 then, 3 now"):
        make(path, seed=3).load_state_dict(state)
    with pytest.raises(DataError, match=r"batches: \d+ then"):
        make(path, max_duration=30.0).load_state_dict(state)


def test_another_number_of_processes_goes_on_as_far_in_the_epoch(corpus):
    path = corpus(DURATIONS)
    both = make(path, max_duration=8.0, world_size=2)
    both.epoch, both.batch = 3, len(both) // 2
    alone = make(path, max_duration=8.0)
    alone.load_state_dict(both.state_dict())
    assert (alone.epoch, alone.batch) == (3, both.batch * len(alone) // len(both))
    assert alone.batch >= 2 and next(iter(alone)).ids
    with pytest.raises(DataError, match=r"seed: 0 then, 3 now"):
        make(path, seed=3).load_state_dict(both.state_dict())


def test_lengths_outside_the_limits_are_not_trained_on_but_measured(corpus):
    path = corpus([0.2, 1.0, 3.0])
    train = [id for batch in make(path, max_seconds=2.0) for id in batch.ids]
    assert train == ["u001"]
    measured = [id for batch in make(path, training=False, max_seconds=2.0) for id in batch.ids]
    assert measured == ["u002", "u001", "u000"]
    with pytest.raises(DataError, match="no utterances to use in .*cuts.jsonl.gz"):
        make(path, max_seconds=0.9)


def test_bad_items_are_left_out(corpus):
    path = corpus([1.0] * 4)
    config = DataConfig(train=(path,), max_duration=60.0, workers=0)
    loader = Loader([path], config, Letters(), training=False, leave_out=[(str(path), 2)])
    assert [id for batch in loader for id in batch.ids] == ["u000", "u002", "u003"]


def test_several_manifests_are_weighted(corpus, tone):
    one = corpus([1.0] * 4, name="one.jsonl.gz")
    two = corpus([1.0] * 2, name="two.jsonl.gz")
    config = DataConfig(train=(one, two), weights=(0.0, 3.0), workers=0)
    loader = Loader(config.train, config, Letters(), training=True, weights=config.weights)
    ids = [id for batch in loader for id in batch.ids]
    assert sorted(ids) == ["u000"] * 3 + ["u001"] * 3
    assert loader.seconds == pytest.approx(6.0)


@pytest.mark.parametrize("workers", [0, 1])
def test_audio_that_fails_while_training_names_the_cut(corpus, workers):
    path = corpus([1.0] * 4)
    broken = path.parent / "audio/002.flac"
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(
        DataError,
        match=r"1 utterances of 4 cannot be read.*cuts.jsonl.gz, line 3: cut u002: its audio cannot be read",
    ) as caught:
        list(make(path, workers=workers, bad_share=0.2))
    assert "\n" not in str(caught.value)
    going_on = make(path, workers=workers, bad_share=0.25)
    for _ in range(2):
        assert sorted(id for batch in going_on for id in batch.ids) == ["u000", "u001", "u003"]
    (message,) = going_on.skipped
    assert "u002" in message


@pytest.mark.parametrize("workers", [0, 1])
def test_a_text_without_tokens_is_left_out_and_named(corpus, workers):
    path = corpus([1.0] * 4)
    config = DataConfig(train=(path,), workers=workers, bad_share=0.25)
    letters = Tokenizer.train(["Word 0 1 3"], kind="characters")
    loader = Loader([path], config, letters, training=True)
    assert sorted(id for batch in loader for id in batch.ids) == ["u000", "u001", "u003"]
    (message,) = loader.skipped
    assert "line 3: character '2'" in message


def test_a_process_that_is_killed_is_told(corpus, monkeypatch):
    loader = make(corpus([1.0] * 4), workers=1)
    monkeypatch.setattr(loader.manifest, "load", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DataError, match=r"a process that reads data has ended .*fewer of data.workers"):
        list(loader)


def test_a_batch_of_bad_audio_only_is_passed_over(corpus):
    path = corpus([1.0])
    (path.parent / "audio/000.flac").unlink()
    assert list(make(path, bad_share=1.0)) == []


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_speed_changes_length_and_pitch(corpus, speed):
    path = corpus([2.0])
    (cut,) = CutSet.from_file(path)
    plain, changed = load_audio(cut), load_audio(cut, speed=speed)
    assert len(changed) == pytest.approx(len(plain) / speed, abs=2)

    def pitch(samples: np.ndarray) -> float:
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), n=1 << 18))
        return int(spectrum.argmax()) * 16_000 / (1 << 18)

    assert pitch(changed) == pytest.approx(speed * pitch(plain), rel=1e-3)


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (48_000, 2)])
def test_any_rate_and_number_of_channels_comes_as_16_khz_mono(tone, rate, channels):
    path = tone("a.wav", 1.5, rate=rate, channels=channels)
    recording = Recording.from_file(path)
    cut = recording.to_cut() if channels > 1 else MonoCut("a", 0, 1.5, 0, recording=recording)
    samples = load_audio(cut)
    assert samples.shape == (24_000,)
    assert samples.dtype == np.float32
    assert np.abs(samples[800:-800]).max() == pytest.approx(0.3, abs=0.01)


def test_a_part_of_a_recording_is_read(corpus):
    path = corpus([3.0])
    (cut,) = CutSet.from_file(path)
    np.testing.assert_array_equal(
        load_audio(cut.truncate(offset=1.0, duration=0.5)), load_audio(cut)[16_000:24_000]
    )


def test_texts_of_several_supervisions_are_joined_in_order(corpus):
    (cut,) = CutSet.from_file(corpus([2.0]))
    one = cut.supervisions[0]
    cut.supervisions = [
        dataclasses.replace(one, id="late", start=1.2, duration=0.5, text=" Two  words "),
        dataclasses.replace(one, id="early", start=0.1, duration=0.5, text="First"),
    ]
    assert text_of(cut) == "First Two words"
    assert text_of(cut, case="lower") == "first two words"


@pytest.mark.parametrize("workers", [0, 2])
def test_cached_epochs_equal_uncached_ones_and_read_no_file(corpus, workers):
    path = corpus(DURATIONS)  # 16 bit FLAC: int16 holds it exactly
    plain, cached = make(path, workers=workers), make(path, workers=workers, cache=True)
    expected = [list(plain) for _ in range(2)]
    assert same(expected[0], list(cached))
    for file in path.parent.glob("audio/*.flac"):
        file.unlink()
    assert same(expected[1], list(cached))


def test_the_cache_returns_at_once_what_it_will_return_later():
    cache = Cache(np.array([4, 4]))
    first = cache.put(1, np.array([0.1, -1.0, 1.0], dtype=np.float32))
    again = cache.get(1)
    assert again is not None
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, [0.1, -1.0, 32767 / 32768], atol=2e-5)
    assert cache.get(0) is None
    assert len(cache.put(0, np.zeros(9, dtype=np.float32))) == 9
    assert cache.get(0) is None, "longer than its place"


def test_a_batch_moves_to_a_device(corpus):
    (batch,) = make(corpus([1.0]), training=False)
    moved = batch.to("meta")
    assert moved.samples.device.type == moved.token_lens.device.type == "meta"
    assert moved.ids == batch.ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": (1.0, 2.0)}, "2 for 1 train manifests"),
        ({"weights": (-1.0,)}, "negative"),
        ({"augment": (Volume(), Speed())}, "speed stands after volume"),
        ({"augment": (Speed(), Speed())}, "speed stands there twice"),
        ({"augment": (Concatenate(max_seconds=300.0),)}, "concatenate to 300 s fits no batch of 200 s"),
        ({"shards_at_once": 0}, "at least 1"),
        ({"min_seconds": 9.0, "max_seconds": 3.0}, "below max_seconds"),
        ({"max_duration": 20.0}, "fits no batch of 20 s"),
        ({"jitter": 1.0}, "below 1"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(train=(Path("a"),), **change)

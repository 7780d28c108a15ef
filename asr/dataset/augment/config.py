"""What `data.augment` may list. Each item is drawn for an utterance with its `probability`, in the list's order.

augment:
  - {kind: speed}
  - {kind: noise, folder: corpora/musan, snr: [5, 20], probability: 0.5}
  - {kind: room, probability: 0.2}
  - {kind: spec_augment}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias, TypeVar

__all__ = [
    "Augmentation",
    "Babble",
    "BandLimit",
    "Codec",
    "CodecName",
    "Concatenate",
    "CutMixConfig",
    "Impulses",
    "Noise",
    "Range",
    "Room",
    "SpecAugmentConfig",
    "Speed",
    "Stage",
    "Volume",
    "check_order",
    "only",
]

Range: TypeAlias = tuple[float, float]
"""From and to; what is between is drawn evenly."""
Stage = Literal["plan", "sound", "mix", "features"]
CodecName = Literal["mu_law", "a_law", "gsm", "adpcm", "opus", "vorbis", "mp3"]


def _check(probability: float, **ranges: Range) -> None:
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be between 0 and 1, not {probability:g}")
    for name, (low, high) in ranges.items():
        if low > high:
            raise ValueError(f"{name}: {low:g} is above {high:g}")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Each utterance is played at one of these speeds, pitch included (Ko et al. 2015)."""

    stage: ClassVar[Stage] = "plan"
    kind: Literal["speed"] = "speed"
    factors: tuple[float, ...] = (0.9, 1.0, 1.1)

    def __post_init__(self) -> None:
        if not self.factors or min(self.factors) <= 0:
            raise ValueError("factors: give at least one, all above zero")


@dataclass(frozen=True, kw_only=True)
class Concatenate:
    """An utterance is continued by another one, whose text follows: models then know more than one sentence, speaker
    and length (Lhotse's CutConcatenate; Narayanan et al. 2019 on long-form audio)."""

    stage: ClassVar[Stage] = "plan"
    kind: Literal["concatenate"] = "concatenate"
    probability: float = 0.1
    max_seconds: float | None = None
    """Of what comes out; None: data.max_seconds."""
    pause: float = 0.1
    """Seconds of silence between two utterances."""

    def __post_init__(self) -> None:
        _check(self.probability, pause=(0.0, self.pause))


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Louder or softer."""

    stage: ClassVar[Stage] = "sound"
    kind: Literal["volume"] = "volume"
    probability: float = 1.0
    decibels: Range = (-12.0, 6.0)

    def __post_init__(self) -> None:
        _check(self.probability, decibels=self.decibels)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """A piece of a recording from `folder`, at any depth, is added. Of a folder that is laid out as MUSAN is (Snyder et
    al. 2015), the parts noise/ and music/ are used."""

    stage: ClassVar[Stage] = "sound"
    parts: ClassVar[tuple[str, ...]] = ("noise", "music")
    kind: Literal["noise"] = "noise"
    folder: Path
    probability: float = 0.5
    snr: Range = (5.0, 20.0)
    """Signal-to-noise ratio in dB."""

    def __post_init__(self) -> None:
        _check(self.probability, snr=self.snr)


@dataclass(frozen=True, kw_only=True)
class Babble:
    """Several voices from `folder` talk at once; of MUSAN's layout, the part speech/. The defaults are Kaldi's."""

    stage: ClassVar[Stage] = "sound"
    parts: ClassVar[tuple[str, ...]] = ("speech",)
    kind: Literal["babble"] = "babble"
    folder: Path
    probability: float = 0.2
    voices: tuple[int, int] = (3, 7)
    snr: Range = (13.0, 20.0)
    """Of the utterance to all voices together, in dB."""

    def __post_init__(self) -> None:
        _check(self.probability, snr=self.snr, voices=self.voices)
        if self.voices[0] < 1:
            raise ValueError("voices: at least one talks")


@dataclass(frozen=True, kw_only=True)
class Impulses:
    """Reverberation by one of the recorded impulse responses in `folder`, at any depth."""

    stage: ClassVar[Stage] = "sound"
    parts: ClassVar[tuple[str, ...]] = ()
    kind: Literal["impulses"] = "impulses"
    folder: Path
    probability: float = 0.3

    def __post_init__(self) -> None:
        _check(self.probability)


@dataclass(frozen=True, kw_only=True)
class Room:
    """Reverberation by a room that is made up: see asr/dataset/augment/room.py."""

    stage: ClassVar[Stage] = "sound"
    kind: Literal["room"] = "room"
    probability: float = 0.3
    length: Range = (3.0, 10.0)
    """These and `distance` in metres."""
    width: Range = (3.0, 8.0)
    height: Range = (2.5, 4.0)
    distance: Range = (0.3, 3.0)
    """From the mouth to the microphone, as far as the room lets it."""
    t60: Range = (0.15, 0.8)
    """Seconds in which the sound falls by 60 dB."""

    def __post_init__(self) -> None:
        sizes = {"length": self.length, "width": self.width, "height": self.height}
        _check(self.probability, distance=self.distance, t60=self.t60, **sizes)
        for name, (low, _) in sizes.items():
            if low < 1.5:
                raise ValueError(f"{name}: no room of {low:g} m; give at least 1.5")
        if self.distance[0] <= 0 or self.t60[0] < 0.05:
            raise ValueError("distance must be above 0 and t60 at least 0.05")


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Through a telephone's codec at 8 kHz (mu_law, a_law, gsm, adpcm), or a low rate of Opus, Vorbis or MP3."""

    stage: ClassVar[Stage] = "sound"
    kind: Literal["codec"] = "codec"
    probability: float = 0.2
    codecs: tuple[CodecName, ...] = ("mu_law", "gsm", "opus", "mp3")
    compression: Range = (0.85, 0.97)
    """Of Opus, Vorbis and MP3, as libsndfile counts it: 0.9 is 33 kbit/s of Opus, 0.97 about 15."""

    def __post_init__(self) -> None:
        _check(self.probability, compression=self.compression)
        if not self.codecs:
            raise ValueError("codecs: give at least one")
        if not 0 <= self.compression[0] <= self.compression[1] <= 0.99:
            raise ValueError("compression must be between 0 and 0.99")


@dataclass(frozen=True, kw_only=True)
class BandLimit:
    """As if recorded at one of these rates, in Hz."""

    stage: ClassVar[Stage] = "sound"
    kind: Literal["band_limit"] = "band_limit"
    probability: float = 0.2
    rates: tuple[int, ...] = (8000,)

    def __post_init__(self) -> None:
        _check(self.probability)
        if not self.rates or not all(1000 <= rate < 16000 for rate in self.rates):
            raise ValueError("rates: give at least one, each from 1000 to below 16000")


@dataclass(frozen=True, kw_only=True)
class CutMixConfig:
    """Bands and stretches of the features become those of another utterance of the batch: CutMix (Yun et al. 2019) in
    the stripes that SpecMix (Kim et al. 2021) cuts of spectrograms. They are narrow, and the text stays.

    Sizes in frequency bins and frames of 10 ms.
    """

    stage: ClassVar[Stage] = "mix"
    kind: Literal["cutmix"] = "cutmix"
    probability: float = 0.3
    frequency_masks: int = 1
    frequency_bins: int = 15
    time_masks: int = 1
    time_frames: int = 20
    time_share: float = 0.1

    def __post_init__(self) -> None:
        _check(self.probability)


@dataclass(frozen=True, kw_only=True)
class SpecAugmentConfig:
    """Sizes in frequency bins and frames of 10 ms; the defaults are those that icefall trains LibriSpeech
    with."""

    stage: ClassVar[Stage] = "features"
    kind: Literal["spec_augment"] = "spec_augment"
    probability: float = 0.9
    """Of an utterance to be warped and masked at all."""
    frequency_masks: int = 2
    frequency_bins: int = 27
    """The widest frequency mask."""
    time_masks: int = 10
    time_frames: int = 100
    """The longest time mask."""
    time_share: float = 0.15
    """The most that all time masks of an utterance may cover of it."""
    warp_frames: int = 0
    """The furthest that a point in time is moved; 0 turns warping off, 80 is usual."""

    def __post_init__(self) -> None:
        _check(self.probability)


Augmentation: TypeAlias = (
    Speed
    | Concatenate
    | Volume
    | Noise
    | Babble
    | Impulses
    | Room
    | Codec
    | BandLimit
    | CutMixConfig
    | SpecAugmentConfig
)

T = TypeVar("T", Speed, Concatenate)


def only(augment: Sequence[Augmentation], kind: type[T]) -> T | None:
    """The one item of a kind, if there is one."""
    return next((step for step in augment if isinstance(step, kind)), None)


def check_order(augment: Sequence[Augmentation]) -> None:
    """Raises ValueError where the list's order cannot be kept: the plan of an epoch comes before the sound, the sound
    before the features, and these are mixed before they are masked."""
    stages: tuple[Stage, ...] = ("plan", "sound", "mix", "features")
    for before, after in pairwise(augment):
        if stages.index(before.stage) > stages.index(after.stage):
            raise ValueError(
                f"augment: {after.kind} stands after {before.kind}; first come speed and concatenate, then what "
                "changes the sound, then cutmix, then spec_augment"
            )
    for kind, count in Counter(step.kind for step in augment if step.stage != "sound").items():
        if count > 1:
            raise ValueError(f"augment: {kind} stands there twice")

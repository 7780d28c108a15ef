from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest
import torch

from asr.audio import read
from asr.cli import main
from asr.errors import ConfigError
from asr.inside import draw, views
from models import small_model
from training.fakes import batch_of

AUDIO = sorted((Path(__file__).parents[1] / "data/mini/audio").rglob("*.flac"))[:3]


def shown(table: str) -> torch.Tensor:
    return torch.tensor(
        [
            [float(x.rstrip("%")) for x in line.split()[1:]]
            for line in table.splitlines()
            if line[:5].strip().isdigit()
        ]
    )


def test_gates(tmp_path: Path) -> None:
    model = small_model("dynamic depth")
    table = draw(model, AUDIO, tmp_path / "gates.png")
    image = matplotlib.image.imread(tmp_path / "gates.png")
    assert image.shape[0] > 100 and image.std() > 0.05
    probabilities = []
    for path in AUDIO:
        model.transcribe(read(path))
        assert model.encoder.depth is not None and model.encoder.depth.last is not None
        probabilities.append(model.encoder.depth.last.by_utterance())
    found = shown(table)
    torch.testing.assert_close(found[:, 0], torch.cat(probabilities).mean(0), atol=1e-3, rtol=0)
    assert len(found) == 3 and "of 3 blocks" in table


def test_merge_weights(tmp_path: Path) -> None:
    found = shown(draw(small_model("branchformer"), AUDIO, tmp_path / "merge.png", latency_ms=160))
    assert (tmp_path / "merge.png").stat().st_size > 1000
    torch.testing.assert_close(found.sum(1), torch.ones(2), atol=2e-3, rtol=0)
    assert (found > 0.01).all() and found[0, 0] != found[1, 0]


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither gates .* nor learned merge weights"):
        draw(small_model("conformer"), AUDIO, tmp_path / "x.png")
    with pytest.raises(ConfigError, match="name recordings with --audio"):
        draw(small_model("branchformer"), [], tmp_path / "x.png")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("dynamic depth", {"gates", "attention"}),
        ("branchformer", {"merge weights", "attention"}),
        ("conformer", {"attention"}),
    ],
)
def test_views_of_a_batch(kind: str, names: set[str]) -> None:
    model = small_model(kind)
    batch = batch_of(["abca", "ab"])
    found = views(model, batch.samples, batch.sample_lens, batch.tokens, batch.token_lens)
    assert set(found) == names
    assert all(image.ndim == 3 and image.std() > 5 for image in found.values())


def test_attention_weights_are_what_the_decoder_mixes_by() -> None:
    model, batch = small_model(), batch_of(["abca", "ab"])
    y, y_lens = model.encode(batch.samples, batch.sample_lens)
    head = model.heads["attention"]
    weights = head.weights(y, y_lens, batch.tokens, batch.token_lens)
    assert weights.shape[::2] == (2, batch.tokens.shape[1] + 1) and weights.shape[3] == y.shape[1]
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))
    assert (weights[1, ..., y_lens[1] :] == 0).all()
    # With values that name their frames and one head, what comes out of the layer is the weights themselves.
    layer = head.decoder.layers[0].cross_attention
    layer.heads, layer.project_out = 1, torch.nn.Identity()
    x, frames = torch.randn(1, 1, 3, layer.project_query.in_features), layer.project_query.in_features
    keys, names, mask = torch.randn(1, frames, frames), torch.eye(frames)[None], torch.zeros(1, 1, 1, frames)
    torch.testing.assert_close(layer(x, keys, names, mask)[0, 0], layer.weights(x, keys, mask)[0])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = small_model("branchformer").save(tmp_path / "model")
    picture = tmp_path / "merge.png"
    with pytest.raises(SystemExit) as done:
        main(["describe", str(bundle), "--picture", str(picture), "--audio", str(AUDIO[0])])
    assert not done.value.code
    assert "layer  attention  cgMLP" in capsys.readouterr().out
    assert picture.is_file()

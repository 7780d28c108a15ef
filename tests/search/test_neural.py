"""Fusion of a neural language model: against every text scored by hand, and by its cuts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr import bundle
from asr.errors import BundleError, ConfigError
from asr.heads.predictors import LabelEncoderConfig, LSTMConfig
from asr.language_model import load
from asr.language_model.neural import NeuralConfig, NeuralLM
from asr.search.config import SearchConfig
from asr.search.plan import Plan
from asr.state import map_tree, stack, unstack
from tests.models import small_model
from tests.search.lattices import ALL, agree, every_text, frames, head_of, search, text, tokenizer
from tests.search.test_language_model import TOKENS, by_hand

LETTERS = tokenizer("ab▁")
MODELS: dict[str, NeuralConfig] = {
    "lstm": LSTMConfig(dim=6, layers=2),
    "transformer": LabelEncoderConfig(dim=6, layers=2, heads=2, head_dim=4, feed_forward_dim=8, left=2),
}
HEADS = ("ctc", "transducer", "lstm", "tdt")


@pytest.fixture(params=MODELS)
def lm(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, NeuralLM]:
    torch.manual_seed(0)
    model = NeuralLM(MODELS[request.param], LETTERS).eval()
    with torch.no_grad():
        model.output.weight *= 4
    path = model.save(tmp_path / "lm")
    return str(path), NeuralLM.load(path)


def likely(model: NeuralLM, tokens: tuple[int, ...]) -> list[float]:
    """Natural log-probability of each token after those before it, all at once."""
    with torch.inference_mode():
        x = model(torch.tensor([tokens], dtype=torch.int64).view(1, -1))[0]
    return [float(x[i, token]) for i, token in enumerate(tokens)]


def test_step_by_step_is_all_at_once(lm: tuple[str, NeuralLM]):
    _, model = lm
    said = [1, 2, 3, 1, 1, 2]
    known, found = model.start(2, 3), []
    assert torch.equal(known.output[0, 0], known.output[1, 2])
    one = map_tree(lambda x: x[1, 2:], known)
    for token in said:
        found.append(float(one.output[0, token]))
        one = model.predict(torch.tensor([token]), one.state)
    assert found == pytest.approx(likely(model, tuple(said)), abs=1e-5)


def test_loss_counts_the_end_and_no_padding(lm: tuple[str, NeuralLM]):
    _, model = lm
    tokens, lens = torch.tensor([[1, 2, 3, 3], [2, 1, 0, 0], [0, 0, 0, 0]]), torch.tensor([4, 2, 0])
    losses = model.loss(tokens, lens)
    for row, length, loss in zip(tokens, lens.tolist(), losses.tolist(), strict=True):
        x = model(row[None, :length])[0]
        wanted = sum(x[i, int(row[i])] for i in range(length)) + x[length, 0]
        assert loss == pytest.approx(-float(wanted), abs=1e-5)


def test_loss_has_the_gradient_of_differences(lm: tuple[str, NeuralLM]):
    model = lm[1].double().requires_grad_()
    tokens, lens = torch.tensor([[1, 2, 3], [3, 0, 0]]), torch.tensor([3, 1])

    def total() -> torch.Tensor:
        return model.loss(tokens, lens).sum()

    for parameter in (model.output.bias, model.predictor.embedding.weight):
        (gradient,) = torch.autograd.grad(total(), parameter)
        with torch.no_grad():
            for index in [(1,), (3,)] if parameter.dim() == 1 else [(1, 2), (3, 0)]:
                parameter[index] += 1e-5
                above = total()
                parameter[index] -= 2e-5
                difference = (above - total()) / 2e-5
                parameter[index] += 1e-5
                torch.testing.assert_close(gradient[index], difference, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_scores_are_those_of_every_text(lm: tuple[str, NeuralLM], kind: str):
    """With a beam that holds all texts, each hypothesis' score is the sum over its paths and its model's."""
    path, model = lm
    head = head_of(kind, LETTERS.size)
    y, lens = frames((2, 3), 1), torch.tensor([3, 3])
    # Each stream with a weight of its own.
    configs = [SearchConfig(kind="beam", beam=ALL, lm=path, lm_scale=scale) for scale in (0.7, 0.2)]
    found = search(head, y, lens, configs, LETTERS)
    for b, scale in enumerate((0.7, 0.2)):
        acoustic = every_text(head, y[b])
        wanted = {t: s + scale * sum(likely(model, t)) for t, s in acoustic.items()}
        scores = {text(h): h.score for h in found[b]}
        assert scores == pytest.approx(wanted, abs=1e-4)
        assert text(found[b][0]) == max(wanted, key=wanted.__getitem__)


@pytest.mark.parametrize("kind", HEADS)
def test_a_lodr_is_taken_away(lm: tuple[str, NeuralLM], kind: str, tmp_path: Path):
    path, model = lm
    (tmp_path / "bigram.arpa").write_text(TOKENS)
    head, y = head_of(kind, LETTERS.size), frames((1, 3), 2)
    lodr = str(tmp_path / "bigram.arpa")
    config = SearchConfig(kind="beam", beam=ALL, lm=path, lm_scale=0.5, lodr=lodr, lodr_scale=0.3)
    scores = {text(h): h.score for h in search(head, y, torch.tensor([3]), [config], LETTERS)[0]}
    wanted = {
        t: score
        + 0.5 * sum(likely(model, t))
        - 0.3 * sum(by_hand(TOKENS, [LETTERS.piece(token) for token in t]))
        for t, score in every_text(head, y[0]).items()
    }
    assert scores == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("beam", [1, 3])
def test_cuts_and_company_do_not_matter(lm: tuple[str, NeuralLM], kind: str, beam: int):
    path, _ = lm
    head = head_of(kind, LETTERS.size)
    y, lens = frames((3, 40), 3), torch.tensor([40, 23, 31])
    config = SearchConfig(kind="beam", beam=beam, lm=path, lm_scale=0.5, lag_frames=6)
    whole = search(head, y, lens, [config] * 3, LETTERS)
    for cuts in ((1, 2, 3, 20), (7, 14, 21, 28, 35), (39,)):
        for one, other in zip(search(head, y, lens, [config] * 3, LETTERS, cuts), whole, strict=True):
            agree(one, other)
    for b in range(3):
        (alone,) = search(head, y[b : b + 1, : int(lens[b])], lens[b : b + 1], [config], LETTERS)
        assert [text(h) for h in alone] == [text(h) for h in whole[b]]
        assert [h.score for h in alone] == pytest.approx([h.score for h in whole[b]], abs=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["ctc", "lstm"])
def test_sessions_meet_and_part(lm: tuple[str, NeuralLM], kind: str):
    """States of streams of different ages are stacked for a step, and cut apart after it."""
    path, _ = lm
    head, config = head_of(kind, LETTERS.size), SearchConfig(kind="beam", lm=path, lag_frames=40)
    y, both, alone = frames((2, 30), 9), Plan([config] * 2, LETTERS), Plan([config], LETTERS)
    lens = torch.tensor([10])
    _, old = head.step(y[:1, :10], lens, head.init_state(1, alone), alone)
    _, old = head.step(y[:1, 10:20], lens, old, alone)
    _, met = head.step(
        torch.cat([y[:1, 20:], y[1:, :10]]),
        lens.expand(2),
        stack([old, head.init_state(1, alone)]),
        both,
    )
    old, new = unstack(met)
    _, new = head.step(y[1:, 10:], torch.tensor([20]), new, alone)
    wanted = search(head, y, torch.tensor([30, 30]), [config] * 2, LETTERS)
    for state, one in ((old, wanted[0]), (new, wanted[1])):
        agree(head.finish(state, alone)[0], one)


@pytest.mark.parametrize("kind", HEADS)
def test_scores_are_exact_and_a_bigger_beam_is_no_worse(lm: tuple[str, NeuralLM], kind: str):
    """Pruned or not, a transducer's hypothesis has the model's score of its whole text in it; the best one rises."""
    path, model = lm
    head, y, lens = head_of(kind, LETTERS.size), frames((1, 5), 5), torch.tensor([5])
    best, acoustic = [], every_text(head, y[0])
    for beam in (1, 4, ALL):
        config = SearchConfig(kind="beam", beam=beam, lm=path, lm_scale=0.4)
        (found,) = search(head, y, lens, [config], LETTERS)
        for h in found:  # paths that were pruned are missing, so a score is a bound
            assert h.score <= acoustic[text(h)] + 0.4 * sum(likely(model, text(h))) + 1e-4
        best.append(found[0].score)
    assert best == sorted(best)


def test_weight_zero_is_no_model(lm: tuple[str, NeuralLM]):
    head, y, lens = head_of("ctc", LETTERS.size), frames((1, 12), 7), torch.tensor([12])
    with_one = SearchConfig(kind="beam", lm=lm[0], lm_scale=0.0)
    agree(
        search(head, y, lens, [with_one], LETTERS)[0],
        search(head, y, lens, [SearchConfig(kind="beam")], LETTERS)[0],
    )


def test_bundles_are_not_mistaken(lm: tuple[str, NeuralLM], tmp_path: Path):
    with pytest.raises(BundleError, match="is a language model; give it as one, with --lm"):
        bundle.load(lm[0])
    speech = small_model("conformer").save(tmp_path / "speech")
    with pytest.raises(BundleError, match="is a speech model, and no language model"):
        load(str(speech), LETTERS, torch.device("cpu"))
    with pytest.raises(ConfigError, match="is a language model of other tokens"):
        load(lm[0], tokenizer("abc"), torch.device("cpu"))
    tar = str(lm[1].save(tmp_path / "lm.tar"))
    assert load(tar, LETTERS, torch.device("cpu")).config == lm[1].config

"""One line of YAML: with each kind of encoder, a recipe trains, and what it writes streams and serves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch

from asr import bundle, config
from asr.training.train import train
from models import ENCODERS
from streaming.client import stream
from streaming.engine import TorchEngine
from streaming.events import Final
from streaming.server import Server, Settings
from tests.training.fakes import tones


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_train_stream_serve(kind: str, recipe: Path, tmp_path: Path) -> None:
    line = f"model.encoder={json.dumps(config.to_dict(ENCODERS[kind]))}"
    path = train(recipe, [line, "model.transducer=null", "train.epochs=3"], out=tmp_path / "run")
    log = (tmp_path / "run" / "train.log").read_text()
    assert "batch 3 " in log and "WER ctc" in log
    model = bundle.load(path)
    assert model.config.encoder == ENCODERS[kind] and len(model.latencies) == 3
    with torch.no_grad():
        model.heads["ctc"].output.bias[0] -= 100  # a model that has heard so little would say nothing
    samples = tones("abcdabcd", 1).numpy()
    assert model.transcribe(samples).text

    async def served() -> list[str]:
        async with Server(TorchEngine(model), Settings(port=0)) as server:
            await server.wait_ready()

            async def one(latency: int) -> str:
                events = stream(samples, server.url, realtime=False, latency_ms=latency, encoding="f32le")
                return "".join([event.text async for event in events if isinstance(event, Final)])

            return await asyncio.gather(*map(one, model.latencies))

    texts = [model.transcribe(samples, latency_ms=latency).text for latency in model.latencies]
    assert asyncio.run(served()) == texts
    assert all(texts)

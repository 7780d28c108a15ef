"""What a model is made of."""

from __future__ import annotations

import pytest

from asr.errors import ConfigError
from asr.heads import TransducerConfig
from asr.model import Model, ModelConfig
from asr.tokenizer import Tokenizer
from models import ENCODERS, PREDICTORS, TEXTS


def test_the_head_that_decodes_is_the_one_named_else_the_first() -> None:
    tokenizer = Tokenizer.train(TEXTS, kind="characters")
    transducer = TransducerConfig(predictor=PREDICTORS["stateless"], joiner_dim=8)
    heads = {"encoder": ENCODERS["zipformer"], "transducer": transducer}
    assert (model := Model(ModelConfig(**heads), tokenizer)).head() is model.heads["transducer"]
    assert (model := Model(ModelConfig(**heads, decodes="ctc"), tokenizer)).head() is model.heads["ctc"]
    with pytest.raises(ConfigError, match=r"model.decodes: ctc is null"):
        ModelConfig(**heads, ctc=None, decodes="ctc")

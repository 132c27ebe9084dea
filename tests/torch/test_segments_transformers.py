"""Segments inside models of the transformers library, which the project does not otherwise need."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip(
    "transformers", reason="transformers is no dependency: make test-full installs it and runs these"
)

from pytorch_models import checkpoint_segments  # noqa: E402
from pytorch_models.measure import MemoryTracker, SavedTensorLog  # noqa: E402

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
TOKENS = torch.arange(40).reshape(2, 20) % 50
MASK = (TOKENS < 45).long()
CASES: dict[str, tuple[str, str, dict[str, Any], str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", {**SMALL, "vocab_size": 50}, "bert.encoder.layer.*", {}),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_embd": 32, "n_layer": 3, "n_head": 2, "vocab_size": 50},
        "transformer.h.*",
        {"use_cache": False},
    ),
    "llama": (
        "LlamaConfig",
        "LlamaForCausalLM",
        {**SMALL, "vocab_size": 50, "attention_dropout": 0.1},
        "model.layers.*",
        {"use_cache": False},
    ),
    "t5": (
        "T5Config",
        "T5ForConditionalGeneration",
        {
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 2,
            "vocab_size": 50,
            "decoder_start_token_id": 0,
        },
        "*coder.block.*",
        {"use_cache": False, "labels": TOKENS},
    ),
}


def step(model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], int]:
    """Gradients and the next random number of one step, and the bytes it kept."""
    torch.manual_seed(1)
    model.zero_grad()
    tensors = [value for value in inputs.values() if isinstance(value, Tensor)]
    with MemoryTracker([*model.parameters(), *model.buffers(), *tensors]) as tracker:
        with SavedTensorLog(tracker, {module: name for name, module in model.named_modules()}).record():
            outputs = model(**inputs)
            loss = (outputs.loss if outputs.get("loss") is not None else outputs.logits.square().mean()) * 1.0
        saved = sum(a.storage_bytes for a in tracker.allocations if a.owner and a.died is None)
        loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {**found, "random": torch.rand(1)}, saved


@pytest.mark.parametrize("family", CASES)
def test_gradients_are_equal_and_less_is_kept(family: str) -> None:
    config, kind, shape, names, extra = CASES[family]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**shape)).train()
    inputs = {"input_ids": TOKENS, "attention_mask": MASK, **extra}
    expected, plain_bytes = step(model, inputs)
    with checkpoint_segments(model, names) as segments:
        found, kept_bytes = step(model, inputs)
    assert len(segments.names) >= 3
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert kept_bytes < 0.6 * plain_bytes
    again, bytes_after = step(model, inputs)
    assert bytes_after == plain_bytes
    assert all(torch.equal(again[name], expected[name]) for name in expected)

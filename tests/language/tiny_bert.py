"""Tiny SNN-BERTs of each kind, in evaluation mode, and a tiny BERT in a folder."""

from __future__ import annotations

from typing import Any

import torch
from sj_lang_language.models.snn_bert import SNNBertConfig, SNNBertForSequenceClassification
from sj_lang_language.tokenizers.wordpiece import wordpiece
from transformers import BertConfig, BertModel

TINY: dict[str, Any] = {
    "vocab_size": 23,
    "max_position_embeddings": 14,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.4,
}
# tiny and untrained, attention is flat and its neurons silent
SHARP = {"type": "softmax", "scale": 5.7, "gain": 4.0}
KINDS: dict[str, dict[str, Any]] = {
    "bpsn": {"attention": SHARP},
    "counting": {"neuron": {"type": "bpsn", "variant": "K"}, "attention": {"type": "ssa", "scale": 0.3}, "gelu": False},
    "dsn": {"neuron": {"type": "dsn", "alpha_init": 0.5}, "residual": "spikes", "pooling": "mean"},
    "batch": {"attention": SHARP, "norm": "batch", "pooling": "max"},
    "repeat": {"coding": "repeat", "timesteps": 3},
    "repeat-ssa": {"coding": "repeat", "timesteps": 3, "attention": "ssa", "norm": "batch", "pooling": "mean"},
    "twin": {"twin": True},
}


def build(kind: str = "bpsn", model: Any = SNNBertForSequenceClassification, **changes: Any) -> Any:
    """One of KINDS, with biases and running figures away from their initial values,
    so that a lost one shows.
    """
    torch.manual_seed(0)
    made = model(SNNBertConfig(**{**TINY, **KINDS[kind], **changes})).eval()
    with torch.no_grad():
        for name, tensor in [*made.named_parameters(), *made.named_buffers()]:
            if tensor.is_floating_point() and ".node." not in name:
                tensor.add_(torch.rand_like(tensor) * 0.2)
    return made


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and segments, `[3, 11]` each."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 23, (3, 11), generator=generator), (torch.arange(11) > 5).long().expand(3, 11)


def dirty_memory() -> None:
    """Memory that is handed out again is not zero afterwards."""
    waste = [torch.full((size,), float("nan")) for size in (16, 48, 384, 1000, 10_000) for _ in range(50)]
    del waste


def store_bert(folder: str, **sizes: int) -> None:
    """Store a tiny BERT of transformers with its tokenizer, as a checkpoint to start from."""
    words = wordpiece(texts=[f"some other film {n} is good or bad words" for n in range(60)], vocab_size=80)
    torch.manual_seed(0)
    options = {**TINY, "vocab_size": len(words), "max_position_embeddings": 150, **sizes}
    BertModel(BertConfig(**options)).save_pretrained(folder)
    words.save_pretrained(folder)

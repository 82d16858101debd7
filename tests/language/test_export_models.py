"""The models leave the process with open batch and length: `torch.export` and ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sj_lang_language.models.snn_bert import SNNBertConfig, SNNBertForSequenceClassification
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM
from torch import Tensor
from torch.export import Dim, export

SHAPES = {0: Dim("B", min=1), 1: Dim("L", min=1, max=32)}
SIZES = [(1, 1), (1, 8), (3, 9), (2, 32)]  # batch, tokens
SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}


def snn_bert(**options: Any) -> Any:
    return SNNBertForSequenceClassification(SNNBertConfig(**SMALL, intermediate_size=32, **options)).eval()


def spike_decoder(**options: Any) -> Any:
    return SpikeDecoderForCausalLM(SpikeDecoderConfig(**SMALL, **options)).eval()


SSA = {"type": "ssa", "chunk": 8}
MODELS = [
    pytest.param(snn_bert, {}, id="snn_bert"),
    pytest.param(snn_bert, {"neuron": "dsn", "attention": "ssa"}, id="snn_bert of dsn, ssa"),
    pytest.param(snn_bert, {"coding": "repeat", "neuron": "bpsn"}, id="snn_bert, repeat coding"),
    pytest.param(spike_decoder, {"attention": SSA}, id="spike_decoder"),
    pytest.param(spike_decoder, {}, id="spike_decoder without a mask"),
    pytest.param(spike_decoder, {"attention": "softmax"}, id="spike_decoder, softmax"),
]


def texts(batch: int, tokens: int, *, padded: bool) -> tuple[Tensor, Tensor | None]:
    ids = torch.randint(0, 50, (batch, tokens))
    if not padded:
        return ids, None
    mask = (torch.rand(batch, tokens) < 0.7).long()
    mask[:, -1] = 1
    return ids, mask


def valid(logits: Tensor, mask: Tensor | None) -> Tensor:
    return logits if mask is None or logits.dim() == 2 else logits[mask.bool()]


@pytest.mark.parametrize(("make", "options"), MODELS)
def test_an_exported_model_takes_any_batch_and_length(make: Any, options: dict[str, Any]) -> None:
    padded = "attention" in options  # without a mask another way is traced
    model, example = make(**options), texts(2, 7, padded=padded)
    shapes = {"input_ids": SHAPES, "attention_mask": SHAPES if padded else None}
    run = export(model, example, dynamic_shapes=shapes).module()
    for batch, tokens in SIZES:
        ids, mask = texts(batch, tokens, padded=padded)
        with torch.no_grad():
            got, expected = run(ids, mask).logits, model(ids, mask).logits
        torch.testing.assert_close(valid(got, mask), valid(expected, mask), msg=f"{batch} texts of {tokens}")


@pytest.mark.slow  # 16 s each; by default docs/export.md and neurons/test_export.py export to ONNX
@pytest.mark.filterwarnings("ignore")  # of torch.onnx and onnxscript, about themselves
@pytest.mark.parametrize(("make", "options"), [MODELS[0], MODELS[3]])
def test_a_model_in_onnx_answers_as_here(make: Any, options: dict[str, Any], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX programs run in onnxruntime: pip install onnxruntime")
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript: pip install onnx onnxscript")
    model = make(**options)
    shapes = {"input_ids": SHAPES, "attention_mask": SHAPES}
    program = torch.onnx.export(
        model, texts(2, 7, padded=True), dynamic_shapes=shapes, dynamo=True, output_names=["logits"], verbose=False
    )
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch, tokens in SIZES:
        ids, mask = texts(batch, tokens, padded=True)
        (got,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.no_grad():
            expected = model(ids, mask).logits
        torch.testing.assert_close(valid(torch.from_numpy(got), mask), valid(expected, mask), atol=1e-5, rtol=1e-5)

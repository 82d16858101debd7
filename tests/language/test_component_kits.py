"""Every attention, embedding and norm that ships passes the kit of its kind."""

from pathlib import Path

import pytest

from sj_lang import build, plugins
from sj_lang.testing.components import check_attention, check_embedding, check_norm

NORM = build.part("norm", "layer")


@pytest.mark.parametrize("name", ["layer", "batch", "power"])
def test_norm(name):
    assert check_norm(lambda: build.part("norm", name)(dim=6), dim=6)


@pytest.mark.parametrize(
    "spec",
    [
        *("bert_sum", "bert_ngram", "learned_sum", {"type": "learned_sum", "position": "none"}),
        {"type": "spike_codes", "summed": True, "position": "static"},
    ],
    ids=str,
)
def test_embedding(spec):
    make = build.part("embedding", spec)
    sizes = {"vocab_size": 11, "dim": 6}
    causal = spec != "bert_ngram"  # which reads the neighbours on both sides
    assert check_embedding(lambda: make(**sizes, max_length=16), **sizes, causal=causal)


@pytest.mark.parametrize(
    ("name", "causal"), [("softmax", True), ("softmax", False), ("ssa", True), ("ssa", False), ("firing_scores", False)]
)
@pytest.mark.parametrize("twin", [False, True], ids=["spiking", "twin"])
def test_attention(name, causal, twin):
    neuron = build.part("neuron", "dsn" if causal else "bpsn")
    make = build.part("attention", name)
    parts = {"dim": 8, "heads": 2, "neuron": neuron, "norm": NORM, "causal": causal, "twin": twin}
    assert check_attention(lambda: make(**parts), dim=8, causal=causal)


@pytest.mark.parametrize("name", ["softmax", "ssa"])
def test_attention_that_recalls(name):
    make, norm = build.part("attention", name), {"norm": NORM, "input_norm": NORM, "attended_norm": NORM}
    parts = {"dim": 8, "heads": 2, "neuron": build.part("neuron", "dsn"), "delayed_keys": True}
    assert check_attention(lambda: make(**parts, **norm), dim=8, causal=True)


@pytest.mark.parametrize("decay", ["constant", "input"])
def test_attention_that_forgets(decay):
    make, neuron = build.part("attention", {"type": "ssa", "decay": decay}), build.part("neuron", "dsn")
    assert check_attention(lambda: make(dim=8, heads=2, neuron=neuron, norm=NORM), dim=8, causal=True)


@pytest.mark.parametrize("kind", ["attention", "embedding", "norm"])
def test_each_that_ships_is_tested_here_or_in_a_file_of_its_own(kind):
    here = Path(__file__)
    texts = [path.read_text(encoding="utf-8") for path in here.parent.glob("test_*.py")]
    kits = "".join(text for text in texts if f"check_{kind}(" in text)
    ours = [one.name for one in plugins.all(kind) if one.plugin == "sj-lang-language"]
    assert ours
    assert [name for name in ours if f'"{name}"' not in kits] == []

"""docs/energy.md: its table of what neurons do, and the figure of BERT-base."""

import re

import pytest
import torch
import yaml
from pages import DOCS

from sj_lang.build import part
from sj_lang.energy import energy, ledger, millijoules
from sj_lang.energy.operators import NOT_SPIKING
from sj_lang.hf import shield

shield()

from sj_lang_language.models.snn_bert import SNNBertConfig, SNNBertModel  # noqa: E402
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM  # noqa: E402

PAGE = (DOCS / "energy.md").read_text("utf-8")
ROWS = re.findall(r"^\| `([^`]*)`[^|]* \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
FORMS = re.findall(r"^\| `(spike_decoder|snn_bert)` \| `(\{.*\})` \| (all|none) \| (.*?) ?\|$", PAGE, re.MULTILINE)


def test_the_table_was_found() -> None:
    assert len(ROWS) == 12
    assert len(FORMS) == 10


@pytest.mark.parametrize(("text", "macs", "accumulations"), ROWS)
def test_what_neurons_do_at_a_step(text: str, macs: str, accumulations: str) -> None:
    written = yaml.safe_load(text)
    name, options = (written, {}) if isinstance(written, str) else next(iter(written.items()))
    node = part("neuron", {"type": name, **options})(channels=64)
    assert node.operations() == (int(macs), int(accumulations))


def test_bert_base_has_the_operations_that_papers_state() -> None:
    base = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "max_position_embeddings": 128}
    config = SNNBertConfig(vocab_size=100, num_hidden_layers=1, twin=True, **base)
    ids = torch.zeros(1, 128, dtype=torch.long)
    layer = energy(SNNBertModel(config, add_pooling_layer=False).eval(), [{"input_ids": ids}])["energy.macs"]
    assert round(12 * layer / 1e9, 2) == 11.17
    assert round(millijoules(12 * layer, 0), 1) == 51.4
    assert "11.17 billion and 51.4 mJ" in PAGE


@pytest.mark.parametrize(("name", "options", "products", "between"), FORMS)
def test_how_spiking_the_models_are(name: str, options: str, products: str, between: str) -> None:
    sizes = {"vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"max_position_embeddings": 16, **yaml.safe_load(options)}
    torch.manual_seed(0)
    if name == "spike_decoder":
        model = SpikeDecoderForCausalLM(SpikeDecoderConfig(**sizes))
    else:
        model = SNNBertModel(SNNBertConfig(**sizes, intermediate_size=64), add_pooling_layer=False)
    book = ledger(model, {"input_ids": torch.randint(0, 30, (2, 12))})
    floats = [bool(row.macs) for row in book.rows if row.kind == "product"]
    assert set(floats) == {products == "none"}
    assert ", ".join(sorted({row.operation for row in book.rows} & NOT_SPIKING)) == between
    assert not book.uncounted

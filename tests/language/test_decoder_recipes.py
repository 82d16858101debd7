"""The recipes decoder/*: every run of them can be built."""

from pathlib import Path

import pytest
import torch
from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM

from sj_lang.recipe import load

RECIPES = sorted((Path(__file__).parents[2] / "recipes/decoder").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_run_is_built(path: Path) -> None:
    recipe = load(str(path))
    runs = dict(recipe.children()) or {"": recipe}
    assert len(runs) == {"degrees": 6, "embeddings": 13, "norms": 6, "heads": 7}.get(path.stem, 1)
    for name, run in runs.items():
        options = {key: value for key, value in run.model.items() if key not in ("type", "init_from")}
        config = SpikeDecoderConfig(**{**options, "vocab_size": 31, "max_position_embeddings": 256})
        with torch.device("meta"):
            model = SpikeDecoderForCausalLM(config)
        assert model.num_parameters() > 1e5, name

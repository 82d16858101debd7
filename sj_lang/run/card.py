"""The model card of a run, README.md beside the weights: what it is, how it was made, figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from sj_lang import plugins
from sj_lang.build import MODULES
from sj_lang.recipe.loading import Recipe

FILE = "README.md"
#: Auto class -> what the hub calls its task
PIPELINES = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForPreTraining": "fill-mask",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForTimeSeriesPrediction": "time-series-forecasting",
}
#: figures of the test splits and of the model, by the end or the beginning of their names
SHOWN = ("test.", "dev.", "energy.", "firing_rate.", "parameters.", "train.steps")


def write(recipe: Recipe, auto_class: str, metrics: Mapping[str, float]) -> str:
    """The text of the card, with the hub's metadata at its top."""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=PIPELINES.get(auto_class),
        tags=["spiking-neural-network", "sj-lang", str(recipe.model["type"])],
        base_model=_base(recipe),
    )
    rows = [f"| `{name}` | {value:.6g} |" for name, value in metrics.items() if name.startswith(SHOWN)]
    figures = ["## Figures", "", "| figure | value |", "|---|---|", *rows, ""] if rows else []
    classes = {"model": auto_class} | ({"tokenizer": "AutoTokenizer"} if recipe.tokenizer else {})
    lines = [
        f"# {recipe.name}",
        "",
        recipe.summary or f"A model of type `{recipe.model['type']}`, trained with sj_lang.",
        "",
        "## Use",
        "",
        "```bash",
        f"pip install {' '.join(distributions(recipe.model))}",
        "```",
        "",
        "```python",
        f"import {package(recipe)}  # makes the model known to transformers",
        f"from transformers import {', '.join(classes.values())}",
        "",
        *(f'{name} = {auto}.from_pretrained("FOLDER OR NAME ON THE HUB")' for name, auto in classes.items()),
        "```",
        "",
        *figures,
        "## Training",
        "",
        "`sj-lang run` with this recipe trains it again:",
        "",
        "```yaml",
        recipe.dump_yaml().rstrip(),
        "```",
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n"))


def _base(recipe: Recipe) -> str | None:
    """The model on the hub from which the weights started, if there is one."""
    place = str(recipe.model.get("init_from") or "")
    return place.removeprefix("hub:") if place.startswith("hub:") else None


def package(recipe: Recipe) -> str:
    """The module that registers the classes of the model with transformers."""
    return plugins.get("model", recipe.model["type"]).target.partition(":")[0]


def distributions(model: Mapping[str, Any]) -> list[str]:
    """What pip calls the plugins of a model and of its components."""
    return sorted({plugins.get(kind, name).plugin for kind, name in _components("model", model)} | {"sj-lang"})


def _components(kind: str, spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield kind, str(spec["type"])
    for key, value in spec.items():
        if key in MODULES and isinstance(value, Mapping):
            yield from _components(key, value)

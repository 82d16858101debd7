"""The one way from a checkpoint to its tokenizer and its model: it brings no code and no pickle,
and it reports the tensors that are not loaded.

`source` is what `checkpoint.find` returns, a folder or a name on the hub; `problem` is how errors
begin.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sj_lang import hf
from sj_lang.hf.checkpoint import reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")
SHOWN = 5  # tensors that an error names


def load_tokenizer(source: Path | str, problem: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint. options: of `from_pretrained`."""
    hf.shield()
    from transformers import AutoTokenizer

    with reading(source, problem):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    return tokenizer


def load_model(auto: Any, source: Path | str, problem: str, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The weights of a checkpoint in the class that an Auto class has for its config, and
    transformers' report on its tensors, for `amiss`. options: of `from_pretrained`."""
    with reading(source, problem):
        files = _files(source)
        model, report = auto.from_pretrained(
            source,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the report names them
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
        _refuse_other_numbers(model, files)
    return model, report


def inside(model: PreTrainedModel, name: str) -> bool:
    """Whether a tensor belongs to the model, not to the head on it."""
    prefix = model.base_model_prefix
    return not prefix or not hasattr(model, prefix) or name.startswith(f"{prefix}.")


def amiss(report: Mapping[str, Any]) -> str:
    """What a checkpoint lacks, has no place for and has in another shape; "" if all is right."""
    shapes = [f"{name} ({list(its)} there, {list(mine)} here)" for name, its, mine in report["mismatched_keys"]]
    kinds = {
        "it lacks": report["missing_keys"],
        "there is no place for": report["unexpected_keys"],
        "these have another shape:": shapes,
        "these are not loaded:": report.get("error_msgs") or (),
    }
    return "; ".join(f"{kind} {listed(names)}" for kind, names in kinds.items() if names)


def listed(names: Collection[str]) -> str:
    """The first few names in order, and how many there are beside them."""
    first = ", ".join(sorted(names)[:SHOWN])
    return f"{first} and {len(names) - SHOWN} more" if len(names) > SHOWN else first


def _files(source: Path | str) -> list[Path]:
    """The files with a checkpoint's weights.

    ValueError if it leads to files that are not its own, to no safetensors or to code.
    """
    from transformers.utils import cached_file

    def file(name: str) -> Path | None:
        path = source / name if isinstance(source, Path) else cached_file(source, name, **optional)
        return Path(path) if path is not None and Path(path).is_file() else None

    def content(name: str) -> Mapping[str, Any]:
        if (path := file(name)) is None:
            return {}
        tree = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ValueError(f"{name} holds no JSON object")
        return tree

    optional = {"_raise_exceptions_for_missing_entries": False}
    if content("adapter_config.json"):
        raise ValueError("it is an adapter, not a model; merge it into its model and store that")
    config = content("config.json")
    for key, value in config.items():
        if key.endswith("_implementation") and "/" in str(value):
            raise ValueError(f"config.json: {key} is {value!r:.60}, code on the hub; none is loaded")
    named = config.get("transformers_weights") or INDEX
    if not isinstance(named, str) or not named.endswith((".safetensors", ".safetensors.index.json")):
        raise ValueError(f"config.json names {named!r} as its weights; expected a .safetensors file")
    parts = content(named).get("weight_map", {}) if named.endswith(".json") else {}
    if not isinstance(parts, dict):
        raise ValueError(f"{named}: weight_map is not a mapping from tensors to files")
    for part in [named, *parts.values()]:
        if not isinstance(part, str) or Path(part).name != part or not part.endswith((".safetensors", ".json")):
            raise ValueError(f"{named} leads to {part!r}; expected .safetensors files beside it: no other is opened")
    names = dict.fromkeys(parts.values() if parts else [WEIGHTS if named == INDEX else named])
    return [path for name in names if (path := file(name)) is not None]


def _refuse_other_numbers(model: PreTrainedModel, files: list[Path]) -> None:
    """ValueError if a weight was stored as an integer or in 8 bits, which mean nothing without a
    scale, or is NaN.
    """
    from safetensors import safe_open

    weights = dict(model.named_parameters())
    prefix = f"{model.base_model_prefix}."
    for path in files:
        with safe_open(path, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  (it is no mapping)
                kind = stored.get_slice(name).get_dtype()
                matching = {name, prefix + name, name.removeprefix(prefix)} & weights.keys()
                if matching and kind not in FLOATS:
                    raise ValueError(f"{path.name}: {name} is stored as {kind}; expected one of {', '.join(FLOATS)}")
    if broken := [name for name, weight in weights.items() if not weight.is_meta and bool(weight.isnan().any())]:
        raise ValueError(f"there is NaN in {listed(broken)}")

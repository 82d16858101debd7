"""`model.init_from` with a BERT: the recipe takes what the checkpoint decides, and contradictions
are refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sj_lang_language.tokenizers.wordpiece import wordpiece
from transformers import BertConfig, BertForMaskedLM, BertModel, RobertaConfig, RobertaModel

from sj_lang import run
from sj_lang.errors import UserError
from sj_lang.hf import checkpoint
from sj_lang.recipe import load
from sj_lang.recipe.loading import Recipe
from sj_lang.run import assembly

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 150,
}
#: As sentence-transformers store it, before their version 6 and since.
POOLING = (
    {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False},
    {"pooling_mode": "mean"},
)
TABLE = ["task.data.train=train.tsv", "task.data.dev=train.tsv", "task.text=sentence"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Store a tiny BERT with its tokenizer, beside a table to classify; returns its folder,
    relative."""
    monkeypatch.chdir(tmp_path)
    rows = [f"film {row} is {'good' if row % 3 else 'bad'}\t{'yes' if row % 3 else 'no'}" for row in range(60)]
    Path("train.tsv").write_text("\n".join(["sentence\tlabel", *rows]))

    def make(
        folder: str = "bert", kind: Any = BertModel, *, sentences: dict[str, Any] | None = None, **options: Any
    ) -> Path:
        words = wordpiece(texts=rows, vocab_size=80)
        torch.manual_seed(0)
        model = kind(BertConfig(vocab_size=len(words), **{**SIZES, **options}))
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        if sentences:
            path = "1_Pooling"
            Path(folder, path).mkdir()
            Path(folder, path, "config.json").write_text(json.dumps(sentences))
            modules = [{"path": path, "type": "sentence_transformers.models.Pooling"}]
            Path(folder, "modules.json").write_text(json.dumps(modules))
        return Path(folder)

    return make


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Install a distribution that cannot be imported; returns the folder of its import package."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def make(distribution: str = "two-berts", name: str = "their_berts", *, listed: bool = True) -> Path:
        info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n{info.name}/METADATA,,\n" if listed else "")
        (info / "top_level.txt").write_text("" if listed else f"{name}\n")
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("raise RuntimeError('this package is imported')")
        return site / name

    return make


def own(model: str) -> None:
    """A recipe of one's own, `own.yaml`, that stands on an installed one for checkpoints."""
    Path("own.yaml").write_text(
        "recipe: 1\nbase: glue/finetune\ntask:\n  type: text_classification\n"
        "  data: {train: train.tsv, dev: train.tsv}\n"
        f"  text: sentence\n  length: 16\nmodel:\n{model}\n"
    )


def assemble(recipe: Recipe) -> assembly.Job:
    return assembly.assemble(recipe, Path("out"))


@pytest.mark.parametrize("pooling", POOLING, ids=["flags", "name"])
def test_a_recipe_for_checkpoints_takes_sizes_options_and_tokenizer(
    store: Callable[..., Path], pooling: dict[str, Any]
) -> None:
    place = store(sentences=pooling)
    own(f"  init_from: {place}")
    recipe = load("own.yaml")
    shown = recipe.resolved()
    for key, value in {**SIZES, "layer_norm_eps": 1e-12, "gelu": True, "pooling": "mean", "twin": False}.items():
        assert shown["model"][key] == value, key
    assert shown["tokenizer"]["type"] == "pretrained"
    job = assemble(recipe)
    weights = load_file(place / "model.safetensors")
    for name, value in job.model.bert.state_dict().items():
        assert ".node." in name or torch.equal(value, weights[name]), name
    assert len(job.prepared.tokenizer) == job.model.config.vocab_size == shown["model"]["vocab_size"]
    assert not [note for note in job.notes if "trained with another" in note]


def test_the_stored_recipe_of_a_run_shows_them_and_runs_again(store: Callable[..., Path]) -> None:
    own(f"  init_from: {store()}")
    short = ["train.max_steps=1", "train.eval_steps=1", "measure.raster=false", "measure.energy=false"]
    assert run.execute(load("own.yaml", [*short, "output=first"])) == 0
    stored = load("first/recipe.yaml", ["output=second"])
    assert stored.model["num_hidden_layers"] == 3
    assert run.execute(stored, dry_run=True) == 0
    Path("bert").rename("gone")
    assert run.evaluate("first") == 0
    with pytest.raises(UserError, match=r"first/recipe\.yaml:\d+:\d+  model\.init_from: bert is not a folder"):
        load("first/recipe.yaml", ["output=second"])


def test_options_may_differ_and_a_note_says_so(store: Callable[..., Path]) -> None:
    own(f"  init_from: {store(sentences=POOLING[0])}\n  gelu: false\n  pooling: cls")
    job = assemble(load("own.yaml", ["model.layer_norm_eps=0.01"]))
    assert (job.model.config.gelu, job.model.config.pooling) == (False, "cls")
    note = next(note for note in job.notes if note.startswith("init_from"))
    assert "hidden_act (gelu there, none here)" in note
    assert "layer_norm_eps (1e-12 there, 0.01 here)" in note


def test_all_contradictions_are_told_each_at_its_place(store: Callable[..., Path]) -> None:
    own(f"  init_from: {store()}\n  hidden_size: 96\n  num_hidden_layers: 1\n  max_position_embeddings: 16")
    with pytest.raises(UserError) as error:
        load("own.yaml", ["model.num_attention_heads=4", "model.intermediate_size=40"])
    lines = str(error.value).splitlines()
    assert lines[0].startswith("4 problems in own.yaml")
    for line, text in zip(
        lines[1:],
        [
            "own.yaml:10:3  model.hidden_size: the checkpoint bert has 24, found 96 (a whole number); leave it out",
            "own.yaml:11:3  model.num_hidden_layers: the checkpoint bert has 3, found 1",
            "own.yaml:12:3  model.max_position_embeddings: the checkpoint bert has 150, found 16",
            "command line 'model.num_attention_heads=4'  model.num_attention_heads: the checkpoint bert has 2, found 4",
        ],
        strict=True,
    ):
        assert line.strip().startswith(text)


def test_an_installed_recipe_for_training_from_scratch_gives_way(store: Callable[..., Path]) -> None:
    recipe = load("text/from-files-scratch", [f"model.init_from={store()}", *TABLE])
    assert recipe.model["hidden_size"] == 24
    assert recipe.model["gelu"] is True
    assert recipe.model["embedding"] == {"type": "bert_sum"}
    assert recipe.model["pooling"] == "mean", "this BERT does not say what stands for a text"
    assert recipe.model["hidden_dropout_prob"] == 0.3
    assert recipe.tokenizer["type"] == "pretrained"
    (note,) = recipe.notes
    assert "the checkpoint decides, instead of the installed recipe: " in note
    for key in ("model.hidden_size", "model.embedding", "model.gelu", "tokenizer"):
        assert key in note
    assert assemble(recipe).model.config.num_hidden_layers == 3
    with pytest.raises(UserError, match=r"'model\.hidden_size=96'  model\.hidden_size: the checkpoint bert has 24"):
        load("text/from-files-scratch", ["model.init_from=bert", "model.hidden_size=96", *TABLE])


def test_what_a_run_of_an_installed_series_changes_stays(store: Callable[..., Path]) -> None:
    runs = load("glue/sst2-ablations", [f"model.init_from={store()}", "task.data=."]).runs
    assert runs is not None
    assert {run.model["hidden_size"] for run in runs.values()} == {24}
    assert runs["lif"].model["coding"] == "repeat"
    assert runs["dsn"].model["neuron"]["type"] == "dsn"


def test_a_spiking_checkpoint_decides_its_components_and_a_twin_not_the_neuron(store: Callable[..., Path]) -> None:
    own(f"  init_from: {store()}")
    changes = ["model.neuron={type: bpsn, v_threshold: 0.25}", "model.attention.gain=2.0", "model.coding=individual"]
    first = assemble(load("own.yaml", changes))
    first.model.save_pretrained("spiking")
    first.prepared.tokenizer.save_pretrained("spiking")
    again = load("own.yaml", ["model.init_from=spiking", "model.neuron.variant=K"])
    assert again.model["neuron"] == first.model.config.neuron | {"variant": "K"}
    assert again.model["attention"]["gain"] == 2.0
    twin = assemble(load("own.yaml", [*changes, "model.twin=true"]))
    twin.model.save_pretrained("twin")
    twin.prepared.tokenizer.save_pretrained("twin")
    student = load("own.yaml", ["model.init_from=twin"])
    assert student.model["twin"] is False
    assert student.model["neuron"]["v_threshold"] == 1.0
    assert student.model["attention"]["gain"] == 2.0


def test_a_bert_without_pooler_gets_a_new_one(store: Callable[..., Path]) -> None:
    own(f"  init_from: {store(kind=BertForMaskedLM)}")
    note = next(note for note in assemble(load("own.yaml")).notes if note.startswith("init_from"))
    assert "bert.pooler.dense.* (2)" in note


def test_a_checkpoint_that_lacks_tensors_is_refused(store: Callable[..., Path]) -> None:
    place = store()
    file = place / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if "layer.1.output.dense" not in name}
    save_file(kept, file, {"format": "pt"})
    own(f"  init_from: {place}")
    lost = r"bert lacks tensors that its config.json promises: bert\.encoder\.layer\.\*\.output\.dense\.\* \(2\)"
    with pytest.raises(UserError, match=lost):
        assemble(load("own.yaml"))


def test_another_architecture_and_pickles_are_refused_before_anything_is_built(store: Callable[..., Path]) -> None:
    place = store()
    own(f"  init_from: {place}")
    RobertaModel(RobertaConfig(vocab_size=23, **SIZES)).save_pretrained("roberta")
    with pytest.raises(UserError, match=r"roberta is a checkpoint of 'roberta', this model takes those of .* 'bert'"):
        load("own.yaml", ["model.init_from=roberta"])
    torch.save({}, "pickle")
    Path("pickle").replace(place / "model.safetensors")
    with pytest.raises(UserError, match=r"own\.yaml:9:3 .* in bert: model\.safetensors is a pickle, which can run"):
        load("own.yaml")
    (place / "model.safetensors").rename(place / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no checkpoint with safetensors in bert: pytorch_model\.bin is a pickle"):
        load("own.yaml")


def test_another_vocabulary_than_the_tokenizer_is_refused(store: Callable[..., Path]) -> None:
    place = store()
    own(f"  init_from: {place}")
    with pytest.raises(
        UserError, match=r"tokenizer: \d+ of the \d+ tokens of model.init_from, bert, have a different id"
    ):
        assemble(load("own.yaml", ["tokenizer={type: wordpiece, vocab_size: 40}"]))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (place / name).unlink()
    with pytest.raises(UserError, match=r"tokenizer: it has \d+ tokens, the checkpoint bert \d+"):
        assemble(load("own.yaml", ["tokenizer={type: wordpiece, vocab_size: 40}"]))


def test_texts_that_are_longer_than_the_checkpoint_reads(store: Callable[..., Path]) -> None:
    own(f"  init_from: {store()}")
    with pytest.raises(UserError, match="the checkpoint bert has 150 positions, the data need 151"):
        assemble(load("own.yaml", ["task.length=151"]))


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "by its top level"])
def test_weights_inside_an_installed_package(
    store: Callable[..., Path], package: Callable[..., Path], listed: bool
) -> None:
    folder = package(listed=listed)
    store(str(folder / "model"))
    for place in ("package:two-berts", "package:Two_Berts", "package:their_berts", "package:two-berts/model"):
        assert checkpoint.find(place, "model.init_from") == folder / "model"
    own("  init_from: package:two-berts")
    assert assemble(load("own.yaml")).model.config.hidden_size == 24
    assert "their_berts" not in sys.modules
    assert checkpoint.find("package:two-berts", "tokenizer.name") == folder / "model"


def test_packages_that_do_not_serve(store: Callable[..., Path], package: Callable[..., Path]) -> None:
    folder = package()

    def message(place: str) -> str:
        with pytest.raises(UserError) as error:
            checkpoint.find(place, "model.init_from")
        return str(error.value)

    assert message("package:two-berts").endswith("in package 'two-berts': it holds no weights")
    torch.save({}, folder / "pytorch_model.bin")
    assert message("package:two-berts").endswith("it holds pytorch_model.bin, a pickle, which is never opened")
    for name in ("small", "large"):
        store(str(folder / name))
    several = "name one: package:two-berts/large, package:two-berts/small"
    assert message("package:two-berts").endswith(f"package 'two-berts' holds several checkpoints; {several}")
    assert "has no checkpoint in huge; it has package:two-berts/large" in message("package:two-berts/huge")
    missing = message("package:two-bert")
    assert "no package 'two-bert' is installed here; did you mean 'two-berts'?" in missing
    assert "`pip install two-bert`" in missing
    assert message("package:typing-extensions").endswith(": it holds no weights"), "it has no folder"
    assert message("hub:") == "model.init_from: expected hub:OWNER/NAME, found 'hub:'"
    assert message("hub:a/b/c") == "model.init_from: expected hub:OWNER/NAME, found 'hub:a/b/c'"
    assert message("package:").startswith("model.init_from: package: names no package")
    assert message("two-berts").endswith("for the installed package of that name, write package:two-berts")
    assert message("some/name").endswith("for that name on the Hugging Face hub, write hub:some/name")
    assert "their_berts" not in sys.modules

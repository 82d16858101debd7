"""A recipe is checked whole: every problem at once, each with its place;
and its resolved copy means the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sound_recipe import SOUND, refused

from sj_lang import recipe
from sj_lang.component import yaml_marks
from sj_lang.errors import PluginError, UserError
from sj_lang.plugins import Plugin, Registry
from sj_lang.recipe import sections

Write = Callable[..., str]
pytestmark = pytest.mark.usefixtures("toy")


def test_a_sound_recipe(write: Write) -> None:
    loaded = recipe.load(write())
    assert (loaded.name, loaded.seed, loaded.output, loaded.summary) == ("sound", 3, "runs/sound", "A recipe of toys.")
    assert loaded.task == {"type": "toy_task", "data": "poem", "length": 32, "split": None}
    assert loaded.tokenizer == {"type": "letters", "lowercase": False}
    assert loaded.model["neuron"]["tau"] == 4.0
    assert loaded.train["learning_rate"] == 1e-3
    assert loaded.measure == {
        **{"firing_rate": True, "raster": True, "energy": True},
        **{"costs": "45nm", "purity": None, "ablate": False},
    }
    assert loaded.generate["temperature"] == 0.8
    assert (loaded.children(), loaded.notes, loaded.is_series) == ([], [], False)


def test_the_name_is_the_files_if_it_has_none(write: Write) -> None:
    loaded = recipe.load(write(SOUND.replace("name: sound\n", ""), "my-own.yaml"))
    assert (loaded.name, loaded.output) == ("my-own", "runs/my-own")


def test_many_mistakes_are_told_at_once_in_the_order_of_the_file(write: Write) -> None:
    text = SOUND.replace("seed: 3", "seed: -1\nsede: 4\nname: twice").replace("toy_task", "toy_tsk")
    text = (
        text.replace("tau: 4.0", "tau: slow")
        .replace("max_steps: 10", "max_steps: 1e1")
        .replace("recipe: 1", "recipe: 2")
    )
    text = (
        text.replace("min_lr_rate", "min_lr_rat").replace("temperature", "temprature") + "measure: {raster: 1}\nx: 1\n"
    )
    lines = refused(write(text), ["train.lr=1"])
    expected = [
        ("r.yaml:1:1", "recipe: expected 1, found 2 (a whole number)"),
        ("r.yaml:4:1", "seed: expected a whole number >= 0 and < 4294967296, found -1 (a whole number)"),
        ("r.yaml:5:1", "sede: unknown key; did you mean 'seed' or 'seeds'?"),
        ("r.yaml:6:1", "name: this key is here twice, first in line 2"),
        ("r.yaml:8:3", "task.type: no task 'toy_tsk'; did you mean 'toy_task'?"),
        ("r.yaml:17:5", "model.neuron.tau: expected a number, found 'slow' (text)"),
        ("r.yaml:19:3", "train.max_steps: expected a whole number, found 10.0 (a number)"),
        ("r.yaml:22:25", "train.lr_scheduler_kwargs.min_lr_rat: unknown key; did you mean 'min_lr_rate' or 'min_lr'?"),
        ("r.yaml:24:3", "generate.temprature: unknown key; did you mean 'temperature'?"),
        ("r.yaml:26:11", "measure.raster: expected true or false, found 1 (a whole number)"),
        ("r.yaml:27:1", "x: unknown key; valid: "),
        ("command line 'train.lr=1'", "train.lr: unknown key"),
    ]
    assert len(lines) == len(expected)
    for line, (place, message) in zip(lines, expected, strict=True):
        assert line.startswith(f"{place}  {message}"), line


def test_a_missing_key_and_its_misspelling_are_one_problem(write: Write) -> None:
    assert refused(write(SOUND.replace("model:", "modle:"))) == [
        "r.yaml:10:1  modle: unknown key; did you mean 'model', which is missing?"
    ]
    assert refused(write(SOUND.replace("recipe: 1\n", ""))) == [
        "r.yaml  recipe: missing; expected the version of the format: 1"
    ]
    assert refused(write(SOUND.replace("tokenizer: letters\n", ""))) == [
        "r.yaml  tokenizer: missing; expected a tokenizer (a name, or type: and arguments)"
    ]


def test_a_key_of_another_section_is_sent_there(write: Write) -> None:
    (line,) = refused(write(), ["learning_rate=1"])
    assert line.endswith("learning_rate: unknown key; it belongs under 'train'")
    (line,) = refused(write(), ["top_k=1"])
    assert line.endswith("it belongs under 'generate'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.seed=1", "train.seed: the seed has one place: 'seed' at the top level"),
        ("train.output_dir=x", "train.output_dir: the run folder has one place: 'output' at the top level"),
        ("train.logging_nan_inf_filter=true", "must be false here, or a loss that is NaN is logged as 0"),
        (
            "train.eval_do_concat_batches=false",
            "must be true here, the figures of the task are computed over the whole",
        ),
        (
            "train.debug=underflow_overflow",
            "train.debug: must be '' here, a loss or a gradient that is not finite",
        ),
        ("train.label_names=[labels]", "train.label_names: must be null here, the task names the keys"),
        ("train.resume_from_checkpoint=x", "must be null here, `sj-lang run --resume RUN` resumes a run"),
        ("train.restore_callback_states_from_checkpoint=true", "must be false here, a resumed run always restores"),
        ("train.use_liger_kernel=true", "train.use_liger_kernel: must be false here, Liger's kernels only fit"),
        ("train.lr_scheduler_type=cosin", "expected one of 'linear', 'cosine', 'cosine_with_restarts'"),
        ("train.lr_scheduler_type=cosin", "(text); did you mean 'cosine'"),
        ("train.lr=1", "train.lr: unknown key; did you mean 'learning_rate'?"),
        (
            "train.batch_size=1",
            "did you mean 'per_device_train_batch_size'?",
        ),
        ("train.bf16=1", "train.bf16: expected true or false, found 1 (a whole number)"),
        ("train.bf16='true'", "train.bf16: expected true or false, found 'true' (text)"),
        ("train.bf16=on", "train.bf16: expected true or false, found 'on' (text)"),
        ("train.learning_rate='3e-4'", "train.learning_rate: expected a finite number >= 0, found '3e-4' (text)"),
        ("train.accelerator_config={split_batch: true}", "accelerator_config.split_batch: unknown key"),
        ("train.optim_args=all", "train.optim_args: expected name=value, with a comma between two; found 'all'"),
        ("train.optim_args=[1]", "train.optim_args: expected text or null, found [1] (a list)"),
        ('summary="a \\ud800"', "summary: holds half of a surrogate pair, which is no character"),
        ('measure={"\\udfff": 1}', "measure: a key of it holds half of a surrogate pair"),
        ("train=3", "train: expected a section with keys, found 3 (a whole number)"),
        ("train.max_steps=0", "train.max_steps: expected a whole number >= 1, or -1 to train for num_train_epochs"),
        ("train.max_steps=-2", "train.max_steps: expected a whole number >= 1, or -1"),
        ("train.per_device_train_batch_size=0", "train_batch_size: expected a whole number >= 1, found 0 (a whole"),
        ("train.logging_steps=0", "logging_steps: expected a finite number > 0, found 0 (a whole number)"),
        (
            "train.save_steps=2.5",
            "save_steps: expected a whole number of steps, or a share of all steps up to 1",
        ),
        ("train.save_steps=-5", "save_steps: expected a finite number > 0, found -5 (a whole number)"),
        ("train.per_device_eval_batch_size=0", "eval_batch_size: expected a whole number >= 1, found 0 (a whole"),
        ("train.gradient_accumulation_steps=0", "accumulation_steps: expected a whole number >= 1, found 0"),
        ("train.eval_accumulation_steps=0", "accumulation_steps: expected a whole number >= 1 or null, found 0"),
        ("train.dataloader_num_workers=-1", "num_workers: expected a whole number >= 0, found -1"),
        ("train.learning_rate=-1", "learning_rate: expected a finite number >= 0, found -1 (a whole number)"),
        ("train.learning_rate=.nan", "learning_rate: expected a finite number >= 0, found .nan (a number)"),
        ("train.learning_rate=.inf", "learning_rate: expected a finite number >= 0, found .inf (a number)"),
        ("train.num_train_epochs=.inf", "num_train_epochs: expected a finite number >= 0, found .inf (a number)"),
        ("train.weight_decay=-.1", "weight_decay: expected a finite number >= 0, found -0.1 (a number)"),
        ("train.adam_beta1=1", "adam_beta1: expected a finite number >= 0 and < 1, found 1 (a whole number)"),
        ("generate.temperature=0", "temperature: expected a finite number > 0 or null, found 0.0 (a number); to take"),
        ("generate.top_p=1.5", "generate.top_p: expected a finite number >= 0 and <= 1 or null, found 1.5"),
        ("generate.num_beams=0", "generate.num_beams: expected a whole number >= 1 or null, found 0"),
        ("generate.max_new_tokens=0", "generate: `max_new_tokens` must be greater than 0, but is 0."),
        ("generate.num_beams=two", "generate.num_beams: expected a whole number >= 1 or null, found 'two' (text)"),
        ("name=../x", "name: expected letters, digits"),
        ("name=3", "name: expected text, found 3 (a whole number)"),
        ("output=", "output: expected text, found null"),
        ("seeds=[1, 1]", "seeds: expected different numbers, at least one; found [1, 1]"),
        ("seeds=[]", "seeds: expected different numbers, at least one; found []"),
        ("seeds=[1, x]", "seeds.1: expected a whole number, found 'x' (text)"),
        ("runs=3", "runs: expected names with changes, or a list of recipes; found 3 (a whole number)"),
        ("base=other", "base: cannot be changed from the command line"),
        ("model.heads=5", "model: hidden_size 16 cannot be divided by heads 5"),
    ],
)
def test_one_mistake(write: Write, change: str, message: str) -> None:
    (line,) = refused(write(), [change])
    assert message in line


def test_a_key_with_dots_is_answered_with_the_nested_form(write: Write) -> None:
    (line,) = refused(write(SOUND + "model.twin: true\n"))
    assert "model.twin: unknown key; in a file, sections are nested" in line


def test_a_neuron_that_cannot_do_what_the_model_needs_is_refused_before_any_weight_exists(write: Write) -> None:
    (line,) = refused(write(), ["model.neuron={type: toy_delay, direction: both}"])
    assert "model.neuron: toy_delay (direction=both) cannot be used here: it is not causal" in line


def test_a_component_whose_plugin_failed_is_a_plugin_error(write: Write, toy: Registry) -> None:
    toy.plugins.append(
        Plugin("sick", "sick_plugin", "sj-lang-sick", "0.3", "importing sick_plugin failed: OSError: libcuda")
    )
    message = r"plugin 'sick' of sj-lang-sick 0.3, which may offer it, failed.*libcuda"
    with pytest.raises(PluginError, match=message):
        recipe.load(write(), ["model.norm=sick_norm"])
    with pytest.raises(PluginError, match=rf"no file or folder has that path; no source 'absent.txt': {message}"):
        recipe.load(write(), ["task.data=absent.txt"])


def test_most_options_of_generation_have_a_type() -> None:
    """They are read from transformers' docstring, which another release may write differently."""
    typed = [argument for argument in sections.generate_arguments().values() if argument.annotation is not Any]
    assert len(typed) >= 50


def test_missing_files_and_unknown_names(write: Write) -> None:
    write()
    assert refused("none.yaml") == ["no file none.yaml; list the installed recipes with `sj-lang ls`"]
    assert refused("lm/quikstart")[0].startswith(
        "no recipe 'lm/quikstart': neither a file nor the name of an installed"
    )
    Path("empty.yaml").touch()
    assert refused("empty.yaml") == ["empty.yaml is empty; a recipe needs at least: recipe, task, tokenizer, model"]
    Path("folder").mkdir()
    assert refused("folder") == ["folder is a folder"]


def test_an_empty_section_is_a_section_of_defaults(write: Write) -> None:
    text = SOUND[: SOUND.index("train:")] + "train:\ngenerate:\nmeasure:\n"
    assert recipe.load(write(text)).train["max_steps"] == -1


def test_the_resolved_copy_loads_and_is_the_same(write: Write) -> None:
    loaded = recipe.load(write(), ["model.neuron=toy_delay", "train.weight_decay=1", "generate.prompt='on'"])
    write(loaded.dump_yaml(), "copy.yaml")
    again = recipe.load("copy.yaml")
    assert again.dump_yaml() == loaded.dump_yaml()
    assert again.resolved() == loaded.resolved()
    assert again.notes == []
    assert again.generate["prompt"] == "on"


def test_all_defaults_are_written_out(write: Write) -> None:
    data = yaml_marks.parse(recipe.load(write()).dump_yaml(), "copy").data
    assert set(data["train"]) == set(sections.train_arguments()) - sections.TRAIN_DECIDED
    assert data["train"]["weight_decay"] == 0.0
    assert data["model"]["attention"]["norm"]["eps"] == 1e-5
    assert data["output"] == "runs/sound"


def test_what_the_recipe_decides_is_kept_where_the_run_would(write: Write) -> None:
    train = recipe.load(write(), ["train.eval_strategy=epoch"]).train
    assert train["eval_strategy"] == "epoch"
    assert "save_strategy" not in train


def test_max_length_is_not_overruled_by_our_default(write: Write) -> None:
    generate = recipe.load(write(), ["generate.max_length=30"]).generate
    assert "max_new_tokens" not in generate
    assert recipe.load(write()).generate["max_new_tokens"] == 200


def test_train_is_what_training_arguments_takes(write: Write, tmp_path: Path) -> None:
    from transformers import TrainingArguments

    theirs = {key: value for key, value in recipe.load(write()).train.items() if key != sections.NEURON_RATE}
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **theirs)
    assert arguments.learning_rate == 1e-3


def test_generation_options_from_the_command_line() -> None:
    assert recipe.generation(["temperature=1", "top_k=5", "seed=2"]) == {"temperature": 1.0, "top_k": 5, "seed": 2}
    with pytest.raises(UserError, match="temprature: unknown key; did you mean 'temperature'"):
        recipe.generation(["temprature=1"])


def test_what_sampling_refuses_is_no_mistake_where_nothing_is_sampled(write: Write) -> None:
    assert recipe.load(write(), ["generate.temperature=0", "generate.do_sample=false"]).generate["temperature"] == 0
    assert recipe.load(write(), ["train.learning_rate=0", "train.max_steps=-1"]).train["learning_rate"] == 0

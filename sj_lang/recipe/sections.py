"""Sections that are no components; `train` and `generate` are transformers', field for field."""

import dataclasses
import functools
import inspect
import operator
import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from sj_lang import hf
from sj_lang.component import values
from sj_lang.component.problems import Keys, Problem
from sj_lang.component.remember import remembered
from sj_lang.component.schema import MISSING, Argument, field_default
from sj_lang.component.spec import resolve_arguments
from sj_lang.component.values import can_be_written, simplify, tell_plainly

#: Defaults that differ from TrainingArguments'. Steps below 1 are shares of the whole training.
TRAIN_DEFAULTS: dict[str, Any] = {"report_to": [], "logging_steps": 0.02, "save_total_limit": 2}
#: Decided by the run unless the recipe sets them, so never written out as defaults.
TRAIN_DECIDED = frozenset(
    {"use_cpu", "disable_tqdm", "eval_strategy", "eval_steps", "save_strategy", "save_steps"}
    | {"load_best_model_at_end", "metric_for_best_model", "greater_is_better"}
)
#: What a run relies on: no recipe may set another value, and the run gets this one.
TRAIN_FIXED: Mapping[str, tuple[Any, str]] = {
    "logging_nan_inf_filter": (False, "or a loss that is NaN is logged as 0"),
    "enable_jit_checkpoint": (False, "SIGTERM always saves a checkpoint, and the exit code is 143"),
    "prediction_loss_only": (False, "the figures of the task need the predictions"),
    "batch_eval_metrics": (False, "the figures of the task are computed over the whole split"),
    "eval_do_concat_batches": (True, "the figures of the task are computed over the whole split"),
    "debug": ("", "a loss or a gradient that is not finite always ends the run, which reports where it began"),
    "label_names": (None, "the task names the keys of a batch that are the labels"),
    "resume_from_checkpoint": (None, "`sj-lang run --resume RUN` resumes a run"),
    "restore_callback_states_from_checkpoint": (False, "a resumed run always restores what it needs"),
    "hub_token": (None, "a recipe is stored with its run, and a secret would be; set HF_TOKEN or use `hf auth login`"),
    "use_liger_kernel": (False, "Liger's kernels only fit transformers' own models"),
}
#: Fields whose value no message may show.
SECRETS = ("hub_token",)
#: Limits, as of pydantic.Field, beyond which no training makes sense or torch refuses late.
TRAIN_LIMITS: Mapping[str, Mapping[str, Any]] = {
    "per_device_train_batch_size": {"ge": 1},
    "per_device_eval_batch_size": {"ge": 1},
    "gradient_accumulation_steps": {"ge": 1},
    "eval_accumulation_steps": {"ge": 1},
    "dataloader_prefetch_factor": {"ge": 1},
    "learning_rate": {"ge": 0},
    "weight_decay": {"ge": 0},
    "adam_epsilon": {"ge": 0},
    "max_grad_norm": {"ge": 0},
    "num_train_epochs": {"ge": 0},
    "warmup_steps": {"ge": 0},
    "eval_delay": {"ge": 0},
    "logging_steps": {"gt": 0},
    "eval_steps": {"gt": 0},
    "save_steps": {"gt": 0},
    "save_total_limit": {"ge": 1},
    "dataloader_num_workers": {"ge": 0},
    "adam_beta1": {"ge": 0, "lt": 1},
    "adam_beta2": {"ge": 0, "lt": 1},
    "label_smoothing_factor": {"ge": 0, "le": 1},
}
#: The same for transformers' sampling, which does not read them if do_sample is false.
SAMPLING_LIMITS: Mapping[str, Mapping[str, Any]] = {
    "temperature": {"gt": 0},
    "top_k": {"ge": 0},
    "top_p": {"ge": 0, "le": 1},
    "min_p": {"ge": 0, "le": 1},
    "typical_p": {"gt": 0, "le": 1},
    "top_h": {"gt": 0, "le": 1},
}
GENERATE_LIMITS: Mapping[str, Mapping[str, Any]] = {
    "num_beams": {"ge": 1},
    "num_return_sequences": {"ge": 1},
    "repetition_penalty": {"gt": 0},
}
GENERATE_DEFAULTS: Mapping[str, Any] = {"prompt": None, "max_new_tokens": 200, "do_sample": True}
#: What is measured beside the task's figures.
MEASURE = {name: Argument(name, bool, True) for name in ("firing_rate", "raster", "energy")}
#: `costs`: a table of sj_lang.energy; `purity`: what must be made of spikes, or the run is refused.
MEASURE["costs"] = Argument("costs", Literal["45nm", "7nm", "loihi"], "45nm")
MEASURE["purity"] = Argument("purity", Literal["products", "strict"] | None, None)
#: `ablate`: the figures again without each kind of part; "layers": also without that of each layer.
MEASURE["ablate"] = Argument("ablate", bool | Literal["layers"], False)

ELSEWHERE = {
    "seed": "the seed has one place: 'seed' at the top level",
    "data_seed": "the seed has one place: 'seed' at the top level",
    "output_dir": "the run folder has one place: 'output' at the top level",
}
#: what other libraries call fields of TrainingArguments
OTHER_NAMES = {
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "bs": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "wd": "weight_decay",
    "optimizer": "optim",
    "scheduler": "lr_scheduler_type",
    "warmup": "warmup_steps",
    "grad_clip": "max_grad_norm",
    "clip": "max_grad_norm",
    "accumulate": "gradient_accumulation_steps",
}
#: Our one key of `train:`: the learning rate of the neurons' parameters; null: that of all others.
NEURON_RATE = "neuron_learning_rate"


@functools.cache
def train_arguments() -> dict[str, Argument]:
    """The fields of transformers.TrainingArguments that a recipe can set, and `NEURON_RATE`."""
    return remembered(("train",), _read_train_arguments)


def _read_train_arguments() -> dict[str, Argument]:
    hf.shield()
    from transformers import TrainingArguments

    annotations = typing.get_type_hints(TrainingArguments)
    our_defaults = TRAIN_DEFAULTS | {name: value for name, (value, _) in TRAIN_FIXED.items()}
    rate = _limited(float | None, TRAIN_LIMITS["learning_rate"])
    schema: dict[str, Argument] = {NEURON_RATE: Argument(NEURON_RATE, rate, None)}
    for entry in dataclasses.fields(TrainingArguments):
        if entry.init and entry.name not in ELSEWHERE and can_be_written(annotations[entry.name]):
            default = our_defaults.get(entry.name, field_default(entry))
            decided = entry.name in TRAIN_DECIDED
            annotation = _limited(annotations[entry.name], TRAIN_LIMITS.get(entry.name))
            schema[entry.name] = Argument(entry.name, annotation, default, handed_in=decided)
    return {name: argument.as_plain() for name, argument in schema.items()}


def _limited(annotation: Any, limits: Mapping[str, Any] | None) -> Any:
    """The annotation with its numbers within limits, and none of them nan or infinite."""
    from pydantic import Field

    if limits is None:
        return annotation
    within: dict[Any, Any] = {
        int: Annotated[int, Field(**limits)],
        float: Annotated[float, Field(**limits, allow_inf_nan=False)],
    }
    members = [within.get(member, member) for member in typing.get_args(annotation) or (annotation,)]
    return functools.reduce(operator.or_, members)


@functools.cache
def generate_arguments() -> dict[str, Argument]:
    """The attributes of transformers.GenerationConfig, typed by its docstring, and `prompt`."""
    return remembered(("generate",), _read_generate_arguments)


def _read_generate_arguments() -> dict[str, Argument]:
    hf.shield()
    from transformers import GenerationConfig

    types = dict(re.findall(r"^ +(\w+) \(([^)]*?)(?:, \*optional|\):)", GenerationConfig.__doc__ or "", re.MULTILINE))
    names = [name for name in vars(GenerationConfig()) if not name.startswith("_") and name != "transformers_version"]
    schema = {"prompt": Argument("prompt", str | None, None)}
    for name in names:  # None is transformers' "as the model has it": nothing to write out
        default = GENERATE_DEFAULTS.get(name, MISSING)
        annotation = _limited(_documented(types.get(name, "")), GENERATE_LIMITS.get(name))
        schema[name] = Argument(name, annotation, default, handed_in=default is MISSING)
    return {name: argument.as_plain() for name, argument in schema.items()}


def _documented(text: str) -> Any:
    types: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "dict": dict[str, Any]}
    types |= {"list[int]": list[int], "list[str]": list[str], "list[list[int]]": list[list[int]]}
    words = [word.strip().strip("`") for word in text.split(" or ")]
    if not all(word in types for word in words):
        return Any
    annotation: Any = None
    for word in words:
        annotation = types[word] | annotation
    return annotation


def resolve_measure(section: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Check `measure:`; return it with its defaults, and its problems."""
    return resolve_arguments(MEASURE, section, ("measure",))


def _with_meaning(problem: Problem) -> Problem:
    """The problem of an unknown key that other libraries use, with what it is called here."""
    meaning = OTHER_NAMES.get(str(problem.keys[-1])) if problem.kind == "unknown" else None
    return dataclasses.replace(problem, message=f"unknown key; did you mean '{meaning}'?") if meaning else problem


def resolve_train(section: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Check `train:`; return it with all fields, and its problems."""
    fields = {name: value for name, value in section.items() if name not in ELSEWHERE}
    shown = {name: value for name, value in fields.items() if name not in SECRETS}
    options, problems = resolve_arguments(
        train_arguments(), shown, ("train",), home="the keys are the fields of transformers.TrainingArguments"
    )
    problems = [_with_meaning(problem) for problem in problems]
    problems += [Problem(("train", name), text) for name, text in ELSEWHERE.items() if name in section]
    steps = options.get("max_steps")
    if isinstance(steps, int) and steps < 1 and steps != -1:
        text = f"expected a whole number >= 1, or -1 to train for num_train_epochs; found {steps}"
        problems.append(Problem(("train", "max_steps"), text))
    for name in ("logging_steps", "eval_steps", "save_steps"):
        steps = options.get(name)
        if isinstance(steps, float) and steps > 1 and not steps.is_integer():
            text = f"expected a whole number of steps, or a share of all steps up to 1; found {steps}"
            problems.append(Problem(("train", name), text))
    for name, (value, reason) in TRAIN_FIXED.items():
        if fields.get(name, value) != value:
            problems.append(Problem(("train", name), f"must be {tell_plainly(value)} here, {reason}"))
    scheduler = options.get("lr_scheduler_type")
    for name, key, read in (
        ("lr_scheduler_kwargs", scheduler, lambda: _scheduler_arguments(scheduler)),
        ("accelerator_config", None, _accelerator_arguments),
    ):
        if isinstance(options.get(name), dict) and (inner := remembered((name, key), read)) is not None:
            problems += resolve_arguments(inner, options[name], ("train", name))[1]
    optim_args = options.get("optim_args")
    if isinstance(optim_args, str) and optim_args and any(part.count("=") != 1 for part in optim_args.split(",")):
        text = f"expected name=value, with a comma between two; found {optim_args!r}"
        problems.append(Problem(("train", "optim_args"), text))
    return options, problems


def _scheduler_arguments(name: Any) -> dict[str, Argument] | None:
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    functions = {kind.value: function for kind, function in TYPE_TO_SCHEDULER_FUNCTION.items()}
    parameters = inspect.signature(functions[name]).parameters if isinstance(name, str) and name in functions else {}
    if not parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    annotations = typing.get_type_hints(functions[name])
    handed_in = ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch")
    names = [name for name in parameters if name not in handed_in]
    return {name: Argument(name, simplify(annotations.get(name, Any)), handed_in=True) for name in names}


def _accelerator_arguments() -> dict[str, Argument]:
    from transformers.trainer_pt_utils import AcceleratorConfig

    annotations = typing.get_type_hints(AcceleratorConfig)
    names = [entry.name for entry in dataclasses.fields(AcceleratorConfig)]
    return {name: Argument(name, simplify(annotations[name]), handed_in=True) for name in names}


def resolve_generate(section: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Check `generate:`; return it with our defaults, and its problems."""
    keys: Keys = ("generate",)
    options, problems = resolve_arguments(
        generate_arguments(), section, keys, home="the keys are the fields of transformers.GenerationConfig"
    )
    if "max_length" in section and "max_new_tokens" not in section:
        options.pop("max_new_tokens", None)  # transformers would prefer our default to `max_length`
    key = ("generation", sorted(options.items()))
    return options, problems or remembered(key, lambda: check_generation(options))


def check_generation(options: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with fields of GenerationConfig, each of the right type, taken together.

    Reports what transformers refuses when the config is built, and what it would refuse later.
    """
    from transformers import GenerationConfig

    problems: list[Problem] = []
    schema = generate_arguments()
    for name, limits in SAMPLING_LIMITS.items() if options.get("do_sample") else ():
        if options.get(name) is not None:
            _, wrong = values.check(_limited(schema[name].annotation, limits), options[name])
            hint = "; to take the likeliest token at each step, set do_sample to false" if name == "temperature" else ""
            problems += [Problem(("generate", name), wrong[1] + hint)] if wrong else []
    try:
        GenerationConfig(**{name: value for name, value in options.items() if name != "prompt"})
    except (ValueError, TypeError) as error:
        problems.append(Problem(("generate",), " ".join(str(error).split())))
    return problems

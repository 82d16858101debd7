"""Signatures as schemas, parts inside parts, and building what was checked."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import toy as toys
from torch import nn
from transformers import PreTrainedConfig

from sj_lang import build
from sj_lang.component import schema
from sj_lang.component.schema import Data, Part
from sj_lang.component.spec import Spec, check_data, resolve, resolve_arguments
from sj_lang.errors import PluginError, UserError
from sj_lang.plugins import Registry
from sj_lang.recipe import check

Neuron = Part["neuron"]
pytestmark = pytest.mark.usefixtures("toy")


def problems(kind: str, spec: Any) -> list[str]:
    return [str(problem) for problem in resolve(kind, spec)[1]]


def test_defaults_are_written_out_and_given_arguments_are_not() -> None:
    options, mistakes = resolve("neuron", {"type": "toy_lif", "tau": 3})
    assert not mistakes
    assert options == {"type": "toy_lif", "tau": 3.0, "v_threshold": 1.0, "v_reset": 0.0, "surrogate_function": "ATan"}


def test_a_name_alone_is_a_component() -> None:
    assert resolve("neuron", "toy_delay")[0] == {"type": "toy_delay", "delays": 2, "direction": "forward"}


def test_of_a_config_class_only_its_own_fields_count() -> None:
    names = set(schema.arguments("model", toys.ToyConfig))
    assert names == {"vocab_size", "hidden_size", "heads", "neuron", "attention", "norm", "coding", "dropout", "twin"}
    options = resolve("model", "toy_model")[0]
    assert "vocab_size" not in options  # the data fix it
    assert resolve("model", {"type": "toy_model", "vocab_size": 9})[0]["vocab_size"] == 9
    assert options["attention"] == {"type": "mixing", "norm": {"type": "centre", "eps": 1e-5}, "dropout": 0.0}


def test_a_config_class_may_stand_on_a_base_of_ours() -> None:
    class Middle(PreTrainedConfig):
        model_type = "sj-middle"
        width: int = 3

    class Leaf(Middle):
        depth: int = 4

    assert set(schema.arguments("model", Leaf)) == {"width", "depth"}


def test_all_problems_at_once_each_at_its_own_path() -> None:
    spec = {
        "type": "toy_model",
        "hiden_size": 3,
        "dropout": "much",
        "neuron": {"type": "toy_lif", "tua": 1},
        "attention": {"type": "mixing", "norm": {"type": "center"}, "dim": 4},
        "coding": "individul",
    }
    messages = problems("model", spec)
    assert len(messages) == 6
    text = "\n".join(messages)
    assert "hiden_size: unknown key; did you mean 'hidden_size'?" in text
    assert "dropout: expected a number, found 'much' (text)" in text
    assert "neuron.tua: unknown key; did you mean 'tau'?" in text
    assert "attention.norm.type: no norm 'center'; did you mean 'centre'?" in text
    assert "attention.dim: is handed in by the program, a recipe cannot set it" in text
    assert "coding: expected 'individual' or 'repeat', found 'individul' (text); did you mean 'individual'?" in text


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (3, "expected a neuron: a name, or a mapping with 'type'; found 3 (a whole number)"),
        (None, "expected a neuron: a name, or a mapping with 'type'; found null"),
        ({}, "type: missing; expected the name of a neuron; valid: absent, toy_delay, toy_lif"),
        ({"typ": "toy_lif", "tau": 1}, "typ: unknown key; did you mean 'type', which is missing?"),
        ({"type": ["toy_lif"]}, "type: expected the name of a neuron, found ['toy_lif'] (a list)"),
        ("toy_lig", "type: no neuron 'toy_lig'; did you mean 'toy_lif' or 'toy_delay'?"),
        ({"type": "toy_lif", "channels": 3}, "channels: is handed in by the program, a recipe cannot set it"),
        ({"type": "toy_lif", "tau": None}, "tau: expected a number, found null"),
    ],
)
def test_wrong_components(spec: Any, message: str) -> None:
    (text,) = problems("neuron", spec)
    assert text.startswith(message)


def test_a_part_may_be_none_where_its_annotation_says_so() -> None:
    assert resolve("model", {"type": "toy_model", "norm": None})[1] == []
    assert problems("model", {"type": "toy_model", "neuron": None}) == [
        "neuron: expected a neuron: a name, or a mapping with 'type'; found null"
    ]


def test_arguments_without_a_type_change_the_default_part() -> None:
    options = resolve("model", {"type": "toy_model", "neuron": {"tau": 5}})[0]
    assert options["neuron"]["type"] == "toy_lif"
    assert options["neuron"]["tau"] == 5.0


def test_a_missing_argument_and_its_misspelling_are_one_problem() -> None:
    assert problems("task", {"type": "toy_task", "dta": "poem"}) == [
        "dta: unknown key; did you mean 'data', which is missing?"
    ]
    (text,) = problems("task", {"type": "toy_task"})
    assert text == "data: missing; expected a registered source, hub:owner/name[/config], a path, or a mapping of " + (
        "train, validation, dev, test"
    )


def test_signatures_that_cannot_be_checked_are_the_plugins_fault() -> None:
    class Open:
        def __init__(self, *, dim: int, **rest: Any) -> None: ...

    class Needy:
        def __init__(self, *, callback: Callable[[], int]) -> None: ...

    class Typed:
        def __init__(self, *, type: str = "a") -> None: ...

    with pytest.raises(PluginError, match="an argument cannot be called 'type'"):
        schema.arguments("norm", Typed)
    with pytest.raises(PluginError, match=r"takes \*\*rest, so the keys of a recipe cannot be checked"):
        schema.arguments("norm", Open)
    with pytest.raises(PluginError, match="argument 'callback' has no default, and no recipe can hold its type"):
        schema.arguments("norm", Needy)


def test_rest_of_the_arguments_are_those_of_the_base_class() -> None:
    class Base:
        def __init__(self, *, dim: int, eps: float = 1e-5, gain: float = 1.0) -> None:
            self.dim, self.eps, self.gain = dim, eps, gain

    class Middle(Base):
        """No constructor of its own."""

    class Leaf(Middle):
        def __init__(self, *, momentum: float = 0.1, eps: float = 1e-3, **common: Any) -> None:
            super().__init__(eps=eps, **common)
            self.momentum = momentum

    defaults = {name: argument.default for name, argument in schema.arguments("norm", Leaf).items()}
    assert defaults == {"momentum": 0.1, "eps": 1e-3, "dim": schema.MISSING, "gain": 1.0}
    assert not schema.arguments("norm", Leaf)["dim"].settable
    assert schema.arguments("norm", Leaf)["gain"].annotation is float


def test_rest_that_no_base_class_names_is_the_plugins_fault() -> None:
    class Lost(nn.Module):
        def __init__(self, *, dim: int, **common: Any) -> None:
            super().__init__(**common)

    class Deep(Lost):
        def __init__(self, *, eps: float = 1e-5, **common: Any) -> None:
            super().__init__(**common)

    for target in (Lost, Deep):
        with pytest.raises(PluginError, match=rf"{target.__qualname__}: its constructor takes \*\*common, so the keys"):
            schema.arguments("norm", target)


@pytest.mark.parametrize("text", ["model.neuron.tau: too slow", "model.neuron.tau too slow"])
def test_a_complaint_that_begins_with_a_key_stands_there(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def refuse(self: object, **kwargs: object) -> None:
        raise UserError(text)

    monkeypatch.setattr(toys.ToyConfig, "__post_init__", refuse)
    body = {"task": {"type": "toy_task", "data": "poem"}, "tokenizer": "letters", "model": "toy_model"}
    (problem,) = check.check_body(body)[1]
    assert str(problem) == "model.neuron.tau: too slow"


@pytest.mark.parametrize("error", [ValueError("too wide"), AssertionError("too wide"), KeyError("too wide")])
def test_what_a_config_says_of_its_values_is_a_problem_of_the_recipe(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(self: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(toys.ToyConfig, "__post_init__", refuse)
    body = {"task": {"type": "toy_task", "data": "poem"}, "tokenizer": "letters", "model": "toy_model"}
    (problem,) = check.check_body(body)[1]
    assert problem.keys == ("model",)
    assert "too wide" in problem.message


def test_part_names_a_kind() -> None:
    with pytest.raises(TypeError, match="did you mean 'neuron'"):
        Part["nueron"]
    assert Part["neuron"] is Part["neuron"]
    assert isinstance({"type": "lif"}, Part["neuron"])
    assert not isinstance(3, Part["neuron"])


def test_a_part_annotation_survives_a_linter_that_takes_the_quotes_off() -> None:
    def build_it(*, neuron: object = "toy_lif") -> None: ...

    build_it.__annotations__["neuron"] = "Part[neuron]"
    assert schema.arguments("norm", build_it)["neuron"].part == "neuron"


def test_the_former_name_of_handed_in_is_refused() -> None:
    class Holder:
        given = frozenset({"texts"})

        def __init__(self, *, texts: str) -> None: ...

    with pytest.raises(PluginError, match=r"Holder: the class attribute `given` is now called `handed_in`"):
        schema.arguments("norm", Holder)
    Holder.handed_in = frozenset({"texts"})  # both: for either version of the host
    assert not schema.arguments("norm", Holder)["texts"].settable


def test_the_class_says_what_is_handed_in() -> None:
    class Holder:
        handed_in = frozenset({"texts"})

        def __init__(self, *, texts: Any, dim: int = 3) -> None: ...

    arguments = schema.arguments("norm", Holder)
    assert (arguments["texts"].settable, arguments["dim"].settable) == (False, True)


@pytest.mark.parametrize(
    "data", ["poem", "hub:karpathy/tiny", "hub:nyu-mll/glue/sst2", ".", {"train": "poem", "test": "."}]
)
def test_data_that_can_be_meant(data: Any) -> None:
    assert problems("task", {"type": "toy_task", "data": data}) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "peom",
            "data: 'peom' is not a registered source (did you mean 'poem'?), does not begin with hub:, "
            "and no file or folder has that path",
        ),
        ("hub:glue", "data: expected hub:owner/name[/config], found 'hub:glue'"),
        ("", "data: '' is not a registered source"),
        (3, "data: expected a registered source"),
        ({}, "data: expected a registered source"),
        ({"trian": "poem"}, "data.trian: unknown key; did you mean 'train'?"),
        ({"train": "nowhere.txt"}, "data.train: 'nowhere.txt' is not a registered source"),
    ],
)
def test_data_that_cannot(data: Any, message: str) -> None:
    (text,) = problems("task", {"type": "toy_task", "data": data})
    assert text.startswith(message)


def test_data_may_be_a_path(tmp_path: Path) -> None:
    assert check_data(str(tmp_path), ("data",)) == []


def test_data_is_an_annotation_like_any_other() -> None:
    def task(*, data: Data | None = None, mode: Literal["a"] = "a") -> None: ...

    arguments = schema.arguments("task", task)
    assert resolve_arguments(arguments, {"data": None}, ())[1] == []
    assert len(resolve_arguments(arguments, {"data": "none"}, ())[1]) == 1
    assert resolve_arguments(arguments, {}, ())[0] == {"data": None, "mode": "a"}


def test_part_builds_a_fresh_instance_each_time() -> None:
    make = build.part("neuron", {"type": "toy_lif", "tau": 3})
    one, two = make(channels=8), make(channels=4, step_mode="s")
    assert isinstance(one, toys.Lif)
    assert (one.channels, one.tau, two.channels, two.step_mode) == (8, 3.0, 4, "s")
    assert one is not two
    assert make.name == "toy_lif"
    assert make.spec["v_threshold"] == 1.0
    assert repr(make).startswith("toy_lif(tau=3.0, ")


def test_a_checked_spec_carries_the_proof_until_it_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = resolve("attention", "mixing")[0]
    monkeypatch.setattr(build, "resolve", lambda kind, spec: pytest.fail("resolved again"))
    for kept in (spec, copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
        assert isinstance(kept, Spec)
        assert build.part("attention", kept)(dim=8, heads=2, neuron="N").norm(dim=8).eps == 1e-5
    spec["norm"]["eps"] = "small"
    assert not spec.proves("attention")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"attention\.norm\.eps: expected a number, found 'small'"):
        build.part("attention", spec)


def test_the_declaration_follows_the_options() -> None:
    assert build.part("neuron", "toy_delay").traits["causal"] is True
    both = build.part("neuron", {"type": "toy_delay", "direction": "both"}).traits
    assert (both["causal"], both["steps"], both["carries_state"]) == (False, False, True)


def test_parts_inside_parts_are_handed_in_as_makers_and_configs_keep_plain_data() -> None:
    mixing = build.part("attention", "mixing")(dim=8, heads=2, neuron="N", max_length=3)
    assert mixing.norm(dim=8).eps == 1e-5
    config = build.part("model", "toy_model")(vocab_size=5, pad_token_id=1)
    assert config.neuron["type"] == "toy_lif"
    assert (config.vocab_size, config.pad_token_id) == (5, 1)


def test_what_no_class_asks_for_is_an_error_unless_it_is_usual(toy: Registry) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        build.part("norm", "centre")(dim=3, colour=1)


@pytest.mark.parametrize("error", [KeyError("inside"), TypeError("no len()"), AssertionError(), RuntimeError("odd\nx")])
def test_what_a_constructor_raises_names_the_plugin(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(self: object, *, dim: int, eps: float) -> None:
        raise error

    monkeypatch.setattr(toys.Centre, "__init__", fail)
    with pytest.raises(PluginError) as caught:
        build.part("norm", "centre")(dim=3)
    text = str(caught.value)
    assert text.startswith(f"norm 'centre' of sj-lang-toy 1.0: building it failed: {type(error).__name__}")
    assert "\n" not in text
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [ValueError("eps is 0"), UserError("eps is 0"), PluginError("eps is 0")])
def test_a_value_that_a_constructor_refuses_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(self: object, *, dim: int, eps: float) -> None:
        raise error

    monkeypatch.setattr(toys.Centre, "__init__", refuse)
    with pytest.raises(type(error), match=r"^eps is 0$"):
        build.part("norm", "centre")(dim=3)


def test_part_tells_all_mistakes_in_one_error() -> None:
    with pytest.raises(UserError) as caught:
        build.part("neuron", {"type": "toy_lif", "tua": 1, "v_threshold": "x"})
    assert str(caught.value).startswith("2 problems in this neuron\n  neuron.tua: unknown key")
    with pytest.raises(UserError, match=r"^neuron.type: neuron 'absent' of sj-lang-toy 1.0 is not available here"):
        build.part("neuron", "absent")

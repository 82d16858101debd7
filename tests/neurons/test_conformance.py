"""Every neuron that is registered and available here keeps
what it declares. A new one is tested by registering it.
"""

import shutil
from typing import Any

import pytest
import torch

from sj_lang import build, plugins
from sj_lang.testing import check_node

# name -> options to test it with, beside its defaults; a neuron that is not listed is tested as it
# is built by default.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "if": [{}, {"v_reset": None, "detach_reset": True}],
    "lif": [
        {},
        {"v_reset": None, "decay_input": False, "surrogate_function": "ATan"},
        {"v_reset": 0.2, "tau": 3.0},
        {"learn_threshold": True},
    ],
    "plif": [{}, {"v_reset": None, "decay_input": False}],
    "klif": [{}, {"scale_reset": True}],
    "psn": [{"T": 7}],
    "masked_psn": [{"T": 7, "k": 3}, {"T": 7, "k": 3, "lambda_init": 1.0}],
    "sliding_psn": [{"k": 3}, {"k": 1}],
    "dsn": [
        {},
        {"k": 1, "n": 1, "surrogate_function": "ATan"},
        {"decay": "linear"},
        {"decay": "static", "tau": 2.0},
        {"axis": -1},
    ],
    "sub_steps": [{"m": 2, "of": {"type": "lif", "decay_input": False}}, {"m": 3, "of": {"type": "dsn", "axis": -1}}],
    "bpsn": [
        {},
        {"variant": "A"},
        {"variant": "G", "direction": "backward"},
        {"variant": "K"},
        {"direction": "forward"},
        {"variant": "A", "direction": "forward"},
        {"variant": "K", "direction": "forward"},
        {"spikes": "ternary"},
        {"variant": "A", "direction": "forward", "spikes": "integer", "levels": 3},
        {"variant": "G", "direction": "backward", "spikes": "integer", "levels": 4, "signed": False, "offset": True},
        {"variant": "G", "direction": "forward", "offset": True},
        {"axis": -1},
        {"direction": "forward", "axis": -1},
    ],
}

AVAILABLE = [registration for registration in plugins.all("neuron") if not registration.missing]
CASES = [
    pytest.param(registration.name, options, id="-".join([registration.name, *map(str, options.values())]))
    for registration in AVAILABLE
    for options in OPTIONS.get(registration.name, [{}])
]
OPERATORS = {"dsn": ["sj_lang::dsn_numba"], "bpsn": ["sj_lang::bpsn_numba"]}  # of backend "numba"
TRACED = ["compiles", "operators_are_sound"]
BOTH = [torch.float64, torch.float32]
COMPILED_WHEN_SLOW = {"if", "plif", "klif", "qif", "eif", "masked_psn"}  # built as lif and psn are


def cases_of(backend: str) -> list[Any]:
    """Cases of the whole kit. Of what has both backends, the defaults and the side "forward" run
    with both; by default of the other options BPSN's grids and axes run with "numba", the rest
    with "torch", and all if slow.
    """
    cases = []
    for case in CASES:
        name, options = case.values
        if backend == "numba" and name not in OPERATORS:
            continue
        kept = "numba" if name == "bpsn" and options.keys() & {"spikes", "offset", "axis"} else "torch"
        both = name not in OPERATORS or options in ({}, {"direction": "forward"})
        marks: Any = () if both or kept == backend else pytest.mark.slow
        cases.append(pytest.param(name, options, id=case.id, marks=marks))
    return cases


def dtypes_of(name: str, options: dict[str, Any]) -> list[torch.dtype]:
    """Of the first options both; of the others float64, as "numba" has float32, or one in turn."""
    number = OPTIONS.get(name, [{}]).index(options)
    return BOTH if number == 0 else BOTH[:1] if name in OPERATORS else [BOTH[number % 2]]


def conforms(name: str, options: dict[str, Any], **given: Any) -> None:
    make = build.part("neuron", {"type": name, **options})
    length = None if make.traits["any_length"] else options["T"]
    skip = dict(given.pop("skip", {}))
    if options.get("detach_reset"):
        skip["gradients_are_exact"] = "detach_reset leaves a part of the gradient out"
    if options.get("variant") == "K":
        skip["gradients_are_exact"] = "K counts; its gradient is a surrogate throughout"
    report = check_node(make, length=length, skip=skip, **given)
    assert report.passed


@pytest.mark.parametrize(("name", "options"), cases_of("torch"))
def test_node(name: str, options: dict[str, Any]) -> None:
    dtypes = dtypes_of(name, options)
    conforms(name, options, backends=["torch"], dtypes=dtypes, skip={"compiles": "tested below"})
    conforms(name, options, backends=["auto"], only=["backend_really_runs"])


@pytest.mark.any_line
@pytest.mark.parametrize(("name", "options"), cases_of("numba"))
def test_node_compiled_by_numba(name: str, options: dict[str, Any]) -> None:
    pytest.importorskip("numba")
    below, dtypes = dict.fromkeys(TRACED, "tested below"), [torch.float32] if options else BOTH
    conforms(name, options, backends=["numba"], dtypes=dtypes, ops={"numba": OPERATORS[name]}, skip=below)


# backend "auto": numba, for those that have it
@pytest.mark.parametrize("name", [found.name for found in AVAILABLE if found.name not in COMPILED_WHEN_SLOW])
def test_compiles(name: str) -> None:
    conforms(name, OPTIONS.get(name, [{}])[0], only=TRACED)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), CASES)
def test_compiles_with_all_options(name: str, options: dict[str, Any]) -> None:
    conforms(name, options, only=TRACED)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", [found.name for found in AVAILABLE])
def test_compiles_with_inductor(name: str) -> None:
    conforms(name, OPTIONS.get(name, [{}])[0], only=["compiles"], compilers=("inductor",))


def backends_on_cuda(name: str) -> list[str]:
    """All but numba, which is for tensors on the CPU."""
    kernels = getattr(plugins.get("neuron", name).load(), "kernels", {})
    return ["auto", *(backend for backend in kernels if backend != "numba")]


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "options"), CASES)
def test_node_on_cuda(name: str, options: dict[str, Any]) -> None:
    conforms(name, options, device="cuda", backends=backends_on_cuda(name), dtypes=[torch.float32, torch.float64])


def test_what_is_tested_on_cuda_takes_its_tensors() -> None:
    for name in OPERATORS:
        assert set(backends_on_cuda(name)) == {"auto", "torch", "cupy"}
    assert backends_on_cuda("lif") == ["auto"]


def test_all_neurons_are_found() -> None:
    names = {registration.name for registration in AVAILABLE}
    assert {"if", "lif", "plif", "klif", "qif", "eif", "dsn"} <= names
    assert set(OPTIONS) <= {registration.name for registration in plugins.all("neuron")}

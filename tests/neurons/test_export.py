"""Neurons and swapped nets leave the process: `torch.export`, ONNX, torch.fx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sj_lang_neurons import BPSN, DSN
from sj_lang_neurons.scan.linear import linear_scan
from torch import Tensor, fx, nn
from torch.export import Dim, default_decompositions, export
from torch.utils._pytree import tree_leaves

from sj_lang.compat import reset, spikingjelly
from sj_lang.neuron import Node
from sj_lang.operators import decompositions
from sj_lang.swap import swap

# steps, batch; 40 steps are two blocks of the numba kernel
SIZES = [(1, 1), (1, 3), (2, 1), (40, 2)]
T, B = Dim("T", min=1), Dim("B", min=1)

Call = tuple[Tensor, dict[str, Tensor] | None, Tensor | None]


class Functional(nn.Module):
    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node

    def forward(self, x: Tensor, state: dict[str, Tensor] | None, mask: Tensor | None) -> tuple[Tensor, Any]:
        return self.node.functional(x, state, mask)


def call(node: Node, steps: int, batch: int, *, full: bool) -> Call:
    """An input, and if `full` a state of an earlier call, none if there is none, and a mask."""
    x = 2 * torch.randn(steps, batch, 3, 2)
    if not full:
        return x, None, None
    with torch.no_grad():
        _, state = node.functional(torch.randn(4, batch, 3, 2))
    return x, state, torch.rand(steps, batch) < 0.7


def dynamic(example: Call) -> dict[str, Any]:
    _, state, mask = example
    of_state = None if state is None else {name: {0: B} for name in state}
    return {"x": {0: T, 1: B}, "state": of_state, "mask": None if mask is None else {0: T, 1: B}}


def check(node: Node, run: Callable[..., Any], *, full: bool) -> None:
    for steps, batch in SIZES:
        arguments = call(node, steps, batch, full=full)
        with torch.no_grad():
            spikes, state = node.functional(*arguments)
            got, *after = tree_leaves(run(*arguments))
        assert torch.equal(got, spikes), (steps, batch)
        for value, expected in zip(after, state.values(), strict=True):
            torch.testing.assert_close(value, expected)


def onnx_run(program: Any, path: Path) -> Callable[..., list[Tensor]]:
    """A saved ONNX program in onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX programs run in onnxruntime: pip install onnxruntime")
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*arguments: Any) -> list[Tensor]:
        arrays = [value.numpy() for value in tree_leaves(arguments) if value is not None]
        return [torch.from_numpy(value) for value in session.run(None, dict(zip(names, arrays, strict=True)))]

    return run


def to_onnx(*arguments: Any, **options: Any) -> Any:
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript: pip install onnx onnxscript")
    return torch.onnx.export(*arguments, dynamo=True, verbose=False, **options)


DSNS: list[dict[str, Any]] = [
    {},
    {"decay": "linear", "n": 1, "surrogate_function": "Sigmoid"},
    {"decay": "static", "tau": 0.3},
    {"k": 1, "n": 1, "surrogate_function": "ATan"},
]
BPSNS: list[dict[str, Any]] = [
    {"variant": "R"},
    {"variant": "A", "direction": "backward"},
    {"variant": "K"},
    {"variant": "K", "direction": "forward"},
    {"variant": "A", "direction": "forward"},
    {"variant": "R", "direction": "forward", "spikes": "integer", "levels": 3, "offset": True},
    {"variant": "G", "spikes": "ternary"},
]
NODES = [(DSN, options) for options in DSNS] + [(BPSN, options) for options in BPSNS]
#: each node both ways and with both backends, which take turns
TURNS = [
    pytest.param(kind, options, backend, full, id=f"{kind.__name__}-{options}-{backend}-{'full' if full else 'alone'}")
    for number, (kind, options) in enumerate(NODES)
    for full, backend in zip((False, True), (("torch", "numba"), ("numba", "torch"))[number % 2], strict=True)
]


@pytest.mark.parametrize(("kind", "options", "backend", "full"), TURNS)
def test_an_exported_node_takes_any_number_of_steps_and_any_batch(
    kind: Any, options: dict[str, Any], backend: str, full: bool
) -> None:
    node = kind(channels=3, backend=backend, **options)
    example = call(node, 5, 3, full=full)
    program = export(Functional(node), example, dynamic_shapes=dynamic(example))
    check(node, program.module(), full=full)


@pytest.mark.any_line
@pytest.mark.filterwarnings("ignore")  # of torch.onnx and onnxscript, about themselves
@pytest.mark.parametrize(
    ("kind", "options", "backend"),
    [
        (DSN, DSNS[0], "numba"),
        pytest.param(DSN, DSNS[3], "torch", marks=pytest.mark.slow),
        pytest.param(BPSN, BPSNS[0], "numba", marks=pytest.mark.slow),
        (BPSN, BPSNS[3], "torch"),
        pytest.param(BPSN, BPSNS[5], "numba", marks=pytest.mark.slow),
    ],
)
def test_a_node_in_onnx_fires_as_here(kind: Any, options: dict[str, Any], backend: str, tmp_path: Path) -> None:
    node = kind(channels=3, backend=backend, **options)
    example = call(node, 5, 3, full=True)
    program = to_onnx(Functional(node), example, dynamic_shapes=dynamic(example))
    check(node, onnx_run(program, tmp_path / "node.onnx"), full=True)


# docs/export.md decomposes a program with DSN's numba kernel
@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        pytest.param(DSN, "numba", marks=pytest.mark.slow),
        (DSN, "torch"),
        (BPSN, "numba"),
        pytest.param(BPSN, "torch", marks=pytest.mark.slow),
    ],
)
def test_a_decomposed_program_has_no_operator_of_ours(kind: Any, backend: str) -> None:
    node = kind(channels=3, backend=backend)
    example = call(node, 5, 3, full=True)
    program = export(Functional(node), example, dynamic_shapes=dynamic(example))
    assert "sj_lang" in str(program.graph)
    plain = program.run_decompositions({**default_decompositions(), **decompositions()})
    assert "sj_lang" not in str(plain.graph)
    check(node, plain.module(), full=True)


def csnn(to: str, **options: Any) -> tuple[nn.Module, Callable[[int, int], Tensor]]:
    """A small spiking CNN with its neurons swapped, and its inputs of so many steps and samples."""
    layer, neuron = spikingjelly("layer"), spikingjelly("neuron")
    net = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1, step_mode="m"),
        neuron.LIFNode(step_mode="m"),
        layer.MaxPool2d(2, 2, step_mode="m"),
        layer.Flatten(step_mode="m"),
        layer.Linear(4 * 3 * 3, 5, step_mode="m"),
        neuron.LIFNode(step_mode="m"),
    )

    def inputs(steps: int, batch: int) -> Tensor:
        return 2 * torch.rand(steps, batch, 2, 6, 6)

    swap(net, to, example=inputs(4, 2), **options)
    return net.eval(), inputs


@pytest.mark.filterwarnings("ignore")  # of torch.onnx and onnxscript, about themselves
@pytest.mark.parametrize("to", [pytest.param("dsn", marks=pytest.mark.slow), "bpsn"])
def test_a_swapped_cnn_leaves_whole(to: str, tmp_path: Path) -> None:
    net, inputs = csnn(to)
    shapes = ({0: T, 1: B},)
    program = export(net, (inputs(4, 2),), dynamic_shapes=shapes)
    assert all(value is None for node in net.modules() if isinstance(node, Node) for value in node.memories())
    runs = [program.module(), onnx_run(to_onnx(net, (inputs(4, 2),), dynamic_shapes=shapes), tmp_path / "net.onnx")]
    for steps, batch in SIZES:
        x = inputs(steps, batch)
        reset(net)
        with torch.no_grad():
            expected = net(x)
            for run in runs:
                assert torch.equal(tree_leaves(run(x))[0], expected), (steps, batch)


def test_the_state_of_an_earlier_call_is_no_constant_of_a_program() -> None:
    net, inputs = csnn("dsn")
    net(inputs(4, 2))
    with pytest.raises(RuntimeError, match=r"reset the net first"):
        export(net, (inputs(4, 2),))


def test_a_node_is_a_leaf_of_torch_fx() -> None:
    net, _ = csnn("dsn")
    graph = fx.Tracer().trace(net[1:2])
    assert [(node.op, node.target) for node in graph.nodes][1] == ("call_module", "1")
    traced = fx.GraphModule(net[1:2], graph)
    x = torch.rand(3, 2, 4, 5, 5)
    spikes = traced(x)
    reset(net)
    assert torch.equal(spikes, net[1](x))


def test_nir_is_refused_in_a_sentence() -> None:
    class Tracer(fx.Tracer):
        """What nirtorch, which `export_to_nir` of SpikingJelly 2 calls, traces with."""

        __module__ = "nirtorch.torch_tracer"

    net, _ = csnn("dsn")
    with pytest.raises(NotImplementedError, match=r"^DSN: NIR has no node for it; export the net with LIF"):
        Tracer().trace(net[1:2])


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_decomposed_linear_scan(backend: str, reverse: bool) -> None:
    class Scan(nn.Module):
        def forward(self, decay: Tensor, drive: Tensor) -> Tensor:
            return linear_scan(decay, drive, reverse=reverse, backend=backend)

    decay, drive = torch.rand(7, 3), torch.randn(7, 3)
    program = export(Scan(), (decay, drive), dynamic_shapes=({0: T}, {0: T}))
    plain = program.run_decompositions({**default_decompositions(), **decompositions()})
    assert "sj_lang" not in str(plain.graph)
    for steps in (1, 7, 40):
        decay, drive = torch.rand(steps, 3), torch.randn(steps, 3)
        torch.testing.assert_close(plain.module()(decay, drive), linear_scan(decay, drive, reverse=reverse))

"""Time a neuron against others: `sj-lang bench dsn --against lif,psn`, once parity is green.

For the training steps of a recipe's runs, see `sj-lang bench lm/quickstart --help`. All nodes of a
shape are timed in turn, round after round, in one process: compare ratios within one run, not
milliseconds. Parity is checked twice: by the conformance kit on small shapes, and at each timed
shape, spikes and gradients of x, against float64. `native:lif` and its like are baselines as they
come (`sj_lang.bench.baselines`). On a GPU, times are those of its own clock. Further columns are
bytes per second (of x, spikes and their gradients, once each), their share of what a copy moves in
the same run, and the microseconds of the host and of a CUDA graph.
"""

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sj_lang import plugins
from sj_lang.bench import baselines
from sj_lang.bench.timing import Stopwatch, graph_us, host_us, in_turn, milliseconds, peak
from sj_lang.build import part
from sj_lang.component import yaml_marks
from sj_lang.errors import RunFailed, UserError
from sj_lang.testing import NodeFailed, check_node

PASSES = 5  # over arrays of x's size: x, spikes; x, gradient of spikes, gradient of x
PARITY = (
    "steps_equal_sequence",
    "pieces_equal_whole",
    "gradients_are_exact",
    "output_is_fully_written",
    "odd_sizes",
    "memory_layouts",
    "large_batches",
    "long_sequences",
    "backends_agree",
)
PARITY_STEPS = 12  # of a neuron that is built for a fixed number of steps
FLIPS = 1e-3  # share of spikes that rounding may flip, and of gradients of x that follow them
FAR = 1e-2  # of a gradient, or of the root mean square of all if larger: differs from float64's


@dataclass(frozen=True)
class Timing:
    """Medians for one node at one shape.

    spread_ms: interquartile range of the total. peak_mb: memory above what was resident before.
    flips: share of spikes that differ from the same node's in float64; None for a baseline.

    On a GPU: bytes_per_s of `PASSES` over x; of_copy, their share of a copy's; host_us, until
    forward and backward are handed over; graph_us, both as a CUDA graph.
    """

    neuron: str
    shape: str
    forward_ms: float
    backward_ms: float
    total_ms: float
    spread_ms: float
    peak_mb: float | None
    flips: float | None
    bytes_per_s: float | None = None
    of_copy: float | None = None
    host_us: float | None = None
    graph_us: float | None = None


def neuron_spec(text: str) -> dict[str, Any]:
    """`dsn:n=1:k=2` -> {"type": "dsn", "n": 1, "k": 2}."""
    name, *options = text.split(":")
    for option in options:
        if "=" not in option:
            raise UserError(f"bench: an option is name=value, got '{option}' in '{text}'")
    pairs = (option.split("=", 1) for option in options)
    return {"type": name, **{key: yaml_marks.scalar(value) for key, value in pairs}}


def maker(name: str) -> Callable[[int, int], Any]:
    """`make(steps, channels)` of a neuron with its options, or of a baseline."""
    if name.startswith(baselines.PREFIX):
        return baselines.baseline(name)
    spec = neuron_spec(name)
    fixed = _has_one_length(spec)
    part("neuron", {**spec, "T": 1} if fixed else spec)  # finds a mistake before anything is timed
    return lambda steps, channels: part("neuron", {**spec, "T": steps} if fixed else spec)(channels=channels)


def _has_one_length(spec: Mapping[str, Any]) -> bool:
    """Whether the neuron is built for a fixed number of steps, its argument T."""
    return not plugins.get("neuron", spec["type"]).traits["any_length"]


def check_parity(text: str, device: str) -> int:
    """The number of checks of the kit that a neuron passed. RunFailed if any is red."""
    spec = neuron_spec(text)
    length = PARITY_STEPS if _has_one_length(spec) else None
    make = part("neuron", spec if length is None else {**spec, "T": length})
    try:
        return len(check_node(make, only=PARITY, length=length, device=device).passed)
    except NodeFailed as failure:
        raise RunFailed(f"bench: the parity check failed, so no speed is printed: {failure}") from failure


def time_shape(
    makers: Sequence[tuple[str, Callable[[int, int], Any]]],
    shape: tuple[int, int, int],
    *,
    device: str,
    dtype: torch.dtype,
    rounds: int,
    copy_rate: float | None,
) -> tuple[list[Timing], float]:
    """The timing of each node at one shape, and the milliseconds of one elementwise pass.

    makers: name and `make(steps, channels)` of each. copy_rate: of the GPU's memory; None on the
    CPU.
    """
    steps, batch, channels = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps, batch, channels, generator=generator).to(device=device, dtype=dtype)
    gradient = torch.randn(steps, batch, channels, generator=generator).to(device=device, dtype=dtype)
    out = torch.empty_like(x)
    nodes, flips = [], []
    for _, make in makers:
        node = make(steps, channels).to(device)
        foreign = isinstance(node, baselines.Baseline)
        flips.append(None if foreign else _flips(node, x, gradient))
        nodes.append(node.to(dtype) if foreign else node)
    works = [partial(_forward_backward, node, x, gradient, device) for node in nodes]
    floor = len(works)
    timed: dict[int, Callable[[], list[float]]] = dict(enumerate(works))
    timed[floor] = lambda: [milliseconds(lambda: torch.mul(x, 2.0, out=out), device)]  # the least
    laps = in_turn(timed, rounds)
    timings = []
    for index, ((name, _), node, work) in enumerate(zip(makers, nodes, works, strict=True)):
        forward, backward = zip(*laps[index], strict=True)
        totals = [sum(both) for both in laps[index]]
        low, _, high = statistics.quantiles(totals, n=4) if len(totals) > 1 else (totals[0],) * 3
        total_ms = statistics.median(totals)
        timing = Timing(
            name,
            "x".join(map(str, shape)),
            statistics.median(forward),
            statistics.median(backward),
            total_ms,
            high - low,
            peak(work, device),
            flips[index],
            **({} if copy_rate is None else _on_gpu(node, x, gradient, total_ms, copy_rate)),
        )
        timings.append(timing)
    return timings, statistics.median(lap for (lap,) in laps[floor])


def _on_gpu(node: Any, x: Tensor, gradient: Tensor, total_ms: float, copy_rate: float) -> dict[str, float | None]:
    rate = PASSES * x.nbytes / (total_ms / 1e3)
    leaf = x.detach().requires_grad_()
    parameters = [p for p in node.parameters() if p.requires_grad]

    def work() -> None:
        torch.autograd.grad(node.functional(leaf)[0], [leaf, *parameters], gradient, allow_unused=True)

    ours = not isinstance(node, baselines.Baseline)  # a foreign kernel may not be safe in a graph
    return {
        "bytes_per_s": rate,
        "of_copy": rate / copy_rate,
        "host_us": host_us(work),
        "graph_us": graph_us(work) if ours else None,
    }


def _forward_backward(node: Any, x: Tensor, gradient: Tensor, device: str) -> list[float]:
    """Milliseconds of one forward and of one backward pass, from rest."""
    leaf = x.clone().requires_grad_()
    watch = Stopwatch(device)
    watch.mark()
    spikes = node.functional(leaf)[0]
    watch.mark()
    spikes.backward(gradient)
    watch.mark()
    return watch.laps()


def _flips(node: Any, x: Tensor, gradient: Tensor) -> float:
    """The share of spikes unlike float64's. RunFailed if it, or gradients, are beyond rounding."""
    spikes, gradients = _spikes_and_gradient(node, x, gradient)
    exact_spikes, exact = _spikes_and_gradient(copy.deepcopy(node).double(), x.double(), gradient.double())
    share = float((spikes.double() != exact_spikes).double().mean())
    _refuse_unless_rounding(share, "spikes", node, x)
    scale = exact.abs().clamp(min=float(exact.square().mean().sqrt()))
    near = (gradients.double() - exact).abs() <= FAR * scale  # False for NaN
    _refuse_unless_rounding(float((~near).double().mean()), "gradients of x", node, x)
    return share


def _spikes_and_gradient(node: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    spikes = node.functional(leaf)[0]
    return spikes.detach(), torch.autograd.grad(spikes, leaf, gradient)[0]


def _refuse_unless_rounding(share: float, what: str, node: Any, x: Tensor) -> None:
    if share > FLIPS:
        raise RunFailed(
            f"bench: the parity check failed, so no speed is printed: {type(node).__name__} at {list(x.shape)} differs "
            f"from float64 in {share:.2%} of its {what}, rounding explains at most {FLIPS:.2%}"
        )

"""Time a neuron against others: `sj-lang bench dsn --against lif,psn`, once parity is green.

For the training steps of a recipe's runs, see `sj-lang bench lm/quickstart --help`. All nodes of a
shape are timed in turn, round after round, in one process: compare ratios within one run, not
milliseconds. Parity is checked twice: by the conformance kit on small shapes, and at each timed
shape, spikes and gradients of x, against float64. `native:lif` and its like are baselines as they
come (`sj_lang.bench.baselines`). On a GPU, times are those of kernels, queued so that none waits
for the host, on inputs in turn that no cache holds. Further columns are bytes per second (of x,
spikes and their gradients, once each), their share of what a copy moves in the same run, and the
microseconds of the host and of a CUDA graph.
"""

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sj_lang import plugins
from sj_lang.bench import baselines, gpu
from sj_lang.bench.timing import Stopwatch, in_turn, milliseconds, peak
from sj_lang.build import part
from sj_lang.component import yaml_marks
from sj_lang.errors import RunFailed, UserError
from sj_lang.testing import NodeFailed, check_node

PASSES = 5  # over arrays of the size of x: x, spikes; x, gradient of spikes, gradient of x
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
PARITY_STEPS = 12  # for a neuron that is built for a fixed number of steps
FLIPS = 1e-3  # share of spikes that rounding may flip, and of gradients of x that follow them
#: a gradient differs if it is off by this share of itself or, if larger, of the root mean square
FAR = 1e-2


@dataclass(frozen=True)
class Timing:
    """Medians for one node at one shape.

    spread_ms: interquartile range of the total. peak_mb: memory above what was resident before.
    flips: share of spikes that differ from the same node's in float64; None for a baseline.

    On a GPU the times are those of kernels (`sj_lang.bench.gpu`). bytes_per_s: the rate of `PASSES`
    over x; of_copy: its share of a copy's rate. host_us: the time until forward and backward are
    handed over. host_bound: the host was slower, so the times are the host's. graph_us: the time of
    both as a CUDA graph.
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
    host_bound: bool | None = None
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


class Pass:
    """Forward, and forward with backward, of a node on inputs in turn.

    Gradients are returned, not accumulated, which would be time of the optimizer's.
    """

    def __init__(self, node: Any, inputs: Sequence[Tensor], output_gradients: Sequence[Tensor]) -> None:
        self.node = node
        self.foreign = isinstance(node, baselines.Baseline)
        lay_out = _batch_major if self.foreign and node.batch_major else torch.detach
        self.inputs = [lay_out(x).requires_grad_() for x in inputs]
        self.output_gradients = [lay_out(gradient) for gradient in output_gradients]
        self.parameters = [p for p in node.parameters() if p.requires_grad]

    def forward(self, number: int) -> Tensor:
        spikes: Tensor = self.node.functional(self.inputs[number % len(self.inputs)])[0]
        return spikes

    def backward(self, spikes: Tensor, number: int) -> None:
        which = number % len(self.inputs)
        leaves = [self.inputs[which], *self.parameters]
        torch.autograd.grad(spikes, leaves, self.output_gradients[which], allow_unused=True)

    def both(self, number: int) -> None:
        self.backward(self.forward(number), number)

    def on_cpu(self) -> list[float]:
        """Milliseconds of one forward and of one backward pass, from rest."""
        watch = Stopwatch("cpu")
        watch.mark()
        spikes = self.forward(0)
        watch.mark()
        self.backward(spikes, 0)
        watch.mark()
        return watch.laps()


def _batch_major(x: Tensor) -> Tensor:
    return x.detach().transpose(0, 1).contiguous().transpose(0, 1)


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

    def random() -> Tensor:
        return torch.randn(steps, batch, channels, generator=generator).to(device=device, dtype=dtype)

    size = 4 * math.prod(shape) * dtype.itemsize  # of x, spikes and their gradients
    count = 1 if copy_rate is None else gpu.inputs_in_turn(size)
    inputs, output_gradients = [random() for _ in range(count)], [random() for _ in range(count)]
    passes, flips = [], []
    for _, make in makers:
        node = make(steps, channels).to(device)
        foreign = isinstance(node, baselines.Baseline)
        flips.append(None if foreign else _flips(node, inputs[0], output_gradients[0]))
        passes.append(Pass(node.to(dtype) if foreign else node, inputs, output_gradients))
    out = torch.empty_like(inputs[0])

    def elementwise(number: int) -> None:  # the least
        torch.mul(inputs[number % count], 2.0, out=out)

    timed = _on_cpu(passes, elementwise, rounds) if copy_rate is None else _on_gpu(passes, elementwise, rounds)
    laps, floor_ms, others = timed
    timings = []
    for (name, _), each, share, times, more in zip(makers, passes, flips, laps, others, strict=True):
        forward, totals = zip(*times, strict=True)
        low, _, high = statistics.quantiles(totals, n=4) if len(totals) > 1 else (totals[0],) * 3
        forward_ms, total_ms = statistics.median(forward), statistics.median(totals)
        rate = None if copy_rate is None else PASSES * inputs[0].nbytes / (total_ms / 1e3)
        timing = Timing(
            name,
            "x".join(map(str, shape)),
            forward_ms,
            statistics.median([both - ahead for ahead, both in times]),
            total_ms,
            high - low,
            peak(partial(each.both, 0), device),
            share,
            rate,
            None if rate is None or copy_rate is None else rate / copy_rate,
            **more,
        )
        timings.append(timing)
    return timings, floor_ms


Laps = list[list[tuple[float, float]]]  # of each node in each round: forward, forward and backward


def _on_cpu(passes: Sequence[Pass], elementwise: gpu.Call, rounds: int) -> tuple[Laps, float, Sequence[dict[str, Any]]]:
    timed: dict[int, Callable[[], list[float]]] = {number: each.on_cpu for number, each in enumerate(passes)}
    floor = len(passes)
    timed[floor] = lambda: [milliseconds(lambda: elementwise(0), "cpu")]
    laps = in_turn(timed, rounds)
    both = [[(forward, forward + backward) for forward, backward in laps[number]] for number in range(floor)]
    return both, statistics.median(lap for (lap,) in laps[floor]), [{} for _ in passes]


def _on_gpu(passes: Sequence[Pass], elementwise: gpu.Call, rounds: int) -> tuple[Laps, float, Sequence[dict[str, Any]]]:
    queues = [(gpu.queue(each.forward), gpu.queue(each.both)) for each in passes]
    floor = gpu.queue(elementwise)
    timed = {number: partial(_queued, *pair) for number, pair in enumerate(queues)}
    slow = [number for number, (_, both) in enumerate(queues) if both.slow]
    laps = in_turn(timed, rounds, slow)
    others = [
        {
            "host_us": both.host_us,
            "host_bound": not all(ahead for *_, ahead in laps[number]),
            # a foreign kernel may not be safe in a graph
            "graph_us": None if each.foreign else gpu.graph_us(each.both, len(each.inputs)),
        }
        for number, (each, (_, both)) in enumerate(zip(passes, queues, strict=True))
    ]
    floor_ms = statistics.median(floor.timed()[0] for _ in range(rounds))
    return [[(f, b) for f, b, _ in laps[number]] for number in timed], floor_ms, others


def _queued(forward: gpu.Queue, both: gpu.Queue) -> tuple[float, float, bool]:
    (forward_ms, ahead), (both_ms, ahead_of_both) = forward.timed(), both.timed()
    return forward_ms, both_ms, ahead and ahead_of_both


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

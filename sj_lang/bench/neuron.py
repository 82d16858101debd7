"""Time a neuron against others: `sj-lang bench dsn --against lif,psn`. No speed is printed while parity is red.

For the training steps of a recipe's runs, `sj-lang bench lm/quickstart`, see `sj-lang bench lm/quickstart --help`.
All nodes of a shape are timed in turn, round after round, in one process: what is compared are ratios within one run.
Parity is checked twice: by the conformance kit on small shapes, and at each timed shape, spikes and gradients of x,
against float64. `native:lif` and its like are baselines as they come (`sj_lang.bench.baselines`). On a GPU the times
are those of its own clock, and beside them stand bytes per second (of x, spikes and their gradients, once each), their
share of what a copy moves in the same run, and the microseconds of the host and of a CUDA graph.
"""

from __future__ import annotations

import copy
import ctypes
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sj_lang import plugins
from sj_lang.bench import baselines
from sj_lang.bench.timing import Stopwatch, copy_rate, graph_us, host_us
from sj_lang.build import part
from sj_lang.commands.arguments import Parser, positive
from sj_lang.component import yaml_marks
from sj_lang.errors import RunFailed, UserError
from sj_lang.testing import NodeFailed, check_node

SHAPES = "1024x1x768,2048x8x256,512x8x768,128x32x768,16384x1x256"
CUDA_SHAPES = "128x32x768,128x32x3072,1024x8x768,2048x8x1024,32x64x1024,16384x1x1024,16384x16x128"
PASSES = 5  # over arrays of x's size that no neuron can do without: x, spikes; x, gradient of spikes, gradient of x
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
PARITY_STEPS = 12  # of a neuron that is built for so many
FLIPS = 1e-3  # share of spikes that rounding may move across a threshold, and of gradients of x that follow them
FAR = 1e-2  # of a gradient, or of the root mean square of all where that is larger: differs from float64's


@dataclass(frozen=True)
class Timing:
    """Medians for one node at one shape.

    Milliseconds; spread_ms is the interquartile range of the total. peak_mb: memory above what was resident before.
    flips: share of spikes that differ from the same node's in float64; None for a baseline.

    On a GPU: bytes_per_s of `PASSES` over x, of_copy, their share of a copy's; host_us, until forward and backward are
    handed over; graph_us, both as a CUDA graph.
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


def main(argv: Sequence[str] | None = None) -> int:
    """The command line `sj-lang bench`. Returns the exit code; RunFailed if a parity check is red."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(prog="sj-lang bench", description=__doc__)
    parser.add_argument("neuron", help="registered name, with options as dsn:n=1:decay=static")
    parser.add_argument("--against", help="comma-separated neurons (default: lif; on a GPU the baselines native:...)")
    parser.add_argument("--shapes", help="TxBxC or TxN (B = 1), comma-separated")
    parser.add_argument("--repeat", type=positive, default=7, help="rounds per shape, medians are printed (default: 7)")
    parser.add_argument("--threads", type=positive, help="torch threads (default: torch's own)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args(words)
    if arguments.device != "cpu" and not torch.cuda.is_available():
        raise UserError("bench: --device cuda, but torch sees no GPU")
    if arguments.json:
        _check_place(arguments.json)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    on_cpu = arguments.device == "cpu"
    against = arguments.against
    if against is None:
        against = "lif" if on_cpu else ",".join(baselines.here())
    names = [arguments.neuron, *(name for name in against.split(",") if name)]
    shapes = [_shape(text) for text in (arguments.shapes or (SHAPES if on_cpu else CUDA_SHAPES)).split(",")]
    dtype = getattr(torch, arguments.dtype)

    makers = [_maker(name) for name in names]
    spec = _options(arguments.neuron)
    length = PARITY_STEPS if _has_one_length(spec) else None
    try:
        make = part("neuron", spec if length is None else {**spec, "T": length})
        passed = check_node(make, only=PARITY, length=length, device=arguments.device).passed
    except NodeFailed as failure:
        raise RunFailed(f"bench: no speed is printed while parity is red: {failure}") from failure
    print(f"parity of {arguments.neuron}: {len(passed)} checks passed")
    print(machine(arguments.device))
    copies = None if on_cpu else copy_rate(arguments.device)
    if copies:
        print(f"a copy from device to device moves {copies / 1e9:.0f} GB/s")
    results: list[Timing] = []
    for shape in shapes:
        timings, floor = _time_shape(names, makers, shape, arguments.device, dtype, arguments.repeat, copies)
        results += timings
        _print_shape(timings, floor, shape)
    if arguments.json:
        record = {
            "machine": machine(arguments.device),
            "dtype": arguments.dtype,
            "copy_bytes_per_s": copies,
            "timings": [asdict(r) for r in results],
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def _check_place(file: Path) -> None:
    """Raise UserError unless the figures can be written there: they are not measured for nothing."""
    folder = file.parent
    if not folder.is_dir():
        raise UserError(f"bench: --json {file}: there is no folder {folder}")
    if file.is_dir():
        raise UserError(f"bench: --json {file}: that is a folder, give a file")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise UserError(f"bench: --json {file}: it cannot be written there")


def _shape(text: str) -> tuple[int, int, int]:
    numbers = text.lower().split("x")
    if len(numbers) not in (2, 3) or not all(number.isdigit() and int(number) > 0 for number in numbers):
        raise UserError(f"bench: a shape is TxBxC or TxN, such as 1024x8x96, got '{text}'")
    values = [int(number) for number in numbers]
    return (values[0], 1, values[1]) if len(values) == 2 else (values[0], values[1], values[2])


def _options(text: str) -> dict[str, Any]:
    """`dsn:n=1:k=2` -> {"type": "dsn", "n": 1, "k": 2}."""
    name, *options = text.split(":")
    for option in options:
        if "=" not in option:
            raise UserError(f"bench: an option is name=value, got '{option}' in '{text}'")
    pairs = (option.split("=", 1) for option in options)
    return {"type": name, **{key: yaml_marks.scalar(value) for key, value in pairs}}


def _maker(name: str) -> Callable[[int, int], Any]:
    """`make(steps, channels)` of a neuron with its options, or of a baseline."""
    if name.startswith(baselines.PREFIX):
        return baselines.baseline(name)
    spec = _options(name)
    fixed = _has_one_length(spec)
    part("neuron", {**spec, "T": 1} if fixed else spec)  # a mistake is found before anything is timed
    return lambda steps, channels: part("neuron", {**spec, "T": steps} if fixed else spec)(channels=channels)


def _has_one_length(spec: Mapping[str, Any]) -> bool:
    """Whether the neuron is built for so many steps, its argument T."""
    return not plugins.get("neuron", spec["type"]).traits["any_length"]


def _time_shape(
    names: Sequence[str],
    makers: Sequence[Callable[[int, int], Any]],
    shape: tuple[int, int, int],
    device: str,
    dtype: torch.dtype,
    repeat: int,
    copies: float | None,
) -> tuple[list[Timing], float]:
    steps, batch, channels = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps, batch, channels, generator=generator).to(device=device, dtype=dtype)
    gradient = torch.randn(steps, batch, channels, generator=generator).to(device=device, dtype=dtype)
    text = "x".join(map(str, shape))
    nodes, flips = [], []
    for make in makers:
        node = make(steps, channels).to(device)
        foreign = isinstance(node, baselines.Baseline)
        flips.append(None if foreign else _flips(node, x, gradient))
        nodes.append(node.to(dtype) if foreign else node)
    forward: list[list[float]] = [[] for _ in nodes]
    backward: list[list[float]] = [[] for _ in nodes]
    floors = []
    out = torch.empty_like(x)
    for round_number in range(repeat + 1):
        floors.append(_one_pass(x, out, device))
        for index, node in enumerate(nodes):
            first, second = _forward_backward(node, x, gradient, device)
            if round_number:  # the first round warms up
                forward[index].append(first)
                backward[index].append(second)
    timings = []
    for index, node in enumerate(nodes):
        totals = [a + b for a, b in zip(forward[index], backward[index], strict=True)]
        low, _, high = statistics.quantiles(totals, n=4) if len(totals) > 1 else (totals[0],) * 3
        work = partial(_forward_backward, node, x, gradient, device)
        timings.append(
            Timing(
                names[index],
                text,
                statistics.median(forward[index]),
                statistics.median(backward[index]),
                statistics.median(totals),
                high - low,
                peak(work, device),
                flips[index],
                **({} if copies is None else _on_gpu(node, x, gradient, statistics.median(totals), copies)),
            )
        )
    return timings, statistics.median(floors[1:])


def _on_gpu(node: Any, x: Tensor, gradient: Tensor, total_ms: float, copies: float) -> dict[str, float | None]:
    rate = PASSES * x.nbytes / (total_ms / 1e3)
    leaf = x.detach().requires_grad_()
    parameters = [p for p in node.parameters() if p.requires_grad]

    def work() -> None:
        torch.autograd.grad(node.functional(leaf)[0], [leaf, *parameters], gradient, allow_unused=True)

    ours = not isinstance(node, baselines.Baseline)  # a foreign kernel may not be safe in a graph
    return {
        "bytes_per_s": rate,
        "of_copy": rate / copies,
        "host_us": host_us(work),
        "graph_us": graph_us(work) if ours else None,
    }


def _forward_backward(node: Any, x: Tensor, gradient: Tensor, device: str) -> tuple[float, float]:
    """Milliseconds of one forward and one backward pass from rest."""
    leaf = x.clone().requires_grad_()
    watch = Stopwatch(device)
    watch.mark()
    spikes = node.functional(leaf)[0]
    watch.mark()
    spikes.backward(gradient)
    watch.mark()
    forward, backward = watch.laps()
    return forward, backward


def _flips(node: Any, x: Tensor, gradient: Tensor) -> float:
    """The share of spikes that differ from float64's. RunFailed if rounding cannot be the reason, in gradients too."""
    spikes, found = _spikes_and_gradient(node, x, gradient)
    wanted, exact = _spikes_and_gradient(copy.deepcopy(node).double(), x.double(), gradient.double())
    share = float((spikes.double() != wanted).double().mean())
    _explained(share, "spikes", node, x)
    scale = exact.abs().clamp(min=float(exact.square().mean().sqrt()))
    near = (found.double() - exact).abs() <= FAR * scale  # not so where NaN
    _explained(float((~near).double().mean()), "gradients of x", node, x)
    return share


def _spikes_and_gradient(node: Any, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    spikes = node.functional(leaf)[0]
    return spikes.detach(), torch.autograd.grad(spikes, leaf, gradient)[0]


def _explained(share: float, what: str, node: Any, x: Tensor) -> None:
    if share > FLIPS:
        raise RunFailed(
            f"bench: no speed is printed while parity is red: {type(node).__name__} at {list(x.shape)} differs from "
            f"float64 in {share:.2%} of its {what}, rounding explains at most {FLIPS:.2%}"
        )


def _one_pass(x: Tensor, out: Tensor, device: str) -> float:
    """Milliseconds of one elementwise pass: what reads and writes each element once can be no faster."""
    watch = Stopwatch(device)
    watch.mark()
    torch.mul(x, 2.0, out=out)
    watch.mark()
    return watch.laps()[0]


def in_turn(timed: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each function returns in each round; the first only warms up. They take turns, as machines are noisy."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(rounds + 1):
        for name, once in timed.items():
            took = once()
            if turn:
                times[name].append(took)
    return times


def peak(work: Callable[[], object], device: str) -> float | None:
    """Megabytes that the work needs above what is resident before it; None where the system cannot say."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.exists() and reset.exists()):
        return None
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # memory that earlier rounds have freed and the allocator kept would hide the peak
    reset.write_text("5", encoding="utf-8")
    before_kb = _field(status, "VmRSS")
    work()
    return (_field(status, "VmHWM") - before_kb) / 2**10


def _field(status: Path, name: str) -> int:
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(name))
    return int(line.split()[1])


def machine(device: str) -> str:
    """What the figures were measured on and with."""
    where = torch.cuda.get_device_name() if device != "cpu" else f"cpu, {torch.get_num_threads()} threads"
    return (
        f"{where}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"spikingjelly {version('spikingjelly')}, sj-lang {version('sj-lang')}"
    )


def _print_shape(timings: Sequence[Timing], floor: float, shape: tuple[int, int, int]) -> None:
    steps, batch, channels = shape
    print(f"\nT={steps} B={batch} C={channels} (N={batch * channels}); one elementwise pass: {floor:.3g} ms")
    on_gpu = timings[0].of_copy is not None
    more = f"{'GB/s':>8}{'of copy':>9}{'host us':>9}{'graph us':>10}" if on_gpu else ""
    titles = (
        f"{'forward ms':>12}{'backward ms':>13}{'total ms':>11}{'+-':>10}{'peak MB':>10}{'slower by':>11}{'flips':>10}"
    )
    print(f"{'neuron':24}{titles}{more}")
    own = timings[0].total_ms
    for timing in timings:
        times = f"{timing.forward_ms:12.3f}{timing.backward_ms:13.3f}{timing.total_ms:11.3f}{timing.spread_ms:10.3f}"
        line = f"{timing.neuron:24}{times}{_or_dash(timing.peak_mb, '.1f'):>10}{timing.total_ms / own:10.2f}x"
        line += f"{_or_dash(timing.flips, '.1e'):>10}"
        if timing.bytes_per_s is not None and timing.of_copy is not None:
            line += f"{timing.bytes_per_s / 1e9:8.0f}{timing.of_copy:9.0%}"
            line += f"{_or_dash(timing.host_us, '.0f'):>9}{_or_dash(timing.graph_us, '.1f'):>10}"
        print(line)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    sys.exit(main())

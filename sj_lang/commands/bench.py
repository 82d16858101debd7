"""`sj-lang bench`, of a neuron or of a recipe's training steps: command lines and tables."""

import json
import os
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sj_lang.bench import baselines, neuron
from sj_lang.bench import recipe as recipe_bench
from sj_lang.bench.gpu import copy_rate
from sj_lang.bench.timing import machine
from sj_lang.commands.arguments import Parser, positive
from sj_lang.errors import UserError
from sj_lang.recipe.loading import load
from sj_lang.run.console import quiet_libraries, table

SHAPES = "1024x1x768,2048x8x256,512x8x768,128x32x768,16384x1x256"
STDOUT = Path("-")
CUDA_SHAPES = "128x32x768,128x32x3072,1024x8x768,2048x8x1024,32x64x1024,16384x1x1024,16384x16x128"


def main(words: Sequence[str]) -> int:
    """Run `sj-lang bench` and return the exit code; RunFailed if a parity check is red."""
    of_recipe = any("/" in word.partition("=")[0] or word.endswith((".yaml", ".yml")) for word in words[:1])
    return _bench_recipe(words) if of_recipe else _bench_neuron(words)


def _bench_neuron(words: Sequence[str]) -> int:
    parser = Parser(prog="sj-lang bench", description=neuron.__doc__)
    parser.add_argument("neuron", help="registered name, with options as dsn:n=1:decay=static")
    parser.add_argument("--against", help="comma-separated neurons (default: lif; on a GPU the baselines native:...)")
    parser.add_argument("--shapes", help="TxBxC or TxN (B = 1), comma-separated")
    parser.add_argument("--repeat", type=positive, default=7, help="rounds per shape, medians are printed (default: 7)")
    parser.add_argument("--threads", type=positive, help="torch threads (default: torch's own)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    _add_json(parser)
    options = parser.parse_args(words)
    device, on_cpu = options.device, options.device == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        raise UserError("bench: --device cuda, but torch sees no GPU")
    outlet = _Outlet(options.json)
    say = outlet.say
    if options.threads:
        torch.set_num_threads(options.threads)
    against = options.against
    if against is None:
        against = "lif" if on_cpu else ",".join(baselines.here())
    names = [options.neuron, *(name for name in against.split(",") if name)]
    shapes = [_shape(text) for text in (options.shapes or (SHAPES if on_cpu else CUDA_SHAPES)).split(",")]
    makers = [(name, neuron.maker(name)) for name in names]
    passed = neuron.check_parity(options.neuron, device)
    say(f"parity of {options.neuron}: {passed} checks passed")
    say(machine(device))
    rate = None if on_cpu else copy_rate(device)
    if rate:
        say(f"a copy from device to device moves {rate / 1e9:.0f} GB/s")
    record: dict[str, Any] = {"machine": machine(device), "dtype": options.dtype, "copy_bytes_per_s": rate}
    results: list[neuron.Timing] = []
    for shape in shapes:
        timings, floor_ms = neuron.time_shape(
            makers, shape, device=device, dtype=getattr(torch, options.dtype), rounds=options.repeat, copy_rate=rate
        )
        results += timings
        print_timings(timings, floor_ms, shape, say)
        record["timings"] = [asdict(timing) for timing in results]
        outlet.store(record)  # after each shape: a run that is cut off leaves what it has
    outlet.close(record)
    return 0


def _add_json(parser: Parser) -> None:
    text = "print JSON and nothing else; with FILE, write it there beside what is printed"
    parser.add_argument("--json", nargs="?", type=Path, const=STDOUT, metavar="FILE", help=text)


class _Outlet:
    """Tables on standard output; with `--json FILE` also JSON in a file, with `--json` that alone.

    UserError, before anything is measured, if the file cannot be written.
    """

    def __init__(self, place: Path | None) -> None:
        self.prints_json = place == STDOUT
        self.file = None if self.prints_json else place
        if self.file:
            _refuse_unless_writable(self.file)

    def say(self, *texts: str, flush: bool = False) -> None:
        if not self.prints_json:
            print(*texts, flush=flush)

    def store(self, record: Mapping[str, Any]) -> None:
        if self.file:
            self.file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def close(self, record: Mapping[str, Any]) -> None:
        if self.prints_json:
            print(json.dumps(record, indent=1))


def _refuse_unless_writable(file: Path) -> None:
    """Raise UserError, before anything is measured, unless the figures can be written there."""
    folder = file.parent
    if not folder.is_dir():
        raise UserError(f"bench: --json {file}: there is no folder {folder}")
    if file.is_dir():
        raise UserError(f"bench: --json {file}: that is a folder, give a file")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise UserError(f"bench: --json {file}: no permission to write there")


def _shape(text: str) -> tuple[int, int, int]:
    numbers = text.lower().split("x")
    if len(numbers) not in (2, 3) or not all(number.isdigit() and int(number) > 0 for number in numbers):
        raise UserError(f"bench: a shape is TxBxC or TxN, such as 1024x8x96, got '{text}'")
    values = [int(number) for number in numbers]
    return (values[0], 1, values[1]) if len(values) == 2 else (values[0], values[1], values[2])


def print_timings(
    timings: Sequence[neuron.Timing], floor_ms: float, shape: tuple[int, int, int], say: Callable[..., None] = print
) -> None:
    """The table of one shape. floor_ms: of one elementwise pass."""
    steps, batch, channels = shape
    say(f"\nT={steps} B={batch} C={channels} (N={batch * channels}); one elementwise pass: {floor_ms:.3g} ms")
    on_gpu = timings[0].of_copy is not None
    titles = ["neuron", "forward ms", "backward ms", "total ms", "+-", "peak MB", "slower by", "flips"]
    rows = [titles + (["GB/s", "of copy", "host us", "graph us"] if on_gpu else [])]
    for timing in timings:
        times = (timing.forward_ms, timing.backward_ms, timing.total_ms, timing.spread_ms)
        row = [timing.neuron, *(f"{ms:.3f}" for ms in times), _or_dash(timing.peak_mb, ".1f")]
        row += [f"{timing.total_ms / timings[0].total_ms:.2f}x", _or_dash(timing.flips, ".1e")]
        if timing.bytes_per_s is not None and timing.of_copy is not None:
            row += [f"{timing.bytes_per_s / 1e9:.0f}", f"{timing.of_copy:.0%}"]
            row += [_or_dash(timing.host_us, ".0f"), _or_dash(timing.graph_us, ".1f")]
        rows.append(row)
    say(textwrap.dedent(table(rows)), flush=True)
    if slower := ", ".join(timing.neuron for timing in timings if timing.host_bound):
        say(f"these take longer to hand over than to run, so their times are the host's: {slower}")


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _bench_recipe(words: Sequence[str]) -> int:
    parser = Parser(prog="sj-lang bench", description=recipe_bench.__doc__)
    parser.add_argument("recipe", help="a path, or a name from `sj-lang ls`")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes, such as model.neuron=lif")
    parser.add_argument("--repeat", type=positive, default=7, help="rounds; medians are printed (default: 7)")
    parser.add_argument("--threads", type=positive, help="torch threads (default: torch's own)")
    _add_json(parser)
    options = parser.parse_intermixed_args(words)
    outlet = _Outlet(options.json)
    say = outlet.say
    quiet_libraries()
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = load(options.recipe, options.changes)
    times, device = recipe_bench.time_steps(recipe, options.repeat)
    record: dict[str, Any] = {
        "machine": machine("cpu" if device == "cpu" else "cuda"),
        "recipe": recipe.name,
        "step_ms": times,
    }
    say(record["machine"])
    say(f"a training step of {recipe.name}, median of {options.repeat}:")
    fastest = min(statistics.median(rounds) for rounds in times.values())
    rows = [["", "ms", "least", "most", "times the fastest"]]
    for run, rounds in times.items():
        median = statistics.median(rounds)
        rows.append([run, *(f"{ms:.1f}" for ms in (median, min(rounds), max(rounds))), f"{median / fastest:.2f}"])
    say(table(rows))
    outlet.store(record)
    outlet.close(record)
    return 0

"""What one quarter of an hour on a GPU answers: is it right, and how fast is it.

    python tests/cuda/check/run.py OUT              stages in turn, each a process with a limit
    python tests/cuda/check/run.py OUT --only speed

OUT/results.json holds all figures so far, after every line. OUT/STAGE.log is what a stage printed.
With `--dry` kernels are emulated on the CPU, with tiny sizes: it shows that the script works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

#: seconds that a stage may take, by value: is it right, how fast, the tests, the tools
STAGES = {"compile": 90, "correct": 90, "speed": 120, "loader": 60, "tests": 200, "sanitizer": 100, "bench": 180}
SHAPES = [(2048, 8, 1024), (2048, 32, 1024), (16384, 1, 1024), (16384, 8, 1024), (128, 32, 768), (32, 64, 1024)]
#: where both schedules are timed, to see from how many columns on a sequence should be whole
SPLIT_SHAPES = [(16384, 1, 256), (16384, 1, 1024), (16384, 4, 1024), (2048, 1, 1024), (2048, 8, 1024)]
SCHEDULES = ("whole", "split")
MOST_SPLIT = 16_368  # columns, as groups of 8 have a counter each
ODD_SHAPES = [(1, 1, 5), (33, 2, 7), (300, 2, 40), (96, 128, 64), (2048, 8, 256), (4000, 1, 1024)]
NEURONS: dict[str, dict[str, Any]] = {
    "dsn": {},
    "dsn:tau=0.3": {"tau": 0.3},
    "bpsn": {},
    "bpsn:direction=forward": {"direction": "forward"},
}
DRY = ("dsn", "bpsn")
Line = dict[str, Any]


def make(name: str, channels: int, device: str) -> Any:
    import sj_lang_neurons

    neuron = getattr(sj_lang_neurons, name.partition(":")[0].upper())
    return neuron(channels=channels, backend="cupy", **NEURONS[name]).to(device)


def compile_kernels(dry: bool) -> Iterator[Line]:
    import variants

    start = time.perf_counter()
    count = len(variants.variants()) if dry else variants.compile_all()
    yield {"variants": count, "seconds": time.perf_counter() - start}


def correct(dry: bool) -> Iterator[Line]:
    """Against the same equations in float64, twice: the same bits."""
    import torch

    device = "cpu" if dry else "cuda"
    for name in DRY if dry else NEURONS:
        for dtype in (torch.bfloat16,) if dry else (torch.bfloat16, torch.float32, torch.float16):
            for shape in ODD_SHAPES[1:2] if dry else ODD_SHAPES:
                torch.manual_seed(0)
                x, gradient = ((torch.randn(shape, device=device) * 2).to(dtype) for _ in range(2))
                node, runs = make(name, shape[-1], device), []
                for exact in (False, False, True):
                    if exact:
                        node = node.double()
                        node.backend = "torch"
                    leaf = x.to(torch.float64 if exact else dtype).requires_grad_()
                    spikes = node.functional(leaf)[0]
                    leaves = [leaf, *node.parameters()]
                    runs.append([spikes.detach(), *torch.autograd.grad(spikes, leaves, gradient.to(spikes.dtype))])
                first, second, (true_spikes, *true) = runs
                errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(first[1:], true, strict=True)]
                flips = float((first[0].double() != true_spikes).double().mean())
                same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
                good = same and flips <= 1e-3 and max(errors) <= (2e-3 if dtype == torch.float32 else 1e-2)
                yield {
                    "neuron": name,
                    "dtype": str(dtype),
                    "shape": shape,
                    "ok": good,
                    "flips": flips,
                    "errors": errors,
                }


def speed(dry: bool) -> Iterator[Line]:
    """Kernel time of ours, as `sj-lang bench` measures it, beside what a copy would take."""
    import torch

    from sj_lang.bench import gpu
    from sj_lang.bench.neuron import PASSES, Pass

    rate = 1e10 if dry else gpu.copy_rate("cuda")
    yield {"copy_bytes_per_s": rate}
    device = "cpu" if dry else "cuda"

    def line(name: str, shape: tuple[int, ...], dtype: torch.dtype, more: Line) -> Line:
        x = torch.randn(shape, device=device).to(dtype)
        inputs = [x.clone() for _ in range(1 if dry else gpu.inputs_in_turn(4 * x.nbytes))]
        timed = Pass(make(name, shape[-1], device), inputs, inputs)
        line: Line = {"neuron": name, "shape": shape, **more}
        if dry:
            return {**line, "ms": sum(timed.on_cpu())}
        queues = gpu.queue(timed.forward), gpu.queue(timed.both)
        (forward, _), (both, ahead) = (queue.timed() for queue in queues)
        share = PASSES * x.nbytes / (both / 1e3) / rate
        times = {"forward_ms": forward, "ms": both, "of_copy": share}
        return {**line, **times, "host_us": queues[1].host_us, "ahead": ahead}

    for shape in [(2_048, 1, 16)] if dry else SPLIT_SHAPES:
        for dtype in (torch.bfloat16, torch.float32):
            for schedule in SCHEDULES:
                with _schedule(schedule):
                    yield line("dsn", shape, dtype, {"dtype": str(dtype), "schedule": schedule})
    for name in DRY[:1] if dry else NEURONS:
        for shape in [(40, 2, 6)] if dry else SHAPES:
            yield line(name, shape, torch.bfloat16, {})


@contextmanager
def _schedule(kind: str) -> Iterator[None]:
    """Inside, DSN runs sequences of any size whole, or split if they can be."""
    from sj_lang_neurons.dsn import cupy_fast
    from sj_lang_neurons.scan import cuda_layout

    from sj_lang import cuda

    least, below, begin = cupy_fast.LEAST_COLUMNS, cuda_layout.SPLIT_BELOW, cupy_fast.SPLIT_FROM
    if kind == "whole":
        cuda_layout.SPLIT_BELOW, cupy_fast.SPLIT_FROM = 0, 2**31
    else:
        cuda_layout.SPLIT_BELOW, cupy_fast.LEAST_COLUMNS = MOST_SPLIT, MOST_SPLIT
    cuda.PLANS.clear()
    try:
        yield
    finally:
        cupy_fast.LEAST_COLUMNS, cuda_layout.SPLIT_BELOW, cupy_fast.SPLIT_FROM = least, below, begin
        cuda.PLANS.clear()


def loader(dry: bool) -> Iterator[Line]:
    """What torch's NVRTC compiles gives the bits of what CuPy compiles."""
    import torch

    from sj_lang import cuda
    from sj_lang.cuda import nvidia

    device, chosen = "cpu" if dry else "cuda", nvidia._without_cupy
    for name in DRY:
        torch.manual_seed(0)
        node, runs = make(name, 40, device), []
        x = torch.randn(300, 2, 40, device=device).bfloat16().requires_grad_()
        for without in (False, True):
            nvidia._without_cupy = lambda without=without: without
            cuda._function.cache_clear()
            cuda.PLANS.clear()
            spikes = node.functional(x)[0]
            runs.append([spikes, *torch.autograd.grad(spikes.float().sum(), [x, *node.parameters()])])
        nvidia._without_cupy = chosen
        yield {"neuron": name, "ok": all(torch.equal(a, b) for a, b in zip(*runs, strict=True))}


def tests(dry: bool) -> Iterator[Line]:
    files = ["tests/cuda/test_gpu.py", "tests/neurons/test_conformance.py"]
    more = ["--collect-only"] if dry else ["-rfE", "--tb=short"]
    yield _command([sys.executable, "-m", "pytest", "-m", "gpu", "-q", *more, *files, "-k", "not sanitizer"])


def sanitize(dry: bool) -> Iterator[Line]:
    import sanitizer

    script = Path(os.environ["OUT"]) / "sanitized.py"
    script.write_text(sanitizer.SCRIPT)
    for tool in sanitizer.TOOLS:
        command = sanitizer.command(tool, script)
        yield {"command": command, "code": 0} if dry else _command(command)


def bench(dry: bool) -> Iterator[Line]:
    """The documented command."""
    on = ["--shapes", "8x1x4", "--repeat", "1", "--against", ""] if dry else ["--device", "cuda", "--dtype", "bfloat16"]
    file = Path(os.environ["OUT"]) / "bench_dsn.json"
    yield _command([sys.executable, "-m", "sj_lang", "bench", "dsn", *on, "--json", str(file)])


WORK: dict[str, Callable[[bool], Iterator[Line]]] = {
    "compile": compile_kernels,
    "correct": correct,
    "speed": speed,
    "loader": loader,
    "tests": tests,
    "sanitizer": sanitize,
    "bench": bench,
}


def _command(words: list[str]) -> Line:
    return {"command": words, "code": subprocess.run(words, check=False).returncode}


@contextmanager
def _kernels(dry: bool) -> Iterator[None]:
    from sj_lang.testing.emulate import emulated

    with emulated() if dry else nullcontext():
        yield


def stage(name: str, file: Path, dry: bool) -> None:
    """Write its lines to a file, after each of them."""
    lines = []
    with _kernels(dry):
        for line in WORK[name](dry):
            lines.append(line)
            print(json.dumps(line), flush=True)
            file.write_text(json.dumps(lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default=",".join(STAGES), help="stages, comma-separated")
    parser.add_argument("--dry", action="store_true", help="on the CPU, emulated, tiny")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.stage:
        stage(options.stage, options.out / f"{options.stage}.json", options.dry)
        return 0
    results: dict[str, Any] = {}
    for name in options.only.split(","):
        words = [sys.executable, __file__, str(options.out), "--stage", name, *(["--dry"] if options.dry else [])]
        environment = {**os.environ, "OUT": str(options.out)}
        file = options.out / f"{name}.json"
        file.unlink(missing_ok=True)
        with (options.out / f"{name}.log").open("w") as log:
            try:
                done = subprocess.run(words, stdout=log, stderr=log, env=environment, timeout=STAGES[name], check=False)
                code: int | str = done.returncode
            except subprocess.TimeoutExpired:
                code = f"more than {STAGES[name]} s"
        results[name] = {"code": code, "lines": json.loads(file.read_text()) if file.exists() else []}
        (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {code}", flush=True)
    return 0 if all(result["code"] == 0 for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

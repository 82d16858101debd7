"""What is timed of a GPU, with a simulated clock and stream: kernels, not the host's gaps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sj_lang.bench import gpu, neuron
from sj_lang.commands import bench
from sj_lang.errors import RunFailed

pytest.importorskip("sj_lang_neurons")


class Machine:
    """A host that takes 100 us to hand a kernel over, and a GPU that takes `kernel` to run it."""

    def __init__(self, kernel: float) -> None:
        self.kernel = kernel
        self.host = self.stream = 0.0  # seconds; the GPU is busy until `stream`
        self.calls: list[int] = []

    def run(self, seconds: float) -> None:
        self.stream = max(self.stream, self.host) + seconds

    def work(self, number: int) -> None:
        self.calls.append(number)
        self.host += 100e-6
        self.run(self.kernel)

    def clock(self) -> float:
        self.host += 1e-7
        return self.host

    def synchronize(self) -> None:
        self.host = max(self.host, self.stream)

    def event(self, enable_timing: bool) -> Any:
        machine = self

        class Event:
            at = 0.0

            def record(self) -> None:
                machine.run(0)
                self.at = machine.stream

            def query(self) -> bool:
                return machine.host >= self.at

            def elapsed_time(self, other: Any) -> float:
                return (other.at - self.at) * 1e3

        return Event()


def machine(monkeypatch: pytest.MonkeyPatch, kernel: float) -> Machine:
    one = Machine(kernel)
    monkeypatch.setattr(torch.cuda, "Event", one.event)
    monkeypatch.setattr(torch.cuda, "synchronize", one.synchronize)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: one.run(cycles / gpu.CLOCK))
    monkeypatch.setattr(time, "perf_counter", one.clock)
    return one


def test_a_kernel_shorter_than_its_launch_is_timed_without_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine(monkeypatch, 5e-6)
    queue = gpu.queue(one.work)
    assert queue.host_us == pytest.approx(100, rel=1e-2)
    assert not queue.slow
    one.calls.clear()
    ms, ahead = queue.timed()
    assert ms == pytest.approx(5e-3)
    assert ahead
    assert one.calls == list(range(queue.calls)), "inputs in turn"


def test_a_host_that_falls_behind_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine(monkeypatch, 5e-6)
    ms, ahead = gpu.Queue(one.work, 10, 1e-4, 100, slow=False).timed()
    assert not ahead
    assert ms > 5e-3


def test_what_takes_long_is_called_little(monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine(monkeypatch, 2.0)
    queue = gpu.queue(one.work)
    assert queue.slow
    assert len(one.calls) == 2
    queue.timed()
    assert len(one.calls) == 3


def test_inputs_in_turn_are_more_than_a_cache() -> None:
    assert gpu.inputs_in_turn(25_000_000) * 25_000_000 >= gpu.CACHE
    assert gpu.inputs_in_turn(1 << 34) == 2
    assert gpu.inputs_in_turn(1) == gpu.MOST_INPUTS


def test_slow_ones_take_part_once() -> None:
    times = neuron.in_turn({"fast": lambda: 1, "slow": lambda: 2}, 5, slow=["slow"])
    assert times == {"fast": [1] * 5, "slow": [2]}


def test_no_gradient_is_accumulated_in_the_timed_part() -> None:
    from sj_lang_neurons import DSN

    node = DSN(channels=3)
    inputs = [torch.randn(5, 2, 3) for _ in range(3)]
    timed = neuron.Pass(node, inputs, inputs)
    for number in range(4):
        timed.both(number)
    assert all(p.grad is None for p in [*node.parameters(), *timed.inputs])
    assert timed.inputs[1].data_ptr() == inputs[1].data_ptr()


def test_the_figures_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a shape: kernels, the host, and no graph of a foreign kernel."""
    one = machine(monkeypatch, 0.0)
    monkeypatch.setattr(gpu, "graph_us", lambda work, calls: 7.0)
    monkeypatch.setattr(neuron, "peak", lambda work, device: None)
    monkeypatch.setattr(neuron.Pass, "forward", lambda self, number: one.run(1e-3))
    monkeypatch.setattr(neuron.Pass, "backward", lambda self, spikes, number: one.run(2e-3))
    monkeypatch.setattr(neuron, "_flips", lambda *_: 0.0)
    makers = [(name, neuron.maker(name)) for name in ("dsn", "native:psn")]
    timings, _ = neuron.time_shape(
        makers, (4, 2, 3), device="cpu", dtype=torch.bfloat16, rounds=3, copy_rate=5 * 4 * 2 * 3 * 2 / 3e-3
    )
    for timing, graph in zip(timings, (7.0, None), strict=True):
        assert [timing.forward_ms, timing.backward_ms, timing.total_ms] == pytest.approx([1, 2, 3])
        assert timing.of_copy == pytest.approx(1)
        assert timing.host_bound is False
        assert timing.graph_us == graph


def test_figures_are_written_after_each_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, timed = tmp_path / "figures.json", neuron.time_shape

    def second_fails(makers: Any, shape: tuple[int, int, int], **options: Any) -> Any:
        if shape[0] == 7:
            raise RunFailed("cut off")
        return timed(makers, shape, **options)

    monkeypatch.setattr(neuron, "time_shape", second_fails)
    monkeypatch.setattr(neuron, "check_parity", lambda text, device: 1)
    with pytest.raises(RunFailed, match="cut off"):
        bench.main(["dsn", "--against", "", "--shapes", "5x2x3,7x4", "--repeat", "1", "--json", str(file)])
    assert [line["shape"] for line in json.loads(file.read_text())["timings"]] == ["5x2x3"]

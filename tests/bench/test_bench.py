"""`sj-lang bench`: what it prints, what it refuses."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sj_lang.bench import baselines, neuron, timing
from sj_lang.bench.neuron import Pass, Timing
from sj_lang.commands import bench
from sj_lang.compat import multi_step
from sj_lang.errors import RunFailed, UserError

pytest.importorskip("sj_lang_neurons")


@pytest.fixture
def green(monkeypatch: pytest.MonkeyPatch) -> None:
    """DSN's parity is taken for granted; tests beside those that need this prove it."""
    check_parity = neuron.check_parity
    monkeypatch.setattr(neuron, "check_parity", lambda text, device: 1 if text == "dsn" else check_parity(text, device))


def test_prints_and_writes_each_node_at_each_shape(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = ["dsn", "--against", "dsn:n=1:decay=static", "--shapes", "5x2x3,7x4", "--repeat", "2"]
    assert bench.main([*arguments, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "parity of dsn: " in printed
    assert f"torch {torch.__version__}" in printed
    assert "threads" in printed
    assert "T=5 B=2 C=3 (N=6)" in printed
    assert "T=7 B=1 C=4 (N=4)" in printed
    record = json.loads(file.read_text())
    assert [(r["neuron"], r["shape"]) for r in record["timings"]] == [
        (name, shape) for shape in ("5x2x3", "7x1x4") for name in ("dsn", "dsn:n=1:decay=static")
    ]
    assert all(r["forward_ms"] > 0 and r["backward_ms"] > 0 for r in record["timings"])


@pytest.mark.usefixtures("green")
def test_json_alone_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["dsn", "--against", "", "--shapes", "5x2x3", "--repeat", "1", "--json"]) == 0
    (timing,) = json.loads(capsys.readouterr().out)["timings"]
    assert timing["neuron"] == "dsn"


@pytest.mark.usefixtures("green")
def test_baselines_are_timed_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in baselines.here() if name != "native:hgrn"]
    assert bench.main(["dsn", "--against", ",".join(names), "--shapes", "6x2x3", "--repeat", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{name} " in printed for name in names)


@pytest.mark.usefixtures("green")
@pytest.mark.skipif(multi_step("lif") is None, reason="SpikingJelly 2.x has it")
def test_a_neuron_of_fixed_length_is_built_for_each_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["dsn", "--against", "psn", "--shapes", "6x2x3,9x2x3", "--repeat", "1"]) == 0
    assert capsys.readouterr().out.count("\npsn ") == 2
    assert bench.main(["psn:T=4", "--against", "lif", "--shapes", "6x2x3,9x2x3", "--repeat", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [len(line.split()) for line in lines if line.startswith(("psn", "lif"))] == [8] * 4


@pytest.mark.skipif(timing.peak(list, "cpu") is None, reason="this system does not tell the peak")
def test_the_peak_is_seen_though_the_memory_was_used_before() -> None:
    def work() -> torch.Tensor:
        return torch.ones(8 << 20) + 1  # two arrays of 32 MB

    work()
    assert 60 < (timing.peak(work, "cpu") or 0) < 80


@pytest.mark.skipif(multi_step("lif") is None, reason="SpikingJelly 2.x has them")
@pytest.mark.parametrize("name", ["lif", "psn", "sliding_psn"])
def test_a_baseline_runs_in_any_precision(name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        node = baselines.baseline(f"native:{name}")(6, 3).to(dtype)
        x = torch.randn(6, 2, 3).mul(3).to(dtype).requires_grad_()
        spikes, _ = node.functional(x)
        spikes.sum().backward()
        assert spikes.dtype == dtype
        assert set(spikes.unique().tolist()) <= {0.0, 1.0}
        assert x.grad is not None


@pytest.mark.skipif(multi_step("lif") is None, reason="SpikingJelly 2.x has it")
def test_the_sliding_psn_as_one_convolution_is_spikingjellys() -> None:
    node = baselines.baseline("native:sliding_psn")(9, 3).double()
    theirs = node.parts[0]
    x, weight = torch.randn(9, 2, 3, dtype=torch.float64, requires_grad=True), torch.randn(9, 2, 3)
    results = []
    for spikes in (node.functional(x)[0], theirs(x)):
        results.append([spikes, *torch.autograd.grad((spikes * weight).sum(), [x, *theirs.parameters()])])
    assert torch.equal(results[0][0], results[1][0])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_hgrn_is_dsns_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the definition in place of flash-linear-attention's operators, the baseline is DSN."""
    from sj_lang_neurons import DSN
    from sj_lang_neurons.scan import reference

    def chunk_hgrn(x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        return reference.sequence(g.exp().transpose(0, 1), x.transpose(0, 1), x[:, 0] * 0).transpose(0, 1), None

    class ShortConvolution(torch.nn.Conv1d):
        def __init__(self, size: int, taps: int, bias: bool, activation: str | None) -> None:
            assert activation is None
            super().__init__(size, size, taps, groups=size, bias=bias, padding=taps - 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            return super().forward(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2), None

    hgrn: Any = ModuleType("fla.ops.hgrn")
    hgrn.chunk_hgrn = chunk_hgrn
    convolution: Any = ModuleType("fla.modules.causal_conv1d")
    convolution.ShortConvolution = ShortConvolution
    for module in (ModuleType("fla"), ModuleType("fla.ops"), ModuleType("fla.modules"), hgrn, convolution):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(baselines, "has_hgrn", lambda: True)
    node = baselines.baseline("native:hgrn")(9, 3).double()
    ours = DSN(channels=3, n=1, surrogate_function="ATan").double()
    taps = node.parts[0]
    ours.load_state_dict({"weight": taps.weight[:, 0].detach(), "bias": taps.bias.detach()})
    x = torch.randn(9, 2, 3, dtype=torch.float64) * 3
    assert torch.equal(node.functional(x)[0], ours.functional(x)[0])
    assert Pass(node, [x], [x]).inputs[0].transpose(0, 1).is_contiguous()


def test_a_gpus_columns(capsys: pytest.CaptureFixture[str]) -> None:
    measured = Timing("dsn", "5x2x3", 0.1, 0.2, 0.3, 0.01, 5.0, None, 2e12, 0.8, 61.0, True, 9.5)
    bench.print_timings([measured], 0.05, (5, 2, 3))
    title, line, remark = capsys.readouterr().out.splitlines()[-3:]
    assert remark == "these take longer to hand over than to run, so their times are the host's: dsn"
    assert title.split()[-8:] == ["flips", "GB/s", "of", "copy", "host", "us", "graph", "us"]
    assert line.split()[-5:] == ["-", "2000", "80%", "61", "9.5"]


def test_no_speed_while_the_kit_is_red(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from sj_lang_neurons import DSN

    sound = DSN.functional

    def forgets_its_state(self: Any, x: torch.Tensor, state: Any = None, mask: Any = None) -> Any:
        return sound(self, x, None, mask)

    monkeypatch.setattr(DSN, "functional", forgets_its_state)
    with pytest.raises(RunFailed, match="pieces_equal_whole"):
        bench.main(["dsn", "--against", "", "--shapes", "5x2x3", "--repeat", "1"])
    assert " ms" not in capsys.readouterr().out


@pytest.mark.usefixtures("green")
def test_no_speed_while_the_timed_shape_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from sj_lang_neurons import DSN

    sound = DSN.functional

    def wrong_when_long(self: Any, x: torch.Tensor, state: Any = None, mask: Any = None) -> Any:
        spikes, after = sound(self, x, state, mask)
        return (spikes + 1 if x.shape[0] > 500 and x.dtype == torch.float32 else spikes), after

    monkeypatch.setattr(DSN, "functional", wrong_when_long)
    with pytest.raises(RunFailed, match=r"differs from float64 in 100\.00% of its spikes"):
        bench.main(["dsn", "--against", "", "--shapes", "501x1x2", "--repeat", "1"])


@pytest.mark.usefixtures("green")
@pytest.mark.parametrize("wrong", [0.0, 2.0, float("nan")])
def test_no_speed_while_the_gradient_at_the_timed_shape_is_wrong(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    from sj_lang_neurons import DSN

    sound = DSN.functional

    class Late(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return torch.cat((grad[:400], grad[400:] * wrong))

    def wrong_when_long(self: Any, x: torch.Tensor, state: Any = None, mask: Any = None) -> Any:
        late = x.shape[0] > 500 and x.dtype == torch.float32
        return sound(self, Late.apply(x) if late else x, state, mask)

    monkeypatch.setattr(DSN, "functional", wrong_when_long)
    with pytest.raises(RunFailed, match=r"\[501, 1, 2\] differs from float64 in \d\d\.\d\d% of its gradients of x"):
        bench.main(["dsn", "--against", "", "--shapes", "501x1x2", "--repeat", "1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dns"], "no neuron 'dns'"),
        (["dsn:m=1"], r"neuron\.m: unknown key"),
        (["dsn", "--against", "native:liff"], "no baseline 'native:liff'; did you mean 'lif'"),
        (["dsn:n"], "an option is name=value, got 'n'"),
        (["dsn", "--shapes", "5by2"], "a shape is TxBxC or TxN"),
        (["dsn", "--shapes", "0x2"], "a shape is TxBxC or TxN"),
        (["dsn", "--repeat", "0"], "--repeat: expected a whole number of 1 or more, found '0'"),
        (["dsn", "--repeat", "few"], "--repeat: expected a whole number of 1 or more, found 'few'"),
        (["dsn", "--threads", "0"], "--threads: expected a whole number of 1 or more, found '0'"),
        (["dsn", "--threads", "-2"], "--threads: expected a whole number of 1 or more, found '-2'"),
        (["dsn", "--device", "tpu"], "--device: invalid choice: 'tpu'"),
        (["dsn", "--json", "nowhere/figures.json"], "there is no folder nowhere$"),
        (["dsn", "--json", "."], r"--json \.: that is a folder"),
        (["lm/quickstart", "--repeat", "0"], "--repeat: expected a whole number of 1 or more, found '0'"),
        (["lm/quickstart", "--threads", "-1"], "--threads: expected a whole number of 1 or more, found '-1'"),
    ],
)
def test_bad_input(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        bench.main(arguments)
    assert capsys.readouterr().out == "", "it was found only after something had been timed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(UserError, match="torch sees no GPU"):
        bench.main(["dsn", "--device", "cuda"])

"""`sj-lang bench`: what it prints, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sj_lang import bench
from sj_lang.errors import RunFailed, UserError

pytest.importorskip("sj_lang_neurons")


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


def test_no_speed_while_the_kit_is_red(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from sj_lang_neurons import DSN

    sound = DSN.functional

    def forgets_its_state(self: Any, x: torch.Tensor, state: Any = None, mask: Any = None) -> Any:
        return sound(self, x, None, mask)

    monkeypatch.setattr(DSN, "functional", forgets_its_state)
    with pytest.raises(RunFailed, match="pieces_equal_whole"):
        bench.main(["dsn", "--against", "", "--shapes", "5x2x3", "--repeat", "1"])
    assert " ms" not in capsys.readouterr().out


def test_no_speed_while_the_timed_shape_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from sj_lang_neurons import DSN

    sound = DSN.functional

    def wrong_when_long(self: Any, x: torch.Tensor, state: Any = None, mask: Any = None) -> Any:
        spikes, after = sound(self, x, state, mask)
        return (spikes + 1 if x.shape[0] > 500 and x.dtype == torch.float32 else spikes), after

    monkeypatch.setattr(DSN, "functional", wrong_when_long)
    with pytest.raises(RunFailed, match=r"differs from float64 in 100\.00% of its spikes"):
        bench.main(["dsn", "--against", "", "--shapes", "501x1x2", "--repeat", "1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dns"], "no neuron 'dns'"),
        (["dsn:m=1"], r"neuron\.m: unknown key"),
        (["dsn:n"], "an option is name=value, got 'n'"),
        (["dsn", "--shapes", "5by2"], "a shape is TxBxC or TxN"),
        (["dsn", "--shapes", "0x2"], "a shape is TxBxC or TxN"),
    ],
)
def test_bad_input(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bench.main(arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(UserError, match="torch sees no GPU"):
        bench.main(["dsn", "--device", "cuda"])

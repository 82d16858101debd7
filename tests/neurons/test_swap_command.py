"""`sj-lang swap`: the report for a network that can be imported."""

from pathlib import Path

import pytest

from sj_lang import cli

pytest.importorskip("sj_lang_neurons")

NETWORK = """
from spikingjelly.activation_based import neuron
from torch import nn

class Own(nn.Module):
    def forward(self, x):
        return (x.cumsum(0) > 1).float()

def net():
    return nn.Sequential(nn.Linear(5, 6), neuron.LIFNode(step_mode="m"), Own())

def broken():
    raise RuntimeError("no weights")
"""
Out = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_network_to_swap.py").write_text(NETWORK, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def test_the_report_is_printed(capsys: Out) -> None:
    words = ["swap", "a_network_to_swap:net", "--to", "dsn", "--example", "4,2,5"]
    assert cli.main([*words, "n=3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("swapped 1 of 1 neurons\n  1: LIFNode -> DSN, 6 channels (fires ")
    assert "Sigmoid not kept: it fires integers" in out
    assert cli.main([*words, "--of", "a_network_to_swap:Own", "--step-mode", "m"]) == 0
    assert "2: Own -> DSN, 6 channels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--to", "dsn", "--example", "4"], "'nowhere'; expected MODULE:NAME"),
        (["nowhere:net", "--to", "dsn", "--example", "4"], "'nowhere:net' cannot be imported"),
        (["a_network_to_swap:broken", "--to", "dsn", "--example", "4"], "broken() fails: RuntimeError: no weights"),
        (["a_network_to_swap:NETWORK", "--to", "dsn", "--example", "4"], "cannot be imported"),
        (["a_network_to_swap:Own", "--to", "dsn", "--example", "4,x"], "--example '4,x'; expected sizes"),
        (["a_network_to_swap:net", "--to", "dns", "--example", "4,2,5"], "dsn"),
    ],
)
def test_what_is_wrong_is_said(words: list[str], message: str, capsys: Out) -> None:
    assert cli.main(["swap", *words]) == 2
    assert message in capsys.readouterr().err

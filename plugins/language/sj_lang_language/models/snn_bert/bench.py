"""What the coding costs: a training step of SNN-BERT, individual coding against repeat coding.

    python -m sj_lang_language.models.snn_bert.bench --hidden 768 --layers 2 --length 128 --batch 8

Same shape, same batch, classification head, no optimizer. Models take turns, round after round, in
one process; the ratios of one run are what counts. Memory is the peak above what was resident
before the step, in a process of its own for each model. The paper has 3.5 times the speed and 3.8
times less memory.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch

from sj_lang.bench.timing import in_turn, machine, milliseconds, peak
from sj_lang.hf import shield

shield()

from sj_lang_language.models.snn_bert import SNNBertConfig, SNNBertForSequenceClassification  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "bpsn individual": {},
    "lif repeat T=4": {"coding": "repeat", "timesteps": 4},
    "dsn individual": {"neuron": "dsn"},
    "ANN twin": {"twin": True},
}
VOCABULARY = 8000
_M_MMAP_THRESHOLD = -3


class CodingStep:
    """Forward and backward of one model on one batch of full texts."""

    def __init__(self, kind: str, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        config = SNNBertConfig(
            vocab_size=VOCABULARY,
            hidden_size=options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads or max(1, options.hidden // 64),
            max_position_embeddings=options.length,
            **KINDS[kind],
        )
        self.device = options.device
        self.model = SNNBertForSequenceClassification(config).to(self.device).train()
        self.ids = torch.randint(0, VOCABULARY, (options.batch, options.length), device=self.device)
        self.labels = torch.randint(0, 2, (options.batch,), device=self.device)

    def __call__(self) -> None:
        self.model(self.ids, labels=self.labels).loss.backward()

    def timed(self) -> float:
        """Milliseconds."""
        self.model.zero_grad(set_to_none=True)
        return milliseconds(self, self.device)

    def megabytes(self) -> float | None:
        self()
        self.model.zero_grad(set_to_none=True)
        return peak(self, self.device)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sj_lang_language.models.snn_bert.bench", description=__doc__)
    parser.add_argument("--hidden", type=int, default=768, help="D (default: 768)")
    parser.add_argument("--layers", type=int, default=2, help="layers (default: 2)")
    parser.add_argument("--heads", type=int, default=0, help="heads (default: 64 channels each)")
    parser.add_argument("--length", type=int, default=128, help="L, tokens, no padding (default: 128)")
    parser.add_argument("--batch", type=int, default=8, help="B (default: 8)")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"comma-separated (default: {', '.join(KINDS)})")
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (default: torch's own)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--memory-of", choices=list(KINDS), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.memory_of:
        if options.device == "cpu":  # give back freed memory at once, or it hides the peak
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 65536)
        print(json.dumps(CodingStep(options.memory_of, options).megabytes()))
        return 0
    kinds = options.kinds.split(",")
    steps = {kind: CodingStep(kind, options) for kind in kinds}
    times = in_turn({kind: step.timed for kind, step in steps.items()}, options.repeat)
    del steps
    memory = {kind: _memory(kind, sys.argv[1:] if argv is None else list(argv)) for kind in kinds}
    print(machine(options.device))
    print(f"L={options.length} B={options.batch} D={options.hidden}, {options.layers} layers, classification head")
    print(f"{'':18}{'step ms':>10}{'least':>10}{'most':>10}{'peak MB':>10}{'time':>8}{'memory':>8}")
    base_time, base_memory = statistics.median(times[kinds[0]]), memory[kinds[0]]
    for kind in kinds:
        middle, used = statistics.median(times[kind]), memory[kind]
        shown = "-" if used is None else f"{used:.0f}"
        share = "-" if used is None or base_memory is None else f"{used / base_memory:.2f}x"
        least, most = min(times[kind]), max(times[kind])
        print(f"{kind:18}{middle:10.0f}{least:10.0f}{most:10.0f}{shown:>10}{middle / base_time:7.2f}x{share:>8}")
    return 0


def _memory(kind: str, arguments: list[str]) -> float | None:
    command = [sys.executable, "-m", "sj_lang_language.models.snn_bert.bench", *arguments, "--memory-of", kind]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    value: float | None = json.loads(printed.strip().splitlines()[-1])
    return value


if __name__ == "__main__":
    sys.exit(main())

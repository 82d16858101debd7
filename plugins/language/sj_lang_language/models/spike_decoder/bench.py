"""What the length costs SpikeDecoder: a token of generation, the state, a training step.

    python -m sj_lang_language.models.spike_decoder.bench --threads 1

Random weights and texts, no positions. A token is the mean of some steps with the cache after a
text of each length; the texts take turns, round after round, in one process. On the CPU times are
those of the processor, which other processes disturb little. Memory of generation is what the steps
need above what was resident before them; the state is counted, batch 1.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

from sj_lang.bench.timing import in_turn, machine, milliseconds, peak
from sj_lang.hf import shield

shield()

from sj_lang_language.models.spike_decoder import SpikeDecoderConfig, SpikeDecoderForCausalLM  # noqa: E402

VOCABULARY = 96
PIECE = 512  # tokens of a text that are read at a time
STEPS = 32  # tokens that are timed at a time


def spent(work: Callable[[], object], device: str) -> float:
    """Milliseconds of a call: of the processor, or of a GPU's own clock."""
    if device != "cpu":
        return milliseconds(work, device)
    before = time.process_time()
    work()
    return (time.process_time() - before) * 1e3


class Writer:
    """A model that has read a text of `context` tokens and writes on."""

    def __init__(self, model: SpikeDecoderForCausalLM, context: int) -> None:
        self.model, self.device = model, model.device
        self.cache = model.new_cache()
        self.last = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        ids = torch.randint(0, VOCABULARY, (1, context), device=self.device)
        for piece in torch.split(ids, PIECE, dim=1):
            self._read(piece)

    @torch.no_grad()
    def _read(self, ids: torch.Tensor) -> None:
        self.last = self.model(ids, cache=self.cache, logits_to_keep=1).logits.argmax(-1)

    def __call__(self) -> None:
        for _ in range(STEPS):
            self._read(self.last)

    def timed(self) -> float:
        """Milliseconds of a token."""
        return spent(self, self.device.type) / STEPS

    def state_bytes(self) -> int:
        """Bytes of the state that generation carries."""
        return sum(tensor.nbytes for layer in self.cache.layers for tensor in layer.state.values())


class LengthStep:
    """Forward and backward of one text of `length` tokens."""

    def __init__(self, model: SpikeDecoderForCausalLM, length: int) -> None:
        self.model, self.device = model, model.device
        self.ids = torch.randint(0, VOCABULARY, (1, length), device=self.device)

    def __call__(self) -> None:
        self.model(self.ids, labels=self.ids).loss.backward()

    def timed(self) -> float:
        """Milliseconds."""
        self.model.zero_grad(set_to_none=True)
        return spent(self, self.device.type)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sj_lang_language.models.spike_decoder.bench", description=__doc__)
    parser.add_argument("--hidden", type=int, default=256, help="D (default: 256)")
    parser.add_argument("--layers", type=int, default=2, help="blocks (default: 2)")
    parser.add_argument("--heads", type=int, default=4, help="heads (default: 4)")
    parser.add_argument("--decay", default="none", help="of the attention's state (default: none)")
    parser.add_argument("--contexts", default="256,1024,8192,65536", help="tokens read before (default: %(default)s)")
    parser.add_argument("--lengths", default="512,2048,8192", help="of training steps (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=9, help="rounds (default: 9)")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (default: torch's own)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = SpikeDecoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        neuron={"type": "dsn", "n": 1, "alpha_init": 0.2},
        embedding={"type": "learned_sum", "std": 0.3, "position": "none"},
        attention={"type": "ssa", "decay": options.decay},
        input_norm=True,
        attended_norm=True,
        delayed_keys=True,
    )
    model = SpikeDecoderForCausalLM(config).to(options.device)
    print(machine(options.device))
    print(f"B=1 D={options.hidden}, {options.layers} blocks, {options.heads} heads, decay {options.decay}")
    _generation(model.eval(), [int(context) for context in options.contexts.split(",")], options.repeat)
    _training(model.train(), [int(length) for length in options.lengths.split(",")], options.repeat)
    return 0


def _generation(model: SpikeDecoderForCausalLM, contexts: list[int], repeat: int) -> None:
    writers = {context: Writer(model, context) for context in contexts}
    times = in_turn({context: writer.timed for context, writer in writers.items()}, repeat)
    first = statistics.median(times[contexts[0]])
    print(f"\n{'context':>8}{'ms a token':>12}{'least':>8}{'most':>8}{'time':>8}{'state bytes':>13}{'peak MB':>9}")
    for context, writer in writers.items():
        one, used = times[context], peak(writer, model.device.type)
        shown = "-" if used is None else f"{used:.1f}"
        print(
            f"{context:8}{statistics.median(one):12.2f}{min(one):8.2f}{max(one):8.2f}"
            f"{statistics.median(one) / first:7.2f}x{writer.state_bytes():13,}{shown:>9}"
        )


def _training(model: SpikeDecoderForCausalLM, lengths: list[int], repeat: int) -> None:
    steps = {length: LengthStep(model, length) for length in lengths}
    times = in_turn({length: step.timed for length, step in steps.items()}, repeat)
    first = statistics.median(times[lengths[0]]) / lengths[0]
    print(f"\n{'length':>8}{'step ms':>12}{'least':>8}{'most':>8}{'a token':>9}")
    for length, one in times.items():
        middle = statistics.median(one)
        print(f"{length:8}{middle:12.0f}{min(one):8.0f}{max(one):8.0f}{middle / length / first:8.2f}x")


if __name__ == "__main__":
    sys.exit(main())

"""Foreign neurons to time against: `sj-lang bench dsn --against native:lif,native:psn`.

SpikingJelly's own functions and modules as they come, in the dtype of the input and without the
guarantees of `sj_lang.neuron.Node` (no mask, no state handed out), and the HGRN operator of
flash-linear-attention with what it takes to make a neuron of it.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sj_lang.compat import multi_step, spikingjelly
from sj_lang.errors import UserError, choices

PREFIX = "native:"


class Baseline(nn.Module):
    """`functional(x) -> (spikes, None)` for [T, B, C], as the benchmark calls a node."""

    def __init__(self, run: Callable[[Tensor], Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.run, self.parts = run, nn.ModuleList(parts)

    def functional(self, x: Tensor) -> tuple[Tensor, None]:
        return self.run(x), None


def _lif(steps: int, channels: int) -> Baseline:
    """Its fused kernel with a float32 potential, which its node avoids in half precision."""
    lif = multi_step("lif")
    if lif is None:
        raise UserError(f"bench: {PREFIX}lif needs SpikingJelly 2.x")
    surrogate = spikingjelly("surrogate").ATan()

    def run(x: Tensor) -> Any:
        v = torch.zeros(x.shape[1:], device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        return lif(x_seq=x, v=v, surrogate_function=surrogate)[0]

    return Baseline(run)


def _psn(steps: int, channels: int) -> Baseline:
    node = _class("PSN")(T=steps, surrogate_function=spikingjelly("surrogate").ATan())
    return Baseline(node, node)


def _sliding_psn(steps: int, channels: int) -> Baseline:
    node = _class("SlidingPSN")(k=4, surrogate_function=spikingjelly("surrogate").ATan(), step_mode="m")
    return Baseline(node, node)


def _class(name: str) -> Any:
    node_class = getattr(spikingjelly("neuron"), name, None)
    if node_class is None:
        raise UserError(f"bench: {PREFIX}{name} needs SpikingJelly 2.x")
    return node_class


def _hgrn(steps: int, channels: int) -> Baseline:
    """DSN's equations as its authors run them: depthwise convolution, decay, HGRN, firing."""
    if not has_hgrn():
        raise UserError(f"bench: {PREFIX}hgrn needs flash-linear-attention: pip install flash-linear-attention")
    chunk_hgrn = importlib.import_module("fla.ops.hgrn").chunk_hgrn
    taps = nn.Conv1d(channels, channels, 4, groups=channels)
    fire = spikingjelly("surrogate").ATan()

    def run(x: Tensor) -> Any:
        rows = x.permute(1, 2, 0)  # [B, C, T]
        g = 4 * F.logsigmoid(taps(F.pad(rows, (3, 0)))).transpose(1, 2)
        h, _ = chunk_hgrn(-torch.expm1(g) * x.transpose(0, 1), g)
        return fire(h.transpose(0, 1) - 1)

    return Baseline(run, taps)


def has_hgrn() -> bool:
    return importlib.util.find_spec("fla") is not None


Maker = Callable[[int, int], Baseline]  # from numbers of steps and channels
MAKERS: dict[str, Maker] = {"hgrn": _hgrn, "lif": _lif, "psn": _psn, "sliding_psn": _sliding_psn}


def baseline(name: str) -> Maker:
    """What makes the baseline of a name that begins with `PREFIX`. UserError for an unknown one."""
    short = name.removeprefix(PREFIX)
    if short not in MAKERS:
        raise UserError(f"bench: no baseline {name!r}; {choices(short, list(MAKERS))}")
    MAKERS[short](1, 1)  # says what is missing before anything is timed
    return MAKERS[short]


def here() -> list[str]:
    """The names of those that can be made here."""
    names = []
    for short in MAKERS:
        try:
            baseline(PREFIX + short)
        except UserError:
            continue
        names.append(PREFIX + short)
    return names

"""Foreign neurons to time against: `sj-lang bench dsn --against native:lif,native:psn`.

They run in the dtype of the input and without the guarantees of `sj_lang.neuron.Node` (no mask, no
state handed out). LIF and PSN are SpikingJelly's own, as they come. The sliding PSN has the
equations of SpikingJelly's as one convolution: its own module multiplies with a T x T matrix that
it fills row by row, with a backward pass of T^3. HGRN is the operator of flash-linear-attention
with its own convolution, and what it takes to make a neuron of it.
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
    """`functional(x) -> (spikes, None)` for [T, B, C], as the benchmark calls a node.

    batch_major: it is fastest with the memory of x as [B, T, C], and the benchmark gives it that.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], *parts: nn.Module, batch_major: bool = False) -> None:
        super().__init__()
        self.run, self.parts, self.batch_major = run, nn.ModuleList(parts), batch_major

    def functional(self, x: Tensor) -> tuple[Tensor, None]:
        return self.run(x), None


def _lif(steps: int, channels: int) -> Baseline:
    """The fused kernel with a float32 potential; the node itself avoids it in half precision."""
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

    def run(x: Tensor) -> Any:
        rows = F.pad(x.flatten(1).t().unsqueeze(1), (node.k - 1, 0))  # [B C, 1, T]
        h = F.conv1d(rows, node.weight.view(1, 1, -1)).squeeze(1).t().reshape(x.shape)
        return node.surrogate_function(h + node.bias)

    return Baseline(run, node)


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
    convolution = importlib.import_module("fla.modules.causal_conv1d").ShortConvolution
    taps = convolution(channels, 4, bias=True, activation=None)
    fire = spikingjelly("surrogate").ATan()

    def run(x: Tensor) -> Any:
        rows = x.transpose(0, 1)  # [B, T, C]
        g = 4 * F.logsigmoid(taps(rows)[0])
        h, _ = chunk_hgrn(-torch.expm1(g) * rows, g)
        return fire(h.transpose(0, 1) - 1)

    return Baseline(run, taps, batch_major=True)


def has_hgrn() -> bool:
    return importlib.util.find_spec("fla") is not None


Maker = Callable[[int, int], Baseline]  # from numbers of steps and channels
MAKERS: dict[str, Maker] = {"hgrn": _hgrn, "lif": _lif, "psn": _psn, "sliding_psn": _sliding_psn}


def baseline(name: str) -> Maker:
    """The maker of this baseline, whose name begins with `PREFIX`. UserError for an unknown one."""
    short = name.removeprefix(PREFIX)
    if short not in MAKERS:
        raise UserError(f"bench: no baseline {name!r}; {choices(short, list(MAKERS))}")
    MAKERS[short](1, 1)  # says what is missing before anything is timed
    return MAKERS[short]


def here() -> list[str]:
    """The names of the baselines that can run here."""
    names = []
    for short in MAKERS:
        try:
            baseline(PREFIX + short)
        except UserError:
            continue
        names.append(PREFIX + short)
    return names

"""DSN's CPU operators in torch's own, as `torch.py` computes, for programs that leave sj_lang."""

import torch
from torch import Tensor

from sj_lang_neurons.dsn.decay import gain
from sj_lang_neurons.dsn.inputs import DSNColumns
from sj_lang_neurons.firing import fire
from sj_lang_neurons.scan.decomposition import Tensors, recurrence


def forward(flat: DSNColumns, kind: int, alpha: float, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes or potentials [T, N], the last potential [N], and no borders. kind, ...: of `fire`."""
    x, tail, h_0, weight, bias, lengths, m = flat
    steps = x.shape[0]
    window = torch.cat((tail, x))
    z = -bias.expand_as(x)
    for i in range(weight.shape[0]):
        z = z - weight[i] * window.narrow(0, i, steps)
    if lengths is not None:
        z = z.masked_fill(torch.arange(steps, device=x.device)[:, None] >= lengths, -torch.inf)

    def step(h: Tensor, x: Tensor, w: Tensor) -> Tensors:
        h = torch.lerp(h, x, w)
        return h, h.clone()

    h_last, h = recurrence(step, (h_0,), (x, gain(z, m)))
    return fire(h, kind, alpha, threshold), h_last, x.new_empty(0)

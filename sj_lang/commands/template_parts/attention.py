"""The attention: how tokens meet."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


class Ember(nn.Module):
    """y_t = W (g_t * mean_{s <= t} v_s), v = N(V x) spikes and g = N(G x) a gate of spikes.

    Without `causal` the mean is over the whole text. N is a layer of neurons.

    dim: channels. neuron: builds a node. norm: builds a normalization, or None. twin: the ANN twin,
    with a sigmoid and no neurons. causal: as above. All are handed in.
    """

    handed_in = frozenset({"dim", "neuron", "norm", "twin", "causal"})

    def __init__(
        self,
        *,
        dim: int,
        neuron: Callable[..., Any],
        norm: Callable[..., nn.Module] | None = None,
        twin: bool = False,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.project = nn.Linear(dim, 2 * dim)
        self.fire = None if twin else neuron(channels=2 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm = norm(dim=dim) if norm else None

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """x: [L, B, D], time runs along the tokens, or [T, B, L, D]. States: batch first."""
        individual = x.dim() == 3
        fired, memory = self._fired(self.project(x), state, mask, individual)
        value, gate = fired.chunk(2, -1)
        tokens = 0 if individual else 2
        valid = torch.ones_like(value[..., :1]) if mask is None else mask[..., None].to(value.dtype)
        value = value * valid  # what stands at padding has no part in the mean
        if self.causal:
            total, count = value.cumsum(tokens), valid.cumsum(tokens)
            if individual:
                total = total + (state["total"] if state else 0)
                count = count + (state["count"] if state else 0)
                memory |= {"total": total[-1], "count": count[-1]}
        else:
            total, count, memory = value.sum(tokens, keepdim=True), valid.sum(tokens, keepdim=True), {}
        y = self.out(gate * total / count.clamp(min=1))
        return y if self.norm is None else self.norm(y, mask), memory

    def _fired(self, x: Tensor, state: State | None, mask: Tensor | None, individual: bool) -> tuple[Tensor, State]:
        if self.fire is None:
            return x.sigmoid(), {}
        if not individual:  # time is not the token axis: the neurons get no mask
            flat, _ = self.fire.functional(x.flatten(1, 2))
            return flat.view(x.shape), {}
        names = set(state or {}) - {"total", "count"}
        fired, memory = self.fire.functional(x, {name: state[name] for name in names} if state else None, mask)
        return fired, memory

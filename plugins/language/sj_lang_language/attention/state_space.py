"""Mixing of tokens by the state of neurons alone, in place of attention: a spiking state-space
model.
"""

from torch import Tensor, nn

from sj_lang.masks import State
from sj_lang_language.layers import MakeNeuron, MakeNorm, SpikingLayer, SpikingLinear, inner, joined


class StateSpaceMixing(nn.Module):
    """s = N(Norm(x));  y = Norm(U s * sigmoid(G s)), U and G linear.

    The neurons N run along the tokens, and their state is all that tokens know of those before
    them: no queries, no keys, a step of generation costs the same at any length. After the block of
    SpikingSSM (arXiv 2408.14909): norm, spiking state space, gated Linear. Ours: the neuron's own
    dynamics in the place of a separate state space, and the last norm, which carries the model's
    `branch_gain`.

    dim: D. heads: unused, as there are none. neuron: builds a node. norm, branch_norm: build the
    first and the last normalization. twin: refused, as nothing is left without neurons. causal:
    False is refused.
    """

    handed_in = frozenset({"dim", "heads", "neuron", "norm", "branch_norm", "bias", "twin", "causal"})

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        neuron: MakeNeuron,
        norm: MakeNorm | None = None,
        branch_norm: MakeNorm | None = None,
        bias: bool = False,
        twin: bool = False,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if twin:
            raise ValueError("attention state_space has no ANN twin: without neurons no token would know another one")
        if not causal:
            raise ValueError("attention state_space is for causal models; a text that is read as a whole has no past")
        self.norm = None if norm is None else norm(dim=dim)
        self.neurons = SpikingLayer(neuron=neuron, channels=dim)
        self.up_proj, self.gate_proj = (SpikingLinear(self.neurons, dim, bias=bias) for _ in range(2))
        last = branch_norm or norm
        self.out_norm = None if last is None else last(dim=dim)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """y of x's shape, `[L, B, D]` or `[T, B, L, D]`, and the state of the neurons."""
        x = x if self.norm is None else self.norm(x, mask)
        s, after = self.neurons(x, inner(state, "neurons"), mask)
        y = self.up_proj(s) * self.gate_proj(s).sigmoid()
        return y if self.out_norm is None else self.out_norm(y, mask), joined(neurons=after)

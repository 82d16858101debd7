"""BPSN as users build it: a SpikingJelly node."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sj_lang import cpu, cuda
from sj_lang.compat import surrogate
from sj_lang.errors import choices
from sj_lang.neuron import Kernel, Node, State, state_dtype
from sj_lang_neurons.bpsn.cupy import bpsn_cupy
from sj_lang_neurons.bpsn.inputs import BPSNInputs
from sj_lang_neurons.bpsn.numba import bpsn_numba
from sj_lang_neurons.bpsn.quantiser import TICKS, counted, in_ticks
from sj_lang_neurons.bpsn.torch import bpsn_torch
from sj_lang_neurons.firing import Firing

VARIANTS = ("R", "A", "G", "K")
DIRECTIONS = ("both", "forward", "backward")


class BPSN(Node):
    """Bidirectional parallel spiking neuron: a token fires by its own current and leaky means of both sides.

        F[t] = sum_{j<t} lf^(t-j-1) x_j / sum_{j<t} lf^(t-j-1)      B[t] likewise over j > t, with lb
        M[t] = (numerators of F and B) / (denominators of F and B)
        H[t] = g0 x + gf F + gb B - rho (g0 + gf + gb) M            S[t] = step(H[t] - V)

    Masked tokens are not there. At an edge the missing side is absent with its gain. A reconstruction of the neuron of
    "SNN-BERT", Su et al., Neural Networks 180:106630 (2024), from the properties that its abstract states: the
    equations are not public, these are ours.

    channels: size of axis 2 of `[T, B, C, ...]`. Every parameter is per channel: decays lf, lb in (0, 1), at the start
        spread over .1 to .8 and shuffled; gains g0 = 1, gf and gb ~ N(0, .5); rho = sigmoid(r), r = 2; V.
    variant: "R", as above. "G", without the term in M. "A", without M and with the numerators in place of F and B.
        "K", the H of G through a quantiser, which bounds every run of spikes: r = clip(H / V, 0, kappa),
        C = cumsum(r), S = floor(C + 1/2) - floor(C_prev + 1/2).
    direction: "forward" drops B and gb, with M = F: causal, with single steps and a state. "backward" drops F and gf,
        with M = B. "both" and "backward" need the whole sequence in one call and carry nothing to the next.
    surrogate_function: a surrogate of SpikingJelly or its name; None: ATan.
    v_threshold: V at the start, in units of the input, > 0; learned, through a softplus.
    kappa: largest current of K, in thresholds, in (0, 1): at most ceil(1 / (1 - kappa)) - 1 spikes in a row.

    State with "forward", float32 (float64 for float64 input): "numerator" [B, C, ...] and, but in A, "denominator"
    [B, C] of the next F; in K also "count" [B, C, ...], C modulo 1. `v_seq` is H.
    """

    kernels: ClassVar[dict[str, Kernel]] = {
        "cupy": Kernel(
            run=bpsn_cupy,
            why_not=cuda.why_not,
            limits=lambda node, x: _no_places(x),
            refuses=lambda node: "" if node.variant == "K" else node.firing.why_not_fused(),
            half=True,
            zeros=True,
        ),
        "numba": Kernel(run=bpsn_numba, why_not=cpu.why_not),
        "torch": Kernel(run=bpsn_torch),
    }

    def __init__(
        self,
        *,
        channels: int,
        variant: Literal["R", "A", "G", "K"] = "R",
        direction: Literal["both", "forward", "backward"] = "both",
        surrogate_function: str | nn.Module | None = None,
        v_threshold: float = 1.0,
        kappa: float = 7 / 8,
        step_mode: str = "m",
        backend: str = "auto",
        store_v_seq: bool = False,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"BPSN: no variant {variant!r}; {choices(str(variant), VARIANTS)}")
        if direction not in DIRECTIONS:
            raise ValueError(f"BPSN: no direction {direction!r}; {choices(str(direction), DIRECTIONS)}")
        if not (v_threshold > 0 and math.isfinite(v_threshold)):
            raise ValueError(f"BPSN: v_threshold is {v_threshold}, it must be above 0 and finite")
        if not 1 / TICKS <= kappa < 1:
            raise ValueError(f"BPSN: kappa is {kappa}, it must lie between 0 and 1, exclusive")
        self.variant, self.direction, self.kappa = variant, direction, float(kappa)
        super().__init__(channels=channels, step_mode=step_mode, backend=backend, store_v_seq=store_v_seq)
        self.surrogate_function: nn.Module = surrogate(surrogate_function or "ATan")
        self.v_threshold = float(v_threshold)

        def parameter(present: bool) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(channels)) if present else None

        past, future = direction != "backward", direction != "forward"
        self.decay_f, self.gain_f = parameter(past), parameter(past)
        self.decay_b, self.gain_b = parameter(future), parameter(future)
        self.gain_0 = nn.Parameter(torch.empty(channels))
        self.lateral = parameter(variant == "R")
        self.threshold = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Decays evenly over .1 to .8, shuffled; g0 = 1, gf and gb ~ N(0, .5), r = 2, V = `v_threshold`."""
        with torch.no_grad():
            for decay, gain in ((self.decay_f, self.gain_f), (self.decay_b, self.gain_b)):
                if decay is not None and gain is not None:
                    spread = 0.1 + 0.7 * (torch.randperm(self.channels) + 0.5) / self.channels
                    decay.copy_(spread.logit())
                    gain.normal_(0, 0.5)
            self.gain_0.fill_(1)
            if self.lateral is not None:
                self.lateral.fill_(2)
            self.threshold.fill_(self.v_threshold + math.log(-math.expm1(-self.v_threshold)))

    def supported_step_mode(self) -> tuple[str, ...]:
        return ("s", "m") if self.direction == "forward" else ("m",)

    def state_shapes(self, shape: torch.Size) -> dict[str, tuple[int, ...]]:
        if self.direction != "forward":
            return {}
        shapes: dict[str, tuple[int, ...]] = {"numerator": tuple(shape)}
        if self.variant != "A":
            shapes["denominator"] = tuple(shape[:2])
        if self.variant == "K":
            shapes["count"] = tuple(shape)
        return shapes

    def operations(self) -> tuple[float, float]:
        sides = 2 if self.direction == "both" else 1  # numerator and its weight each; the lateral term is in the weight
        return 1 + 2 * sides, 1 if self.variant == "K" else 0

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        if self.direction != "forward":
            raise TypeError(f"BPSN has no single step: {self.one_mode}")
        spikes, after, h = self._run(x[None], state, None)
        return spikes[0], after, h[0]

    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        return self._run(x, state, lengths)

    def extra_repr(self) -> str:
        kappa = f", kappa={self.kappa}" if self.variant == "K" else ""
        return f"{super().extra_repr()}, variant={self.variant}, direction={self.direction}{kappa}"

    @property
    def firing(self) -> Firing:
        """How H - threshold becomes spikes."""
        return Firing(self.surrogate_function)

    @property
    def one_mode(self) -> str:
        """Why there are no single steps."""
        needs = "needs the whole sequence, as it reads the tokens that follow"
        return f'direction="{self.direction}" {needs}; "forward" steps'

    def _run(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor]:
        kernel = self.choose(x)
        x, state = self.fitted(kernel, x, state)
        threshold = self.threshold.to(state_dtype(x))
        if self.variant != "K" and not self.store_v_seq:
            spikes, after = self._apply_kernel(kernel, x, state, lengths, threshold, self.firing)
            return spikes, after, spikes
        over = F.softplus(threshold).view(-1, *(1,) * (x.dim() - 3))
        if self.variant == "K":
            h, after = self._apply_kernel(kernel, x, state, lengths, None, Firing(None))
            start = state["count"] if "count" in state else torch.zeros_like(h[0])
            u, count = counted(in_ticks(h, over, self.kappa), start, lengths)
            if self.direction == "forward":
                after["count"] = count
        else:
            u, after = self._apply_kernel(kernel, x, state, lengths, threshold, Firing(None))
            h = u + over
        return self.firing(u), after, h

    def _apply_kernel(
        self, kernel: Kernel, x: Tensor, state: State, lengths: Tensor | None, threshold: Tensor | None, firing: Firing
    ) -> tuple[Tensor, State]:
        """The kernel's spikes, or H - threshold, [T, B, C, ...], and the state without the count."""
        dtype = state_dtype(x)

        def wide(parameter: Tensor | None) -> Tensor | None:
            return None if parameter is None else parameter.to(dtype)

        inputs = BPSNInputs(
            x,
            self.gain_0.to(dtype),
            threshold,
            wide(self.decay_f),
            wide(self.gain_f),
            wide(self.decay_b),
            wide(self.gain_b),
            wide(self.lateral),
            state.get("numerator"),
            state.get("denominator"),
            lengths,
            normalised=self.variant != "A",
            carries=self.direction == "forward",
        )
        out, numerator, denominator = kernel.run(inputs, firing)
        states = {"numerator": numerator, "denominator": denominator}
        return out, {name: value for name, value in states.items() if value is not None}


def _no_places(x: Tensor | None) -> str:
    """Why the CUDA kernel cannot take such an x; "" if it can."""
    return "" if x is None or 0 not in x.shape[3:] else f"needs places behind the channels, got {tuple(x.shape)}"

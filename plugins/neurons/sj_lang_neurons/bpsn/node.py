"""BPSN as users build it: a SpikingJelly node."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sj_lang import cpu, cuda
from sj_lang.compat import OldNode, surrogate
from sj_lang.errors import choices
from sj_lang.neuron import Kernel, Node, State, state_dtype
from sj_lang_neurons.bpsn.cupy import bpsn_cupy
from sj_lang_neurons.bpsn.grid import check_steps, firing_of, spike_range
from sj_lang_neurons.bpsn.inputs import BPSNInputs
from sj_lang_neurons.bpsn.numba import bpsn_numba
from sj_lang_neurons.bpsn.quantiser import TICKS, counted, in_ticks
from sj_lang_neurons.bpsn.torch import bpsn_torch
from sj_lang_neurons.firing import Firing, why_unfused

VARIANTS = ("R", "A", "G", "K")
DIRECTIONS = ("both", "forward", "backward")


class BPSN(Node):
    """Bidirectional parallel spiking neuron: fires by its own current and means of both sides.

        F[t] = sum_{j<t} lf^(t-j-1) x_j / sum_{j<t} lf^(t-j-1)     B[t] likewise, j > t, with lb
        M[t] = (numerators of F and B) / (denominators of F and B)
        H[t] = g0 x + gf F + gb B - rho (g0 + gf + gb) M           S[t] = step(H[t] - V)

    Masked tokens are removed. At an edge the missing side is absent with its gain. Our
    reconstruction of the neuron of "SNN-BERT", Su et al., Neural Networks 180:106630 (2024), from
    its abstract: the equations are not public.

    channels: size of `axis`, 2 for `[T, B, C, ...]`, -1 for `[T, B, ..., C]`. Every parameter is
        per channel: decays lf, lb in (0, 1), at the start spread over .1 to .8 and shuffled; gains
        g0 = 1, gf and gb ~ N(0, .5); rho = sigmoid(r), r = 2; V.
    variant: "R", as above. "G", without the term in M. "A", without M and with the numerators in
        place of F and B. "K", the H of G through a quantiser, which bounds every run of spikes: r =
        clip(H / V, 0, kappa), C = cumsum(r), S = floor(C + 1/2) - floor(C_prev + 1/2).
    direction: "forward" drops B and gb, with M = F: causal, with single steps and a state.
        "backward" drops F and gf, with M = B. "both" and "backward" need the whole sequence in one
        call and carry nothing to the next.
    surrogate_function: a surrogate of SpikingJelly or its name; None: ATan.
    v_threshold: V at the start, in units of the input, > 0; learned, through a softplus.
    spikes: "binary", as above. "ternary", -1 to 1, and "integer" lie on a grid, u = H / V - o and
        S = clip(round(u), low, high), dS/du = 1 where low - 1/2 <= u <= high + 1/2, else 0. Not in
        K, and without a surrogate_function.
    levels: the largest spike of "integer", which needs it. signed: the least is -levels; False: 0.
    offset: o is learned, dimensionless, 0 at the start; False: it is 0. Binary spikes with an
        offset lie on the grid 0, 1, with dS/du = 1 where 0 <= u <= 1.
    alpha_init: start as a leaky integrator, in (0, 1): lf = gf = alpha, g0 = 1 - alpha, gb = 0
        (with "backward" lb and gb); in A, which sums, g0 = 1. None: the start above.
    kappa: largest current of K, in thresholds, in (0, 1): at most ceil(1 / (1 - kappa)) - 1 spikes
        in a row.

    State with "forward", float32 (float64 for float64 input): "numerator" [B, C, ...] and, but in
    A, "denominator" [B, C] of the next F; in K also "count" [B, C, ...], C modulo 1. `v_seq` is H.
    """

    never_reset = True
    kernels: ClassVar[dict[str, Kernel]] = {
        "cupy": Kernel(
            run=bpsn_cupy,
            why_not=cuda.why_not,
            limits=lambda node, x: _no_places(x),
            refuses=lambda node: "" if node.variant == "K" else why_unfused(node.surrogate_function),
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
        alpha_init: float | None = None,
        kappa: float = 7 / 8,
        spikes: Literal["binary", "ternary", "integer"] = "binary",
        levels: int | None = None,
        signed: bool = True,
        offset: bool = False,
        step_mode: str = "m",
        backend: str = "auto",
        store_v_seq: bool = False,
        axis: int = 2,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"BPSN: no variant {variant!r}; {choices(str(variant), VARIANTS)}")
        if direction not in DIRECTIONS:
            raise ValueError(f"BPSN: no direction {direction!r}; {choices(str(direction), DIRECTIONS)}")
        if not (v_threshold > 0 and math.isfinite(v_threshold)):
            raise ValueError(f"BPSN: v_threshold is {v_threshold}, it must be above 0 and finite")
        if alpha_init is not None and not 0 < alpha_init < 1:
            raise ValueError(f"BPSN: alpha_init is {alpha_init}, it must lie between 0 and 1, exclusive")
        if not 1 / TICKS <= kappa < 1:
            raise ValueError(f"BPSN: kappa is {kappa}, it must lie between 0 and 1, exclusive")
        self.spike_range = spike_range(spikes, levels, signed)
        self.has_grid = spikes != "binary" or offset
        if self.has_grid and (variant == "K" or surrogate_function is not None):
            what = 'variant "K"' if variant == "K" else "a surrogate_function"
            raise ValueError(f"BPSN: {what} fires binary spikes without an offset, got {spikes=}, {offset=}")
        self.variant, self.direction, self.kappa = variant, direction, float(kappa)
        super().__init__(channels=channels, step_mode=step_mode, backend=backend, store_v_seq=store_v_seq, axis=axis)
        self.surrogate_function: nn.Module = (
            firing_of(*self.spike_range) if self.has_grid else surrogate(surrogate_function or "ATan")
        )
        self.levels = self.spike_range[1]
        self.v_threshold, self.alpha_init = float(v_threshold), alpha_init

        def parameter(present: bool) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(channels)) if present else None

        past, future = direction != "backward", direction != "forward"
        self.decay_f, self.gain_f = parameter(past), parameter(past)
        self.decay_b, self.gain_b = parameter(future), parameter(future)
        self.gain_0 = nn.Parameter(torch.empty(channels))
        self.lateral = parameter(variant == "R")
        self.threshold = nn.Parameter(torch.empty(channels))
        self.offset = parameter(offset)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Decays evenly over .1 to .8, shuffled; g0 = 1, gf and gb ~ N(0, .5), r = 2, o = 0, and
        V = `v_threshold`. With `alpha_init`: a leaky integrator."""
        with torch.no_grad():
            for decay, gain in ((self.decay_f, self.gain_f), (self.decay_b, self.gain_b)):
                if decay is not None and gain is not None:
                    spread = 0.1 + 0.7 * (torch.randperm(self.channels) + 0.5) / self.channels
                    decay.copy_(spread.logit())
                    gain.normal_(0, 0.5)
            self.gain_0.fill_(1)
            if self.alpha_init is not None:
                backward = self.direction == "backward"
                decay, gain = (self.decay_b, self.gain_b) if backward else (self.decay_f, self.gain_f)
                assert decay is not None
                assert gain is not None
                decay.fill_(math.log(self.alpha_init / (1 - self.alpha_init)))
                if self.variant != "A":
                    self.gain_0.fill_(1 - self.alpha_init)
                if self.gain_b is not None:
                    self.gain_b.fill_(0)
                gain.fill_(self.alpha_init)
            if self.lateral is not None:
                self.lateral.fill_(2)
            self.threshold.fill_(self.v_threshold + math.log(-math.expm1(-self.v_threshold)))
            if self.offset is not None:
                self.offset.fill_(0)

    @torch.no_grad()
    def fit(self, step: Tensor, offset: Tensor) -> None:
        """Set the parameters so that S = clip(round((x - offset) / step), low, high), elementwise.

        V = step, o = offset / step, g0 = 1, gf = gb = 0. step > 0, offset: [C], in units of the
        input. Raises ValueError for other values, and if the node has no grid, has no parameter for
        the offset or cannot be elementwise.
        """
        if not self.has_grid:
            raise ValueError('BPSN: spikes="binary" without an offset have no grid; take offset=True')
        if self.variant == "R":
            raise ValueError(
                "BPSN: the lateral term of variant R is never 0, so it cannot be elementwise; take variant G"
            )
        check_steps(step, offset, self.channels)
        if self.offset is not None:
            self.offset.copy_(offset / step)
        elif bool(offset.any()):
            raise ValueError("BPSN: the node has no offset; build it with offset=True, or give zeros")
        self.threshold.copy_(step + torch.log(-torch.expm1(-step)))  # its softplus is V
        self.gain_0.fill_(1)
        for gain in (self.gain_f, self.gain_b):
            if gain is not None:
                gain.fill_(0)

    @classmethod
    def in_place_of(cls, old: OldNode, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Variant G, which starts as the old integrator; R would suppress constant input.

        In a net that is fed the same at each step: variant A, forward. A mean of the same input
        does not tell its strength. The step at which a sum of it reaches the threshold does, and
        with both directions this step is the same for more inputs.
        """
        if old.constant and chosen.get("variant") == "R":
            warnings.warn(
                'BPSN: variant="R" suppresses input that is the same at each step, as in this example; "G" does not',
                stacklevel=4,
            )
        sums = {"variant": "A", "direction": "forward"}
        if old.still and all(chosen.get(name, value) == value for name, value in sums.items()):
            start = old.integrator(chosen, slow=True)
            if "v_threshold" in start:  # of H / (1 - alpha): gains near 0 would learn too fast
                start["v_threshold"] /= 1 - start["alpha_init"]
            arguments = {**sums, **start}
        else:
            arguments = {"variant": "G", **old.integrator(chosen, slow=False)}
        return {name: value for name, value in arguments.items() if name not in chosen}

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

    def decays(self) -> dict[str, Tensor]:
        logits = {"past": self.decay_f, "future": self.decay_b}
        return {name: logit.sigmoid() for name, logit in logits.items() if logit is not None}

    def operations(self) -> tuple[float, float]:
        sides = 2 if self.direction == "both" else 1  # numerator and weight, lateral term included
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
        spikes = f", spikes={self.spike_range}, offset={self.offset is not None}" if self.has_grid else ""
        return f"{super().extra_repr()}, variant={self.variant}, direction={self.direction}{kappa}{spikes}"

    @property
    def firing(self) -> Firing:
        """What becomes of H - V, or of H / V - o."""
        return Firing(self.surrogate_function)

    @property
    def one_mode(self) -> str:
        """Why there are no single steps; `sj_lang.compat` reads it."""
        needs = "needs the whole sequence, as it reads the tokens that follow"
        return f'direction="{self.direction}" {needs}; "forward" steps'

    def _run(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor]:
        kernel = self.choose(x)
        x, state = self.fitted(kernel, x, state)
        if self.variant != "K" and not self.store_v_seq:
            spikes, after = self._apply_kernel(kernel, x, state, lengths, self.firing)
            return spikes, after, spikes
        u, after = self._apply_kernel(kernel, x, state, lengths, Firing(None))
        over = self._over(self._v(x), x)
        if self.variant == "K":
            h = u
            start = state["count"] if "count" in state else torch.zeros_like(h[0])
            u, count = counted(in_ticks(h, over, self.kappa), start, lengths)
            if self.direction == "forward":
                after["count"] = count
        elif self.has_grid:
            h = (u if self.offset is None else u + self._over(self.offset, x)) * over
        else:
            h = u + over
        return self.firing(u), after, h

    def _apply_kernel(
        self, kernel: Kernel, x: Tensor, state: State, lengths: Tensor | None, firing: Firing
    ) -> tuple[Tensor, State]:
        """What becomes of H - V (a grid: H / V - o; K: H), and the state without the count."""
        dtype = state_dtype(x)

        gains = [self.learned(name, dtype) for name in ("gain_0", "gain_f", "gain_b")]
        threshold = None if self.variant == "K" else self.learned("threshold", dtype)
        if self.has_grid:
            v = self._v(x)
            gains = [None if gain is None else gain / v for gain in gains]
            threshold = self.learned("offset", dtype)
        gain_0, gain_f, gain_b = gains
        assert gain_0 is not None
        inputs = BPSNInputs(
            x=x,
            gain_0=gain_0,
            threshold=threshold,
            decay_f=self.learned("decay_f", dtype),
            gain_f=gain_f,
            decay_b=self.learned("decay_b", dtype),
            gain_b=gain_b,
            lateral=self.learned("lateral", dtype),
            numerator=state.get("numerator"),
            denominator=state.get("denominator"),
            lengths=lengths,
            normalised=self.variant != "A",
            carries=self.direction == "forward",
            softplus=not self.has_grid,
        )
        out, numerator, denominator = kernel.run(inputs, firing)
        states = {"numerator": numerator, "denominator": denominator}
        return out, {name: value for name, value in states.items() if value is not None}

    def _v(self, x: Tensor) -> Tensor:
        """V, above 0 even if its softplus underflows."""
        dtype = state_dtype(x)
        return F.softplus(self.threshold.to(dtype)).clamp(min=torch.finfo(dtype).tiny ** 0.5)

    def _over(self, parameter: Tensor, x: Tensor) -> Tensor:
        """[C] to broadcast over x [T, B, C, ...], in the dtype of its states."""
        return parameter.to(state_dtype(x)).view(-1, *(1,) * (x.dim() - 3))


def _no_places(x: Tensor | None) -> str:
    """Why the CUDA kernel cannot take such an x; "" if it can."""
    return "" if x is None or 0 not in x.shape[3:] else f"needs places after the channels, got {tuple(x.shape)}"

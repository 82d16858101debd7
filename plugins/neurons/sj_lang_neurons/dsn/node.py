"""DSN as users build it: a SpikingJelly node."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sj_lang import cpu, cuda
from sj_lang.compat import OldNode, rescaled, surrogate
from sj_lang.neuron import Kernel, Node, State, state_dtype
from sj_lang_neurons.dsn.cupy import dsn_cupy, too_many_taps
from sj_lang_neurons.dsn.decay import by_powers, gain, products
from sj_lang_neurons.dsn.inputs import DSNInputs
from sj_lang_neurons.dsn.numba import dsn_numba
from sj_lang_neurons.dsn.torch import dsn_torch
from sj_lang_neurons.firing import Firing, Rect, why_unfused


class DSN(Node):
    """Dynamic decay spiking neuron: the input sets the leak; no reset, so it trains in parallel.

        a_t     = sum_{i<k} W_i X_{t-k+1+i} + b
        alpha_t = sigmoid(a_t) ** (1 / tau)
        H_t     = alpha_t H_{t-1} + (1 - alpha_t) X_t
        S_t     = clip(round(H_t), 0, n)

    "Parallel Training in Spiking Neural Networks", arXiv 2602.01133, equations 9 to 12. Ours: the
    bias b, the initialisation, `alpha_init`, the gradient through alpha, and the firing with a
    surrogate and `v_threshold`.

    channels: size of `axis`, 2 for `[T, B, C, ...]`, -1 for `[T, B, ..., C]`; each has its own
        taps, which run along T.
    decay: "conv", as above; "linear", a_t = W X_t + b over all channels; "static", a_t = b.
    k: taps of the convolution, in steps; used by "conv" only.
    tau: above 0; the exponent 1 / tau sharpens the leak, so a small tau forgets fast.
    n: largest spike value; spikes are 0, 1, ..., n.
    alpha_init: alpha at the start for zero input, in (0, 1): the bias is logit(alpha_init ** tau).
        None: uniform within 1 / sqrt(k).
    taps_init: the taps at the start are uniform within taps_init / sqrt(k), 0 or more; with 0 alpha
        is alpha_init whatever the input, and is learned from there.
    surrogate_function: None, firing as above with gradient 1 where 0 <= H <= n ("Rect"); or a
        surrogate of SpikingJelly or its name, for a Heaviside of H - v_threshold, with n = 1.
    v_threshold: threshold of the surrogate's firing, in units of the input; unused without one.

    State: "h" [B, C, ...], the potential, and "tail" [B, k-1, C, ...], the last k - 1 valid inputs,
    both float32 (float64 for float64 input).
    """

    never_reset = True
    kernels: ClassVar[Mapping[str, Kernel]] = {
        "cupy": Kernel(
            run=dsn_cupy,
            why_not=cuda.why_not,
            limits=lambda node, x: too_many_taps(node.k),
            refuses=lambda node: why_unfused(node.surrogate_function),
            half=True,
            zeros=True,
        ),
        "numba": Kernel(run=dsn_numba, why_not=cpu.why_not),
        "torch": Kernel(run=dsn_torch),
    }

    def __init__(
        self,
        *,
        channels: int,
        decay: Literal["conv", "linear", "static"] = "conv",
        k: int = 4,
        tau: float = 0.25,
        n: int = 4,
        alpha_init: float | None = None,
        taps_init: float = 1.0,
        surrogate_function: str | nn.Module | None = None,
        v_threshold: float = 1.0,
        step_mode: str = "m",
        backend: str = "auto",
        store_v_seq: bool = False,
        axis: int = 2,
    ) -> None:
        if decay not in ("conv", "linear", "static"):
            raise ValueError(f"DSN: no decay {decay!r}; valid: conv, linear, static")
        if k < 1:
            raise ValueError(f"DSN: k is {k}, the convolution needs at least 1 tap")
        if not (tau > 0 and math.isfinite(tau)):
            raise ValueError(f"DSN: tau is {tau}, it must be above 0 and finite")
        if n < 1:
            raise ValueError(f"DSN: n is {n}, the largest spike must be at least 1")
        if alpha_init is not None and not 0 < alpha_init < 1:
            raise ValueError(f"DSN: alpha_init is {alpha_init}, it must lie between 0 and 1, exclusive")
        if not (taps_init >= 0 and math.isfinite(taps_init)):
            raise ValueError(f"DSN: taps_init is {taps_init}, it must be 0 or more and finite")
        if surrogate_function is not None and n != 1:
            raise ValueError(f"DSN: a surrogate_function fires binary spikes and needs n = 1, got n = {n}")
        self.k = k if decay == "conv" else 1  # before super, which asks for state_shapes
        super().__init__(channels=channels, step_mode=step_mode, backend=backend, store_v_seq=store_v_seq, axis=axis)
        self.decay, self.tau, self.levels = decay, float(tau), n
        self.v_threshold = float(v_threshold)
        self.surrogate_function: nn.Module = Rect(0, n) if surrogate_function is None else surrogate(surrogate_function)
        width = {"conv": k, "linear": channels, "static": 0}[decay]
        self.weight = nn.Parameter(torch.empty(channels, width)) if width else None
        self.bias = nn.Parameter(torch.empty(channels))
        self.alpha_init, self.taps_init = alpha_init, float(taps_init)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Taps uniform within `taps_init` / sqrt(width); the bias likewise, or by `alpha_init`."""
        width = 1 if self.weight is None else self.weight.shape[1]
        with torch.no_grad():
            if self.weight is not None:
                self.weight.uniform_(-(width**-0.5), width**-0.5).mul_(self.taps_init)
            if self.alpha_init is None:
                self.bias.uniform_(-(width**-0.5), width**-0.5)
            else:
                log_s = self.tau * math.log(self.alpha_init)
                self.bias.fill_(log_s - math.log(-math.expm1(log_s)))

    @classmethod
    def in_place_of(cls, old: OldNode, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """DSN fires binary spikes there and starts as the old integrator."""
        arguments = {"n": 1, **old.integrator(chosen, slow=True)}
        if "alpha_init" in arguments:
            arguments["taps_init"] = 0.0
            if old.v_threshold is not None and old.surrogate_function is None and chosen.get("n", 1) == 1:
                # without one it fires at 1/2, whatever the threshold is
                arguments["surrogate_function"] = rescaled(surrogate("ATan"), arguments["v_threshold"])
        return {name: value for name, value in arguments.items() if name not in chosen}

    def state_shapes(self, shape: torch.Size) -> dict[str, tuple[int, ...]]:
        return {"h": tuple(shape), "tail": (shape[0], self.k - 1, *shape[1:])}

    def operations(self) -> tuple[float, float]:
        if self.decay == "static":
            return 1, 1
        logit = self.k if self.decay == "conv" else self.channels
        return logit + products(1 / self.tau) + 1, 1

    def decays(self) -> dict[str, Tensor]:
        return {"alpha": self.bias.sigmoid() ** (1 / self.tau)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        window = torch.cat((state["tail"], x.unsqueeze(1)), 1)
        logit = self._channels(self.bias, x).expand_as(x)
        if self.decay == "conv":
            for tap, x_i in zip(self._weight(x).unbind(1), window.unbind(1), strict=True):
                logit = torch.addcmul(logit, self._channels(tap, x), x_i)
        elif self.decay == "linear":
            logit = logit + self._mix(x, 1)
        h = torch.lerp(state["h"], x, gain(-logit, 1 / self.tau))
        return self.firing(h), {"h": h.clone(), "tail": window[:, 1:].clone()}, h

    def sequence(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, Tensor | None]:
        kernel = self.choose(x)
        x, state = self.fitted(kernel, x, state)
        dtype = state_dtype(x)
        bias = self.learned("bias", dtype)
        taps = self.learned("weight", dtype) if self.decay == "conv" else bias.new_empty(self.channels, 0)
        if self.decay == "linear":
            bias = bias.view(-1, *(1,) * (x.dim() - 3)) + self._mix(x.to(dtype), 2)
        inputs = DSNInputs(x, state.get("tail"), state.get("h"), taps, bias, lengths, 1 / self.tau)
        spikes, h, tail, v = kernel.run(inputs, self.firing)
        return spikes, {"h": h, "tail": tail}, v

    def preferred(self) -> tuple[str, ...]:
        """Torch is faster than numba if the gain needs a logarithm and an exponential."""
        return super().preferred() if by_powers(1 / self.tau) else ("cupy", "torch")

    def _channels(self, parameter: Tensor, x: Tensor) -> Tensor:
        """[C] to broadcast over x [B, C, ...]."""
        return parameter.to(x.dtype).view(-1, *(1,) * (x.dim() - 2))

    def _mix(self, x: Tensor, axis: int) -> Tensor:
        """W x over the channels, which are this axis of x."""
        return F.linear(x.movedim(axis, -1), self._weight(x)).movedim(-1, axis)

    def _weight(self, x: Tensor) -> Tensor:
        weight = self.weight
        return x.new_empty(self.channels, 0) if weight is None else weight.to(x.dtype)

    @property
    def firing(self) -> Firing:
        """How potentials become spikes."""
        return Firing(self.surrogate_function, float(self.v_threshold), self.store_v_seq)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, decay={self.decay}, k={self.k}, tau={self.tau}, n={self.levels}"

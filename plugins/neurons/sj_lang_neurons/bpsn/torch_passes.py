"""The potential of one tile, and its gradients."""

import torch
from torch import Tensor

from sj_lang_neurons.bpsn.torch_tiles import BPSNTile
from sj_lang_neurons.bpsn.torch_weights import weights, weights_backward

FORWARD_ARRAYS, BACKWARD_ARRAYS = 1, 4


def forward(tile: BPSNTile, u: Tensor, after: Tensor | None) -> None:
    """Write H - threshold to u, and the numerator of the past after the last valid step to `after`.

    The future is scanned first and as a whole, the past along with the potential.
    """
    P, Q, g0 = tile.scratch[0], tile.whole, tile.g0
    P[0] = 0 if tile.numerator is None else tile.numerator
    for side in tile.sides:
        if side.late:
            Q[-1] = 0
            tile.scan(side, tile.x, Q, reverse=True)
    if after is not None:
        after.copy_(P[0])
    for span in tile.spans():
        a = weights(span.leaks, g0, tile.rho, tile.normalised)
        for t in span.blocks:
            rows = t.stop - t.start
            torch.addcmul(-tile.threshold, g0, tile.x[t], out=u[t])
            for side, weight in zip(tile.sides, a, strict=True):
                if not side.late:
                    tile.scan(side, tile.x[t], P[: rows + 1], reverse=False)
                u[t].addcmul_(span.of(weight, t), Q[t.start + 1 : t.stop + 1] if side.late else P[:rows])
            if after is not None:
                tile.keep_last(P, t, after)
            P[0] = P[rows]


def backward(
    tile: BPSNTile, grad: Tensor, grad_after: Tensor | None, g_x: Tensor, sums: dict[str, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Write the gradient of x, add those of parameters to `sums`, return those of numerator and d0.

    grad_after: gradient of the numerator after the tile. Against time: the past from the stored
    numerators P, its adjoint A; the future, scanned again in Q, with E its derivative by the decay.
    What enters the adjoint of the future takes the place of P; that is scanned last, with time.
    """
    whole, (Q, E, A, product), g0 = tile.whole, tile.scratch, tile.g0
    Q[0], E[0], A[0] = 0, 0, 0
    for side in tile.sides:
        if not side.late:
            whole[0] = 0 if tile.numerator is None else tile.numerator
            tile.scan(side, tile.x, whole, reverse=False)
    g_d0 = None if tile.d0 is None else torch.zeros_like(tile.d0)

    for span in tile.spans(backwards=True):
        a = weights(span.leaks, g0, tile.rho, tile.normalised)
        ga = [torch.zeros_like(weight) for weight in a]
        for t in span.blocks:
            rows, g = t.stop - t.start, grad[t]
            near, entered = slice(1, rows + 1), slice(t.start + 1, t.stop + 1)
            torch.mul(g, g0, out=g_x[t])
            _add(sums["threshold"], g, -1)
            _add_product(sums["g0"], g, tile.x[t], product)
            for side, weight, g_weight in zip(tile.sides, a, ga, strict=True):
                if side.late:
                    Q[rows], E[rows] = Q[0], E[0]
                    tile.scan(side, tile.x[t], Q[: rows + 1], reverse=True)
                    tile.scan(side, Q[near], E[: rows + 1], reverse=True)
                    _add_product(span.of(g_weight, t), g, Q[near], product)
                    torch.mul(span.of(weight, t), g, out=whole[entered])
                    _add_product(sums["lb"], whole[entered], E[near], product)
                else:
                    A[rows] = A[0]
                    torch.mul(span.of(weight, t), g, out=A[:rows])
                    if grad_after is not None:
                        tile.enter_last(A, t, grad_after)
                    tile.scan(side, A[:rows], A[: rows + 1], reverse=True)
                    g_x[t] += A[near]
                    _add_product(span.of(g_weight, t), g, whole[t], product)
                    _add_product(sums["lf"], A[near], whole[t], product)
        g_gains, gD, g_g0, g_rho = weights_backward(ga, span.leaks, g0, tile.rho, tile.normalised)
        sums["g0"] += g_g0
        sums["rho"] += g_rho
        for side, g in zip(tile.sides, g_gains, strict=True):
            sums["gb" if side.late else "gf"] += g
        for side, leak, g in zip(tile.sides, span.leaks, gD, strict=False):
            assert leak.slope is not None
            if g_d0 is not None:
                g_d0 += (g * tile.powers(span.steps)[0]).sum(0)
            _add(sums["lb" if side.late else "lf"], g.mul_(leak.slope))

    for side in tile.sides:
        if side.late:
            whole[0] = 0
            for t in tile.blocks(0, len(grad)):
                tile.scan(side, whole[t.start + 1 : t.stop + 1], whole[t.start : t.stop + 1], reverse=False)
                g_x[t] += whole[t]
    return A[0], g_d0


def _add(total: Tensor, value: Tensor, sign: int = 1) -> None:
    total.add_(value.sum_to_size(total.shape), alpha=sign)


def _add_product(total: Tensor, a: Tensor, b: Tensor, memory: Tensor) -> None:
    if total.shape == a.shape:
        total.addcmul_(a, b)
    else:
        _add(total, torch.mul(a, b, out=memory[: len(a)]))

"""One block of DSN, some steps of some columns: its memory, and what is done in it. No autograd.

With m = 1 / tau, z = -a and q = sigmoid(z):

    z_t = -(sum_i W_i x_{t-k+1+i} + b)
    w_t = 1 - alpha_t = 1 - (1 - q_t) ** m,  h_t = h_{t-1} + w_t (x_t - h_{t-1})
"""

import threading
from collections import OrderedDict
from functools import cached_property

import torch
from torch import Tensor

from sj_lang_neurons.dsn.decay import gain_
from sj_lang_neurons.dsn.inputs import DSNColumns
from sj_lang_neurons.scan.torch_blocks import Rows, scan

KEPT = 4  # blocks of memory that a thread keeps: fresh memory costs more than the arithmetic in it

_of_thread = threading.local()


class Block:
    """Memory for R steps of N columns with k taps, in the order of `DSNColumns`."""

    def __init__(self, like: Tensor, rows: int, width: int, taps: int) -> None:
        self._like, self._rows, self._width = like.new_empty(0), rows, width
        self.taps, self.reach = taps, max(0, taps - 1)
        self._all = self._memory(self.reach + rows)
        self.x = Rows(self._all[self.reach :])
        self._windows = [self._all[i : i + rows] for i in range(taps)]
        # -a, then q, then the gradient of -a over m; then that of the steps after the block
        self.g_on = self._memory(rows + self.reach)
        self.g = self.g_on[:rows]
        self.w, self.h = Rows(self._memory(rows)), Rows(self._memory(rows))
        self.one = like.new_ones(())

    # Only the backward pass needs these.

    @cached_property
    def gh(self) -> Rows:
        return Rows(self._memory(self._rows))

    @cached_property
    def scratch(self) -> Tensor:
        return self._memory(self._rows)

    @cached_property
    def alpha(self) -> Tensor:
        """[R + 1, N]: the decays of the block and of the step after it."""
        return self._memory(self._rows + 1)

    @cached_property
    def alpha_next(self) -> Rows:
        """The decay of the step that follows each step."""
        return Rows(self.alpha[1:])

    @cached_property
    def _later(self) -> list[Tensor]:
        """g of the steps that see an input of the block through tap 0, 1, ..."""
        return [self.g_on[self.reach - i : self.reach - i + self._rows] for i in range(self.taps)]

    def run(self, part: DSNColumns, t: slice, h: Tensor) -> None:
        """Take the inputs of steps t, and compute q (in `g`), w and h.

        part: some columns, with weight and bias negated. h [N]: the potential before the steps.
        """
        before = t.start - self.reach
        if before >= 0:
            self._all.copy_(part.x[before : t.stop])
        else:
            self._all[:-before].copy_(part.tail[t.start :])
            self._all[-before:].copy_(part.x[: t.stop])
        z, bias = self.g, part.bias if len(part.bias) == 1 else part.bias[t]
        if self.taps:
            torch.addcmul(bias, part.weight[0], self._windows[0], out=z)
        else:
            z.copy_(bias)
        for i in range(1, self.taps):
            z.addcmul_(part.weight[i], self._windows[i])
        if part.lengths is not None:
            over = torch.arange(t.start, t.stop, device=z.device).unsqueeze(1) >= part.lengths
            z.masked_fill_(over, -torch.inf)  # alpha = 1: the state stays
        gain_(z, part.m, self.w.all)
        leak(self.x, self.w, h, self.h)

    def back(self, gh_next: Tensor, alpha_next: Tensor, g_next: Tensor, out: Tensor) -> None:
        """From gl (in `gh`) to gh and g; writes w gh, the inputs' gradient without taps, to `out`.

        gh_next, alpha_next [N] and g_next [k - 1, N] are those of the steps after the block.
        """
        self.alpha[-1] = alpha_next
        torch.sub(self.one, self.w.all, out=self.alpha[:-1])
        scan(self.alpha_next, self.gh, gh_next, self.gh, reverse=True)
        gh = self.gh.all
        torch.mul(gh, self.w.all, out=out)
        self.g.mul_(torch.sub(self.x.all, self.h.all, out=self.scratch).mul_(gh))
        self.g_on[self._rows :] = g_next

    def add_through_taps(self, weight: Tensor, out: Tensor) -> None:
        """Add to the gradient of the inputs [R, N] what comes through the taps."""
        for i in range(self.taps):
            out.addcmul_(weight[i], self._later[i])

    def tail_through_taps(self, weight: Tensor) -> Tensor:
        """The gradient of the inputs before the block, [k - 1, N]."""
        out = weight.new_zeros(self.reach, self._width)
        for i in range(self.reach):
            out[i:].addcmul_(weight[i], self.g_on[: self.reach - i])
        return out

    def add_to_weight(self, out: Tensor) -> None:
        """Add the gradient of the taps [k, N]."""
        for i in range(self.taps):
            out[i].add_(torch.mul(self.g, self._windows[i], out=self.scratch).sum(0))

    def _memory(self, rows: int) -> Tensor:
        return self._like.new_empty(rows, self._width)


def block(like: Tensor, rows: int, width: int, taps: int) -> Block:
    """A block of memory, not cleared; valid until this thread asks for the next one."""
    if like.device.type != "cpu":
        return Block(like, rows, width, taps)
    kept: OrderedDict[tuple[object, ...], Block] = _of_thread.__dict__.setdefault("kept", OrderedDict())
    key = (like.dtype, rows, width, taps)
    if key in kept:
        kept.move_to_end(key)
        return kept[key]
    with torch.inference_mode(False):  # or it could not be written to outside
        kept[key] = Block(torch.empty(0, dtype=like.dtype), rows, width, taps)
    if len(kept) > KEPT:
        kept.popitem(last=False)
    return kept[key]


def leak(x: Rows, w: Rows, h: Tensor, out: Rows) -> Tensor:
    """Write h_t = h_{t-1} + w_t (x_t - h_{t-1}) to `out`; returns its last row, a view.

    x, w, out [R, N], h [N], rows contiguous. The decay 1 - w, which loses digits, is never formed.
    """
    cut = out.cut
    if cut:
        h = _chunks(x, w, h, out)
        if cut == len(out.all):
            return h
    for x_t, w_t, o in zip(x.each[cut:], w.each[cut:], out.each[cut:], strict=True):
        h = torch.lerp(h, x_t, w_t, out=o)
    return h


def _chunks(x: Rows, w: Rows, h: Tensor, out: Rows) -> Tensor:
    """Chunks side by side, twice: from zero, for U and W; then from their borders.

    A chunk of steps acts as one step does: its gain is W, and its input M = U / W, a mean of its
    inputs, where U is the potential that it ends with when it begins at 0.
    """
    borders, one = out.borders, h.new_ones(())
    U, W = borders.added.all, borders.factor.all
    torch.mul(x.lanes[0], w.lanes[0], out=U)
    W.copy_(w.lanes[0])
    for x_i, w_i in zip(x.lanes[1:], w.lanes[1:], strict=True):
        torch.lerp(U, x_i, w_i, out=U)
        torch.lerp(W, one, w_i, out=W)
    U.div_(W.clamp(min=torch.finfo(W.dtype).tiny))  # no step with a gain: U is 0, and so is M
    borders.states[0] = h
    leak(borders.added, borders.factor, h, borders.after)
    h = borders.before.all
    for x_i, w_i, o in zip(x.lanes, w.lanes, out.lanes, strict=True):
        h = torch.lerp(h, x_i, w_i, out=o)
    return out.each[out.cut - 1]

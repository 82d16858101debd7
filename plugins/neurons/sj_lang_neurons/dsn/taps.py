"""The logit of DSN for a whole sequence, a_t = sum_j W_{k-1-j} x_{t-j} + b, and its gradients. No autograd.

Two ways that differ in rounding only: oneDNN's depthwise convolution, which reads the input once, where torch has it;
and a pass over the input per tap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGE = 1 << 19  # elements from which on preparing a convolution pays


@dataclass(frozen=True)
class Taps:
    """window [k - 1 + T, N]: the inputs, and the k - 1 before them; weight [k, N], the oldest input first.

    bias [1, N] or [T, N]; with k = 0 it is the logit, and the window is the inputs.
    """

    window: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self) -> Tensor:
        """a [T, N]."""
        steps = self._steps
        if not len(self.weight):
            return self.bias.expand_as(self.window).clone()
        if self._by_convolution():
            return _rows(torch.conv2d(_image(self.window), self._filters(), self.bias[0], groups=self._width))
        a = torch.addcmul(self.bias, self.weight[0], self.window[:steps])
        for i in range(1, len(self.weight)):
            a.addcmul_(self.weight[i], self.window[i : i + steps])
        return a

    def gradients(self, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Those of window, weight and bias, from that of the logits, g [T, N]."""
        if not len(self.weight):
            grad_bias = g if len(self.bias) > 1 else g.sum(0, keepdim=True)
            return self.window.new_zeros(()).expand_as(self.window), torch.zeros_like(self.weight), grad_bias
        if self._by_convolution():
            arguments = ([1, 1], [0, 0], [1, 1], False, [0, 0], self._width, [True, True, True])
            image, filters, bias = torch.ops.aten.convolution_backward(
                _image(g), _image(self.window), self._filters(), [self._width], *arguments
            )
            return _rows(image), filters.view(self._width, -1).t(), bias.unsqueeze(0)
        steps = self._steps
        grad_window, grad_weight = torch.zeros_like(self.window), torch.empty_like(self.weight)
        for i in range(len(self.weight)):
            grad_window[i : i + steps].addcmul_(self.weight[i], g)
            grad_weight[i] = (g * self.window[i : i + steps]).sum(0)
        return grad_window, grad_weight, g.sum(0, keepdim=True)

    @property
    def _steps(self) -> int:
        return len(self.window) - max(0, len(self.weight) - 1)

    @property
    def _width(self) -> int:
        return self.window.shape[1]

    def _filters(self) -> Tensor:
        return self.weight.t().reshape(self._width, 1, len(self.weight), 1)

    def _by_convolution(self) -> bool:
        """Whether oneDNN takes it; without it, torch would convolve channel by channel."""
        x = self.window
        takes = x.dtype == torch.float32 and x.device.type == "cpu" and len(self.weight) > 1 and len(self.bias) == 1
        return takes and x.numel() >= LARGE and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled


def _image(x: Tensor) -> Tensor:
    """[T, N] as an image of N channels, T high, 1 wide, in the memory format that has the channels last."""
    return x.view(1, x.shape[0], 1, x.shape[1]).permute(0, 3, 1, 2)


def _rows(image: Tensor) -> Tensor:
    return image[0, :, :, 0].t().contiguous()

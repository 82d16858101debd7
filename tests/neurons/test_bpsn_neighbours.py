"""A task that needs both neighbours, y_t = x_{t-1} + x_{t+1} mod 3: one side stays at chance."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sj_lang_neurons import BPSN
from torch import Tensor, nn

from sj_lang.testing.properties import longest_run

LENGTH, WIDTH = 20, 64


class Net(nn.Module):
    """Two spiking layers and nothing else that looks at another token."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, WIDTH)
        self.first, self.second = (BPSN(channels=WIDTH, **options) for _ in range(2))
        self.between, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """tokens [T, B] to logits [T, B, 3], and the spikes of both layers."""
        first, _ = self.first.functional(self.embedding(tokens))
        second, _ = self.second.functional(self.between(first))
        return self.head(second), [first, second]


def batch(steps: int, size: int) -> tuple[Tensor, Tensor]:
    x = torch.randint(0, 3, (steps, size))
    y = torch.full_like(x, -100)
    y[1:-1] = (x[:-2] + x[2:]) % 3
    return x, y


def learned(seed: int = 0, **options: Any) -> tuple[float, int]:
    """Accuracy at four times the length of training,
    and the longest run of spikes of any neuron there.
    """
    torch.manual_seed(seed)
    net = Net(**options)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=300)
    for _ in range(300):
        x, y = batch(LENGTH, 32)
        loss = F.cross_entropy(net(x)[0].flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        x, y = batch(4 * LENGTH, 64)
        logits, spikes = net(x)
    return float((logits.argmax(-1) == y)[1:-1].float().mean()), max(map(longest_run, spikes))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["A", "G", "R", "K"])
def test_both_sides_are_fused(variant: str) -> None:
    accuracy, run = learned(variant=variant)
    print(f"{variant}: accuracy {accuracy:.3f}, longest run {run} of {4 * LENGTH}")
    assert accuracy > 0.95
    assert variant != "K" or run <= 7


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_one_side_is_not_enough(direction: str) -> None:
    accuracy, _ = learned(direction=direction)
    print(f"{direction}: accuracy {accuracy:.3f}")
    assert accuracy < 0.4

"""Pictures of docs/gallery.md: what a neuron answers to four inputs, beside LIF."""

from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from sj_lang.build import part

CHANNELS = 16
SENTENCE = "rivers rise at dusk, and answer each spike"
STEPS = len(SENTENCE)
LIF = {"type": "lif", "decay_input": False, "detach_reset": True}


def inputs() -> dict[str, Tensor]:
    """Title -> currents [T, C]. Of the first three, each channel has a stronger one than that below
    it, from .1 to 2 times; in the sentence each channel has a current of its own for each letter.
    """
    torch.manual_seed(0)
    gains = torch.linspace(0.1, 2, CHANNELS)
    step = torch.zeros(STEPS)
    step[STEPS // 4 : 3 * STEPS // 4] = 1
    ramp = torch.linspace(-1, 1, STEPS)
    noise = torch.randn(STEPS)
    letters = torch.randn(128, CHANNELS)
    shared = {"a step": step, "a ramp from -1 to 1": ramp, "noise": noise}
    currents = {name: x[:, None] * gains for name, x in shared.items()}
    return {**currents, "a sentence": letters[[ord(letter) for letter in SENTENCE]]}


def answers(neuron: str | dict[str, Any], x: Tensor) -> Tensor:
    """The spikes [T, C] of a fresh neuron for x."""
    torch.manual_seed(0)
    node = part("neuron", neuron)(channels=CHANNELS)
    with torch.no_grad():
        return node.functional(x[:, None])[0][:, 0]


def answer(neuron: str | dict[str, Any], name: str) -> Figure:
    """Rows: the input, LIF's spikes, the neuron's. Columns: the inputs. Titles have mean rates.

    name: of the neuron, in the titles.
    """
    figure = plt.figure(figsize=(9.6, 4.4), layout="constrained")
    panels = figure.subplots(3, 4)
    for column, (title, x) in enumerate(inputs().items()):
        spikes = {"LIF": answers(LIF, x), name: answers(neuron, x)}
        largest = max(float(one.abs().max()) for one in spikes.values()) or 1.0
        show(panels[0, column], x, title, cmap="RdBu_r", vmin=-2, vmax=2)
        for axes, (who, one) in zip(panels[1:, column], spikes.items(), strict=True):
            mean = f"{float(one.abs().mean()):.2f} spikes a step"
            show(axes, one, f"{who}, {mean}", cmap="Greys", vmin=0, vmax=largest)
        panels[2, column].set_xticks(range(0, STEPS, 10))
    panels[2, 3].set_xticks(range(STEPS), [*SENTENCE], fontsize=6, family="monospace")
    panels[2, 3].tick_params(length=0)
    return figure


def show(axes: Any, values: Tensor, title: str, **look: Any) -> None:
    axes.imshow(values.T.numpy(), aspect="auto", origin="lower", interpolation="nearest", **look)
    axes.set_title(title, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set(xticks=[], yticks=[])

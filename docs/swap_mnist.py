"""Does a swapped network still learn? A small convolutional net on MNIST: LIF, DSN and BPSN.

    SJ_LANG_DATA=FOLDER python docs/swap_mnist.py [lif dsn bpsn ...] [--old LIFNode] [--steps 200]

FOLDER holds `mnist_t10k/` with MNIST's two test files, `t10k-images-idx3-ubyte.gz` and
`t10k-labels-idx1-ubyte.gz`: 8,000 images are learned from, 2,000 are held out.
"""

from __future__ import annotations

import argparse
import gzip
import os
import time
from pathlib import Path

import numpy as np
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from sj_lang.swap import swap

T, WIDTH, BATCH = 4, 8, 64


def mnist() -> tuple[Tensor, Tensor]:
    """Images [10000, 1, 14, 14] in 0 to 1, the means of 2 x 2 pixels, and labels."""
    folder = Path(os.environ["SJ_LANG_DATA"]) / "mnist_t10k"

    def read(name: str, header: int) -> Tensor:
        with gzip.open(folder / name) as file:
            return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=header).copy())

    images = read("t10k-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28).float() / 255
    return avg_pool2d(images, 2), read("t10k-labels-idx1-ubyte.gz", 8).long()


def network(kind: str) -> nn.Module:
    """The convolutional net of SpikingJelly's tutorials, in multi-step mode."""

    def node() -> nn.Module:
        return getattr(neuron, kind)(surrogate_function=surrogate.ATan())

    net = nn.Sequential(
        *(layer.Conv2d(1, WIDTH, 3, padding=1, bias=False), layer.BatchNorm2d(WIDTH), node(), layer.MaxPool2d(2)),
        *(layer.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), layer.BatchNorm2d(WIDTH), node()),
        *(layer.Flatten(), layer.Linear(WIDTH * 7 * 7, 10, bias=False), node()),
    )
    functional.set_step_mode(net, "m")
    return net


def train(new: str, old: str, steps: int, seed: int) -> tuple[float, float]:
    """Accuracy on the held-out images, and seconds of training. new: "lif" leaves the old nodes."""
    torch.manual_seed(seed)
    images, labels = mnist()
    net = network(old)
    if new != "lif":
        print(swap(net, new, example=images[:BATCH].repeat(T, 1, 1, 1, 1)), flush=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    start = time.perf_counter()
    for _ in range(steps):
        rows = torch.randint(8_000, (BATCH,))
        loss = cross_entropy(net(images[rows].repeat(T, 1, 1, 1, 1)).mean(0), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(net)
    seconds = time.perf_counter() - start
    net.eval()
    right = 0
    with torch.no_grad():
        for x, y in zip(images[8_000:].split(500), labels[8_000:].split(500), strict=True):
            right += int((net(x.repeat(T, 1, 1, 1, 1)).mean(0).argmax(1) == y).sum())
            functional.reset_net(net)
    return right / 2_000, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("neurons", nargs="*", default=["lif", "dsn", "bpsn"], help="lif leaves the old nodes")
    parser.add_argument("--old", default="LIFNode", choices=("LIFNode", "IFNode"), help="the nodes of the network")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for new in options.neurons:
        accuracy, seconds = train(new, options.old, options.steps, options.seed)
        print(f"{options.old} {new}: accuracy {accuracy:.4f}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()

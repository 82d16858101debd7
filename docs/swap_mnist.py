"""Does a swapped network still learn? A convolutional net and a Spikformer on MNIST: LIF, DSN,
BPSN.

    SJ_LANG_DATA=FOLDER python docs/swap_mnist.py [cnn] [spikformer] [--old LIFNode] [--new dsn-n4]

FOLDER holds `mnist_t10k/` with MNIST's two test files, `t10k-images-idx3-ubyte.gz` and
`t10k-labels-idx1-ubyte.gz`: 8,000 images are learned from, 2,000 are held out. It prints a table,
over the seeds: accuracy and its deviation, spikes per neuron and step, microjoules of the products
of an image, and seconds of processor time of training.
"""

from __future__ import annotations

import argparse
import gzip
import os
import time
from pathlib import Path
from statistics import mean, pstdev

import numpy as np
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from sj_lang.energy import energy
from sj_lang.swap import swap

WIDTH, BATCH = 8, 64
#: how many pixels a step has if the image is a sequence
SEQUENCES = {"rows": 14, "pixels": 1}
#: what a node is swapped to: None leaves the old ones
NEW = {
    "as it was": None,
    "dsn": {"type": "dsn"},
    "dsn-n4": {"type": "dsn", "n": 4},
    "bpsn": {"type": "bpsn"},
}


def mnist() -> tuple[Tensor, Tensor]:
    """Images [10000, 1, 14, 14] in 0 to 1, the means of 2 x 2 pixels, and labels."""
    folder = Path(os.environ["SJ_LANG_DATA"]) / "mnist_t10k"

    def read(name: str, header: int) -> Tensor:
        with gzip.open(folder / name) as file:
            return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=header).copy())

    images = read("t10k-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28).float() / 255
    return avg_pool2d(images, 2), read("t10k-labels-idx1-ubyte.gz", 8).long()


class Net(nn.Module):
    """Layers in multi-step mode. kind: of its nodes. coding: of an image, in T steps."""

    def __init__(self, kind: str, T: int, coding: str) -> None:
        super().__init__()
        self.T, self.kind, self.coding = T, kind, coding
        self.layers = nn.Sequential(*self.build())
        functional.set_step_mode(self, "m")

    def node(self) -> nn.Module:
        return getattr(neuron, self.kind)(surrogate_function=surrogate.ATan(), step_mode="m")

    def conv(self, channels: int, width: int) -> list[nn.Module]:
        conv = layer.Conv2d(channels, width, 3, padding=1, bias=False)
        return [conv, layer.BatchNorm2d(width), self.node()]

    def build(self) -> list[nn.Module]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.coded(x)).mean(0)

    def coded(self, x: Tensor) -> Tensor:
        """[T, B, 1, 14, 14], an image T times or as random spikes; or [T, B, C], the sequence."""
        if self.coding in ("rows", "pixels"):
            return x.flatten(1).unflatten(1, (-1, SEQUENCES[self.coding])).movedim(1, 0)
        x = x.repeat(self.T, 1, 1, 1, 1)
        return x if self.coding == "repeated" else (torch.rand_like(x) <= x).float()


class CNN(Net):
    """The convolutional net of SpikingJelly's tutorials."""

    def build(self) -> list[nn.Module]:
        convs = [*self.conv(1, WIDTH), layer.MaxPool2d(2), *self.conv(WIDTH, WIDTH)]
        return [*convs, layer.Flatten(), layer.Linear(WIDTH * 7 * 7, 10, bias=False), self.node()]


class MLP(Net):
    """The fully connected net of the tutorials, with a hidden layer."""

    def build(self) -> list[nn.Module]:
        hidden = layer.Linear(SEQUENCES.get(self.coding, 14 * 14), 64, bias=False)
        return [layer.Flatten(), hidden, layer.BatchNorm1d(64), self.node(), layer.Linear(64, 10), self.node()]


class Tokens(nn.Module):
    """[T, B, D, H, W] to [T, B, L, D]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(3).transpose(2, 3)


class Linear(nn.Module):
    """Linear, BatchNorm and spikes of [T, B, L, D]."""

    def __init__(self, inputs: int, outputs: int, node: nn.Module) -> None:
        super().__init__()
        self.linear, self.norm, self.node = nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), node

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.linear(x).flatten(0, 2))
        return self.node(y.unflatten(0, x.shape[:3]))


class Block(nn.Module):
    """Spiking self-attention, without softmax, and an MLP, both with residuals."""

    def __init__(self, width: int, heads: int, net: Net) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (Linear(width, width, net.node()) for _ in range(4))
        self.mlp = nn.Sequential(Linear(width, 2 * width, net.node()), Linear(2 * width, width, net.node()))
        self.attended, self.heads = net.node(), heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(2, 3) for part in (self.q, self.k, self.v))
        y = 0.25 * q @ (k.transpose(-1, -2) @ v)
        x = x + self.out(self.attended(y.transpose(2, 3).flatten(3)))
        return x + self.mlp(x)


class Spikformer(Net):
    """Spikformer with tokens before features, one block of 49 tokens, 4 heads and width 32."""

    def build(self) -> list[nn.Module]:
        stem = [*self.conv(1, 16), layer.MaxPool2d(2), *self.conv(16, 32), Tokens()]
        return [*stem, Block(32, 4, self), TokenMean(), nn.Linear(32, 10)]


class TokenMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2)


NETS = {"cnn": CNN, "mlp": MLP, "spikformer": Spikformer}


def train(net: Net, seed: int, steps: int) -> float:
    """Seconds of processor time that the training took."""
    images, labels = mnist()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    start = time.process_time()
    for _ in range(steps):
        rows = torch.randint(8_000, (BATCH,), generator=generator)
        loss = cross_entropy(net(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(net)
    return time.process_time() - start


@torch.no_grad()
def measure(net: Net) -> tuple[float, float, float]:
    """Accuracy on the held-out images, spikes per neuron and step, microjoules of an image."""
    images, labels = (data[8_000:] for data in mnist())
    nodes = [place for place in net.modules() if isinstance(place, neuron.BaseNode) or hasattr(place, "levels")]
    right, spikes, steps = 0, 0.0, 0

    def count(node: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal spikes, steps
        spikes, steps = spikes + float(output.sum()), steps + output.numel()

    handles = [node.register_forward_hook(count) for node in nodes]
    net.eval()
    for x, y in zip(images.split(500), labels.split(500), strict=True):
        right += int((net(x).argmax(1) == y).sum())
        functional.reset_net(net)
    for handle in handles:
        handle.remove()
    joules = 0.0
    for x in images[:32].split(1):
        joules += 1e3 * energy(net, [{"x": x}])["energy.synapses_mj"] / 32
        functional.reset_net(net)
    return right / 2_000, spikes / steps, joules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=["cnn", "spikformer"], help=", ".join(NETS))
    parser.add_argument("--old", default="LIFNode", choices=("LIFNode", "IFNode"), help="the nodes of the network")
    parser.add_argument("--new", nargs="*", default=list(NEW), choices=list(NEW), help="what they are swapped to")
    parser.add_argument("--coding", default="repeated", choices=("repeated", "poisson", *SEQUENCES))
    parser.add_argument("--T", type=int, default=4, help="steps, if the image is repeated or poisson")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    options = parser.parse_args()
    print("| net | nodes | accuracy | rate | microjoules | seconds |\n|---|---|---|---|---|---|", flush=True)
    for name in options.nets:
        for new in options.new:
            rows = []
            for seed in options.seeds:
                torch.manual_seed(seed)
                net = NETS[name](options.old, options.T, options.coding)
                if NEW[new]:
                    report = swap(net, NEW[new], example=mnist()[0][:BATCH])
                    assert not report.left, str(report)
                seconds = train(net, seed, options.steps)
                rows.append((*measure(net), seconds))
            accuracy, rate, joules, seconds = map(mean, zip(*rows, strict=True))
            deviation = pstdev(row[0] for row in rows)
            figures = f"{accuracy:.3f} ± {deviation:.3f} | {rate:.3f} | {joules:.2f} | {seconds:.0f}"
            print(f"| {name}, {options.old} | {new} | {figures} |", flush=True)


if __name__ == "__main__":
    main()

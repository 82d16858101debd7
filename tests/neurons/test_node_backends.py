"""Backends and surrogates are chosen by name, or refused."""

from typing import Any

import pytest
import torch
from leaky import Leaky
from torch import nn

from sj_lang import compat
from sj_lang.neuron import Kernel

functional: Any = compat.spikingjelly("functional")
X = torch.zeros(5, 3, 4)


class Kernels(Leaky):
    """Its torch kernel answers 7, its CuPy kernel 8, if it may."""

    kernels = {  # noqa: RUF012
        "torch": Kernel(run=lambda x: 7),
        "cupy": Kernel(run=lambda x: 8, why_not=lambda x: "" if x is None or x.shape[0] == 1 else "needs one step"),
    }


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="Leaky: no backend 'cuppy'; did you mean 'cupy'"):
        Leaky(channels=4, backend="cuppy")


def test_cupy_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match='Kernels: backend "cupy" needs a CUDA device, and torch sees none'):
        Kernels(channels=4, backend="cupy")
    assert Kernels(channels=4).choose(X).run(X) == 7


def test_backend_is_a_contract_and_auto_may_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    auto, torch_only, cupy = (Kernels(channels=4, backend=name) for name in ("auto", "torch", "cupy"))
    assert [node.choose(X[:1]).run(X) for node in (auto, torch_only, cupy)] == [8, 7, 8]
    assert auto.choose(X).run(X) == 7
    with pytest.raises(RuntimeError, match='Kernels: backend "cupy" needs one step'):
        cupy.choose(X)
    with pytest.raises(RuntimeError, match='Leaky: backend "cupy" has no kernel for this neuron, which has: torch'):
        Leaky(channels=4, backend="cupy")


@pytest.mark.skipif(not hasattr(functional, "set_backend"), reason="SpikingJelly 2.x has no set_backend")
def test_set_backend_of_spikingjelly() -> None:
    net = nn.Sequential(Kernels(channels=4))
    functional.set_backend(net, "torch")
    assert net[0].backend == "torch"
    assert "cupy" in net[0].supported_backends
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="needs a CUDA device"):
            functional.set_backend(net, "cupy")


def test_surrogates_by_name() -> None:
    available = compat.surrogates()
    assert {"ATan", "Sigmoid", "Erf", "S2NN"} <= set(available)
    x = torch.tensor([-1.0, -1e-3, 0.0, 1e-3, 1.0], requires_grad=True)
    for name in available:
        module = compat.surrogate(name)
        assert module(x).tolist() == [0, 0, 1, 1, 1], name
        assert compat.surrogate(module) is module
    with pytest.raises(ValueError, match="no surrogate 'Atan'; did you mean 'ATan'"):
        compat.surrogate("Atan")
    with pytest.raises(TypeError, match="a name or a module"):
        compat.surrogate(3)


def test_a_backend_that_a_node_has_no_kernel_for_is_refused_torch_too() -> None:
    # a node without kernels runs the base class's loop
    assert Leaky(channels=3, backend="torch").backend == "torch"
    with pytest.raises(RuntimeError, match='Leaky: backend "torch" has no kernel for this neuron, which has: cupy'):
        type("Leaky", (Leaky,), {"kernels": {"cupy": Kernels.kernels["cupy"]}})(channels=3, backend="torch")

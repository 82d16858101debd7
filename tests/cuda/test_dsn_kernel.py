"""DSN's CUDA kernel, run on the CPU, through the
conformance kit of the neurons and against the torch operator.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_checks import KERNEL_CHECKS, gradients, gradients_go_through_pieces, no_state_is_zeros
from sj_lang_neurons import DSN
from sj_lang_neurons.dsn import cupy
from sj_lang_neurons.dsn.inputs import DSNInputs
from sj_lang_neurons.firing import HEAVISIDES
from sj_lang_neurons.scan.cuda_layout import Tile
from torch import Tensor, nn

from sj_lang import plugins
from sj_lang.compat import surrogate, surrogates
from sj_lang.testing import check_node
from sj_lang.testing.kernels import unwritten_memory_is_nan

VARIANTS: dict[str, dict[str, Any]] = {
    "conv": {},
    "ATan, one tap": {"k": 1, "n": 1, "surrogate_function": "ATan"},
    "linear": {"decay": "linear"},
    "static, tau 2": {"decay": "static", "tau": 2.0},
    "tau .7": {"k": 3, "tau": 0.7, "alpha_init": 0.9},
}
OPS = {"cupy": ["sj_lang::dsn_cuda", "sj_lang::dsn_cuda_backward"]}


def conforms(options: dict[str, Any], **given: Any) -> None:
    report = check_node(
        lambda channels: DSN(channels=channels, **options),
        traits=plugins.get("neuron", "dsn"),
        backends=("cupy",),
        **given,
    )
    assert report.passed


@pytest.mark.any_line
@pytest.mark.usefixtures("on_cpu")
def test_the_kernels_part_of_the_kit() -> None:
    conforms({}, only=KERNEL_CHECKS, dtypes=[torch.float64])


@pytest.mark.slow
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.usefixtures("on_cpu")
def test_the_whole_kit(options: dict[str, Any]) -> None:
    conforms(options)


@pytest.mark.usefixtures("on_cpu")
def test_the_operators_run() -> None:
    for backend in ("cupy", "auto"):
        check_node(
            lambda channels: DSN(channels=channels),
            traits=plugins.get("neuron", "dsn"),
            backends=(backend,),
            only=("backend_really_runs",),
            ops={backend: OPS["cupy"]},
        )


@pytest.mark.usefixtures("on_cpu")
def test_one_state_may_be_missing() -> None:
    """The same shapes with other states are another launch."""
    node, x = DSN(channels=3), torch.randn(9, 2, 3, requires_grad=True)
    tail, h_0 = torch.zeros(2, 3, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    found = []
    for states in ((tail, h_0), (tail, None), (None, h_0), (None, None)):
        out = cupy.dsn_cupy(DSNInputs(x, *states, node.weight, node.bias, None, 4.0), node.firing)
        leaves = [x, *(state for state in states if state is not None)]
        grads = torch.autograd.grad(out.spikes.sum() + out.h.sum(), leaves)
        assert [grad.shape for grad in grads] == [leaf.shape for leaf in leaves]
        found.append(grads)
    (of_x, of_tail, of_0), *others = found
    for grads, expected in zip(others, [(of_x, of_tail), (of_x, of_0), (of_x,)], strict=True):
        assert all(map(torch.equal, grads, expected))


def results(node: DSN, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    """Spikes, states, and every gradient of a functional of both."""
    x = x.detach().requires_grad_()
    start = {name: value.add(0.3).requires_grad_() for name, value in node.init_state(x).items()}
    spikes, after = node.functional(x, start, mask)
    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (value.double() * torch.randn(value.shape, generator=generator, dtype=torch.float64)).sum()
        for value in (spikes, *after.values())
    )
    leaves = [x, *start.values(), *node.parameters()]
    grads = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return [spikes.detach(), *(v.detach() for v in after.values()), *grads]


def compare(node: DSN, x: Tensor, mask: Tensor | None = None, tolerance: float = 1e-10) -> None:
    node.backend = "cupy"
    with unwritten_memory_is_nan():
        ours = results(node, x, mask)
    node.backend = "torch"
    true = results(node, x, mask)
    for number, (a, b) in enumerate(zip(ours, true, strict=True)):
        assert a.dtype == b.dtype
        scale = max(1.0, float(b.abs().max()) if b.numel() else 1.0)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale, msg=lambda m, number=number: f"{number}: {m}")


@pytest.mark.parametrize("tile", [Tile(32, 1, 8), Tile(4, 5, 8)], ids=str)
@pytest.mark.parametrize("options", [{}, {"decay": "linear"}], ids=["conv", "linear"])
@pytest.mark.usefixtures("in_any_order")
def test_every_schedule_and_order_of_threads(
    monkeypatch: pytest.MonkeyPatch, tile: Tile, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(cupy, "schedule", lambda columns, steps: tile)
    torch.manual_seed(0)
    node = DSN(channels=7, **options).double()
    x = torch.randn(150, 3, 7, dtype=torch.float64) * 2
    mask = torch.arange(150)[:, None] < torch.tensor([150, 0, 97])
    compare(node, x, mask)


@pytest.mark.parametrize("decay", ["static", "conv", "linear"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_half_precision_of_the_input_does_not_reach_the_decay(decay: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    node, x = DSN(channels=3, decay=decay, alpha_init=0.999, tau=0.25, backend="cupy"), torch.rand(500, 1, 3).to(dtype)
    if node.weight is not None:
        torch.nn.init.normal_(node.weight, std=0.05)
    h = node.functional(x)[1]["h"]
    node.backend = "torch"
    want = node.double().functional(x.double())[1]["h"]
    torch.testing.assert_close(h.double(), want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("k", [2, 5, cupy.MOST_TAPS])
@pytest.mark.usefixtures("on_cpu")
def test_taps(k: int) -> None:
    torch.manual_seed(k)
    for steps in (1, 3, 41):
        compare(DSN(channels=3, k=k, tau=1 / 3).double(), torch.randn(steps, 2, 3, dtype=torch.float64))


MASKS = [None, torch.arange(41)[:, None] < torch.tensor([41, 2])]


@pytest.mark.parametrize("mask", MASKS, ids=["whole", "masked"])
@pytest.mark.usefixtures("in_any_order")
def test_no_state_is_zeros(mask: Tensor | None) -> None:
    torch.manual_seed(0)
    node, x = DSN(channels=3, backend="cupy"), torch.randn(41, 2, 3, requires_grad=True)
    no_state_is_zeros(node, x, mask)


@pytest.mark.parametrize("mask", MASKS, ids=["whole", "masked"])
@pytest.mark.parametrize("cuts", [(41,), (1, 40), (3, 1, 2, 35), (20, 21)], ids=str)
@pytest.mark.usefixtures("in_any_order")
def test_gradients_go_through_the_states_of_pieces(cuts: tuple[int, ...], mask: Tensor | None) -> None:
    """The potential and the last inputs carry them to the piece before, however short it is."""
    torch.manual_seed(0)
    node, x = DSN(channels=3, k=6).double(), torch.randn(41, 2, 3, dtype=torch.float64, requires_grad=True)
    gradients_go_through_pieces(node, x, mask, cuts, 1e-12)


@pytest.mark.usefixtures("on_cpu")
def test_gradients_of_states_alone() -> None:
    torch.manual_seed(0)
    node, x = DSN(channels=3).double(), torch.randn(9, 2, 3, dtype=torch.float64, requires_grad=True)
    for name in ("h", "tail"):
        found = []
        for backend in ("torch", "cupy"):
            node.backend = backend
            found.append(gradients(node, x, node.functional(x)[1][name]))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(5, 2, 3), (5, 2, 3, 4), (5, 2, 3, 4, 2)], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_states_are_no_views(shape: tuple[int, ...]) -> None:
    node, x = DSN(channels=3, backend="cupy"), torch.randn(shape, requires_grad=True)
    for value in node.functional(x)[1].values():
        assert value._base is None
        value.detach_()


@pytest.mark.usefixtures("on_cpu")
def test_images_of_any_layout() -> None:
    torch.manual_seed(0)
    node, x = DSN(channels=3).double(), torch.randn(7, 2, 3, 4, 5, dtype=torch.float64)
    for y in (x, x.transpose(3, 4), x.movedim(2, 4).contiguous().movedim(4, 2), x.transpose(0, 1).flip(0)):
        z = y if y.shape[0] == 7 else y.transpose(0, 1)
        compare(node, z)


@pytest.mark.parametrize("m", [1, 2, 7, 64, 65, 0.4])
@pytest.mark.usefixtures("on_cpu")
def test_exponents(m: float) -> None:
    torch.manual_seed(0)
    compare(DSN(channels=3, k=2, tau=1 / m, alpha_init=0.8).double(), torch.randn(20, 2, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", HEAVISIDES)
@pytest.mark.usefixtures("on_cpu")
def test_surrogates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused spikes and gradients are those of SpikingJelly's module,
    at several sizes of alpha and of the potential.
    """
    if name not in surrogates():
        pytest.skip(f"this SpikingJelly has no {name}")
    torch.manual_seed(0)
    fire = surrogate(name)
    for alpha in (float(fire.alpha), 0.7):
        fire.alpha = alpha
        node = DSN(channels=4, n=1, surrogate_function=fire, v_threshold=0.4).double()
        compare(node, torch.randn(30, 3, 4, dtype=torch.float64) * 2)
    called: list[int] = []
    monkeypatch.setattr(type(fire), "forward", lambda self, x: called.append(1))
    node.backend = "cupy"
    node(torch.randn(5, 1, 4, dtype=torch.float64))
    assert not called


@pytest.mark.usefixtures("on_cpu")
def test_a_surrogate_that_no_kernel_knows() -> None:
    class Mine(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return (u >= 0).to(u) + u.sigmoid() - u.sigmoid().detach()

    torch.manual_seed(0)
    x = torch.randn(9, 2, 4, dtype=torch.float64) * 2
    node = DSN(channels=4, n=1, surrogate_function=Mine()).double()
    want = results(node, x)  # "auto": the kernel gives potentials, the module fires
    node.backend = "torch"
    for a, b in zip(want, results(node, x), strict=True):
        torch.testing.assert_close(a, b)
    node.backend = "cupy"
    with pytest.raises(RuntimeError, match='DSN: backend "cupy" has no fused firing for Mine, only for ATan, Sigmoid'):
        node(x)


@pytest.mark.usefixtures("on_cpu")
def test_a_threshold_that_is_a_whole_number() -> None:
    node, x = DSN(channels=4, n=1, surrogate_function="ATan", backend="cupy"), torch.randn(9, 2, 4) * 2
    want = node.functional(x)[0]
    node.v_threshold = 1
    assert torch.equal(node.functional(x)[0], want)


@pytest.mark.usefixtures("on_cpu")
def test_more_taps_than_the_kernel_takes() -> None:
    k = cupy.MOST_TAPS + 1
    with pytest.raises(RuntimeError, match=f'DSN: backend "cupy" takes at most {k - 1} taps, k is {k}'):
        DSN(channels=2, k=k, backend="cupy")
    assert DSN(channels=2, k=k)(torch.randn(3, 1, 2)).shape == (3, 1, 2)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "channels first": lambda x: x.movedim(2, 0).contiguous().movedim(0, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_the_sequence_is_not_copied(
    layout: Callable[[Tensor], Tensor], dtype: torch.dtype, launches: list[Any]
) -> None:
    """The kernel reads the very memory of x, in its dtype and layout,
    and the spikes are laid out as x is.
    """
    torch.manual_seed(0)
    node, x = DSN(channels=6, backend="cupy"), layout(torch.randn(12, 3, 6).to(dtype))
    spikes, _ = node.functional(x)
    assert launches[0][1][0].data_ptr() == x.data_ptr()
    assert spikes.stride() == x.stride()
    assert spikes.dtype == dtype
    want, _ = node.functional(x.float().contiguous())
    assert torch.equal(spikes.float(), want)


@pytest.mark.usefixtures("on_cpu")
def test_one_launch_forward_and_one_backward(launches: list[Any]) -> None:
    node, x = DSN(channels=6, backend="cupy"), torch.randn(12, 3, 6, requires_grad=True)
    node(x).sum().backward()
    assert [name for name, _ in launches] == ["dsn", "dsn_backward"]


@pytest.mark.usefixtures("on_cpu")
def test_long_memory_in_bfloat16_settles_on_the_input() -> None:
    """Decays near 1 are not rounded: alpha = .9995 is 1 in bfloat16."""
    node = DSN(channels=2, decay="static", alpha_init=0.9995, n=8, backend="cupy")
    _, state = node.functional(torch.full((20_000, 1, 2), 3.0, dtype=torch.bfloat16))
    torch.testing.assert_close(state["h"], torch.full((1, 2), 3.0), rtol=1e-4, atol=0)

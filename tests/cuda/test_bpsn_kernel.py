"""BPSN's CUDA kernels, run on the CPU, through the
conformance kit of the neurons and against the torch operator.
"""

from typing import Any

import pytest
import torch
from kernel_checks import KERNEL_CHECKS, gradients_go_through_pieces, no_state_is_zeros
from sj_lang_neurons import BPSN
from sj_lang_neurons.bpsn import cupy
from sj_lang_neurons.scan.cuda_layout import Tile
from torch import Tensor, nn

from sj_lang import plugins
from sj_lang.compat import surrogate
from sj_lang.testing import Traits, check_node
from sj_lang.testing.kernels import unwritten_memory_is_nan

VARIANTS: dict[str, dict[str, Any]] = {
    "R": {},
    "R forward": {"direction": "forward"},
    "A": {"variant": "A"},
    "A forward": {"variant": "A", "direction": "forward"},
    "G backward": {"variant": "G", "direction": "backward"},
    "K": {"variant": "K"},
    "K forward": {"variant": "K", "direction": "forward"},
    "ternary": {"spikes": "ternary"},
    "integer forward": {"variant": "A", "direction": "forward", "spikes": "integer", "levels": 3},
    "unsigned": {"direction": "forward", "spikes": "integer", "levels": 4, "signed": False, "offset": True},
    "binary with offset": {"variant": "G", "direction": "backward", "offset": True},
}


def conforms(options: dict[str, Any], **given: Any) -> None:
    forward = options.get("direction") == "forward"
    traits = {"causal": forward, "steps": forward, "carries_state": forward, "takes_mask": True, "any_length": True}
    skip = {"gradients_are_exact": "K counts"} if options.get("variant") == "K" else {}
    report = check_node(
        lambda channels: BPSN(channels=channels, **options),
        traits=Traits.of(traits),
        backends=("cupy",),
        skip=skip,
        **given,
    )
    assert report.passed


@pytest.mark.parametrize("options", [{}, VARIANTS["unsigned"]], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_the_kernels_part_of_the_kit(options: dict[str, Any]) -> None:
    conforms(options, only=KERNEL_CHECKS, dtypes=[torch.float64])


@pytest.mark.slow
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.usefixtures("on_cpu")
def test_the_whole_kit(options: dict[str, Any]) -> None:
    conforms(options)


@pytest.mark.usefixtures("on_cpu")
def test_the_operators_run() -> None:
    names = ["sj_lang::bpsn_cuda", "sj_lang::bpsn_cuda_backward"]
    for backend in ("cupy", "auto"):
        check_node(
            lambda channels: BPSN(channels=channels),
            traits=plugins.get("neuron", "bpsn"),
            backends=(backend,),
            only=("backend_really_runs",),
            ops={backend: names},
        )


def results(node: BPSN, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    """Spikes, states, and every gradient of a functional of both,
    begun from a state that has seen something.
    """
    x = x.detach().requires_grad_()
    with torch.no_grad():
        start = node.functional(x[:3])[1]
    start = {name: value.clone().requires_grad_() for name, value in start.items()}
    spikes, after = node.functional(x, start or None, mask)
    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (value.double() * torch.randn(value.shape, generator=generator, dtype=torch.float64)).sum()
        for value in (spikes, *after.values())
    )
    grads = torch.autograd.grad(loss, [x, *start.values(), *node.parameters()], materialize_grads=True)
    return [spikes.detach(), *(v.detach() for v in after.values()), *grads]


def compare(node: BPSN, x: Tensor, mask: Tensor | None = None, tolerance: float = 1e-10) -> None:
    node.backend = "cupy"
    with unwritten_memory_is_nan():
        ours = results(node, x, mask)
    node.backend = "torch"
    for number, (a, b) in enumerate(zip(ours, results(node, x, mask), strict=True)):
        assert a.dtype == b.dtype
        scale = max(1.0, float(b.abs().max()) if b.numel() else 1.0)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale, msg=lambda m, number=number: f"{number}: {m}")


@pytest.mark.parametrize("tile", [Tile(32, 1, 8), Tile(4, 5, 3)], ids=str)
@pytest.mark.parametrize("options", [{}, {"direction": "forward"}], ids=["R", "R forward"])
@pytest.mark.usefixtures("in_any_order")
def test_every_schedule_and_order_of_threads(
    monkeypatch: pytest.MonkeyPatch, tile: Tile, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(cupy, "schedule", lambda columns, steps: tile)
    torch.manual_seed(0)
    node = BPSN(channels=7, **options).double()
    x = torch.randn(150, 3, 7, dtype=torch.float64) * 2
    mask = torch.arange(150)[:, None] < torch.tensor([150, 0, 97])
    compare(node, x, mask)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("steps", [1, 2, 40, 300])
@pytest.mark.usefixtures("on_cpu")
def test_equals_the_torch_operator(options: dict[str, Any], steps: int) -> None:
    torch.manual_seed(steps)
    node = BPSN(channels=3, **options).double()
    compare(node, torch.randn(steps, 2, 3, 2, dtype=torch.float64) * 2)


CAUSAL = {name: options for name, options in VARIANTS.items() if "forward" in name}
MASKS = [None, torch.arange(150)[:, None] < torch.tensor([150, 2, 0])]


@pytest.mark.parametrize("mask", MASKS, ids=["whole", "masked"])
@pytest.mark.parametrize("options", CAUSAL.values(), ids=CAUSAL)
@pytest.mark.usefixtures("on_cpu")
def test_no_state_is_zeros(options: dict[str, Any], mask: Tensor | None) -> None:
    torch.manual_seed(0)
    node, x = BPSN(channels=3, backend="cupy", **options), torch.randn(150, 3, 3, requires_grad=True)
    no_state_is_zeros(node, x, mask)


@pytest.mark.parametrize("mask", MASKS, ids=["whole", "masked"])
@pytest.mark.parametrize("cuts", [(150,), (1, 149), (3, 1, 140, 6)], ids=str)
@pytest.mark.parametrize("options", CAUSAL.values(), ids=CAUSAL)
@pytest.mark.usefixtures("on_cpu")
def test_gradients_go_through_the_states_of_pieces(
    options: dict[str, Any], cuts: tuple[int, ...], mask: Tensor | None
) -> None:
    torch.manual_seed(0)
    node = BPSN(channels=3, **options).double()
    x = torch.randn(150, 3, 3, dtype=torch.float64, requires_grad=True)
    gradients_go_through_pieces(node, x, mask, cuts, 1e-10)


@pytest.mark.parametrize("options", [{}, VARIANTS["R forward"]], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_images_of_any_layout(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    node, x = BPSN(channels=3, **options).double(), torch.randn(7, 2, 3, 4, 5, dtype=torch.float64)
    for y in (x, x.transpose(3, 4), x.movedim(2, 4).contiguous().movedim(4, 2)):
        compare(node, y)


@pytest.mark.parametrize("logit", [-200.0, 30.0, 200.0])
@pytest.mark.usefixtures("on_cpu")
def test_saturated_parameters_stay_inside(logit: float) -> None:
    """In float32, where the sigmoid of a decay comes to 0 or 1."""
    torch.manual_seed(0)
    node, x = BPSN(channels=2), torch.randn(200, 2, 2)
    with torch.no_grad():
        for parameter in (node.decay_f, node.decay_b, node.lateral, node.threshold):
            parameter.fill_(logit)
    compare(node, x, tolerance=1e-4)


@pytest.mark.parametrize("decay", [1e-6, 0.5, 1 - 1e-4, 1 - 1e-9])
@pytest.mark.usefixtures("on_cpu")
def test_decays_from_0_to_1(decay: float) -> None:
    torch.manual_seed(0)
    node = BPSN(channels=2).double()
    with torch.no_grad():
        node.decay_f.fill_(torch.tensor(decay, dtype=torch.float64).logit())
        node.decay_b.fill_(-node.decay_f[0])
    compare(node, torch.randn(300, 1, 2, dtype=torch.float64), tolerance=1e-9)


# all are tested with DSN, and are the same text
@pytest.mark.parametrize("name", ["ATan", "Sigmoid"])
@pytest.mark.usefixtures("on_cpu")
def test_surrogates(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    fire = surrogate(name)
    node = BPSN(channels=4, surrogate_function=fire).double()
    compare(node, torch.randn(30, 3, 4, dtype=torch.float64) * 2)
    called: list[int] = []
    monkeypatch.setattr(type(fire), "forward", lambda self, x: called.append(1))
    node.backend = "cupy"
    node.functional(torch.randn(5, 1, 4, dtype=torch.float64))
    assert not called


@pytest.mark.usefixtures("on_cpu")
def test_a_channel_without_places_is_not_for_the_kernel() -> None:
    """No thread would be there to write the state."""
    x = torch.zeros(5, 2, 3, 0)
    with pytest.raises(RuntimeError, match=r'backend "cupy" needs places after the channels, got \(5, 2, 3, 0\)'):
        BPSN(channels=3, direction="forward", backend="cupy").functional(x)
    assert BPSN(channels=3, direction="forward").functional(x)[1]["denominator"].gt(0).all()


@pytest.mark.usefixtures("on_cpu")
def test_a_surrogate_that_no_kernel_knows() -> None:
    class Mine(nn.Module):
        def forward(self, u: Tensor) -> Tensor:
            return (u >= 0).to(u) + u.sigmoid() - u.sigmoid().detach()

    torch.manual_seed(0)
    node, x = BPSN(channels=4, surrogate_function=Mine()).double(), torch.randn(9, 2, 4, dtype=torch.float64)
    want = results(node, x)
    node.backend = "torch"
    for a, b in zip(want, results(node, x), strict=True):
        torch.testing.assert_close(a, b)
    node.backend = "cupy"
    with pytest.raises(RuntimeError, match='BPSN: backend "cupy" has no fused firing for Mine, only for ATan, Sigmoid'):
        node.functional(x)


@pytest.mark.parametrize(
    ("steps", "names"),
    [
        (128, ["bpsn", "bpsn_backward"]),
        (
            300,
            ["bpsn_chunks", "bpsn_carries", "bpsn", "bpsn_backward_chunks", "bpsn_carries", "bpsn_backward"],
        ),
    ],
)
@pytest.mark.usefixtures("on_cpu")
def test_launches(steps: int, names: list[str], launches: list[Any]) -> None:
    """A sentence of BERT's is one chunk, one launch each way; a long text takes three phases."""
    BPSN(channels=6, backend="cupy").functional(torch.randn(steps, 1, 6, requires_grad=True))[0].sum().backward()
    assert [name for name, _ in launches] == names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("on_cpu")
def test_the_sequence_is_not_copied(dtype: torch.dtype, launches: list[Any]) -> None:
    torch.manual_seed(0)
    node, x = BPSN(channels=6, backend="cupy"), torch.randn(3, 12, 6).to(dtype).transpose(0, 1)
    spikes, _ = node.functional(x)
    assert launches[0][1][0].data_ptr() == x.data_ptr()
    assert spikes.stride() == x.stride()
    assert torch.equal(spikes.float(), node.functional(x.float().contiguous())[0])


# opcheck's own doing
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("carries", [False, True])
@pytest.mark.parametrize("steps", [5, 200])
@pytest.mark.usefixtures("on_cpu")
def test_operators_are_registered_completely(steps: int, carries: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(steps, 2, 3, 1, requires_grad=True)
    parameters: list[Tensor | None] = [torch.randn(3, requires_grad=True) for _ in range(7)]
    start: list[Tensor | None] = [None, None]
    of_states: list[Tensor | None] = [None, None]
    if carries:
        parameters[4:6] = None, None
        start = [torch.randn(2, 3, 1).requires_grad_(), torch.ones(2, 3).requires_grad_()]
        of_states = [torch.randn(2, 3, 1), torch.randn(2, 3)]
    given = (x, *parameters, *start, torch.tensor([steps, 3]), True, carries, True, 2, 2.0, 0.0, 0.0)
    torch.library.opcheck(torch.ops.sj_lang.bpsn_cuda.default, given)
    borders = torch.ops.sj_lang.bpsn_cuda(*given)[3]
    detached = [v.detach() if isinstance(v, Tensor) else v for v in given]
    backward = (torch.randn_like(x), *of_states, borders.detach(), *detached)
    torch.library.opcheck(torch.ops.sj_lang.bpsn_cuda_backward.default, backward)


@pytest.mark.usefixtures("on_cpu")
def test_more_chunks_than_a_grid_takes() -> None:
    """Chunks are the second axis of the grid:
    too long a sequence is refused before anything is launched.
    """
    node = BPSN(channels=1, backend="cupy")
    x = torch.zeros((), dtype=torch.bfloat16).expand(65_536 * 256, 1, 1)
    with pytest.raises(ValueError, match=r"bpsn_chunks: 65536 blocks are more .* split the batch or the sequence"):
        node.functional(x)

"""Integer spikes in sub-steps."""

import pytest
import torch
from torch import nn

from sj_lang.energy import unrolled
from sj_lang.errors import RunFailed


def integer_spikes(*shape: int, most: int = 4) -> torch.Tensor:
    return torch.randint(-most, most + 1, shape).float()


@pytest.mark.parametrize("most", [1, 2, 4])
def test_a_linear_layer_in_substeps_is_the_layer(most: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(7, 5)
    spikes = integer_spikes(3, 11, 7, most=most)
    with unrolled(linear) as mode:
        in_substeps = linear(spikes)
    assert (mode.products, mode.substeps, mode.least, mode.most) == (1, most, -most, most)
    torch.testing.assert_close(in_substeps, linear(spikes), rtol=0, atol=1e-5)


def test_one_scale_in_front_of_the_layer_does_not_hide_the_spikes() -> None:
    torch.manual_seed(0)
    linear, spikes = nn.Linear(7, 5, bias=False), integer_spikes(4, 7)
    with unrolled(linear) as mode:
        scaled = linear(spikes * 0.37)
    assert mode.products == 1
    torch.testing.assert_close(scaled, linear(spikes * 0.37), rtol=0, atol=1e-5)


def test_attention_of_integer_spikes_is_two_products() -> None:
    torch.manual_seed(0)
    q, k, v = (integer_spikes(2, 3, 6, 4) for _ in range(3))
    with unrolled(nn.Identity()) as mode:
        out = nn.functional.scaled_dot_product_attention(q, k, v)
    assert mode.products == 2
    torch.testing.assert_close(out, nn.functional.scaled_dot_product_attention(q, k, v), rtol=0, atol=1e-5)


@pytest.mark.parametrize("most", [1, 4, 255])
def test_small_weights_beside_a_large_one_keep_their_bits(most: int) -> None:
    torch.manual_seed(0)
    linear, spikes = nn.Linear(512, 6, bias=False), integer_spikes(4, 512, most=most)
    with torch.no_grad():
        linear.weight.mul_(1e-3)[:, 0] = 1.0
        spikes[:, 0] = 0
        spikes[0, :3] = torch.tensor([1.0, most, -most])
    with unrolled(linear) as mode:
        in_substeps = linear(spikes)
    assert mode.most == most
    in_float64 = spikes.double() @ linear.weight.double().T
    torch.testing.assert_close(in_substeps.double(), in_float64, rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("name", ["mv", "dot", "addmv", "second operand", "three axes"])
def test_other_products(name: str) -> None:
    torch.manual_seed(0)
    spikes, matrix, vector = integer_spikes(5, 7), torch.randn(7, 5), torch.randn(7)
    run = {
        "mv": lambda: spikes @ vector,
        "dot": lambda: spikes[0].dot(vector),
        "addmv": lambda: torch.addmv(torch.ones(5), spikes, vector, beta=0.5, alpha=2.0),
        "second operand": lambda: matrix @ spikes,
        "three axes": lambda: torch.bmm(matrix.expand(3, 7, 5), spikes.expand(3, 5, 7)),
    }[name]
    with unrolled(nn.Identity()) as mode:
        in_substeps = run()
    assert mode.products == 1
    torch.testing.assert_close(in_substeps, run(), rtol=1e-6, atol=1e-6)


def test_products_of_floats_are_left_alone() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(7, 5), torch.randn(4, 7)
    with unrolled(linear) as mode:
        out = linear(x)
    assert mode.products == 0
    assert torch.equal(out, linear(x))


def test_a_product_that_differs_from_its_substeps_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("sj_lang.energy.unroll.EXACT", 73)  # sums are exact no more
    linear = nn.Linear(512, 64).double()
    nn.init.normal_(linear.weight)  # all 53 bits
    with pytest.raises(RunFailed, match="differs from its sub-steps"), unrolled(linear):
        linear(integer_spikes(64, 512).double())

"""Normalizations on their own: padding stays out of the statistics."""

from __future__ import annotations

import pytest
import torch
from sj_lang_language.norms.batch import BatchNorm
from sj_lang_language.norms.layer import LayerNorm
from sj_lang_language.norms.power import PowerNorm


def masked(*lead: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*lead, 5, generator=generator) * 3 + 1
    mask = torch.rand(*lead, generator=generator) < 0.7
    return x, mask


@pytest.mark.parametrize("lead", [(7, 3), (4, 3, 7)])
def test_batch_norm_is_torchs_over_the_valid_positions(lead: tuple[int, ...]) -> None:
    ours, theirs = BatchNorm(dim=5, eps=1e-3, momentum=0.3), torch.nn.BatchNorm1d(5, eps=1e-3, momentum=0.3)
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.arange(1.0, 6.0))
            norm.bias.copy_(torch.arange(5.0))
    x, mask = masked(*lead)
    junk = x.masked_fill(~mask[..., None], torch.nan)
    mine, right = junk.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = ours(mine, mask)[mask], theirs(right[mask])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * weight).sum().backward()
    (wanted * weight).sum().backward()
    torch.testing.assert_close(mine.grad[mask], right.grad[mask], rtol=1e-4, atol=1e-5)
    assert not mine.grad[~mask].any()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-5)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-5)
    whole = ours(x)  # without a mask: torch's own function
    torch.testing.assert_close(whole, theirs(x.flatten(0, -2)).view_as(x), rtol=1e-5, atol=1e-5)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, mask), theirs(x.flatten(0, -2)).view_as(x), rtol=1e-5, atol=1e-5)


def test_batch_norm_of_no_valid_position_or_one_is_finite() -> None:
    norm, (x, mask) = BatchNorm(dim=5), masked(4, 2)
    for count in (0, 1):
        few = torch.zeros_like(mask)
        few.view(-1)[:count] = True
        assert norm(x, few)[few].isfinite().all()
        assert norm.running_var.isfinite().all()


def test_gain_is_what_the_weight_starts_with() -> None:
    for norm in (BatchNorm(dim=5, gain=0.3), LayerNorm(dim=5, gain=0.3)):
        assert torch.equal(norm.weight, torch.full((5,), 0.3))
        with torch.no_grad():
            for tensor in (*norm.parameters(), *norm.buffers()):
                tensor.fill_(torch.nan)
        norm.reset_parameters()
        assert norm(torch.randn(6, 5)).isfinite().all()


def test_power_norm_divides_by_the_batch_and_then_by_what_is_running() -> None:
    norm = PowerNorm(dim=5, warmup=2, eps=1e-3)
    batches = [masked(7, 3)[0] * factor for factor in (1, 2, 4)]
    moments = [batch.square().mean((0, 1)) for batch in batches]
    for batch, moment in zip(batches[:2], moments[:2], strict=True):
        torch.testing.assert_close(norm(batch), batch * (moment + 1e-3).rsqrt())
    phi = (moments[0] + moments[1]) / 2
    torch.testing.assert_close(norm.phi, phi)
    torch.testing.assert_close(norm(batches[2]), batches[2] * (phi + 1e-3).rsqrt())
    torch.testing.assert_close(norm.phi, 0.9 * phi + 0.1 * moments[2])
    torch.testing.assert_close(norm.eval()(batches[0]), batches[0] * (norm.phi + 1e-3).rsqrt())


def test_power_norm_has_the_papers_backward_pass() -> None:
    norm, (x, mask) = PowerNorm(dim=5, warmup=1, gain=0.5), masked(7, 3)
    norm(x, mask)
    phi, nu = norm.phi.clone(), torch.zeros(5)
    for seed in (1, 2):
        leaf = x.masked_fill(~mask[..., None], torch.nan).requires_grad_()
        slope = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) * mask[..., None]
        y = norm(leaf, mask)
        (y.masked_fill(~mask[..., None], 0) * slope).sum().backward()
        normalized, grad = x[mask] * (phi + 1e-5).rsqrt(), slope[mask] * 0.5
        torch.testing.assert_close(leaf.grad[mask], (grad - nu * normalized) * (phi + 1e-5).rsqrt())
        assert not leaf.grad[~mask].any()
        nu = nu * (1 - 0.1 * normalized.square().mean(0)) + 0.1 * (grad * normalized).mean(0)
        torch.testing.assert_close(norm.nu, nu)
        phi = norm.phi.clone()
    for options in ({"alpha": 1.0}, {"warmup": 0}):
        with pytest.raises(ValueError, match="power: "):
            PowerNorm(dim=5, **options)

"""A call of a node chooses its kernel once, and gives it what that kernel takes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from sj_lang_neurons import BPSN, DSN
from torch import Tensor

NODES = {
    "DSN": DSN,
    "DSN, for which numba is slow": partial(DSN, tau=0.7),
    "BPSN": BPSN,
    "BPSN K": partial(BPSN, variant="K"),
    "BPSN forward": partial(BPSN, direction="forward"),
}
MASK = torch.tensor([[True], [False], [True]])


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", NODES.values(), ids=NODES)
def test_a_call_chooses_once(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any], dtype: torch.dtype, mask: Tensor | None
) -> None:
    node, calls, dtypes = make(channels=4), Counter[str](), []
    for name in ("choose", "why_not"):
        method = getattr(node, name)
        monkeypatch.setattr(node, name, lambda *a, f=method, n=name: (calls.update([n]), f(*a))[1])

    def seen(run: Callable[..., Any]) -> Callable[..., Any]:
        return lambda inputs, firing: (dtypes.append(inputs.x.dtype), run(inputs, firing))[1]

    spied = {name: replace(kernel, run=seen(kernel.run)) for name, kernel in node.kernels.items()}
    monkeypatch.setattr(node, "kernels", spied)
    node.functional(torch.randn(3, 1, 4).to(dtype), None, mask)
    assert calls["choose"] == 1
    assert calls["why_not"] <= len(node.kernels)
    assert dtypes == [torch.float32]  # no kernel that runs on the CPU takes half precision


def test_a_single_step_chooses_once_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for node, choices in (
        (DSN(channels=4, step_mode="s"), 0),
        (BPSN(channels=4, step_mode="s", direction="forward"), 1),
    ):
        calls: list[Tensor] = []
        choose = node.choose
        monkeypatch.setattr(node, "choose", lambda x, f=choose, c=calls: (c.append(x), f(x))[1])
        node.functional(torch.randn(1, 4))
        assert len(calls) == choices


def test_the_flags_are_those_of_the_kernel_that_runs() -> None:
    x = torch.randn(3, 1, 4)
    for backend in ("torch", "numba"):
        node = DSN(channels=4, backend=backend)
        assert node.choose(x) is node.kernels[backend]
    assert DSN(channels=4, tau=0.7).choose(x) is DSN.kernels["torch"]
    wide, state = node.fitted(DSN.kernels["torch"], x.bfloat16(), {})
    assert wide.dtype == torch.float32
    assert {name: value.shape for name, value in state.items()} == node.state_shapes(x.shape[1:])
    narrow, state = node.fitted(DSN.kernels["cupy"], x.bfloat16(), {})
    assert narrow.dtype == torch.bfloat16
    assert state == {}

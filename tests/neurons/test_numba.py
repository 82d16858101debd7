"""Backend "numba": as "torch", with any number of threads and every firing;
and what it says where it cannot run.
"""

import hashlib
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")

import sj_lang_neurons
from sj_lang_neurons import BPSN, DSN
from sj_lang_neurons.firing import HEAVISIDES, POTENTIALS
from sj_lang_neurons.scan.linear import linear_scan

from sj_lang import cpu
from sj_lang.compat import surrogates

FIRINGS = [{}, *({"n": 1, "surrogate_function": name} for name in surrogates() if name in HEAVISIDES)]


def outcome(node: Any, x: Tensor, g: Tensor) -> list[Tensor]:
    spikes, state = node.functional(x)
    loss = (spikes * g).sum() + sum(value.sum() for value in state.values())
    return [spikes, *state.values(), *torch.autograd.grad(loss, (x, *node.parameters()))]


def both(kind: Any, options: dict[str, Any], shape: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    compiled = kind(channels=shape[2], backend="numba", **options)
    plain = kind(channels=shape[2], backend="torch", **options)
    plain.load_state_dict(compiled.state_dict())
    x, g = torch.randn(shape, requires_grad=True), torch.randn(shape)
    return outcome(compiled, x, g), outcome(plain, x, g)


def assert_close(got: list[Tensor], want: list[Tensor]) -> None:
    assert (got[0] != want[0]).float().mean() < 1e-4  # a potential at the threshold
    for a, b in zip(got[1:], want[1:], strict=True):
        assert (a - b).abs().max() <= 2e-4 * b.abs().max()


@pytest.mark.parametrize("options", FIRINGS, ids=str)
def test_dsn_is_that_of_torch(options: dict[str, Any]) -> None:
    assert_close(*both(DSN, options, (70, 3, 40)))


def test_large_inputs_forget_at_once() -> None:
    """With w = 1 the potential is the input to the last digit:
    what is left of it would be a gradient of the taps.
    """
    torch.manual_seed(0)
    compiled, plain = (DSN(channels=33, backend=name) for name in ("numba", "torch"))
    plain.load_state_dict(compiled.state_dict())
    x, g = 1e4 * torch.randn(40, 2, 33), torch.randn(40, 2, 33)
    assert_close(outcome(compiled, x.clone().requires_grad_(), g), outcome(plain, x.clone().requires_grad_(), g))


@pytest.mark.parametrize("variant", ["R", "A", "G", "K"])
@pytest.mark.parametrize("direction", ["both", "forward", "backward"])
def test_bpsn_is_that_of_torch(variant: str, direction: str) -> None:
    assert_close(*both(BPSN, {"variant": variant, "direction": direction}, (70, 3, 40)))


@pytest.mark.parametrize("surrogate", [name for name in surrogates() if name in HEAVISIDES])
def test_bpsn_fires_as_that_of_torch(surrogate: str) -> None:
    assert_close(*both(BPSN, {"surrogate_function": surrogate}, (40, 2, 24)))


@pytest.mark.parametrize("tau", [1 / 3, 0.3, 1.0, 2.5])
def test_any_tau(tau: float) -> None:
    assert_close(*both(DSN, {"tau": tau}, (70, 2, 24)))


# opcheck's own doing
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("decays", [1, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_linear_scan_is_that_of_torch(reverse: bool, decays: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    given = [torch.rand(decays, 3, 40, dtype=dtype), *(torch.randn(s, dtype=dtype) for s in ((70, 3, 40), (3, 40)))]
    given, weights = [value.requires_grad_() for value in given], torch.randn(70, 3, 40, dtype=dtype)
    results = []
    for backend in ("numba", "torch"):
        h = linear_scan(*given, reverse=reverse, backend=backend)
        results.append([h, *torch.autograd.grad(h, given, weights)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4 if dtype == torch.float32 else 1e-10)
    flat = [value.detach().flatten(1).clone().requires_grad_() for value in given[:2]]
    start = given[2].detach().flatten().clone().requires_grad_()
    torch.library.opcheck(torch.ops.sj_lang.linear_scan_numba.default, (*flat, start, reverse))


def test_linear_scan_says_what_is_wrong() -> None:
    drive = torch.rand(5, 4)
    with pytest.raises(ValueError, match=r"drive of shape \(5, 4\), got \(5, 3\)"):
        linear_scan(torch.rand(5, 3), drive)
    with pytest.raises(ValueError, match="linear_scan: no backend 'cuda'; valid: auto, numba, torch"):
        linear_scan(drive, drive.to("meta"), backend="cuda")
    with pytest.raises(RuntimeError, match='linear_scan: backend "numba" runs on the CPU, got a tensor on meta'):
        linear_scan(drive.to("meta"), drive.to("meta"), backend="numba")
    with pytest.raises(TypeError, match=r"expected real numbers, got torch[.]complex64, torch[.]float32"):
        linear_scan(drive.to(torch.complex64), drive)


@pytest.mark.parametrize(("k", "steps"), [(33, 40), (34, 40), (34, 1), (80, 100)])
def test_more_taps_than_a_block_has_steps(k: int, steps: int) -> None:
    torch.manual_seed(0)
    shapes = ((steps, 2), (k - 1, 2), (2,), (k, 2), (1, 2))
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    scan = torch.ops.sj_lang.dsn_numba.default
    assert torch.autograd.gradcheck(lambda *x: scan(*x, None, 4.0, POTENTIALS, 0.0, 1.0, 0.0)[:2], given)


@pytest.mark.parametrize("value", [1e37, 1e38, float("inf")])
def test_a_gain_of_zero_is_zero(value: float) -> None:
    results = []
    for backend in ("numba", "torch"):
        node = DSN(channels=1, k=1, backend=backend)
        with torch.no_grad():
            node.bias.zero_()
            assert node.weight is not None
            node.weight.fill_(1)
        results.append(node(torch.full((4, 1, 1), value)))
    torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", [DSN, BPSN])
def test_more_threads_give_the_same_bits(kind: Any) -> None:
    torch.manual_seed(0)
    node = kind(channels=200, backend="numba")
    x, g = torch.randn(300, 2, 200, requires_grad=True), torch.randn(300, 2, 200)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(outcome(node, x, g))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("team", ["torch's", "own"])
def test_threads_do_each_column_once_and_hand_on_what_goes_wrong(monkeypatch: pytest.MonkeyPatch, team: str) -> None:
    if team == "own":
        monkeypatch.setattr(cpu, "_team", lambda: None)
    elif cpu._team() is None:
        pytest.skip("this torch brings no GNU OpenMP")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    done: list[int] = []
    cpu.over_columns(lambda first, last: done.extend(range(first, last)), (), 100, cpu.SHARE)
    assert sorted(done) == list(range(100))

    def fail(first: int, last: int) -> None:
        if first:
            raise ArithmeticError("on purpose")

    with pytest.raises(ArithmeticError, match="on purpose"):
        cpu.over_columns(fail, (), 100, cpu.SHARE)


def test_auto_takes_it() -> None:
    node = DSN(channels=4)
    assert node.choose(torch.randn(3, 1, 4)) is node.kernels["numba"]
    node = DSN(channels=4, tau=0.3)  # no whole 1 / tau: slower there
    assert node.choose(torch.randn(3, 1, 4)) is node.kernels["torch"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ModuleNotFoundError("No module named 'numba'", name="numba"), "needs numba: pip install numba"),
        (
            ImportError("Numba needs NumPy 2.4 or less"),
            "cannot be imported: ImportError: Numba needs NumPy 2.4 or less",
        ),
    ],
)
def test_without_numba_torch_runs(monkeypatch: pytest.MonkeyPatch, error: ImportError, says: str) -> None:
    real = importlib.import_module

    def refuse(name: str, *args: Any) -> Any:
        if name == "numba":
            raise error
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", refuse)
    cpu._missing.cache_clear()
    try:
        node = DSN(channels=4)
        assert node.choose(torch.randn(3, 1, 4)) is node.kernels["torch"]
        with pytest.raises(RuntimeError, match=f'DSN: backend "numba" .*{says}'):
            DSN(channels=4, backend="numba")
    finally:
        cpu._missing.cache_clear()


def test_a_tensor_elsewhere_is_refused() -> None:
    assert cpu.why_not(torch.empty(1, device="meta")) == "runs on the CPU, got a tensor on meta"


def test_the_cache_sees_a_change_of_the_shared_code() -> None:
    """numba's cache on disk is keyed by the file that a function is in: without these last lines
    an upgrade would go on with old code.
    """
    root = Path(sj_lang_neurons.__file__).parent
    kernels = sorted(root.rglob("numba_kernel.py"))
    assert len(kernels) == 3
    for shared, users in ((["firing.py"], [root / "jit.py"]), (["jit.py", "firing.py"], kernels)):
        digest = hashlib.sha256(b"".join((root / name).read_bytes() for name in shared)).hexdigest()
        line = f"# {' and '.join(shared)}: {digest[:16]}"
        for user in users:
            assert user.read_text("utf-8").splitlines()[-1] == line, f"{user} must end with: {line}"

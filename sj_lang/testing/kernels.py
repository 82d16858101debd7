"""Checks: the kernel asked for ran, wrote all of its output, and is sound under torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sj_lang.compat import spikingjelly
from sj_lang.masks import State
from sj_lang.testing.check import check
from sj_lang.testing.compare import assert_same, outcome, weighed, whole
from sj_lang.testing.refuse import REFUSALS
from sj_lang.testing.subject import Subject

TORCH_NAMESPACES = {"aten", "prim", "prims", "profiler", "inductor", "c10d", "mkldnn", "higher_order"}


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every custom operator that is called, with its arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace not in TORCH_NAMESPACES:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    @property
    def names(self) -> set[str]:
        """namespace::operator of each."""
        return {func._schema.name for func, _, _ in self.calls}


@contextmanager
def unwritten_memory_is_nan() -> Iterator[None]:
    """Inside, torch.empty and its kin hand out NaN (integers: the largest)."""

    def filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            out = make(*args, **kwargs)
            with torch.no_grad():
                if out.is_floating_point():
                    out.fill_(float("nan"))
                elif out.dtype != torch.bool:
                    out.fill_(torch.iinfo(out.dtype).max)
            return out

        return call

    places = [(torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (Tensor, "new_empty")]
    with ExitStack() as patches:
        for owner, name in places:
            patches.enter_context(patch.object(owner, name, filled(getattr(owner, name))))
        yield


@check()
def backend_really_runs(subject: Subject) -> None:
    """The kernel of the backend asked for is called, no other; one that cannot run says why."""
    node, x = subject.node(), subject.x(7, 3)
    counts = _count_kernels(node)
    with Recorder() as recorder:
        outcome(node, whole, x)
    asked = subject.backend
    called = sorted(name for name, count in counts.items() if count)
    if counts:
        assert called, f"no kernel was called; the node has {sorted(counts)}"
        assert len(called) == 1, f"several kernels were called: {called}"
        assert asked in (None, "auto", called[0]), f"the kernel of {called[0]} was called, not that of {asked}"
    missing = sorted(set(subject.ops.get(asked or "torch", [])) - recorder.names)
    assert not missing, f"operators not called: {', '.join(missing)}; called: {sorted(recorder.names)}"
    set_backend = getattr(spikingjelly("functional"), "set_backend", None)  # 0.0.0.0.14
    if set_backend is not None and counts:
        set_backend(net=nn.Sequential(node), backend=called[0])
        assert node.backend == called[0], f"functional.set_backend leaves backend {node.backend}"
    for other in sorted(set(getattr(node, "supported_backends", ())) - {"auto", asked}):
        _runs_or_refuses(subject, other, x)


def _runs_or_refuses(subject: Subject, backend: str, x: Tensor) -> None:
    node, refusal = subject.node(), ""
    counts = _count_kernels(node)
    try:
        node.backend = backend  # type: ignore[assignment]
        whole(node, x)
    except (*REFUSALS, RuntimeError) as error:
        refusal = str(error)
    if refusal:
        assert backend in refusal, f"backend {backend} is refused without its name: {refusal}"
        return
    called = sorted(name for name, count in counts.items() if count)
    assert not counts or called == [backend], f"backend {backend} was asked for, the kernel of {called} ran"


def _count_kernels(node: nn.Module) -> dict[str, int]:
    """Put a counter before each of the node's kernels (`sj_lang.neuron.Node.kernels`), if any."""
    counts: dict[str, int] = {}

    def counted(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return run(*args, **kwargs)

        return call

    kernels: Any = getattr(node, "kernels", {})
    for name in kernels:
        counts[name] = 0
    if counts:
        wrapped = {name: replace(kernel, run=counted(name, kernel.run)) for name, kernel in kernels.items()}
        object.__setattr__(node, "kernels", wrapped)
    return counts


@check()
def output_is_fully_written(subject: Subject) -> None:
    """With NaN in all memory that torch.empty hands out, nothing changes."""
    node = subject.node()
    for shape in ((7, 3), (1, 1), (33, 2), (3, 260), (5, 2, 4), (5, 2, 3, 2)):
        x = subject.x(*shape)
        state = subject.state(node, x)
        want = outcome(node, whole, x, state)
        with unwritten_memory_is_nan():
            got = outcome(node, whole, x, state)
        assert_same(subject, got, want, f"x {list(x.shape)}, unwritten memory is NaN", x=x, state=state)


@check(once=True)
def operators_are_sound(subject: Subject) -> None:
    """Each custom operator that the node calls, both ways, passes torch.library.opcheck."""
    node = subject.node()
    x = subject.x(4, 2).requires_grad_()
    with Recorder() as forward:
        spikes, final = whole(node, x, subject.state(node, x))
    with Recorder() as backward:
        torch.autograd.grad(weighed({"spikes": spikes, **final}), x)
    seen: set[str] = set()
    for recorder, differentiable in ((forward, True), (backward, False)):
        for func, args, kwargs in recorder.calls:
            if func._schema.name not in seen:
                seen.add(func._schema.name)
                with warnings.catch_warnings():  # of opcheck's own way to look for gradients
                    warnings.filterwarnings("ignore", message=r"The \.grad attribute of a Tensor that is not a leaf")
                    torch.library.opcheck(func, _fresh(args, differentiable), _fresh(kwargs, differentiable))


def _fresh(value: Any, differentiable: bool) -> Any:
    """Arguments as at the call; those of a backward pass need no gradient of their own."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad and differentiable)
    if isinstance(value, tuple | list):
        return type(value)(_fresh(item, differentiable) for item in value)
    if isinstance(value, dict):
        return {key: _fresh(item, differentiable) for key, item in value.items()}
    return value


@check(once=True)
def compiles(subject: Subject) -> None:
    """torch.compile(fullgraph=True) of functional, with state and mask: outputs and gradients."""
    single = subject.at(torch.float32)
    node = single.node()
    x = single.x(3, 3)
    state = single.state(node, x) or None
    mask = None
    if subject.traits.takes_mask:
        mask = torch.arange(3, device=x.device)[:, None] < torch.tensor([3, 2, 0], device=x.device)
    want = outcome(node, whole, x, state, mask)
    for compiler in subject.compilers:
        torch._dynamo.reset()
        functional: Any = node.functional
        compiled = torch.compile(functional, fullgraph=True, backend=compiler)

        def run(
            _: nn.Module, y: Tensor, s: State | None, m: Tensor | None, call: Callable[..., Any] = compiled
        ) -> tuple[Tensor, State]:
            spikes, final = call(y, state=s, mask=m)
            return spikes, final

        got = outcome(node, run, x, state, mask)
        assert_same(single, got, want, f"torch.compile with {compiler}", x=x, state=state, mask=mask)
    torch._dynamo.reset()

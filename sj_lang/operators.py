"""Custom operators of torch, without their cost where nobody asks for it.

`torch.library.custom_op` runs tens of microseconds of Python in each call, for compilers, modes and transforms. An
`Operator` is one for those; in plain eager use it runs the same body and the same gradient directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_KEYS = (
    "CPU",
    "CUDA",
    "AutogradCPU",
    "AutogradCUDA",
    "AutocastCPU",
    "AutocastCUDA",
    "ADInplaceOrView",
    "BackendSelect",
)
#: Older versions of torch do not tell what is active; there the dispatcher is always asked.
_TOLD = hasattr(torch._C.DispatchKeySet, "raw_repr") and hasattr(torch._C, "_dispatch_tls_local_include_set")
_PLAIN = 0  # what the dispatcher knows of a dense tensor, and of a thread in which nothing is active
for _key in _KEYS if _TOLD else ():
    _PLAIN |= torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _key)).raw_repr()


class Operator:
    """Called as the `torch.library.custom_op` of this name, body and schema, with all arguments by position.

    body: gets tensors and numbers, returns new tensors; whole numbers must be given as float where it takes a float.
    """

    def __init__(self, name: str, body: Callable[..., Any], schema: str | None = None) -> None:
        self._name, self._body = name, body
        self._operator = torch.library.custom_op(name, body, mutates_args=(), schema=schema)
        self._function: Any = None
        self._transformed = self._in_transforms(_no_derivative, lambda ctx, inputs, output: None)
        self.register_fake = self._operator.register_fake

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., None]) -> None:
        """As of the custom operator. backward: calls another `Operator`, so that a second derivative is refused."""
        self._operator.register_autograd(backward, setup_context=setup_context)

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = self._body(*inputs)
            setup_context(ctx, inputs, output)
            return output

        self._function = self._new_function(forward=forward, backward=backward)
        self._transformed = self._in_transforms(backward, setup_context)

    def _in_transforms(self, backward: Callable[..., Any], setup_context: Callable[..., None]) -> Any:
        """What `torch.func.grad` needs: a forward without ctx, which is slower, and a rule for vmap: row after row."""

        def vmap(info: Any, dims: Sequence[int | None], *inputs: Any) -> tuple[Any, Any]:
            rows = [self(*_row(inputs, dims, index)) for index in range(info.batch_size)]
            if isinstance(rows[0], Tensor):
                return torch.stack(rows), 0
            return tuple(map(torch.stack, zip(*rows, strict=True))), (0,) * len(rows[0])

        return self._new_function(forward=self._body, backward=backward, setup_context=setup_context, vmap=vmap)

    def _new_function(self, **methods: Callable[..., Any]) -> Any:
        static = {name: staticmethod(method) for name, method in methods.items()}
        return type(self._name.replace("::", "_"), (torch.autograd.Function,), static)

    def __call__(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling() or not _TOLD:
            return self._operator(*inputs)
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        if forward_ad._current_level >= 0 and any(map(_has_tangent, tensors)):
            raise NotImplementedError(f"{self._name} has no forward-mode derivative (jvp); use reverse mode")
        if not _plain(inputs, tensors):
            return (self._transformed.apply if _in_func_grad() else self._operator)(*inputs)
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            return (self._function.apply if self._function else self._operator)(*inputs)
        return self._body(*inputs)


def operator(name: str, *, schema: str | None = None) -> Callable[[Callable[..., Any]], Operator]:
    """Make an `Operator` of a body. schema: as of `torch.library.custom_op`; None: from the annotations."""
    return lambda body: Operator(name, body, schema)


def _in_func_grad() -> bool:
    """Whether the innermost transform is one of `torch.func` that differentiates backwards."""
    innermost = torch._C._functorch.peek_interpreter_stack()
    return innermost is not None and innermost.key() == torch._C._functorch.TransformType.Grad


def _no_derivative(ctx: Any, *gradients: Any) -> None:
    raise NotImplementedError("sj_lang's operators have no second derivative")


def _row(inputs: Sequence[Any], dims: Sequence[int | None], index: int) -> list[Any]:
    return [x if dim is None else x.select(dim, index) for x, dim in zip(inputs, dims, strict=True)]


def _has_tangent(x: Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def _plain(inputs: Sequence[Any], tensors: Sequence[Tensor]) -> bool:
    """Whether the dispatcher would do no more than differentiate and run: no mode, transform or trace is active in this
    thread, and all tensors are dense, on a CPU or a GPU, and of no other kind (subclass, wrapper, lazy negation)."""
    keys = torch._C._dispatch_tls_local_include_set().raw_repr()
    for x in tensors:
        keys |= torch._C._dispatch_keys(x).raw_repr()
    return not (keys & ~_PLAIN or torch.overrides.has_torch_function(inputs))

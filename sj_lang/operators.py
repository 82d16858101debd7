"""Kernels, and custom operators of torch that cost a plain eager call no more than a function.

`torch.library.custom_op` runs tens of microseconds of Python in each call, for compilers, modes and
transforms. An `Operator` is one for those; in plain eager use it runs body and gradient directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

import torch
from torch import Tensor
from torch.autograd import forward_ad

_TYPES = {Tensor: "Tensor", Tensor | None: "Tensor?", int: "int", float: "float", bool: "bool"}
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
#: Older versions of torch cannot tell what is active: then the dispatcher is always asked.
_CAN_TELL = hasattr(torch._C.DispatchKeySet, "raw_repr") and hasattr(torch._C, "_dispatch_tls_local_include_set")
_PLAIN = 0  # the dispatcher's keys of dense tensors and of a thread in which nothing is active
for _key in _KEYS if _CAN_TELL else ():
    _PLAIN |= torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, _key)).raw_repr()
_active_keys: Any = getattr(torch._C, "_dispatch_tls_local_include_set", None)
_dispatch_keys: Any = getattr(torch._C, "_dispatch_keys", None)
_any_autocast: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)
_NOTHING = nullcontext()


_is_exporting = getattr(torch.compiler, "is_exporting", bool)  # torch 2.6 has none

G = TypeVar("G", bound=NamedTuple)

_decompositions: dict[Any, Callable[..., Any]] = {}


class Operator:
    """A `torch.library.custom_op` of this name and body, called with all arguments by position.

    body: gets tensors and numbers, returns new tensors; a whole number for a float must be a float.
        All tensors come before all numbers. One argument may be a NamedTuple; only torch sees its
        fields apart.
        So may the result, of tensors. A result may be None; only torch sees an empty tensor then.
    """

    def __init__(self, name: str, body: Callable[..., Any]) -> None:
        self._name, self._body = name, body
        hints = get_type_hints(body)
        returned = hints.pop("return")
        groups = [(at, kind) for at, kind in enumerate(hints.values()) if hasattr(kind, "_fields")]
        self._kind: Any
        self._at, self._kind = groups[0] if groups else (0, None)
        self._end = self._at + (len(self._kind._fields) if self._kind else 0)
        self._tensors = _leading_tensors(hints)
        self._operator = torch.library.custom_op(
            name, self._flat(body), mutates_args=(), schema=_schema(hints, returned)
        )
        self._apply: Any = None
        self._apply_whole: Any = None
        self._decomposed: Callable[..., Any] | None = None
        self._transformed = self._in_transforms(_no_derivative, lambda ctx, inputs, output: None)

    def register_fake(self, fake: Callable[..., Any]) -> None:
        """`register_fake` of the custom operator, for a function with the arguments of the body."""
        self._operator.register_fake(self._flat(fake))

    def register_autograd(
        self, backward: Callable[..., Any], *, setup_context: Callable[..., None], inner: int = 0
    ) -> None:
        """`register_autograd` of the custom operator.

        backward: it calls an `Operator` that has no derivative, best through its `within`. Its last
            gradients, of `inner` results, may be missing.
        inner: how many of the last results only `backward` reads. A plain call that learns does
            not return them.
        """

        def setup(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
            setup_context(ctx, self._grouped(inputs), output)

        body, tensors = self._body, self._tensors

        def backward_of_tensors(ctx: Any, *grads: Any) -> Any:
            return *backward(ctx, *grads)[:tensors], None

        def plain(inner: int) -> Any:
            def forward(ctx: Any, *tensors_and_inputs: Any) -> Any:
                inputs = tensors_and_inputs[-1]
                output = body(*inputs)
                setup_context(ctx, inputs, output)
                ctx.was_plain = True
                return output[:-inner] if inner else output

            function = self._new_function(forward=forward, backward=backward_of_tensors)
            # Function's own would look for transforms, which `__call__` has ruled out
            return super(torch.autograd.Function, function).apply  # type: ignore[misc]

        self._operator.register_autograd(backward, setup_context=setup)
        self._apply, self._apply_whole = plain(inner), plain(0)
        self._transformed = self._in_transforms(backward, setup)

    def register_decomposition(self, decomposed: Callable[..., Any]) -> None:
        """decomposed: the body in torch's own operators, for programs that leave sj_lang."""
        self._decomposed = decomposed
        _decompositions[self._operator._opoverload] = lambda *flat: decomposed(*self._grouped(flat))

    def _in_transforms(self, backward: Callable[..., Any], setup_context: Callable[..., None]) -> Any:
        """For `torch.func.grad`: a forward without ctx, which is slower, and vmap row after row."""

        forward = self._flat(self._body)

        def whole(*inputs: Any) -> Any:
            return self(*inputs, whole=True)

        def vmap(info: Any, dims: Sequence[int | None], *flat: Any) -> tuple[Any, Any]:
            rows = [self._flat(whole)(*_row(flat, dims, index)) for index in range(info.batch_size)]
            if isinstance(rows[0], Tensor):
                return torch.stack(rows), 0
            return tuple(map(torch.stack, zip(*rows, strict=True))), (0,) * len(rows[0])

        return self._new_function(forward=forward, backward=backward, setup_context=setup_context, vmap=vmap)

    def _new_function(self, **methods: Callable[..., Any]) -> Any:
        static = {name: staticmethod(method) for name, method in methods.items()}
        return type(self._name.replace("::", "_"), (torch.autograd.Function,), static)

    def _flat(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function with the arguments of the body, as torch sees it."""

        def of_flat(*flat: Any) -> Any:
            results = function(*self._grouped(flat))
            if isinstance(results, tuple) and any(result is None for result in results):
                return tuple(flat[0].new_empty(0) if result is None else result for result in results)
            return results

        return of_flat

    def _grouped(self, flat: Sequence[Any]) -> Sequence[Any]:
        """The arguments of the body from what torch sees."""
        if self._kind is None:
            return flat
        return *flat[: self._at], tuple.__new__(self._kind, flat[self._at : self._end]), *flat[self._end :]

    def __call__(self, *inputs: Any, whole: bool = False) -> Any:
        """whole: with the inner results in any case."""
        at = self._at
        flat = inputs if self._kind is None else (*inputs[:at], *inputs[at], *inputs[at + 1 :])
        if torch.compiler.is_compiling() or not _CAN_TELL:
            return self._decomposed_for_onnx(*inputs) if torch.onnx.is_in_onnx_export() else self._operator(*flat)
        tensors = [x for x in flat[: self._tensors] if x is not None]
        if forward_ad._current_level >= 0 and any(map(_has_tangent, tensors)):
            raise NotImplementedError(f"{self._name} has no forward-mode derivative (jvp); use reverse mode")
        if not _are_plain(tensors):
            return (self._transformed.apply if _in_func_grad() else self._operator)(*flat)
        if torch.is_grad_enabled():
            for x in tensors:
                if x.requires_grad:
                    apply = self._apply_whole if whole else self._apply
                    return apply(*flat[: self._tensors], inputs) if apply else self._operator(*flat)
        return self._body(*inputs)

    def within(self, ctx: Any, gradients: Sequence[Tensor | None], inputs: Sequence[Any]) -> Callable[..., Any]:
        """This operator for a backward pass, or its body if that does the same.

        It does if the forward pass of ctx was a plain call, which has looked at the tensors that it
        kept, and if the gradients are plain. inputs: what was kept.
        """
        if (
            not torch.compiler.is_compiling()
            and getattr(ctx, "was_plain", False)
            and not torch.is_grad_enabled()
            and forward_ad._current_level < 0
            and _are_plain([x for x in gradients if x is not None])
            and not torch.overrides.has_torch_function(inputs)
        ):
            return self._body
        return self

    def _decomposed_for_onnx(self, *inputs: Any) -> Any:
        if self._decomposed is None:
            raise NotImplementedError(
                f"{self._name} has no form in ONNX: export the model on the CPU, with model.cpu()"
            )
        return self._decomposed(*inputs)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The CPU operators in torch's own, for `ExportedProgram.run_decompositions`."""
    return dict(_decompositions)


def is_exporting() -> bool:
    """Whether this is a trace of `torch.export` or of `torch.onnx.export`."""
    return torch.compiler.is_compiling() and _is_exporting()


def leaf(node: Any, x: Any, mask: Any) -> Any:
    """The call of a node that torch.fx traces, which does not look inside."""
    if type(x.tracer).__module__.startswith("nirtorch"):
        raise NotImplementedError(
            f"{type(node).__name__}: NIR has no node for it; export the net with LIF, as it was before `swap`"
        )
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(node), (x, mask), {})


@dataclass(frozen=True)
class Kernel:
    """One implementation of a node's arithmetic. All kernels of a node have the same signature.

    run: the implementation.
    why_not: why it cannot run on this tensor (None: in this process at all); "" if it can.
    limits: why it cannot run this node on this tensor (None: on any); "" if it can.
    refuses: why it refuses this node if asked for by name, though "auto" may take it; "" if not.
    half: it takes a sequence in float16 and bfloat16, beside states and parameters in float32.
    zeros: it takes an empty state for zeros.
    """

    run: Callable[..., Any]
    why_not: Callable[[Tensor | None], str] = lambda x: ""
    limits: Callable[[Any, Tensor | None], str] = lambda node, x: ""
    refuses: Callable[[Any], str] = lambda node: ""
    half: bool = False
    zeros: bool = False


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Autocast would round the recurrence to half precision."""
    if not (torch.compiler.is_compiling() or _any_autocast()):
        return _NOTHING
    kind = x.device.type
    if _has_autocast(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Make an `Operator` of a body, whose annotations are its schema."""
    return lambda body: Operator(name, body)


def keep_inputs(ctx: Any, arguments: tuple[Any, ...], output: Any) -> None:
    """A `setup_context` that keeps its first argument, a NamedTuple, for `kept`, and `ctx.rest`."""
    inputs, *ctx.rest = arguments
    kind: Any = type(inputs)
    tensors = _tensors(kind)
    ctx.save_for_backward(*inputs[:tensors])
    ctx.numbers = inputs[tensors:]


def keep_with_last_result(ctx: Any, arguments: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """A `setup_context` that keeps what `keep_inputs` keeps, and the last result."""
    inputs, *ctx.rest = arguments
    kind: Any = type(inputs)
    tensors = _tensors(kind)
    ctx.save_for_backward(output[-1], *inputs[:tensors])
    ctx.numbers = inputs[tensors:]


def kept(ctx: Any, kind: type[G]) -> tuple[tuple[Tensor, ...], G]:
    """The results and the inputs that were kept."""
    tensors = _tensors(kind)
    try:
        saved = ctx.saved_tensors
    except RuntimeError as error:
        if "inplace" not in str(error):
            raise
        raise RuntimeError(
            "the input of a spiking neuron was changed in place before the backward pass, which reads it: "
            "write x = x + f(node(x)) for x += f(node(x)), or set node.copies_input = True"
        ) from error
    return saved[:-tensors], tuple.__new__(kind, (*saved[-tensors:], *ctx.numbers))


def needed(ctx: Any, kind: type[G], name: str) -> bool:
    """Whether this input needs a gradient. The NamedTuple is the operator's first argument."""
    return bool(ctx.needs_input_grad[kind._fields.index(name)])


def gradients(ctx: Any, kind: type[G], **of: Tensor | None) -> tuple[Tensor | None, ...]:
    """What a backward returns, from gradients by the names of inputs; None if none is needed."""
    names, needs = kind._fields, ctx.needs_input_grad
    of_fields = [of.get(name) if need else None for name, need in zip(names, needs, strict=False)]
    return *of_fields, *(None,) * (len(needs) - len(names))


@cache
def _tensors(kind: Any) -> int:
    """How many fields of a NamedTuple are tensors."""
    return sum(_TYPES[of_field].startswith("Tensor") for of_field in get_type_hints(kind).values())


def _leading_tensors(hints: dict[str, Any]) -> int:
    """How many arguments, as torch sees them, are tensors, which come before the numbers."""
    kinds: list[str] = []
    for hint in hints.values():
        fields = get_type_hints(hint).values() if hasattr(hint, "_fields") else (hint,)
        kinds += [_TYPES[field] for field in fields]
    tensors = [kind.startswith("Tensor") for kind in kinds]
    if False in tensors and True in tensors[tensors.index(False) :]:
        raise TypeError(f"an operator's tensors come before its numbers, got {', '.join(kinds)}")
    return sum(tensors)


def _schema(arguments: dict[str, Any], returned: Any) -> str:
    names: list[str] = []
    for name, kind in arguments.items():
        fields = get_type_hints(kind) if hasattr(kind, "_fields") else {name: kind}
        names += [f"{_TYPES[of_field]} {field}" for field, of_field in fields.items()]
    kinds = get_type_hints(returned).values() if hasattr(returned, "_fields") else get_args(returned) or (returned,)
    results = ", ".join(_TYPES[kind].removesuffix("?") for kind in kinds)
    return f"({', '.join(names)}) -> ({results})"


def _are_plain(tensors: list[Tensor]) -> bool:
    """Whether no mode, transform or trace is active in this thread, and all tensors are dense, on a
    CPU or a GPU, and of no other kind (subclass, wrapper, lazy negation).
    """
    keys = _active_keys().raw_repr()
    for keys_of in map(_dispatch_keys, tensors):
        keys |= keys_of.raw_repr()
    return not (keys & ~_PLAIN or torch.overrides.has_torch_function(tensors))


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

"""Watches a forward pass and enters all that it does into rows, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from sj_lang.energy import neurons, operators
from sj_lang.energy.products import CLOSED, OPERANDS, operand, terms
from sj_lang.energy.rows import Row
from sj_lang.monitor import Functional, intercepted, neuron_steps, nodes
from sj_lang.neuron import Node


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's modes are untyped
    """Rows of what runs inside. uncounted: operations whose cost is unknown, with their layers.

    closed: whether one of them may hide products. Fused attention is run as two products. What is
    computed from parameters and buffers alone does not depend on the sample and costs nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: dict[tuple[str, str], Row] = {}
        self.uncounted: dict[str, None] = {}
        self.closed = False
        self._model = model
        self._nodes = nodes(model)
        self._seen: set[str] = set()
        self._inside = 0
        self._layers: list[tuple[str, Counter[str]]] = [("", Counter())]
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        self._constants: dict[int, Tensor] = {}  # held, so that nothing else gets their memory
        self._open = ExitStack()

    def __enter__(self) -> Recording:
        ours = {name: node for name, node in self._nodes.items() if isinstance(node, Node)}
        others = {name: node for name, node in self._nodes.items() if name not in ours}
        foreign = neurons.foreign(self._model, self._nodes)
        self._open.enter_context(sdpa_kernel(SDPBackend.MATH))
        self._open.enter_context(intercepted(ours, self._watch, "advance"))  # `forward` calls it
        self._open.enter_context(intercepted(others, self._watch))
        for name, module in self._model.named_modules():
            pair = (self._enter_node, self._leave_node) if name in foreign else (self._enter, self._leave)
            self._open.enter_context(module.register_forward_pre_hook(partial(pair[0], name)))
            self._open.enter_context(module.register_forward_hook(partial(pair[1], name), always_call=True))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._open.close()
        unseen = [name for name in self._nodes if name not in self._seen]
        self.uncounted.update(dict.fromkeys(f"{name}: a neuron whose work was not seen" for name in unseen))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._inside:
            return out
        inputs = [x for x in torch.utils._pytree.tree_leaves(args) if isinstance(x, Tensor)]
        outputs = [x for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, Tensor)]
        if inputs and all(map(self._is_constant, inputs)):
            self._constants.update({x.untyped_storage().data_ptr(): x for x in outputs if x.numel()})
            return out
        for x in outputs:  # written to in place
            self._constants.pop(x.untyped_storage().data_ptr(), None)
        if func.overloadpacket in OPERANDS:
            self._product(func.overloadpacket, args, kwargs or {}, out)
        else:
            self._other(func, args, inputs, outputs, out)
        return out

    def _is_constant(self, x: Tensor) -> bool:
        place = x.untyped_storage().data_ptr()
        return place in self._weights or place in self._constants

    def _row(self, layer: str, operation: str, kind: str) -> Row:
        row = self.rows.setdefault((layer, operation), Row(layer=layer, operation=operation, kind=kind))
        row.calls += 1
        return row

    def _product(self, packet: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Tensor) -> None:
        layer, before = self._layers[-1]
        name = operators.short(packet)
        before[name] += 1
        row = self._row(layer, name if before[name] == 1 else f"{name} {before[name]}", "product")
        factors = [args[i] for i in OPERANDS[packet]]
        constant = [self._is_constant(x) for x in factors]
        held = [operand(x) for x in factors]
        count = terms(packet, args, kwargs, out)
        sparse = [one.mean for one, fixed in zip(held, constant, strict=True) if one.most is not None and not fixed]
        row.spiking_terms += count if sparse else 0.0
        row.macs += 0.0 if sparse else count
        row.accumulations += count * min(sparse, default=0.0)
        row.hold([None if fixed else one for one, fixed in zip(held, constant, strict=True)])
        for x, fixed, one in zip(factors, constant, held, strict=True):
            bits = one.bits if not fixed else 8 * x.element_size()
            row.move("weights" if fixed else "activations", x.numel() * bits / 8, dense=x.numel() * x.element_size())
        added = args[0] if OPERANDS[packet][0] else args[2] if packet is torch.ops.aten.convolution else None
        if added is not None:
            row.move("weights" if self._is_constant(added) else "activations", added.numel() * added.element_size())
        row.move("activations", out.numel() * out.element_size())

    def _other(self, func: Any, args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor], out: Any) -> None:
        layer, name = self._layers[-1][0], operators.short(func.overloadpacket)
        count = operators.operations(func, args, out)
        hides = (bool(outputs) and func.namespace != "aten") or any(
            part in func.overloadpacket.__name__ for part in CLOSED
        )
        if count is None or hides:
            self.uncounted[f"{layer or 'model'}: {name}"] = None
            self.closed |= hides
            return
        if not count and name not in operators.LOOKUPS:
            return
        row = self._row(layer, name, "other")
        row.others += count
        for x in outputs[:1]:
            row.move("activations", x.numel() * x.element_size())
        for x in inputs:
            size = x.numel() * x.element_size()
            if name in operators.LOOKUPS:  # what is looked up is read, from where the table is held
                size, table = (outputs[0].numel() * x.element_size(), size) if x is inputs[0] else (0, 0)
                row.move("weights" if self._is_constant(x) else "activations", size, held=table)
            else:
                row.move("weights" if self._is_constant(x) else "activations", size)

    # Layers and neurons

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        self._layers.append((name, Counter()))

    def _leave(self, name: str, module: nn.Module, args: Any, out: Any) -> None:
        self._layers.pop()
        if len(self._layers) == 1:
            self._constants.clear()

    def _watch(self, name: str, node: nn.Module, original: Functional) -> Functional:
        def run(x: Tensor, state: Any = None, mask: Tensor | None = None, **options: Any) -> Any:
            single = options.get("single", getattr(node, "step_mode", "m") == "s")
            self._inside += 1
            try:
                result = original(x, state, mask, **options)
                fresh = (
                    cast(Any, node).init_state(x)
                    if not isinstance(node, Node)
                    else node.fresh_state(x, x.shape if single else x.shape[1:])
                )
                kept = sum(value.numel() * value.element_size() for value in fresh.values())
                steps = int(neuron_steps(x, mask, 1 if single else 2))
                self._neuron(name, node, x, result[0], steps, kept, 1 if single else len(x))
                return result
            finally:
                self._inside -= 1

        return run

    def _enter_node(self, name: str, module: nn.Module, args: Any) -> None:
        self._inside += 1

    def _leave_node(self, name: str, module: Any, args: tuple[Any, ...], out: Any) -> None:
        if isinstance(out, Tensor):
            steps = len(out) if module.step_mode == "m" else 1
            self._neuron(name, module, args[0], out, out.numel(), neurons.states(module), steps)
        self._inside -= 1

    def _neuron(self, name: str, node: nn.Module, x: Tensor, out: Tensor, steps: int, kept: int, length: int) -> None:
        """kept: bytes of its states, which each of the `length` steps reads and writes."""
        self._seen.add(name)
        cost = neurons.operations(node)
        if cost is None:
            self.uncounted[f"{name}: {type(node).__name__}, which does not declare its `operations`"] = None
            return
        row = self._row(name, type(node).__name__, "neuron")
        updates = getattr(node, "sub_steps", 1)  # each reads its current, reads and writes states
        row.neuron_steps += steps * updates
        row.macs, row.accumulations = row.macs + steps * cost[0], row.accumulations + steps * cost[1]
        fired = operand(out)
        row.hold([fired])
        row.move("activations", updates * x.numel() * x.element_size())
        row.move("activations", out.numel() * fired.bits / 8)
        row.move("states", 2 * updates * length * kept, held=kept)
        for parameter in node.parameters():
            row.move("weights", parameter.numel() * parameter.element_size())

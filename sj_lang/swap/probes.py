"""Further runs of the example, which show what its first run does not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang import compat
from sj_lang.swap.watch import Example, Feeder, Seen, run


def carried_over(net: nn.Module, nodes: Iterable[nn.Module], example: Example) -> set[int]:
    """The nodes, by id, that fire differently if the example runs again without a reset.

    All of them, if it does not run again.
    """
    outputs: dict[int, list[Tensor]] = {id(node): [] for node in nodes}

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        outputs[id(module)] += [output.clone()] if isinstance(output, Tensor) else []

    handles = [node.register_forward_hook(keep) for node in nodes]
    if not _runs(net, example, handles, times=2):
        return set(outputs)
    halves = {key: (made[: len(made) // 2], made[len(made) // 2 :]) for key, made in outputs.items()}
    return {key for key, (first, again) in halves.items() if not all(map(torch.equal, first, again))}


def fed_the_same(net: nn.Module, nodes: Mapping[int, nn.Module], example: Example) -> dict[int, Seen]:
    """What the nodes, by id, are fed if they and all other neurons of the net fire at random.

    An input that is the same at each step is then made of the net's own input alone. Empty if the
    example does not run like this.
    """
    seen = {key: Seen() for key in nodes}
    generator = torch.Generator().manual_seed(0)

    def take(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[id(module)].take(args, kwargs, ())

    def fire(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return (torch.rand(output.shape, generator=generator) < 0.5).to(output)
        return output

    handles: list[Any] = [node.register_forward_pre_hook(take, with_kwargs=True) for node in nodes.values()]
    others = (one for one in net.modules() if isinstance(one, (compat.BothLines, *compat.node_classes())))
    handles += [node.register_forward_hook(fire) for node in {*nodes.values(), *others}]
    return seen if _runs(net, example, handles) else {}


def run_marked(
    net: nn.Module, example: Example, feeder: Feeder, nodes: Iterable[nn.Module]
) -> dict[int, frozenset[int]]:
    """Node -> the axes of its first input on which NaN in one feature of a module has one place.

    Empty for a node that it does not reach or reaches everywhere, and if the example fails.
    """
    arrived: dict[int, frozenset[int]] = {}

    def mark(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        marked = output.clone()
        marked.select(feeder.axis, 0).fill_(math.nan)
        return marked

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        if id(module) in arrived or x is None:
            return
        nan = x.isnan().movedim
        reached = [int(nan(axis, 0).flatten(1).any(1).sum()) for axis in range(x.dim())]
        arrived[id(module)] = frozenset(axis for axis, size in enumerate(x.shape) if reached[axis] == 1 < size)

    handles: list[Any] = [feeder.module.register_forward_hook(mark)]
    handles += [node.register_forward_pre_hook(look, with_kwargs=True) for node in nodes]
    return arrived if _runs(net, example, handles) else {}


def _runs(net: nn.Module, example: Example, hooks: Iterable[Any], times: int = 1) -> bool:
    """Whether the first example runs with these hooks, which are removed afterwards."""
    try:
        run(net, example[0] if isinstance(example, list) else example, times)
    except Exception:  # foreign code, fed what it does not expect, or run again without a reset
        return False
    finally:
        for hook in hooks:
            hook.remove()
    return True

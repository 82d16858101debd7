"""What a model's parts are worth: the figures again, with each part replaced by a constant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.errors import RunFailed, UserError
from sj_lang.run.batches import BatchTrainer, split_figures
from sj_lang.task import MapDataset

ModulesByPart = Mapping[str, Sequence[nn.Module]]


def parts_of(model: nn.Module, *, each_layer: bool) -> ModulesByPart:
    """Name -> the modules that are replaced together: "attention", and "attention.0" of a layer.

    The model says it by `parts()`: name -> one module per layer, each of which returns its output
    or a tuple that begins with it. UserError if it has none.
    """
    tells: Callable[[], ModulesByPart] | None = getattr(model, "parts", None)
    if tells is None:
        raise UserError(
            f"measure.ablate: {type(model).__name__} does not say what its parts are; it has no method `parts`"
        )
    parts: dict[str, Sequence[nn.Module]] = dict(tells())
    if each_layer:
        parts |= {f"{name}.{place}": [one] for name, layers in parts.items() for place, one in enumerate(layers)}
    return parts


def ablated(trainer: BatchTrainer, data: MapDataset, split: str, parts: ModulesByPart) -> dict[str, float]:
    """The task's figures on a split with each part's output replaced by its mean, as
    `ablation.PART.FIGURE`.

    The mean of a channel is taken over all valid positions of the split, with all parts in place.
    """
    modules = list({id(module): module for part in parts.values() for module in part}.values())
    means = {module: Mean() for module in modules}
    with _hooked(modules, lambda module, inputs, output: means[module].add(inputs, output)):
        trainer.predict(data, metric_key_prefix=split)
    for mean in means.values():
        mean.combine(trainer)
    figures: dict[str, float] = {}
    for name, part in parts.items():
        with _hooked(part, lambda module, inputs, output: means[module].in_place_of(output)):
            metrics = trainer.predict(data, metric_key_prefix=split).metrics
        for key, value in split_figures(split, metrics).items():
            figures[f"ablation.{name}.{key.removeprefix(f'{split}.')}"] = value
    return figures


class Mean:
    """The mean output of a module, per channel, over the positions that its mask calls valid."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count: Tensor | None = None

    def add(self, inputs: tuple[Any, ...], output: Any) -> None:
        """inputs: of the module; a mask among them is bool, and shaped as the output without D."""
        y = _first(output).detach().double()  # [..., D]
        masks = [x for x in inputs if isinstance(x, Tensor) and x.dtype == torch.bool and x.shape == y.shape[:-1]]
        valid = masks[0] if masks else torch.ones(y.shape[:-1], dtype=torch.bool, device=y.device)
        total, count = y[valid].sum(0), valid.sum()
        self.total = total if self.total is None else self.total + total
        self.count = count if self.count is None else self.count + count

    def combine(self, trainer: BatchTrainer) -> None:
        """Add up the sums of all processes. RunFailed if the module never ran."""
        if self.total is None or self.count is None:
            raise RunFailed("measure.ablate: a part of the model was not called as a module, so it cannot be replaced")
        self.total = trainer.accelerator.reduce(self.total, reduction="sum")
        self.count = trainer.accelerator.reduce(self.count, reduction="sum")

    def in_place_of(self, output: Any) -> Any:
        assert self.total is not None
        assert self.count is not None
        y = _first(output)
        mean = (self.total / self.count.clamp(min=1)).to(y.dtype).expand_as(y)
        return (mean, *output[1:]) if isinstance(output, tuple) else mean


def _first(output: Any) -> Tensor:
    y: Tensor = output[0] if isinstance(output, tuple) else output
    return y


@contextmanager
def _hooked(modules: Sequence[nn.Module], hook: Any) -> Iterator[None]:
    """Inside, `hook(module, inputs, output)` runs after each module; what it returns replaces the
    output, unless it is None."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""A training step that is tried before the training: it works, and no token sees later ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sj_lang.build import blame
from sj_lang.errors import PluginError, SjLangError, UserError, describe
from sj_lang.monitor import undisturbed
from sj_lang.run.trainer import RunTrainer

#: Neighbouring places at which a text is cut: a part may look ahead at every other token only.
SPLITS = 4
#: Largest difference of logits, relative to the largest logit, that rounding may cause.
ROUNDING = 1e-5


def try_step(trainer: RunTrainer, *, backward: bool) -> None:
    """One forward pass on a few samples; backward: also a backward pass, in training mode.

    PluginError with the name of the component that fails, UserError if the fault is in none.
    """
    try:
        if backward:
            trainer.model.train()
            trainer.compute_loss(trainer.model, dict(trainer.probe)).backward()
            trainer.model.zero_grad()
        else:
            with undisturbed(trainer.model):
                trainer.model(**trainer.probe)
    except (SjLangError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a plugin is foreign code
        if name := blame(error):
            raise PluginError(f"{name}: a training step fails in it: {describe(error)}") from error
        raise UserError(f"model: a training step fails: {describe(error)}") from error


def check_causality(trainer: RunTrainer) -> None:
    """Refuse a model of a causal task in which a logit depends on a later token.

    Values and gradients are compared: a gradient shows a dependence even if neurons hide it by
    being silent at first. PluginError with the name of the first component that looks ahead,
    UserError if no component does.
    """
    ids = trainer.probe.get("input_ids")
    if not isinstance(ids, Tensor) or ids.shape[1] < 2:
        return
    middle, model = ids.shape[1] // 2, trainer.model
    with undisturbed(model), torch.enable_grad():
        passed = _traced(model, ids)
        noise = 10 * float((passed[0] - model(input_ids=ids).logits).detach().abs().max())
        for split in range(middle, min(middle + SPLITS, ids.shape[1])):
            _check_split(model, ids, split, passed, noise)


def _check_split(model: Any, ids: Tensor, split: int, passed: Passages, noise: float) -> None:
    """The same for tokens from `split` on and those before. noise: of logits of the same tokens."""
    logits, parts, rows = passed
    changed = torch.cat([ids[:, :split], (ids[:, split:] + 1) % (int(ids.max()) + 1)], 1)
    others, changed_parts, _ = _traced(model, changed)
    first = logits[:, :split]
    seen = any(_depends(first, x, split, axis) for x, axis in rows)
    if not seen and _same(first, others[:, :split], noise):
        return
    name = next((name for name in parts if _leaks(parts[name], changed_parts[name], split, noise)), None)
    what = "a token changes the logits of those before it, so the model would see what it has to predict"
    if name is None:
        raise UserError(f"model: {what}")
    raise PluginError(f"{model.get_submodule(name).built_as}: {what}")


#: what enters a component, and what leaves it
Passage = tuple[Tensor, Tensor]
#: logits; what passes through the components; rows of the tables of tokens, with the tokens' axis
Passages = tuple[Tensor, dict[str, Passage], list[tuple[Tensor, int]]]


def _leaks(part: Passage, changed: Passage, split: int, noise: float) -> bool:
    """Whether what a component gives at the first tokens depends on later ones of its input."""
    (x, y), (other_x, other_y) = part, changed
    if _depends(_first(y, split), x, split, _axis(x)):
        return True
    same_input = _same(_first(x, split), _first(other_x, split))
    return same_input and not _same(_first(y, split), _first(other_y, split), noise)


def _traced(model: Any, ids: Tensor) -> Passages:
    """A forward pass. Components are in the order in which they are computed."""
    seen: dict[str, Passage] = {}
    rows: list[tuple[Tensor, int]] = []
    hooks = []

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if not inputs or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
            return
        if hasattr(module, "built_as"):
            seen[name] = inputs[0], output
        elif torch.equal(inputs[0], ids) or torch.equal(inputs[0], ids.T):
            rows.append((output, 1 if torch.equal(inputs[0], ids) else 0))

    for name, module in model.named_modules():
        if hasattr(module, "built_as") or isinstance(module, nn.Embedding):
            hooks.append(module.register_forward_hook(partial(note, name)))
    try:
        logits: Tensor = model(input_ids=ids).logits
    finally:
        for hook in hooks:
            hook.remove()
    return logits, seen, rows


def _first(x: Tensor, split: int) -> Tensor:
    """The first tokens: they are axis 0 of `[L, B, ...]` and axis 2 of `[T, B, L, D]`."""
    return x.narrow(_axis(x), 0, split)


def _axis(x: Tensor) -> int:
    return 2 if x.dim() == 4 else 0


def _depends(first: Tensor, x: Tensor, split: int, axis: int) -> bool:
    """Whether outputs at the first tokens have a gradient at later tokens of x."""
    if not x.requires_grad or not first.requires_grad:
        return False
    weights = torch.randn_like(first)
    (gradient,) = torch.autograd.grad((first * weights).sum(), x, retain_graph=True, allow_unused=True)
    if gradient is None:
        return False
    later = gradient.narrow(axis, split, gradient.shape[axis] - split)
    return bool(later.abs().max() > ROUNDING * gradient.abs().max())


def _same(x: Tensor, y: Tensor, noise: float = 0.0) -> bool:
    return bool((x - y).abs().max() <= noise + ROUNDING * x.abs().max())

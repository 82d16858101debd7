"""The table of tokens of an embedding, under whatever name it has there."""

from __future__ import annotations

from torch import nn


def replace(embedding: nn.Module, table: nn.Module) -> None:
    """Put another table of tokens in the place of `embedding.token`, which may be a property.

    `embedding.token = table` would not call its setter: torch makes every module that is assigned a submodule.
    """
    old = embedding.token
    for module in embedding.modules():
        for name, inner in [*module.named_children()]:
            if inner is old:
                setattr(module, name, table)

"""`sj-lang swap`: what a swap would do to a network that can be imported, which stays as it is."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from sj_lang.component import yaml_marks
from sj_lang.errors import UserError, describe


def main(arguments: argparse.Namespace) -> int:
    """Print the report."""
    import torch
    from torch import nn

    from sj_lang.swap import swap

    build = _named(arguments.network)
    try:
        net = build()
    except Exception as error:  # foreign code
        raise UserError(f"swap: {arguments.network}() fails: {describe(error)}") from error
    if not isinstance(net, nn.Module):
        raise UserError(f"swap: {arguments.network}() returns a {type(net).__name__}, expected a torch.nn.Module")
    example = tuple(torch.rand(_sizes(text)) for text in arguments.example)
    classes = [_named(name) for name in arguments.of] if arguments.of else None
    if wrong := [change for change in arguments.changes if "=" not in change]:
        raise UserError(f"swap: '{wrong[0]}'; expected key=value, such as n=4")
    changes = dict(change.split("=", 1) for change in arguments.changes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        report = swap(
            net,
            arguments.to,
            example=example,
            of=classes,
            like=arguments.like,
            step_mode=arguments.step_mode,
            axis=arguments.axis,
            **{name: yaml_marks.scalar(value) for name, value in changes.items()},
        )
    print(report)
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            print(f"note: {warning.message}", file=sys.stderr)
    return 0


def _named(name: str) -> Any:
    """What MODULE:NAME names; modules of the working directory are found too."""
    module, separator, attribute = name.partition(":")
    if not (module and separator and attribute):
        raise UserError(f"swap: '{name}'; expected MODULE:NAME, such as mypackage.models:resnet18")
    sys.path.insert(0, str(Path.cwd()))
    try:
        value: Any = importlib.import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
    except Exception as error:  # foreign code
        raise UserError(f"swap: '{name}' cannot be imported: {describe(error)}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    return value


def _sizes(text: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise UserError(f"swap: --example '{text}'; expected sizes, such as 4,2,3,32,32")
    return [int(size) for size in text.split(",")]

"""What a report says in words: its headline, how to use a model, and what to run next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sj_lang.folder import RunFolder

#: the place of a model in the code of its card
PLACE = "FOLDER OR NAME ON THE HUB"


class Compared(NamedTuple):
    """name: in the report. task: in words, with the seed. is_twin: it is the ANN."""

    name: str
    task: str
    is_twin: bool
    metrics: Mapping[str, Any]


def headline(runs: Sequence[Compared]) -> list[str]:
    """A sentence for each run that is no twin: first figure and energy, by those of the twin."""
    sentences = []
    for run in runs:
        name = first_figure(run.metrics)
        if run.is_twin or not name:
            continue
        twin = next((one for one in runs if one.is_twin and one.task == run.task and name in one.metrics), None)
        parts = [f"{name} {run.metrics[name]:.4g}" + (_ratio(run, twin, name) if twin else "")]
        if energy := run.metrics.get("energy.total_mj"):
            floats = run.metrics.get("energy.ratio")
            part = f"energy {energy:.3g} mJ"
            if twin and twin.metrics.get("energy.total_mj"):
                part += _ratio(run, twin, "energy.total_mj")
            elif floats is not None:
                part += f", {floats:.3g} times that of the same products with floats"
            parts.append(part)
        if (rate := run.metrics.get("firing_rate.mean")) is not None:
            parts.append(f"firing rate {rate:.3g}")
        sentences.append(f"{run.name}: {'; '.join(parts)}.")
    return sentences


def first_figure(metrics: Mapping[str, Any]) -> str:
    """The figure to show first: the task's own of a test split, or its loss; "" without figures."""
    for splits in (("test", "dev"), ("validation",)):
        names = [name for name in metrics if name.split(".")[0] in splits]
        if names:
            return next((name for name in names if not name.endswith("loss")), names[0])
    return ""


def _ratio(run: Compared, twin: Compared, name: str) -> str:
    value, of_twin = run.metrics[name], twin.metrics[name]
    return f", {value / of_twin:.3g} times that of {twin.name}" if of_twin else f", that of {twin.name} is 0"


def split_sample(sample: str, prompt: str) -> tuple[str, str]:
    """What was given to the model, and what it wrote. ("", all of it) if that is not known."""
    return (prompt, sample[len(prompt) :]) if prompt and sample.startswith(prompt) else ("", sample)


def use(folder: RunFolder) -> str:
    """Code that loads the model, from its card; "" without one."""
    code = re.search(r"```python\n(.*?)\n```", folder.read_text(folder.model / "README.md"), re.DOTALL)
    return code[1].replace(PLACE, f"{folder.shown}/{folder.model.name}") if code else ""


def commands(folder: RunFolder, status: str, *, writes: bool) -> list[str]:
    """What to run next. writes: the model writes text."""
    if status != "done":
        return [folder.continuing]
    place = shlex.quote(folder.shown)
    generate = [f"sj-lang generate {place} --prompt 'TEXT'"] if writes else []
    return [*generate, f"sj-lang eval {place}", f"sj-lang push {place} --dry-run"]

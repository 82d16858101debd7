"""`averages:` of a series: one number over figures of several runs, such as a benchmark's score."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sj_lang.component import values
from sj_lang.component.problems import Keys, Problem, unknown

#: name -> run, or the part before "/" that several runs share -> the figures that count for it
Averages = Mapping[str, Mapping[str, Sequence[str]]]
#: run -> the figures of each of its seeds
RunFigures = Mapping[str, Sequence[Mapping[str, float]]]

BASELINE = "baseline."
KEYS: Keys = ("averages",)


def check(section: Any, runs: Iterable[str] | None) -> tuple[dict[str, dict[str, list[str]]] | None, list[Problem]]:
    """Check the section against the names of the runs; return it with a list of figures per run."""
    if section is None:
        return None, []
    if runs is None:
        return None, [Problem(KEYS, "needs 'runs': an average is one over several runs")]
    if not isinstance(section, Mapping) or not section:
        text = "expected names of averages, each with runs and their figures"
        return None, [Problem(KEYS, f"{text}; found {values.tell(section)}")]
    names = list(dict.fromkeys(name for run in runs for name in _prefixes(run)))
    problems = [
        Problem(("runs", run), f"cannot be called 'average' beside 'averages', whose figures are stored as '{run}'")
        for run in names
        if run == "average"
    ]
    averages: dict[str, dict[str, list[str]]] = {}
    for name, members in section.items():
        here = (*KEYS, name)
        if not isinstance(members, Mapping) or not members:
            problems.append(Problem(here, f"expected runs and their figures, found {values.tell(members)}"))
            continue
        averages[name] = {}
        for run, figures in members.items():
            listed = [figures] if isinstance(figures, str) else figures
            if run not in names:
                problems.append(unknown((*here, run), names, "the keys are the runs"))
            elif not isinstance(listed, list) or not listed or not all(isinstance(one, str) for one in listed):
                text = "expected the name of a figure, such as dev.accuracy, or a list of them"
                problems.append(Problem((*here, run), f"{text}; found {values.tell(figures)}"))
            else:
                averages[name][run] = listed
    return averages, problems


def _prefixes(run: str) -> list[str]:
    parts = run.split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def compute(averages: Averages, figures: RunFigures) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Column -> name -> mean, deviation and number; and sentences about what could not be computed.

    A column is what the names of the runs end with ("spiking", "ann"), "" if each member is one
    run, or a baseline that all of them have ("baseline.majority"). If a run has several figures,
    the mean of those that exist counts. With seeds, there is an average for each seed; if the runs
    differ in their number of seeds, it is that of their means, without a deviation. A column in
    which no member has its figure is left out silently if another column has the average: an ANN
    twin has no firing rate.
    """
    columns: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for name, members in averages.items():
        missing: list[tuple[str, list[str]]] = []
        for column in _columns(members, figures):
            series = {run: _series(figures, run, column, names) for run, names in members.items()}
            lacking = [run for run, one in series.items() if not one]
            if lacking:
                missing.append((column, lacking))
                continue
            columns.setdefault(column, {})[name] = _mean(list(series.values()))
            notes += _absent(name, column, members, figures)
        missing = [(column, lacking) for column, lacking in missing if not column.startswith(BASELINE)]
        elsewhere = any(name in one for column, one in columns.items() if not column.startswith(BASELINE))
        for column, lacking in missing:
            if len(lacking) < len(members) or not elsewhere:
                notes.append(f"average '{name}'{f' of {column}' * bool(column)}: no figure of {', '.join(lacking)}")
    return columns, list(dict.fromkeys(notes))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for one value) and n."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "deviation": deviation, "n": len(values)}


def _mean(runs: Sequence[Sequence[float]]) -> dict[str, Any]:
    counts = {len(one) for one in runs}
    if len(counts) > 1:
        mean = statistics.fmean(statistics.fmean(one) for one in runs)
        return {"mean": mean, "deviation": None, "n": min(counts)}
    return spread([statistics.fmean(values) for values in zip(*runs, strict=True)])


def stored(computed: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The averages as metrics.json has them beside the runs: "average", "average/spiking" ..."""
    return {f"average/{column}" if column else "average": values for column, values in computed.items()}


def rows(
    averages: Averages,
    figures: RunFigures,
    computed: Mapping[str, Mapping[str, Any]],
    show: Callable[[str, Any], str],
) -> list[list[str]]:
    """The table: a line for each run and figure that counts, then the averages, by columns.

    show: (name, mean and deviation) -> text.
    """
    members = {run: names for one in averages.values() for run, names in one.items()}
    merged = {
        run: list(dict.fromkeys(figure for one in averages.values() for figure in one.get(run, ()))) for run in members
    }
    columns = list(dict.fromkeys(column for one in averages.values() for column in _columns(one, figures)))
    table = [["", *(column.removeprefix(BASELINE) or "value" for column in columns)]]
    for run, names in merged.items():
        for figure in names:
            cells = []
            for column in columns:
                series = _series(figures, run, column, [figure])
                cells.append(show(figure, spread(series)) if series else "")
            if any(cells):
                table.append([f"{run}  {figure}", *cells])
    for name in averages:
        cells = [show(name, computed[c][name]) if name in computed.get(c, {}) else "" for c in columns]
        table.append([f"average  {name}", *cells])
    return table


def _columns(members: Mapping[str, Sequence[str]], figures: RunFigures) -> list[str]:
    """The ends of the names of the runs, then the baselines."""
    ends: dict[str, None] = {}
    baselines: dict[str, None] = {}
    for run, names in members.items():
        for name, seeds in figures.items():
            if name == run or name.startswith(f"{run}/"):
                ends[name.removeprefix(run).removeprefix("/")] = None
                for figure in names:
                    suffix = f".{figure}"
                    keys = [key for one in seeds for key in one if key.startswith(BASELINE) and key.endswith(suffix)]
                    baselines |= dict.fromkeys(key.removesuffix(suffix) for key in keys)
    return [*ends, *baselines]


def _series(figures: RunFigures, run: str, column: str, names: Sequence[str]) -> list[float]:
    """The mean of the named figures for each seed of a run that has any of them."""
    if column.startswith(BASELINE):
        prefix = f"{column}."
        full_name = next((name for name in figures if name == run or name.startswith(f"{run}/")), "")
    else:
        prefix, full_name = "", f"{run}/{column}" if column else run
    means = []
    for one in figures.get(full_name, ()):
        present = [float(one[prefix + name]) for name in names if prefix + name in one]
        if present:
            means.append(statistics.fmean(present))
    return means


def _absent(name: str, column: str, members: Mapping[str, Sequence[str]], figures: RunFigures) -> list[str]:
    if column.startswith(BASELINE):
        return []
    notes = []
    for run, names in members.items():
        one = figures.get(run if not column else f"{run}/{column}", ())
        notes += [f"average '{name}': {run} has no {figure}" for figure in names if not all(figure in x for x in one)]
    return notes

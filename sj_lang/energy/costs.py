"""What an operation and a byte cost, in pJ: tables by name, with their sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sj_lang.errors import UserError, choices

#: (bytes, pJ a byte) of memories, smallest first: an operand is held by the first that it fits into
Levels = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """A cost table. None: the hardware has no such operation, so no total is given over one.

    mac: a multiply-accumulate. accumulation: of one unit of a spike. other: an operation of a norm,
    a softmax, an activation or a sum. memory: see `Levels`; empty, if the operations include it.
    neuron: a neuron's whole step; None: the multiply-accumulates and accumulations it consists of.
    """

    mac: float | None
    accumulation: float | None
    other: float | None
    memory: Levels
    source: str
    neuron: float | None = None

    def byte(self, size: float) -> float:
        """pJ of moving a byte of an operand of `size` bytes."""
        return next((price for limit, price in self.memory if size <= limit), 0.0)


INFINITE, KB = float("inf"), 1024
#: "other" is a multiply-accumulate, as look-ups in neurons are. Memory prices are those of a
#: 64-bit access over 8 bytes, DRAM at the lower end of its range.
TABLES: Mapping[str, Costs] = {
    "45nm": Costs(
        mac=4.6,  # multiplication 3.7, addition 0.9
        accumulation=0.9,
        other=4.6,
        memory=((8 * KB, 1.25), (32 * KB, 2.5), (KB * KB, 12.5), (INFINITE, 162.5)),
        source="float32 at 45 nm, caches of 8 KB, 32 KB and 1 MB, DRAM; "
        "M. Horowitz, Computing's energy problem, ISSCC 2014, figure 1.1.9",
    ),
    "7nm": Costs(
        mac=1.69,  # multiplication 1.31, addition 0.38
        accumulation=0.38,
        other=1.69,
        memory=((8 * KB, 0.9375), (32 * KB, 1.0625), (KB * KB, 1.75), (INFINITE, 162.5)),
        source="float32 at 7 nm, SRAM of 8 KB, 32 KB and 1 MB, DDR4; "
        "N. Jouppi et al., Ten lessons from three generations shaped Google's TPUv4i, ISCA 2021, table 2",
    ),
    "loihi": Costs(
        mac=None,
        accumulation=23.6,
        other=None,
        neuron=81.0,
        memory=(),
        source="a synaptic operation and an active neuron's update at 14 nm, both with their memory; "
        "M. Davies et al., Loihi, IEEE Micro 38(1), 2018, table 2",
    ),
}


def cost_table(table: str | Mapping[str, Any]) -> Costs:
    """A table by its name, or one of your own. UserError for a missing, unknown or wrong entry."""
    if isinstance(table, str):
        if table not in TABLES:
            raise UserError(f"no cost table {table!r}; {choices(table, list(TABLES))}")
        return TABLES[table]
    if not isinstance(table, Mapping):
        raise UserError(f"the cost table is {table!r}; expected a name, {', '.join(TABLES)}, or a dict of your own")
    entries = {entry.name: entry.default is dataclasses.MISSING for entry in dataclasses.fields(Costs)}
    missing = [name for name, needed in entries.items() if needed and name not in table]
    unknown = [name for name in table if name not in entries]
    if missing or unknown:
        wrong = [f"it lacks {', '.join(missing)}"] * bool(missing) + [f"it has {', '.join(unknown)}"] * bool(unknown)
        raise UserError(f"the cost table has the wrong entries: {'; '.join(wrong)}; expected {', '.join(entries)}")
    for name in ("mac", "accumulation", "other", "neuron"):
        if table.get(name) is not None and not _is_price(table[name]):
            raise UserError(f"the cost table has {name}: {table[name]!r}; expected pJ, 0 or more, or None")
    if not _are_levels(table["memory"]):
        raise UserError(
            f"the cost table has memory: {table['memory']!r}; expected pairs (bytes, pJ a byte), the smallest first"
        )
    return Costs(**table)


def _is_price(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _are_levels(memory: Any) -> bool:
    if not isinstance(memory, tuple | list) or not all(isinstance(pair, tuple | list) for pair in memory):
        return False
    if not all(len(pair) == 2 and all(map(_is_price, pair)) for pair in memory):
        return False
    return [size for size, _ in memory] == sorted(size for size, _ in memory)

"""Chaotic series that need no data: Mackey and Glass 1977, Science 197, pages 287 to 289.

    dx/dt = 0.2 x(t - tau) / (1 + x(t - tau)^10) - 0.1 x(t)

One series for each tau of 17, 23 and 30; from tau = 17 on they are chaotic. Euler steps of 0.1, one
value a unit of time, after 200 units.
"""

import hashlib
from datetime import timedelta

import numpy as np

from sj_lang_tasks.data.series import SeriesTable

DELAYS = (17, 23, 30)
STEPS = 4000
SKIPPED = 200
PARTS = 10  # Euler steps in a unit of time


class MackeyGlass:
    """4,000 steps of three chaotic series, which are the same everywhere."""

    def series(self) -> SeriesTable:
        lags = np.array(DELAYS) * PARTS
        x = np.empty(((STEPS + SKIPPED) * PARTS, len(DELAYS)))
        x[0] = 1.2
        columns = np.arange(len(DELAYS))
        for t in range(len(x) - 1):
            delayed = np.where(t >= lags, x[np.maximum(t - lags, 0), columns], 0.0)
            x[t + 1] = x[t] + (0.2 * delayed / (1 + delayed**10) - 0.1 * x[t]) / PARTS
        values = x[SKIPPED * PARTS :: PARTS]
        return SeriesTable(
            values=values,
            names=[f"tau {tau}" for tau in DELAYS],
            step=timedelta(seconds=1),
            sha256=hashlib.sha256(values.round(6).tobytes()).hexdigest(),
        )

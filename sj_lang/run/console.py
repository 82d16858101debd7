"""What a run says: plain lines on standard output, and everything in the run's log.txt."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

from sj_lang.errors import forget_output, printable, redacted

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: libraries whose messages belong in the log of a run; transformers' loggers do not reach the root
#: logger
_LOGGERS = ("sj_lang", "transformers", "accelerate", "datasets", "py.warnings")


def is_main_process() -> bool:
    """True in the process that writes: torchrun's first. RANK alone means nothing."""
    return "LOCAL_RANK" not in os.environ or os.environ.get("RANK", "0") == "0"


class _LogFile(logging.FileHandler):
    """A log without secrets, which ends, and says so once without a traceback, if it cannot be
    written."""

    broken = False

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.broken:
            sys.stderr.write(f"note: {self.baseFilename} cannot be written: {sys.exc_info()[1]}\n")
        self.broken = True

    def close(self) -> None:
        with suppress(OSError):  # what is left of a full disk's buffer
            super().close()


class Console:
    """Says things once, in the main process, and keeps them for log.txt until that exists."""

    def __init__(self, *, muted: bool = False) -> None:
        self.muted = muted
        self.log = logging.getLogger("sj_lang.run")
        self._early: list[str] = []
        self._handler: logging.Handler | None = None

    def say(self, text: str = "") -> None:
        if self.muted or not is_main_process():
            return
        text = printable(text)
        self._show(text + "\n")
        self.record(text)

    def _show(self, text: str) -> None:
        """A run, which has its log, outlives its terminal and the reader of its output."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            if self._handler is None:
                raise
            forget_output()
            self.record(f"standard output cannot be written from here on: {error.strerror}")

    def warn(self, text: str) -> None:
        """Print on standard error, when nothing else can be written."""
        sys.stderr.write(printable(f"note: {text}\n"))

    def quote(self, text: str) -> None:
        """What a model wrote, set off from the lines of the run."""
        self.say("".join(f"  | {line}\n" for line in text.splitlines()).rstrip("\n"))

    def record(self, text: str) -> None:
        """Write to log.txt only; the text is kept until the file exists."""
        if self._handler is None:
            self._early.append(text)
        elif text:
            self.log.info("%s", text)

    def open(self, path: Path) -> None:
        """Append to the log at `path` from here on."""
        if not is_main_process():
            return
        self._handler = _LogFile(path, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter(_FORMAT))
        logging.captureWarnings(True)
        self.log.setLevel(logging.INFO)
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self._handler)
        for text in self._early:
            self.record(text)
        self._early = []

    def close(self) -> None:
        if self._handler is None:
            return
        logging.captureWarnings(False)
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self._handler)
        self._handler.close()
        self._handler = None


def quiet_libraries() -> None:
    """Keep what libraries say off the screen: it goes to log.txt. For the command line."""
    from datasets.utils.logging import disable_progress_bar as without_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    without_bars()
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(logging.NullHandler())


def table(rows: list[list[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """12 s, 3 min 4 s, 1 h 2 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

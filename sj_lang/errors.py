"""The errors that end a command: each with its exit code, and a text that is ready to print."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches

#: a token of the hub; a user and a password in an address; what is no name on the hub; a signed
#: address
_SECRETS = (
    re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{16,}|[\w.-]*:?\bhf_\w+(?=@)"),
    re.compile(r"(?<=://)[^\s/?#'\"]*(?=@)"),
    re.compile(r"(?<=\bhub:)[\w./-]*[:?#@=&][^\s'\"]+"),
    re.compile(
        r"(?<=[?&])((?:[\w-]*(?:token|secret|password|signature|credential|key)|sig)=)[^\s&'\"]+", re.IGNORECASE
    ),
)
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def redacted(text: str) -> str:
    """The text with `***` in place of tokens, and of passwords in addresses."""
    for secret in filter(None, map(os.environ.get, _VARIABLES)):
        text = text.replace(secret, "***") if len(secret) > 7 else text
    for pattern in _SECRETS:
        text = pattern.sub(lambda match: f"{match[1] if match.re.groups else ''}***", text)
    return text


class SjLangError(Exception):
    """Base of the errors that the command line prints as one message, without a traceback."""

    exit_code = 1

    def __init__(self, text: object = "") -> None:
        super().__init__(redacted(str(text)))


class RunFailed(SjLangError):
    """The run started and could not finish."""

    exit_code = 1


class UserError(SjLangError):
    """A mistake that the user can correct: usage, recipe, files; found before training starts."""

    exit_code = 2


class Unreachable(UserError):
    """A network that a run needs cannot be reached. A dry run checks everything else."""


class PluginError(SjLangError):
    """A plugin that is needed here failed to load, or to build what it offers."""

    exit_code = 3


class Interrupted(SjLangError):
    """SIGTERM or SIGHUP arrived; what is needed to go on is saved."""

    def __init__(self, text: object, exit_code: int = 143) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def nearest(word: str, valid: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of the valid names, the most similar to `word` first; [] if none is similar.

    Names that contain the word count as similar: batch_size, per_device_train_batch_size.
    """
    names = sorted({name for name in valid if name})
    lowered = word.lower()
    close = get_close_matches(lowered, [name.lower() for name in names], n=count, cutoff=0.6)
    ranked = [name for name in names if name.lower() in close or (len(word) > 2 and lowered in name.lower())]
    ranked.sort(key=lambda name: (-SequenceMatcher(None, name.lower(), lowered).ratio(), name))
    return ranked[:count]


def choices(word: str, valid: Sequence[str], limit: int = 10) -> str:
    """The valid names: the nearest, and all of them if they are few. "" if nothing is valid."""
    names = sorted(valid)
    close = nearest(word, names)
    parts = []
    if close:
        quoted = [repr(name) for name in close]
        parts.append(f"did you mean {', '.join(quoted[:-1])}{' or ' if quoted[1:] else ''}{quoted[-1]}?")
    if names and len(names) <= (limit if close else 2 * limit) and set(names) - set(close):
        parts.append("valid: " + ", ".join(names))
    return " ".join(parts)


def printable(text: str) -> str:
    """The text without secrets, and with control characters, which a terminal obeys, and halves of
    surrogate pairs, which cannot be encoded, written out; line ends stay.
    """

    def written_out(match: re.Match[str]) -> str:
        code = ord(match[0])
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"

    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", written_out, redacted(text))


def forget_output() -> None:
    """Let what is still to be written to standard output go nowhere, also at the end of Python."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def describe(error: BaseException) -> str:
    """One line: the error's class and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def not_imported(module: str, name: str, cure: str) -> str:
    """Why a kernel that needs this module cannot run, with the cure; "" if the module imports."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return f"needs {name}: {cure}"
        return f"needs {name}, which is installed and cannot be imported: {error}"
    except Exception as error:  # a broken binary, or one for another version, may raise anything
        return f"needs {name}, which is installed and cannot be imported: {type(error).__name__}: {error}"
    return ""

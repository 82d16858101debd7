"""`sj-lang completion SHELL`: a script that completes commands, options, recipes and components."""

import argparse
import importlib
from collections.abc import Iterator

from sj_lang import plugins
from sj_lang.commands.options import SHELLS
from sj_lang.errors import UserError
from sj_lang.hookspecs import KINDS

#: functions of the scripts, which offer words beside files
WORDS = {"recipe": "_sj_lang_recipes", "what": "_sj_lang_components"}
_BASH = '{name}() {{ compgen -f -- "$1"; compgen -W "{words}" -- "$1"; }}'
_ZSH = "{name}() {{ _alternative 'files:file:_files' 'words:name:({words})' }}"


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script for a shell, with the names of what is installed now."""
    try:
        shtab = importlib.import_module("shtab")
    except ModuleNotFoundError as error:
        raise UserError("completion needs shtab; install it with: pip install 'sj-lang[completion]'") from error
    for action in _actions(parser):
        if action.dest in WORDS:
            action.complete = dict.fromkeys(SHELLS, WORDS[action.dest])  # type: ignore[attr-defined]
        elif action.metavar in ("RUN", "DEST", "FILE"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    components = [f"{kind}/{one.name}" for kind in KINDS for one in plugins.all(kind)]
    names = {"recipe": list(plugins.recipes()), "what": [*KINDS, *components]}
    form = {"bash": _BASH, "zsh": _ZSH}[shell]
    functions = [form.format(name=WORDS[dest], words=" ".join(words)) for dest, words in names.items()]
    return str(shtab.complete(parser, shell=shell, preamble={shell: "\n".join(functions)}))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action

"""The command line: parsing, and a short function per command, which imports what it needs.

Exit codes: 0 done; 1 the run failed; 2 usage or recipe, or anything found wrong before training
starts; 3 a plugin that is needed failed to load, or to build what it offers; 129 SIGHUP, 130
Ctrl-C, 143 SIGTERM; at 129 and 143 a checkpoint is saved.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sj_lang import __version__
from sj_lang.commands import options
from sj_lang.commands.arguments import Parser
from sj_lang.errors import SjLangError, UserError, choices, forget_output, printable, redacted

if TYPE_CHECKING:
    from sj_lang.recipe.loading import Recipe

Command = Callable[[argparse.Namespace], int | None]  # None: exit code 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Errors become one message on standard error."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except SjLangError as error:
        _complain(f"error: {error}", debug)
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted", debug)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as head, has gone
        forget_output()
        return 1
    except OSError as error:
        if error.errno is None:  # no operating system's, but a library's
            return _surprise(error, debug)
        where = error.filename or ("standard output" if error.errno == errno.ENOSPC else "")
        _complain(f"error: {where}: {error.strerror}" if where else f"error: {error}", debug)
        if error.filename is None:
            forget_output()
        return UserError.exit_code
    except Exception as error:
        return _surprise(error, debug)


def _surprise(error: Exception, debug: bool) -> int:
    _complain(f"error: unexpected {type(error).__name__}: {error}" + ("" if debug else " (--debug shows where)"), debug)
    return 1


def _complain(message: str, debug: bool) -> None:
    trace = redacted(traceback.format_exc()) if debug else ""
    with suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"{trace}{printable(message)}\n")


def _dispatch(words: list[str]) -> int:
    if words and words[0] == "bench":  # it has its own options
        from sj_lang.commands import bench

        return bench.main([word for word in words[1:] if word != "--debug"])
    parser = _parser()
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        raise UserError(f"no command '{first}'; {choices(first, list(COMMANDS), limit=20)}")
    arguments, rest = parser.parse_known_args(words)
    if first is None:
        if unknown := [word for word in rest if word != "--debug"]:
            raise UserError(f"'{unknown[0]}' is not understood; see `sj-lang --help`")
        parser.print_help()
        return 0
    for word in rest:
        if not word.startswith("-") and "=" not in word and getattr(arguments, "recipe", "") is None:
            arguments.recipe = word  # after an option, argparse thinks an optional argument missing
            continue
        if word.startswith("-") or "=" not in word or "changes" not in arguments:
            raise UserError(f"'{word}' is not understood; see `sj-lang {first} --help`")
        arguments.changes.append(word)
    return arguments.command(arguments) or 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="sj-lang",
        description="Parallel spiking neurons and spiking language models: recipes, runs, plugins.",
        epilog="Start with: sj-lang run lm/quickstart",
        allow_abbrev=False,
    )
    parser.add_argument("-v", "--version", action="version", version=f"sj-lang {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, (function, summary, example, build) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example: sj-lang {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if build:
            build(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(command=function)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    if arguments.resume is not None and "=" in (arguments.recipe or "") and not Path(arguments.recipe).is_file():
        arguments.changes.insert(0, arguments.recipe)  # argparse takes the first word
        arguments.recipe = None
    if arguments.recipe is None:
        arguments.recipe = _recipe_of(arguments.resume)
    recipe = _load(arguments)
    from sj_lang import run
    from sj_lang.cpu import threads

    run.quiet_libraries()
    threads.use(arguments.threads, arguments.resume)
    return run.execute(
        recipe,
        dry_run=arguments.dry_run,
        resume=arguments.resume,
        changed_data=arguments.changed_data,
        debug=arguments.debug,
    )


def _recipe_of(run: str | None) -> str:
    """The recipe that lies in the folder of a run."""
    from sj_lang.folder import RunFolder

    if run is None:
        raise UserError("the following arguments are required: RECIPE; see `sj-lang run --help`")
    folder = RunFolder(Path(run))
    folder.refuse_links()
    path = folder.recipe
    if not path.is_file():
        raise UserError(f"--resume: {run} is not a run folder (it has no {path.name})")
    return str(path)


def _validate(arguments: argparse.Namespace) -> None:
    from sj_lang.recipe.links import linked

    children = linked(dict((recipe := _load_between_processes(arguments)).children()))
    runs = f", {len(children)} runs: {', '.join(children)}" if children else ""
    print(f"{recipe.name}: valid{runs}")


def _show(arguments: argparse.Namespace) -> None:
    recipe = _load_between_processes(arguments)
    if arguments.json:
        import json

        from sj_lang.manifest import plain

        print(json.dumps(plain(recipe.resolved()), indent=2, ensure_ascii=False))
    else:
        print(recipe.dump_yaml(), end="")


def _ls(arguments: argparse.Namespace) -> None:
    from sj_lang.commands import listing

    print(listing.recipes(as_json=arguments.json))


def _schema(arguments: argparse.Namespace) -> None:
    import json

    from sj_lang.commands import schema
    from sj_lang.component.remember import between_processes

    with between_processes():
        print(json.dumps(schema.of(arguments.kind), indent=1, ensure_ascii=False))


def _cp(arguments: argparse.Namespace) -> None:
    from sj_lang.recipe import files

    print(f"wrote {files.copy(arguments.recipe, arguments.dest)}")


def _plugins(arguments: argparse.Namespace) -> None:
    from sj_lang.commands import listing
    from sj_lang.component.remember import between_processes

    with between_processes():
        table = listing.plugin_table(arguments.what, as_json=arguments.json, with_arguments=arguments.arguments)
    print(table)


def _generate(arguments: argparse.Namespace) -> int:
    from sj_lang import run
    from sj_lang.recipe import loading

    run.quiet_libraries()
    options = loading.generation(arguments.changes)
    seed, prompt = options.pop("seed", None), options.pop("prompt", None)
    prompt = prompt if arguments.prompt is None else arguments.prompt
    return run.generate(arguments.run, prompt, options, seed=seed, stream=arguments.stream)


def _eval(arguments: argparse.Namespace) -> int:
    from sj_lang import run

    run.quiet_libraries()
    return run.evaluate(arguments.run, unrolled=arguments.unrolled)


def _push(arguments: argparse.Namespace) -> None:
    from sj_lang.commands import push

    push.main(arguments.run, arguments.repository, dry_run=arguments.dry_run, private=arguments.private)


def _report(arguments: argparse.Namespace) -> None:
    from sj_lang.report import page

    print(f"wrote {page.write(arguments.runs)}")


def _bench(arguments: argparse.Namespace) -> None:
    raise UserError("bench: name a neuron or a recipe, as in `sj-lang bench dsn`")  # `-- bench`


def _doctor(arguments: argparse.Namespace) -> int:
    from sj_lang.commands import doctor

    return doctor.main(as_json=arguments.json)


def _new(arguments: argparse.Namespace) -> None:
    from sj_lang.commands import new

    if arguments.dest is not None:
        new.ask_if_two_words(arguments.name, arguments.dest)
    folder = new.create(arguments.name, arguments.dest, arguments.kind)
    print(f"wrote {folder}\nnext: pip install -e {folder} && pytest {folder}")


def _completion(arguments: argparse.Namespace) -> None:
    from sj_lang.commands import completion

    print(completion.script(arguments.shell, _parser()))


def _swap(arguments: argparse.Namespace) -> int:
    from sj_lang.commands import swap

    return swap.main(arguments)


def _load_between_processes(arguments: argparse.Namespace) -> Recipe:
    from sj_lang.component.remember import between_processes

    with between_processes():
        return _load(arguments)


def _load(arguments: argparse.Namespace) -> Recipe:
    from sj_lang.recipe import loading

    loaded = loading.load(arguments.recipe, arguments.changes)
    first = "LOCAL_RANK" not in os.environ or os.environ.get("RANK", "0") == "0"  # of torchrun's
    for note in loaded.notes if first else []:
        print(printable(f"note: {note}"), file=sys.stderr)
    return loaded


#: name -> (function, what it does, a real example, its options)
COMMANDS: dict[str, tuple[Command, str, str, Callable[[argparse.ArgumentParser], None] | None]] = {
    "run": (_run, "train and evaluate a recipe", "run lm/quickstart train.max_steps=100", options.run),
    "validate": (_validate, "check a recipe without running it", "validate my.yaml model.neuron=lif", options.recipe),
    "show": (_show, "print a recipe with all defaults written out", "show lm/quickstart", options.show),
    "ls": (_ls, "list the recipes that are installed", "ls", options.as_json),
    "cp": (_cp, "copy a recipe, to make it your own", "cp lm/quickstart my.yaml", options.cp),
    "schema": (
        _schema,
        "print the JSON Schema of recipes, for editors",
        "schema > recipe.schema.json",
        options.schema,
    ),
    "plugins": (_plugins, "list what recipes can name, and broken plugins", "plugins neuron/dsn", options.plugin),
    "generate": (
        _generate,
        "write text with a trained model",
        'generate runs/lm/shakespeare --prompt "ROMEO:" temperature=0.7',
        options.generate,
    ),
    "eval": (_eval, "evaluate a trained model again", "eval runs/lm/shakespeare", options.eval),
    "push": (
        _push,
        "put a trained model on the Hugging Face hub, or show what would go",
        "push runs/lm/shakespeare --dry-run",
        options.push,
    ),
    "report": (_report, "write one page that compares runs", "report runs/lm/quickstart", options.report),
    "bench": (
        _bench,
        "time a neuron, once its parity check is green, or the training steps of a recipe's runs",
        "bench dsn --against lif",
        None,
    ),
    "swap": (
        _swap,
        "say what a swap of neurons would do to a network of yours",
        "swap mypackage.models:resnet18 --to dsn --example 4,2,3,32,32",
        options.swap,
    ),
    "doctor": (_doctor, "say what works with what is installed here", "doctor", options.as_json),
    "new": (_new, "write the folder of a new plugin", "new ember", options.new),
    "completion": (
        _completion,
        "print the script that completes words in a shell",
        "completion bash > ~/.local/share/bash-completion/completions/sj-lang",
        options.completion,
    ),
}

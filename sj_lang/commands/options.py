"""The options of each command of `sj-lang`."""

import argparse

from sj_lang.commands.arguments import positive

#: kinds of component that `sj-lang new` can write
KINDS_TO_WRITE = ("neuron", "attention", "embedding", "norm", "model", "task")
#: shells that `sj-lang completion` can complete in
SHELLS = ("bash", "zsh")


def recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a path, or a name from `sj-lang ls`")
    changes(parser)


def as_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def show(parser: argparse.ArgumentParser) -> None:
    recipe(parser)
    as_json(parser)


def changes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes, such as train.learning_rate=3e-4")


def run(parser: argparse.ArgumentParser) -> None:
    optional = "a path, or a name from `sj-lang ls`; with --resume it may be left out: it is in the run's folder"
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help=optional)
    changes(parser)
    parser.add_argument("--dry-run", action="store_true", help="check everything, build data and model, train nothing")
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder from its last checkpoint")
    parser.add_argument("--threads", type=positive, help="of torch on the CPU (default: what is free at the start)")
    parser.add_argument(
        "--changed-data", action="store_true", help="with --resume: accept changed data, tokenizer or teacher"
    )


def generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--prompt", help="the text to continue (default: the recipe's)")
    parser.add_argument("--stream", action="store_true", help="print the text word by word, as it is written")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="generation options, such as temperature=0.7")


def eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run")
    unrolled = "also with integer spikes as binary ones in sub-steps, every product compared with the whole one"
    parser.add_argument("--unrolled", action="store_true", help=unrolled)


def push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="the folder of a finished run")
    parser.add_argument("repository", nargs="?", metavar="OWNER/NAME", help="where on the hub; created if it is new")
    parser.add_argument("--dry-run", action="store_true", help="show the card and the files, send nothing")
    parser.add_argument("--private", action="store_true", help="create a private repository")


def report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")


def cp(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a path, or a name from `sj-lang ls`")
    parser.add_argument("dest", metavar="DEST", help="a file that does not exist, or a folder that does")


def plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", default="", metavar="KIND[/NAME]", help="such as neuron, or neuron/dsn")
    as_json(parser)
    parser.add_argument(
        "--arguments", action="store_true", help="with KIND/NAME: what a recipe can set (imports torch)"
    )


def new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="what recipes will call the new component")
    parser.add_argument("dest", nargs="?", metavar="DEST", help="the folder to write (default: sj-lang-NAME)")
    parser.add_argument("--kind", choices=KINDS_TO_WRITE, default="neuron", help="of component (default: neuron)")


def completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", default="recipe", metavar="KIND", help="such as neuron (default: a recipe)")


def swap(parser: argparse.ArgumentParser) -> None:
    where = "what builds the network, such as mypackage.models:resnet18; called without arguments"
    parser.add_argument("network", metavar="MODULE:CALLABLE", help=where)
    parser.add_argument("--to", required=True, metavar="NEURON", help="such as dsn; see `sj-lang plugins neuron`")
    sizes = "the shape of an input, [T, B, ...] of numbers in 0 to 1; repeat it if the network takes several"
    parser.add_argument("--example", required=True, action="append", metavar="SIZES", help=sizes)
    parser.add_argument(
        "--of", action="append", metavar="MODULE:CLASS", help="a class to replace (default: known ones)"
    )
    parser.add_argument("--like", metavar="REGEX", help="searched in the names of the places")
    parser.add_argument("--step-mode", choices=("s", "m"), help="how the network calls nodes that do not say it")
    parser.add_argument("--axis", type=int, help="of the channels in [T, B, ...], such as -1 (default: looked for)")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="arguments of the neuron, such as n=4")

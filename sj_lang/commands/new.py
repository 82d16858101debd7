"""`sj-lang new NAME`: write the folder of a new plugin, which installs and runs as it is."""

import keyword
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from sj_lang import plugins
from sj_lang.component.schema import with_article
from sj_lang.errors import UserError

TEMPLATE = Path(__file__).parent / "template"
EXAMPLE = "ember"  # the template is a working plugin of this name, shown whole in docs/plugins.md
#: what stands in place of the template's neuron in the plugin of another kind of component
PARTS = Path(__file__).parent / "template_parts"


@dataclass(frozen=True)
class Kind:
    """A kind of component that `new` can write.

    summary, more: what `plugin.py` says of it. used: lines of the recipe that use it.
    made: how its test builds it. check: the call of its conformance kit.
    """

    summary: str = ""
    more: str = ""
    used: str = ""
    made: str = ""
    check: str = ""


_SIZED = "vocab_size=9, dim=8"
KINDS = {
    "neuron": Kind(),
    "attention": Kind(
        summary="spikes gate the mean of the values so far",
        more="causal=True",
        used="attention: ember",
        made='part("attention", "ember")(dim=8, neuron=part("neuron", "lif"))',
        check="check_attention(make, dim=8, causal=True)",
    ),
    "embedding": Kind(
        summary="a table of tokens, made binary",
        more="causal=True",
        used="embedding: ember",
        made=f'part("embedding", "ember")({_SIZED}, max_length=16)',
        check=f"check_embedding(make, {_SIZED}, causal=True)",
    ),
    "norm": Kind(
        summary="root mean square of the channels",
        used="norm: ember",
        made='part("norm", "ember")(dim=8)',
        check="check_norm(make, dim=8)",
    ),
    "model": Kind(summary="neurons along the tokens between two Linear layers"),
    "task": Kind(summary="copy a random text"),
}


def create(name: str, dest: str | Path | None = None, kind: str = "neuron") -> Path:
    """Write a plugin with one component to `dest`, sj-lang-NAME by default, and return that folder.

    UserError if the name cannot be used or the folder exists; then nothing is written.
    """
    component = checked(name, kind)
    target = Path(dest) if dest else Path(distribution_of(component))
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} exists already; give another folder: `sj-lang new {name} DEST`")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".sj-lang-new-") as scratch:
            draft = Path(scratch) / "plugin"
            _write(component, kind, draft)
            draft.rename(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def ask_if_two_words(name: str, dest: str) -> None:
    """Ask whether `new my neuron` means the folder `neuron`, or a plugin of two words.

    A path, such as `./neuron`, is a folder without a question. UserError if it is not meant, or if
    there is nobody to ask.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", dest):
        return
    other = f"sj-lang new {name}-{dest}"
    if sys.stdin.isatty():
        answer = input(f"Write the plugin '{name}' into the folder '{dest}'? (one of two words: {other}) [y/N] ")
        if answer.strip().lower() in ("y", "yes"):
            return
    kinds = f", and for this kind of component: sj-lang new {name} --kind {dest}" if dest in KINDS else ""
    raise UserError(f"new: for a plugin of two words: {other}; for a folder: sj-lang new {name} ./{dest}{kinds}")


def checked(name: str, kind: str = "neuron") -> str:
    """The component's name, with '_' for '-'.

    UserError if it cannot name a package or a component.
    """
    neuron = re.sub(r"^sj_lang_", "", name.replace("-", "_"))
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", neuron) or len(neuron) > 40:
        raise UserError(
            f"'{name}' cannot name a plugin: use at most 40 small letters, digits, '_' and '-', with a letter first, "
            "as in 'resonate' or 'fast-lif'"
        )
    if keyword.iskeyword(neuron) or keyword.issoftkeyword(neuron):
        raise UserError(f"'{name}' cannot name a plugin: it is a Python keyword")
    for registration in plugins.all(kind):
        if registration.name == neuron:
            owner = f"{registration.plugin} {registration.version}"
            raise UserError(f"there is {with_article(kind)} '{neuron}' already, from {owner}; choose another name")
    distribution = distribution_of(neuron)
    if any(installed.name == distribution for installed in distributions()):
        raise UserError(f"{distribution} is installed already; choose another name")
    return neuron


def distribution_of(neuron: str) -> str:
    """What pip calls the plugin of a neuron."""
    return f"sj-lang-{neuron.replace('_', '-')}"


def rename(text: str, neuron: str) -> str:
    """Text of the template with the example's name, in its three spellings, replaced."""
    spellings = {
        distribution_of(EXAMPLE): distribution_of(neuron),
        EXAMPLE.capitalize(): "".join(part.capitalize() for part in neuron.split("_")),
        EXAMPLE: neuron,
    }
    return re.sub("|".join(spellings), lambda match: spellings[match.group()], text)


def _write(component: str, kind: str, folder: Path) -> None:
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    if kind != "neuron":
        _exchange(kind, KINDS[kind], folder)
    for path in sorted(folder.rglob(f"*{EXAMPLE}*"), reverse=True):  # children before their folder
        path.rename(path.with_name(rename(path.name, component)))
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_text(rename(path.read_text(encoding="utf-8"), component), encoding="utf-8")


def _exchange(kind: str, facts: Kind, folder: Path) -> None:
    """Another kind of component in place of the template's neuron."""
    package = folder / f"sj_lang_{EXAMPLE}"
    (package / "neuron.py").unlink()
    shutil.copy(PARTS / f"{kind}.py", package)
    changes = {"spiking neuron": kind, "is the neuron": f"is the {kind}", "neuron.py": f"{kind}.py"}
    for path in (folder / "README.md", folder / "pyproject.toml", package / "__init__.py"):
        text = path.read_text(encoding="utf-8")
        for old, new in changes.items():
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    whole = kind in ("model", "task")  # the others are parts of a model
    for source, target in (
        ("plugin.txt", package / "plugin.py"),
        (f"test_{kind}.txt" if whole else "test.txt", folder / "tests" / f"test_{EXAMPLE}.py"),
        (f"{kind}.yaml" if whole else "quickstart.yaml", package / f"recipes/{EXAMPLE}/quickstart.yaml"),
    ):
        text = (PARTS / source).read_text(encoding="utf-8")
        if kind == "model":  # which is registered by its configuration
            text = text.replace("KIND:Ember", "KIND:EmberConfig")
        words = {"KIND": kind, "SUMMARY": facts.summary, "USED": facts.used, "MADE": facts.made, "CHECK": facts.check}
        for word, value in words.items():
            text = text.replace(word, value)
        target.write_text(text.replace("        MORE,\n", f"        {facts.more},\n" if facts.more else ""))

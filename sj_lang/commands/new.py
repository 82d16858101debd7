"""`sj-lang new NAME`: write the folder of a new plugin, which installs and runs as it is."""

import keyword
import re
import shutil
import tempfile
from importlib.metadata import distributions
from pathlib import Path

from sj_lang import plugins
from sj_lang.errors import UserError

TEMPLATE = Path(__file__).parent / "template"
EXAMPLE = "ember"  # the template is a working plugin of this name, shown whole in docs/plugins.md


def create(name: str, dest: str | Path | None = None) -> Path:
    """Write the plugin of a neuron to `dest`, sj-lang-NAME by default, and return that folder.

    UserError if the name cannot be used or the folder exists; then nothing is written.
    """
    neuron = checked(name)
    target = Path(dest) if dest else Path(distribution_of(neuron))
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} exists already; `sj-lang new {name} DEST` takes a folder that does not")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".sj-lang-new-") as scratch:
            draft = Path(scratch) / "plugin"
            _write(neuron, draft)
            draft.rename(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def checked(name: str) -> str:
    """The neuron's name, with '_' for '-'. UserError if it cannot name a package or a component."""
    neuron = re.sub(r"^sj_lang_", "", name.replace("-", "_"))
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", neuron) or len(neuron) > 40:
        raise UserError(
            f"'{name}' cannot name a plugin: use at most 40 small letters, digits, '_' and '-', with a letter first, "
            "as in 'resonate' or 'fast-lif'"
        )
    if keyword.iskeyword(neuron) or keyword.issoftkeyword(neuron):
        raise UserError(f"'{name}' cannot name a plugin: it is a Python keyword")
    for registration in plugins.all("neuron"):
        if registration.name == neuron:
            owner = f"{registration.plugin} {registration.version}"
            raise UserError(f"there is a neuron '{neuron}' already, from {owner}; choose another name")
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


def _write(neuron: str, folder: Path) -> None:
    shutil.copytree(TEMPLATE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in sorted(folder.rglob(f"*{EXAMPLE}*"), reverse=True):  # children before their folder
        path.rename(path.with_name(rename(path.name, neuron)))
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_text(rename(path.read_text(encoding="utf-8"), neuron), encoding="utf-8")

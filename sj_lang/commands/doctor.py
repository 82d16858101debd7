"""`sj-lang doctor`: what works with what is installed here, and why something does not."""

import importlib
import json
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from sj_lang import __version__, plugins
from sj_lang.commands.listing import width
from sj_lang.errors import SjLangError, describe
from sj_lang.hookspecs import KINDS

Verdict = Literal["ok", "none", "hidden", "BROKEN"]

NEEDED = ("torch", "spikingjelly", "transformers", "accelerate", "datasets", "tokenizers", "matplotlib")
#: what to import to know that a library works, if its top module imports next to nothing
PROBES = {
    "spikingjelly": "spikingjelly.activation_based.neuron",
    "transformers": "transformers.trainer",
    "matplotlib": "matplotlib.pyplot",
}


@dataclass(frozen=True)
class Finding:
    """One line. state: "none": not needed; "hidden": broken, harmless; "BROKEN": needs repair."""

    about: str
    state: Verdict
    text: str


def main(say: Callable[[str], None] = print, *, as_json: bool = False) -> int:
    """Print all findings. 0: runs work here; 1: what every run needs is broken; 3: a plugin is."""
    sections = {"Libraries": (libraries, 1), "Plugins": (installed_plugins, 3), "Backend under 'auto'": (backends, 3)}
    header = f"sj_lang {__version__}, Python {platform.python_version()}, {platform.platform()}"
    code = 0
    by_section: dict[str, list[dict[str, str]]] = {}
    tell = (lambda text: None) if as_json else say
    tell(header)
    columns = width()
    for title, (findings, failure) in sections.items():
        tell(f"\n{title}")
        by_section[title] = []
        for finding in findings():
            by_section[title].append(asdict(finding))
            first = f"  {finding.about:<17} {finding.state:<7} "
            tell(textwrap.fill(first + finding.text, columns, subsequent_indent=" " * len(first)))
            code = code or (failure if finding.state == "BROKEN" else 0)
    verdict = {0: "Runs work here.", 1: "Runs do not work here: see BROKEN.", 3: "Runs that need a BROKEN plugin fail."}
    tell(f"\n{verdict[code]}")
    if as_json:
        say(json.dumps({"sj_lang": header, "findings": by_section, "verdict": verdict[code]}, indent=2))
    return code


def libraries() -> Iterator[Finding]:
    """The libraries that runs stand on, then those that only a feature needs."""
    torch = _library("torch")
    yield torch
    if torch.state == "BROKEN":
        return  # all others import it
    from sj_lang.hf import shield

    hidden = shield()
    yield Finding("device", "ok", _device())
    for name in NEEDED[1:]:
        yield _library(name)
    for name in ("torchaudio", "torchvision"):
        if name in hidden:
            why = f"{_version(name)} cannot be loaded: {hidden[name].rstrip('.')}"
            yield Finding(name, "hidden", f"{why}. Harmless: sj_lang hides it, and nothing here uses it")
        else:
            yield Finding(name, "ok" if _version(name) else "none", _version(name) or "not needed")
    yield _optional("tensorboard", "torch.utils.tensorboard", "needed only by train.report_to: [tensorboard]")
    yield _optional("numba", "numba", "needed only by backend: numba, the fast one on the CPU; pip install numba")
    yield _optional("cupy", "cupy", "needed only by backend: cupy; pip install 'sj-lang-neurons[cuda13]'")
    yield _compiler()


def installed_plugins() -> Iterator[Finding]:
    """Each plugin with what it offers; whatever fails to load is a finding of its own."""
    for plugin in plugins.registry().plugins:
        if plugin.error:
            yield Finding(plugin.name, "BROKEN", f"{plugin.distribution} {plugin.version}: {plugin.error}")
            continue
        mine = [r for kind in KINDS for r in plugins.all(kind) if r.plugin == plugin.distribution]
        yield Finding(plugin.name, "ok", f"{plugin.distribution} {plugin.version}, {len(mine)} components")
        for registration in mine:
            name = f"  {registration.name}"
            if registration.missing:
                yield Finding(name, "none", f"{registration.kind}: {registration.missing}")
                continue
            try:
                registration.load()
            except SjLangError as error:
                yield Finding(name, "BROKEN", str(error))
    for clash in plugins.registry().clashes().values():
        yield Finding("two of one name", "BROKEN", clash)


def backends() -> Iterator[Finding]:
    """For each neuron with kernels: which one `auto` takes here, and why not the others."""
    for registration in plugins.all("neuron"):
        try:
            target = registration.load()
        except SjLangError:
            continue  # said already
        if not getattr(target, "kernels", None):
            continue
        try:
            from sj_lang.neuron import PREFERRED

            node = target(channels=1)
            reasons = {name: node.why_not(name, None) for name in PREFERRED}
        except Exception as error:  # a plugin is foreign code
            yield Finding(registration.name, "BROKEN", describe(error))
            continue
        chosen = next((name for name, reason in reasons.items() if not reason), "nothing")
        others = [f'"{name}" {reason}' for name, reason in reasons.items() if reason]
        state: Verdict = "BROKEN" if chosen == "nothing" else "ok"
        yield Finding(registration.name, state, "; ".join([chosen, *others]))


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _library(name: str) -> Finding:
    try:
        importlib.import_module(PROBES.get(name, name))
    except Exception as error:  # a broken binary may raise anything
        installed = _version(name)
        return Finding(name, "BROKEN", f"{installed}: {describe(error)}" if installed else f"pip install {name}")
    text = _version(name)
    if name == "spikingjelly":
        text += f", line {'2.x' if int(text.split('.')[0]) >= 2 else '0.0.0.0.14'}"
    return Finding(name, "ok", text)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"CUDA {torch.version.cuda}: {torch.cuda.get_device_name()}"
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for the CPU only"
    from sj_lang.cpu.threads import choose

    return f"CPU, {choose()[1]}; no CUDA device seen ({built})"


def _optional(name: str, module: str, why: str) -> Finding:
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError:
        return Finding(name, "none", why)
    except Exception as error:  # a broken binary may raise anything
        return Finding(name, "hidden", f"cannot be loaded: {describe(error)}; {why}")
    return Finding(name, "ok", _version(name) or getattr(imported, "__version__", ""))


def _compiler() -> Finding:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler:
        return Finding("C++ compiler", "ok", compiler)
    return Finding("C++ compiler", "none", f"needed only by torch.compile on the CPU ({sys.platform})")

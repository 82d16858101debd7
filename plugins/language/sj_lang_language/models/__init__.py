"""Models. Each file reads top to bottom, configuration first."""

from sj_lang import compat

compat.shield()  # before transformers' generation code, which imports torchaudio where it is installed

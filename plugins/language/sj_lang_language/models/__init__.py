"""Models. Importing this makes all of them known to transformers' Auto classes."""

from sj_lang import hf

hf.shield()  # before transformers' generation code, which imports torchaudio where it is installed

from sj_lang_language.models import snn_bert, spike_decoder  # noqa: E402

__all__ = ["snn_bert", "spike_decoder"]

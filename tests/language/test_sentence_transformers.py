"""A stored SNN-BERT embeds texts in sentence-transformers as any other model does."""

from pathlib import Path

import pytest
import torch
from sj_lang_language.models.snn_bert import SNNBertModel
from sj_lang_language.tokenizers.wordpiece import wordpiece
from tiny_bert import build
from transformers import AutoTokenizer

library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")

TEXTS = ["a cat sat", "the cat sat on the mat and the dog did not", "stocks"]


@pytest.mark.parametrize("kind", ["bpsn", "dsn", "repeat"])
def test_embeddings_are_means_over_tokens_alone_or_in_a_batch(kind: str, tmp_path: Path) -> None:
    folder, words = tmp_path / "model", wordpiece(texts=TEXTS, min_frequency=1)
    build(kind, SNNBertModel, vocab_size=len(words), max_position_embeddings=40).save_pretrained(folder)
    words.save_pretrained(folder)
    embedder = library.SentenceTransformer(str(folder), device="cpu")
    together = torch.as_tensor(embedder.encode(TEXTS))

    model, tokenizer = SNNBertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for text, embedding in zip(TEXTS, together, strict=True):
        with torch.no_grad():
            vectors = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(embedding, vectors.mean(0), atol=1e-5, rtol=1e-5)

    embedder.save(str(tmp_path / "embedder"))
    again = library.SentenceTransformer(str(tmp_path / "embedder"), device="cpu")
    torch.testing.assert_close(torch.as_tensor(again.encode(TEXTS)), together)

"""Logistic (or ridge) regression on bags of words: a baseline without word order and network."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import numpy as np
from scipy import optimize, sparse
from tokenizers import normalizers, pre_tokenizers

from sj_lang_language.data.tables.examples import NumpyArray

Texts = tuple[Sequence[str], Sequence[str] | None]

PENALTIES = (1e-5, 1e-4, 1e-3)


class Words:
    """Texts -> which known words they hold, 1 or 0, `[N, words]` and a column of ones.

    Words are split as BERT splits them (lower case, accents dropped, punctuation and Chinese
    characters apart). A pair has three sets: words of the first text, of the second, and
    those in both. A word is known if it occurs in two examples of the training texts.
    """

    def __init__(self, texts: Texts) -> None:
        self._normalizer = normalizers.BertNormalizer(lowercase=True)
        self._split = pre_tokenizers.BertPreTokenizer()
        counts = Counter(chain.from_iterable(self._bags(texts)))
        self.index = {word: place for place, word in enumerate(sorted(w for w, n in counts.items() if n > 1))}

    def __call__(self, texts: Texts) -> sparse.csr_matrix:
        columns: list[int] = []
        ends = [0]
        for bag in self._bags(texts):
            columns.extend(sorted(self.index[word] for word in bag if word in self.index))
            columns.append(len(self.index))
            ends.append(len(columns))
        shape = (len(ends) - 1, len(self.index) + 1)
        return sparse.csr_matrix((np.ones(len(columns)), columns, ends), shape=shape)

    def _bags(self, texts: Texts) -> Iterable[set[str]]:
        first, second = texts
        if second is None:
            yield from map(self._words, first)
            return
        for a, b in zip(map(self._words, first), map(self._words, second), strict=True):
            yield {f"1 {word}" for word in a} | {f"2 {word}" for word in b} | {f"= {word}" for word in a & b}

    def _words(self, text: str) -> set[str]:
        return {word for word, _ in self._split.pre_tokenize_str(self._normalizer.normalize_str(text))}


def fit_classes(features: sparse.csr_matrix, labels: NumpyArray, classes: int, penalty: float) -> NumpyArray:
    """Weights of least mean cross entropy + penalty / 2 |W|^2, the column of ones free."""
    count = features.shape[0]
    onehot = np.eye(classes)[labels]
    shrunk = np.ones((features.shape[1], 1))
    shrunk[-1] = 0

    def cost(flat: NumpyArray) -> tuple[float, NumpyArray]:
        weights = flat.reshape(-1, classes)
        scores = features @ weights
        scores = scores - scores.max(1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        gradient = features.T @ (np.exp(logs) - onehot) / count + penalty * shrunk * weights
        return -float((logs * onehot).sum()) / count + penalty / 2 * float(
            (shrunk * weights**2).sum()
        ), gradient.ravel()

    return _minimum(cost, features.shape[1] * classes).reshape(-1, classes)


def fit_scores(features: sparse.csr_matrix, labels: NumpyArray, penalty: float) -> NumpyArray:
    """Weights `[words, 1]` that minimise half the mean squared error + penalty / 2 |W|^2."""
    count = features.shape[0]
    shrunk = np.ones(features.shape[1])
    shrunk[-1] = 0

    def cost(weights: NumpyArray) -> tuple[float, NumpyArray]:
        rest = features @ weights - labels
        gradient = features.T @ rest / count + penalty * shrunk * weights
        return float(rest @ rest) / count / 2 + penalty / 2 * float((shrunk * weights**2).sum()), gradient

    return _minimum(cost, features.shape[1])[:, None]


def fitted(
    *,
    train: tuple[Texts, NumpyArray],
    validation: tuple[Texts, NumpyArray] | None,
    classes: int | None,
    quality: Callable[[NumpyArray, NumpyArray], float],
) -> Callable[[Texts], NumpyArray]:
    """Train on bags of words; returns texts -> outputs `[N, classes]` or scores `[N, 1]`.

    The penalty is the one of `PENALTIES` whose outputs on the validation data have the largest
    `quality(outputs, labels)`; without validation data the middle one.
    """
    words = Words(train[0])
    features, labels = words(train[0]), train[1]

    def weights_at(penalty: float) -> NumpyArray:
        if classes is None:
            return fit_scores(features, labels.astype(np.float64), penalty)
        return fit_classes(features, labels, classes, penalty)

    if validation is None:
        best = weights_at(PENALTIES[len(PENALTIES) // 2])
    else:
        held_out, true = words(validation[0]), validation[1]
        best = max((weights_at(penalty) for penalty in PENALTIES), key=lambda w: quality(held_out @ w, true))
    return lambda texts: np.asarray(words(texts) @ best)


def _minimum(cost: Callable[[NumpyArray], tuple[float, NumpyArray]], size: int) -> NumpyArray:
    options = {"maxiter": 200, "maxcor": 10}
    weights: NumpyArray = optimize.minimize(cost, np.zeros(size), jac=True, method="L-BFGS-B", options=options).x
    return weights

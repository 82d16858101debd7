"""Figures of classification and regression as GLUE defines them, on arrays of one axis."""

import numpy as np

from sj_lang_language.data.tables.examples import NumpyArray


def confusion(predicted: NumpyArray, labels: NumpyArray, classes: int) -> NumpyArray:
    """C[i, j]: how many examples of class i were taken for class j."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def accuracy(predicted: NumpyArray, labels: NumpyArray) -> float:
    """Share of the examples that got their class."""
    return float(np.mean(predicted == labels))


def f1(predicted: NumpyArray, labels: NumpyArray, positive: int = 1) -> float:
    """F1 = 2 TP / (2 TP + FP + FN) of one class; 0 if the class neither occurs nor is predicted."""
    hits = int(np.sum((predicted == positive) & (labels == positive)))
    total = int(np.sum(predicted == positive)) + int(np.sum(labels == positive))
    return 2 * hits / total if total else 0.0


def f1_macro(predicted: NumpyArray, labels: NumpyArray) -> float:
    """Mean F1 of the classes that occur or are predicted."""
    return float(np.mean([f1(predicted, labels, int(one)) for one in np.union1d(predicted, labels)]))


def matthews(predicted: NumpyArray, labels: NumpyArray, classes: int) -> float:
    """Matthews correlation of any number of classes (Gorodkin 2004):

    R = (c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))

    with s examples, c of them right, p_k predicted and t_k true members of class k. 0 if the
    denominator is 0: if all predictions, or all labels, are one class.
    """
    table = confusion(predicted, labels, classes).astype(np.float64)
    right, count = np.trace(table), table.sum()
    taken, true = table.sum(0), table.sum(1)
    denominator = (count**2 - taken @ taken) * (count**2 - true @ true)
    return float((right * count - taken @ true) / np.sqrt(denominator)) if denominator > 0 else 0.0


def pearson(predicted: NumpyArray, labels: NumpyArray) -> float:
    """Pearson correlation; 0 if one side is constant, because it is not defined then."""
    return _correlation("pearsonr", predicted, labels)


def spearman(predicted: NumpyArray, labels: NumpyArray) -> float:
    """Spearman rank correlation; 0 if one side is constant, because it is not defined then."""
    return _correlation("spearmanr", predicted, labels)


def _correlation(name: str, predicted: NumpyArray, labels: NumpyArray) -> float:
    from scipy import stats

    if _constant(predicted) or _constant(labels):
        return 0.0
    return float(getattr(stats, name)(predicted.astype(np.float64), labels.astype(np.float64)).statistic)


def _constant(values: NumpyArray) -> bool:
    """Whether all values are equal up to rounding, so that a correlation is not defined."""
    values = values.astype(np.float64)
    return len(values) < 2 or bool(np.ptp(values) <= 1e-7 * max(1.0, float(np.abs(values).max())))

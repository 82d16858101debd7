"""Figures and baselines against scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sj_lang_language.tasks import bag_of_words, metrics

linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
from sklearn import metrics as oracle  # noqa: E402


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_classes_on_random_cases(classes: int) -> None:
    random = np.random.default_rng(classes)
    for _ in range(70):
        count = int(random.integers(1, 40))
        wanted, made = random.integers(0, classes, (2, count))
        if random.random() < 0.3:
            made = np.full(count, made[0])
        close = {"rel": 1e-12, "abs": 1e-12}
        assert metrics.accuracy(made, wanted) == pytest.approx(oracle.accuracy_score(wanted, made), **close)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns of one class
            assert metrics.matthews(made, wanted, classes) == pytest.approx(
                oracle.matthews_corrcoef(wanted, made), **close
            )
            macro = oracle.f1_score(wanted, made, average="macro", zero_division=0)
            assert metrics.f1_macro(made, wanted) == pytest.approx(macro, **close)
            one = oracle.f1_score(wanted == 1, made == 1, zero_division=0)
            assert metrics.f1(made, wanted) == pytest.approx(one, **close)


def test_scores_on_random_cases() -> None:
    from scipy.stats import rankdata

    random = np.random.default_rng(0)
    for _ in range(100):
        wanted = random.integers(0, 6, 30).astype(np.float32)
        made = (wanted * random.random() + random.normal(size=30)).astype(np.float32)
        assert metrics.pearson(made, wanted) == pytest.approx(np.corrcoef(made, wanted)[0, 1], rel=1e-5)
        ranks = np.corrcoef(rankdata(made), rankdata(wanted))[0, 1]
        assert metrics.spearman(made, wanted) == pytest.approx(ranks, rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 2.5, 1e8])
def test_a_correlation_with_a_constant_is_0(value: float) -> None:
    wanted = np.arange(5.0)
    for made in (np.full(5, value), np.full(5, value) * (1 + 1e-9 * np.arange(5))):
        assert metrics.pearson(made, wanted) == metrics.spearman(made, wanted) == 0
        assert metrics.pearson(wanted, made) == metrics.spearman(wanted, made) == 0
    assert metrics.matthews(np.ones(4, int), np.array([0, 1, 1, 0]), 2) == 0
    assert metrics.f1(np.zeros(3, int), np.zeros(3, int)) == 0


@pytest.mark.parametrize("classes", [2, 3])
def test_the_bag_of_words_is_the_optimum_that_scikit_learn_finds(classes: int) -> None:
    random = np.random.default_rng(classes)
    texts = [" ".join(random.choice(list("abcdefgh"), 4)) for _ in range(80)]
    labels = random.integers(0, classes, 80)
    features = bag_of_words.Words((texts, None))((texts, None))
    penalty = 1e-2
    scores = features @ bag_of_words.fit_classes(features, labels, classes, penalty)
    mine = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    if classes == 2:  # scikit-learn has one weight for two classes, the difference of our two
        penalty /= 2
    reference = linear_model.LogisticRegression(C=1 / (80 * penalty), tol=1e-9, max_iter=5000)
    reference.fit(features[:, :-1].toarray(), labels)
    np.testing.assert_allclose(mine, reference.predict_proba(features[:, :-1].toarray()), atol=2e-3)


def test_scores_by_ridge_regression() -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(list("abcdefgh"), 4)) for _ in range(80)]
    scores = np.array([float("a" in text) * 2 + 1 for text in texts]) + random.normal(size=80) * 0.1
    features = bag_of_words.Words((texts, None))((texts, None))
    made = (features @ bag_of_words.fit_scores(features, scores, 1e-2))[:, 0]
    reference = linear_model.Ridge(alpha=80 * 1e-2).fit(features[:, :-1].toarray(), scores)
    np.testing.assert_allclose(made, reference.predict(features[:, :-1].toarray()), atol=1e-3)


def test_words_of_pairs_and_what_they_share() -> None:
    words = bag_of_words.Words((["The cat!", "the CAT 猫咪"], ["a cat", "a cat 猫"]))
    assert set(words.index) == {"1 the", "1 cat", "2 a", "2 cat", "= cat"}
    assert words((["the dog"], ["cat"])).toarray().sum() == 3  # "1 the", "2 cat" and the constant


def test_the_penalty_is_chosen_on_validation() -> None:
    texts, labels = ["a x", "a y", "b x", "b y"] * 5, np.array([0, 0, 1, 1] * 5)
    asked: list[float] = []

    def quality(outputs: np.ndarray, wanted: np.ndarray) -> float:
        asked.append(float(np.abs(outputs).max()))
        return -asked[-1]

    outputs = bag_of_words.fitted(
        train=((texts, None), labels), validation=((texts, None), labels), classes=2, quality=quality
    )
    assert len(asked) == len(bag_of_words.PENALTIES)
    assert float(np.abs(outputs((texts, None))).max()) == pytest.approx(min(asked))
    assert outputs((["a", "b"], None)).argmax(1).tolist() == [0, 1]

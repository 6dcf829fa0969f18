"Intervals contain the truth as often as they promise, and equal models are rarely found to differ."

import numpy as np
import pytest

from fashionern.evaluation.significance import paired_difference

CASES = 1500


def queries_of(rng: np.random.Generator, categories: int, products: int, difference: float):
    "Hits of two models, each query's product and category; queries of one product resemble each other."
    sizes = rng.integers(1, 7, categories * products)
    product = np.repeat(np.arange(categories * products), sizes)
    ease = rng.beta(0.6, 0.9, (2, categories * products)) * 0.9
    ease[1] = np.where(rng.random(len(sizes)) < 0.5, ease[0], ease[1]) + difference / 100
    hits = 100.0 * (rng.random((2, len(product))) < ease[:, product])
    return hits, product.astype(str), (product % categories).astype(str)


@pytest.mark.parametrize("categories, products, difference", [(1, 100, 4.0), (3, 40, 0.0)])
def test_the_interval_contains_the_truth_in_93_to_97_percent_of_cases(categories, products, difference):
    rng = np.random.default_rng(7)
    covered = rejected = 0
    for _ in range(CASES):
        (first, second), product, category = queries_of(rng, categories, products, difference)
        found = paired_difference(first, second, product, categories=category, samples=400)
        covered += found.low <= difference <= found.high
        rejected += found.p < 0.05
    assert 0.93 <= covered / CASES <= 0.97, covered / CASES
    if difference == 0:
        assert 0.03 <= rejected / CASES <= 0.07, rejected / CASES


def test_several_wordings_do_not_make_a_difference_surer():
    "The same 60 queries in one wording and copied as eight: the interval must not shrink."
    rng = np.random.default_rng(3)
    first, second = 100.0 * (rng.random((2, 60)) < np.array([[0.4], [0.5]]))
    labels = [str(number) for number in range(60)]
    once = paired_difference(first, second, labels)
    copied = paired_difference(np.repeat(first, 8), np.repeat(second, 8), np.repeat(labels, 8))
    assert copied.mean == pytest.approx(once.mean) and copied.margin == pytest.approx(once.margin)
    assert copied.p == once.p and copied.queries == 480 and copied.clusters == once.clusters == 60
    assert paired_difference(np.repeat(first, 8), np.repeat(second, 8)).margin < 0.5 * once.margin, "it would"


def test_the_widest_interval_of_two_groupings_counts():
    rng = np.random.default_rng(5)
    first, second = 100.0 * (rng.random((2, 240)) < 0.5)
    fine = [str(number) for number in range(240)]
    coarse = [str(number // 40) for number in range(240)]
    by_both = paired_difference(first, second, fine, coarse)
    single = [paired_difference(first, second, labels) for labels in (fine, coarse)]
    assert by_both.margin == max(d.margin for d in single) and by_both.p == max(d.p for d in single)


def test_the_interval_is_about_the_normal_one_for_independent_queries():
    rng = np.random.default_rng(2)
    first, second = 100.0 * (rng.random((2, 4000)) < np.array([[0.4], [0.45]]))
    found = paired_difference(first, second)
    error = (second - first).std(ddof=1) / 4000**0.5
    assert found.margin == pytest.approx(1.96 * error, rel=0.08)
    assert found.mean == pytest.approx((second - first).mean()) and not found.is_noise


def test_no_queries_are_an_error():
    with pytest.raises(ValueError, match="no queries"):
        paired_difference([], [])

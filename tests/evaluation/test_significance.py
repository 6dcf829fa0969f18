"Intervals contain the truth as often as they promise, and equal models are rarely found to differ."

import numpy as np
import pytest

from fashionern.evaluation.significance import mean_interval, paired_difference

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


@pytest.mark.parametrize(
    "references, targets, effects",
    [(100, 100, (1, 0)), (100, 100, (0, 1)), (100, 100, (1, 1)), (100, 50, (0.7, 0.7)), (150, 150, (0, 0))],
)
def test_it_does_so_where_both_reference_and_target_matter(references, targets, effects):
    "Each query crosses a reference with a target; the wider of the two intervals alone would be too narrow."
    rng = np.random.default_rng(11)
    reference = np.repeat(np.arange(references), 4)
    covered = rejected = 0
    for _ in range(CASES):
        target = rng.integers(targets, size=len(reference))
        values = rng.normal(size=len(reference)) * 0.3
        values += effects[0] * rng.normal(size=references)[reference] + effects[1] * rng.normal(size=targets)[target]
        labels = reference.astype(str), target.astype(str)
        found = paired_difference(np.zeros(len(values)), values, *labels, samples=400)
        covered += found.low <= 0 <= found.high
        rejected += found.p < 0.05
    assert 0.93 <= covered / CASES <= 0.97, covered / CASES
    assert 0.03 <= rejected / CASES <= 0.07, rejected / CASES


def test_the_interval_of_one_model_contains_its_recall_in_93_to_97_percent_of_cases():
    rng = np.random.default_rng(9)
    truth, covered = 100 * 0.9 * 0.4, 0
    for _ in range(CASES):
        sizes = rng.integers(1, 7, 120)
        product = np.repeat(np.arange(120), sizes)
        hits = 100.0 * (rng.random(len(product)) < (rng.beta(0.6, 0.9, 120) * 0.9)[product])
        found = mean_interval(hits, product.astype(str), samples=400)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / CASES <= 0.97, covered / CASES


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


def test_of_a_grouping_within_another_the_coarse_one_counts():
    "Six hundred products in sixty brands: whoever resamples brands has resampled products."
    rng = np.random.default_rng(5)
    brand = np.arange(600) // 10
    effect = rng.normal(size=60)[brand] + 0.3 * rng.normal(size=600)
    fine, coarse = [str(number) for number in range(600)], brand.astype(str)
    by_both = paired_difference(np.zeros(600), effect, fine, coarse)
    by_coarse = paired_difference(np.zeros(600), effect, coarse)
    assert by_both.margin == pytest.approx(by_coarse.margin, rel=0.01) and by_both.clusters == 60
    assert by_both.p == pytest.approx(by_coarse.p, abs=0.02)


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

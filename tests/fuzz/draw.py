"""Small generators of random values: each is a function of a `random.Random`.

hypothesis draws a pool of unusual values once, at a few milliseconds each. These generators combine them, thousands per second."""

from random import Random
from typing import Any, Callable, Sequence

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

Maker = Callable[[Random], Any]


def pool(strategy: st.SearchStrategy, count: int) -> list:
    "`count` values of a hypothesis strategy, the same each time."
    found: list = []
    quick = settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    seed(0)(quick(given(strategy)(lambda value: found.append(value))))()
    return found


def just(value: Any) -> Maker:
    return lambda rng: value


def sampled_from(values: Sequence) -> Maker:
    values = list(values)
    return lambda rng: values[int(rng.random() * len(values))]


def one_of(*makers: Maker) -> Maker:
    return lambda rng: makers[int(rng.random() * len(makers))](rng)


def tuples(*makers: Maker) -> Maker:
    return lambda rng: tuple(make(rng) for make in makers)


def lists(make: Maker, max_size: int, min_size: int = 0) -> Maker:
    return lambda rng: [make(rng) for _ in range(min_size + int(rng.random() * (max_size - min_size + 1)))]


def builds(function: Callable, *makers: Maker) -> Maker:
    return lambda rng: function(*(make(rng) for make in makers))


def integers(low: int, high: int) -> Maker:
    return lambda rng: low + int(rng.random() * (high - low + 1))


def binary(max_size: int) -> Maker:
    return lambda rng: rng.randbytes(int(rng.random() * (max_size + 1)))

"""Small makers of random values: each is a function of a `random.Random`.

hypothesis makes the pool of odd values once, at some milliseconds each; these put them together, thousands a second."""

from random import Random
from typing import Any, Callable, Sequence

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

Maker = Callable[[Random], Any]


def pool(strategy: st.SearchStrategy, count: int) -> list:
    "So many values of a strategy of hypothesis, the same each time."
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


def lists(make: Maker, most: int, least: int = 0) -> Maker:
    return lambda rng: [make(rng) for _ in range(least + int(rng.random() * (most - least + 1)))]


def builds(function: Callable, *makers: Maker) -> Maker:
    return lambda rng: function(*(make(rng) for make in makers))


def integers(least: int, most: int) -> Maker:
    return lambda rng: least + int(rng.random() * (most - least + 1))


def binary(most: int) -> Maker:
    return lambda rng: rng.randbytes(int(rng.random() * (most + 1)))

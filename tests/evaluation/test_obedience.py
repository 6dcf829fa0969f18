"Shares of results that obey: against a second count, for drawn garments and for a product table."

import random
from dataclasses import replace

import numpy as np
import pytest

from fashionern.data.drawn.drawing import ATTRIBUTES
from fashionern.data.drawn.garments import sample_designs
from fashionern.data.language.frames import fill, fitting
from fashionern.errors import ErnError
from fashionern.evaluation.obedience import by_attribute, check_results
from fashionern.evaluation.requests import FIXED_TEXTS, KINDS, LabelledImages, draw_requests, say_garment


def drawn_garments() -> LabelledImages:
    rng = np.random.default_rng(3)
    rows, galleries = {}, {}
    for category in ATTRIBUTES:
        designs = sample_designs(category, 120, rng)
        galleries[category] = [f"{category}-{i}" for i in range(len(designs))]
        rows |= dict(zip(galleries[category], map(vars, designs)))
    return LabelledImages(rows, galleries, tuple(ATTRIBUTES["dress"]), say_garment)


def product_table() -> LabelledImages:
    "A table with missing cells, a photo without a row, and a value that few products have."
    rng = random.Random(3)
    columns = {
        "baseColour": ["Red"] * 4 + ["Blue"] * 4 + ["Navy Blue"] * 2 + ["Brown"] * 2,
        "sleeveLength": ["Long", "Short", "Sleeveless"],
        "articleType": ["Shirts", "Tops", "Jeans"],
        "gender": ["Men", "Women"],
    }
    rows = {}
    for i in range(160):
        values = {column: rng.choice(known) for column, known in columns.items()}
        rows[f"{i}"] = {column: value for column, value in values.items() if rng.random() < 0.95}
    rows["0"]["baseColour"] = rows["1"]["baseColour"] = "Lavender"
    return LabelledImages(rows, {"all": [*rows, "no row"]}, tuple(columns))


@pytest.fixture(params=[drawn_garments, product_table])
def images(request):
    return request.param()


def test_every_reference_lacks_what_is_asked_and_enough_images_have_it(images):
    requests = draw_requests(images, sentences=100, references=5)
    assert {request.kind for request in requests} == set(KINDS)
    assert set(FIXED_TEXTS) <= {request.text for request in requests}
    for request in requests:
        gallery = images.galleries[request.category]
        row = images.rows[request.reference]
        assert request.reference in gallery
        for asked in request.asked:
            having = [name for name in gallery if images.rows.get(name, {}).get(asked.attribute) == asked.value]
            assert asked.attribute in row and (row[asked.attribute] == asked.value) == asked.refused
            known = [name for name in gallery if asked.attribute in images.rows.get(name, {})]
            assert (len(known) - len(having) if asked.refused else len(having)) >= 8
            assert asked.refused == (request.kind == "refusal")
    if "articleType" in images.attributes:
        assert not any("lavender" in request.text for request in requests if request.kind != "refusal")


def test_sentences_are_of_families_that_training_never_uses(images):
    checked = 0
    for request in draw_requests(images, 60, 2):
        if len(request.asked) == 2 or request.text in FIXED_TEXTS:
            continue
        (asked,) = request.asked
        wanted = None if asked.refused else asked.value
        change = images.say(images.rows[request.reference], asked.attribute, wanted)
        assert request.text in {fill(frame, change) for frame in fitting("test", change)}
        assert request.text not in {fill(frame, change) for frame in fitting("train", change)}
        checked += 1
    assert checked > 30


def test_shares_equal_a_second_count(images):
    requests = draw_requests(images, sentences=60, references=4)
    rng = random.Random(0)
    answers, shares, chances = [], {}, {}
    for request in requests:
        gallery = list(images.galleries[request.category])
        ranking = rng.sample(gallery, len(gallery))
        answers.append(check_results(request, ranking, images, k=5))
        ranking.remove(request.reference)
        for asked in request.asked:
            right = [images.rows.get(name, {}).get(asked.attribute) for name in ranking]
            right = [value and ((value != asked.value) if asked.refused else (value == asked.value)) for value in right]
            key = (asked.attribute, request.kind)
            shares.setdefault(key, []).append(sum(map(bool, right[:5])) / 5)
            chances.setdefault(key, []).append(sum(map(bool, right)) / len(right))
    figures = by_attribute(answers)
    for (attribute, kind), counted in shares.items():
        of = figures[attribute]["kinds"][kind]
        assert of["requests"] == len(counted)
        assert of["share"] == pytest.approx(np.mean(counted))
        assert of["chance"] == pytest.approx(np.mean(chances[attribute, kind]))
        assert of["error"] == pytest.approx(np.std(counted, ddof=1) / len(counted) ** 0.5)
        assert abs(of["share"] - of["chance"]) < 5 * max(of["error"], 0.02), "a random ranking is at chance"


def test_a_ranking_that_depends_on_the_order_is_noticed(images):
    requests = [request for request in draw_requests(images, 60, 4) if request.kind == "two changes"]

    def first_only(request):
        gallery = images.galleries[request.category]
        return sorted(gallery, key=lambda name: not request.asked[0].obeyed(images.rows.get(name, {})))

    answers = [check_results(request, first_only(request), images) for request in requests]
    for figures in by_attribute(answers).values():
        assert figures["orders"]["first"] == 1 and figures["orders"]["difference"] > 0.3


def test_too_few_images_are_refused():
    few = replace(product_table(), galleries={"all": ["2", "3", "4"]})
    with pytest.raises(ErnError, match="at least 8 images of a gallery must have the value"):
        draw_requests(few)

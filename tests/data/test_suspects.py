"Suspect triplets in the real annotations, and none in drawn ones."

from collections import Counter

from fashionern.data.datasets import factory  # noqa: F401  (registers the datasets)
from fashionern.data.datasets.suspects import suspects_of
from fashionern.data.drawn.garments import draw_fashioniq


def test_the_doubtful_captions_of_the_real_annotations_are_listed(annotations):
    fashioniq = suspects_of("fashioniq", annotations("fashioniq"))
    reasons = Counter(suspect.reason for suspect in fashioniq)
    assert reasons.keys() == {"empty text", "no change", "no garment", "contradiction", "both directions", "duplicate"}
    of_company = [s for s in fashioniq if "is a company name and not a dress" in s.captions]
    assert [s.reason for s in of_company] == ["no garment"]
    shoes = Counter(suspect.reason for suspect in suspects_of("shoes", annotations("shoes")))
    assert shoes["same image"] == 27 and not shoes["contradiction"]


def test_drawn_garments_have_nothing_that_cannot_be_right(tmp_path):
    root = tmp_path / "garments"
    draw_fashioniq(root, 12, 12, 12, 16, 6, 4, size=32, workers=1)
    assert not [s for s in suspects_of("fashioniq", root) if s.reason != "duplicate"]

"Wordings are split like products, and each sentence keeps its meaning."

import importlib.util
import json
import random
from pathlib import Path

import pytest

from fashionern.data.drawn.drawing import ATTRIBUTES, Design
from fashionern.data.drawn.wording import names_value, sentences, value_forms
from fashionern.data.language.frames import FAMILIES, SPLITS, fill, fitting, frames, signature
from fashionern.data.language.parser import ChangeParser, Reading, read_change
from fashionern.data.language.phrasing import NOISY, phrase
from fashionern.data.language.values import change_of, value_of

ROOT = Path(__file__).resolve().parents[2]
COLOURS = ("black", "white", "blue", "grey", "brown", "red", "green", "navy", "pink", "purple", "yellow", "orange")
SLEEVES = ("long", "short", "sleeveless")
KNOWN = {
    "colour": [value_of("colour", colour) for colour in COLOURS],
    "sleeve": [value_of("sleeve", sleeve) for sleeve in SLEEVES],
    "type": [value_of("type", name) for name in ("Shirts", "Skirts", "Dresses", "Casual Shoes")],
    "logo": [value_forms("logo", logo) for logo in ATTRIBUTES["dress"]["logo"]],
    "pattern": [value_forms("pattern", pattern) for pattern in ATTRIBUTES["dress"]["pattern"]],
}
PARSER = ChangeParser(KNOWN)


@pytest.mark.parametrize(
    "text,wanted,refused",
    [
        ("do you have it in brown?", {"colour": "brown"}, {}),
        ("lose the red, I want blue", {"colour": "blue"}, {"colour": "red"}),
        ("is red and has long sleeves", {"colour": "red", "sleeve": "long"}, {}),
        ("has long sleeves and is red", {"colour": "red", "sleeve": "long"}, {}),
        ("the blue one please", {"colour": "blue"}, {}),
        ("show me skirts like this", {"type": "skirts"}, {}),
        ("not red", {}, {"colour": "red"}),
        ("without a logo", {"logo": "no logo"}, {}),
        ("no stripes", {"pattern": "plain"}, {}),
        ("a Red dress, not a shirt, for my sister", {"colour": "red", "type": "dresses"}, {"type": "shirts"}),
        ("why not in gray?", {"colour": "grey"}, {}),
        ("swap the red for green", {"colour": "green"}, {"colour": "red"}),
        ("no sleeves", {"sleeve": "sleeveless"}, {}),
    ],
)
def test_free_sentences_are_read(text, wanted, refused):
    reading = read_change(PARSER, text)
    assert reading.wanted == wanted
    assert {name: value for name, value in reading.refused.items() if name not in wanted or name in refused} == refused


def test_families_and_constructions_are_in_one_split_only():
    owner = {}
    for split in SPLITS:
        for family in FAMILIES[split]:
            assert owner.setdefault(family, split) == split
        for frame in frames(split):
            assert owner.setdefault((signature(frame.text), frame.kind), split) == split
    numbers = {split: len(frames(split)) for split in SPLITS}
    assert numbers["train"] > 200 and min(numbers.values()) > 50


def test_no_text_of_one_split_is_drawn_for_another():
    changes = [
        change_of("baseColour", "Blue", "Red"),
        change_of("articleType", "Shirts", "Dresses"),
        change_of("gender", "Men", "Women"),
        change_of("usage", "Casual", "Formal"),
        change_of("heelHeight", "Flat", "High"),
        change_of("baseColour", "Blue", None),
    ]
    rng = random.Random(0)
    drawn = {split: set() for split in SPLITS}
    for split in SPLITS:
        for _ in range(3000):
            drawn[split].add(phrase((rng.choice(changes),), rng, split, NOISY))
            drawn[split].add(phrase(rng.sample(changes[:5], 2), rng, split, NOISY))
    assert not drawn["train"] & drawn["val"] and not drawn["train"] & drawn["test"] and not drawn["val"] & drawn["test"]


@pytest.mark.parametrize("split", SPLITS)
def test_two_changes_in_either_order_are_both_read(split):
    rng = random.Random(split)
    wrong = []
    for _ in range(500):
        old, new = rng.sample(COLOURS, 2)
        before, after = rng.sample(SLEEVES, 2)
        changes = (change_of("colour", old, new), change_of("sleeve", before, after))
        text = phrase(changes, rng, split)
        wanted = read_change(PARSER, text).wanted
        if wanted.get("colour") != new or wanted.get("sleeve") != after:
            wrong.append((text, wanted, new, after))
    assert not wrong, wrong[:10]


def test_fillers_change_nothing():
    rng = random.Random(1)
    for split in SPLITS:
        for _ in range(500):
            old, new = rng.sample(COLOURS, 2)
            change = change_of("colour", old, new)
            frame = rng.choice(fitting(split, change))
            assert read_change(PARSER, fill(frame, change)).wanted == {"colour": new}


def test_captions_of_drawn_garments_name_the_targets_values():
    import numpy as np

    rng = np.random.default_rng(0)
    named = total = 0
    for split in SPLITS:
        for _ in range(200):
            old = Design("dress", *(str(rng.choice(values)) for values in ATTRIBUTES["dress"].values()))
            values = ATTRIBUTES["dress"]["neckline"]
            other = str(rng.choice([v for v in values if v != old.neckline]))
            new = Design(*{**vars(old), "neckline": other}.values())
            for caption in sentences(old, new, rng, split):
                total += 1
                named += names_value(caption, "neckline", new)
    assert named > 0.95 * total  # the rest have a spelling slip


def test_colours_in_real_validation_captions_are_read(shared):
    folder = shared / "annotations" / "fashioniq" / "captions"
    if not folder.is_dir():
        pytest.skip(f"no shared annotations: there is no folder {folder}")
    read = total = 0
    for category in ("dress", "shirt", "toptee"):
        for entry in json.loads((folder / f"cap.{category}.val.json").read_text()):
            for caption in entry["captions"]:
                words = caption.lower().replace(".", " ").split()
                named = [colour for colour in COLOURS if colour in words]
                refusing = {"not", "no", "less", "without", "instead", "than", "doesn't"} & set(words)
                if len(named) == 1 and not refusing:
                    total += 1
                    read += read_change(PARSER, caption).wanted.get("colour") == named[0]
    print(f"{read} of {total} real captions")
    assert total > 4000 and read > 0.99 * total


def test_frames_are_mined_from_training_captions_only(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("mine_frames", ROOT / "data_scripts" / "language" / "mine_frames.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    captions = ["Looks rather red.", "looks rather blue", "is red", "is red and blue", "is red with dots"]
    for split, texts in (("train", captions), ("val", ["is awfully red"] * 9)):
        (tmp_path / f"cap.dress.{split}.json").write_text(json.dumps([{"captions": texts}]))
    script.main(["--captions", str(tmp_path), "--min-count", "1"])
    assert capsys.readouterr().out.split() == ["2", "looks", "rather", "{word}"], "'is red' is in the grammar"
    with pytest.raises(SystemExit):
        script.main(["--captions", str(tmp_path / "nowhere")])
    assert "cap.*.train.json" in capsys.readouterr().err


def test_an_empty_text_reads_nothing():
    assert read_change(PARSER, "") == Reading() == read_change(ChangeParser({}), "in red")

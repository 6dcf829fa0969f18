"A small index of drawn garments with a product table, and its searcher, for the tests of the search page."

from pathlib import Path

import numpy as np
import torch

from fashionern.data.drawn.drawing import draw_file
from fashionern.data.drawn.garments import sample_designs
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.tme import Encoders
from fashionern.encoders.words import learn_words
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model
from fashionern.models.untrained import encoder_spec, untrained_retriever
from fashionern.search.index import begin_store, encode_into, plan_update
from fashionern.search.searcher import Searcher

WORDS = ["is red and blue", "has long or short sleeves", "longer dotted dress"]  # as if it had been trained on these


def tiny_searcher(
    folder: Path,
    count: int = 40,  # photos
    size: int = 96,  # side of a photo, pixels
    untrained: bool = False,  # an encoder alone, as with `ern_index build --encoder`, instead of DVR
    products: bool = False,  # two photos each, with title, price, link and sizes
) -> Searcher:
    "Draw the photos below `folder`, index them with a model of random weights, and open the index."
    torch.manual_seed(0)
    photos = folder / "photos"
    (photos / "women").mkdir(parents=True)
    designs = sample_designs("dress", count, np.random.default_rng(0), set())
    rows = {}
    for i, design in enumerate(designs):
        name = f"women/{i:02}.png" if i % 2 else f"O'Neill {i:02} ✓.jpg"
        draw_file((design, (0, i), size, photos / name))
        rows[name] = {
            "colour": design.colour,
            "length": design.length,
            "brand": ("O'Neill", "Été & fils")[i % 2],
            "price": 10.0 + i % 5,
        }
        if products:
            rows[name] = product_columns(i // 2) | {"colour": design.colour}
    if untrained:
        source = encoder_spec(TINY)
        retriever = untrained_retriever(source)
    else:
        source = "a model of this test"
        clip = create_clip(TINY)
        learn_words(clip, WORDS)
        retriever = Retriever(Encoders(clip), create_model("dvr@mask_padding", 128, ffn=64)).eval()
    store = begin_store(folder / "index", retriever, source)
    encode_into(store, retriever, plan_update(store, photos, rows).to_encode)
    if products:
        store.set_roles({"product": "Handle", "lists": ["Size"], "currencies": {"Variant Price": "€"}})
    return Searcher(retriever, store)


def product_columns(number: int) -> dict[str, str | float]:
    "The columns of a product, as an export of Shopify has them."
    return {
        "Handle": f"dress-{number}",
        "Title": f"Dress {number:02}",
        "Size": ("S | M", "M | L", "XL")[number % 3],
        "Vendor": f"Maker {number % 12}",
        "Variant Price": 20.0 + number,
        "Added": f"2026-{1 + number % 12:02}-15",
        "URL": f"https://shop.example/products/dress-{number}",
    }

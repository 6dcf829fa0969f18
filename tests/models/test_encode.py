"`Retriever.encode` and `similarity`: one call for texts, images and both, equal to the calls it stands for."

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.tme import TME, Encoders
from fashionern.errors import ErnError
from fashionern.models.embedder import encode_texts
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    torch.manual_seed(0)
    clip = create_clip(TINY)
    encoders = Encoders(clip, TME(clip).eval())
    for branch in encoders.tme.branches.values():
        torch.nn.init.constant_(branch.gate_inject, 0.3)  # open, so that the text depends on the reference
    return Retriever(encoders, create_model("fashionern", clip.dim, ffn=64))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.effect_noise((60 + 10 * i, 90), 80).convert("RGB") for i in range(5)]


def test_each_kind_equals_the_call_it_stands_for(retriever, images):
    texts = ["is red", "has long sleeves", "is shorter", "more casual", "without a collar"]
    pairs = [{"image": image, "text": text} for image, text in zip(images, texts)]
    assert np.array_equal(retriever.encode(pairs), retriever.encode_queries(images, texts).numpy())
    assert np.array_equal(retriever.encode(images), retriever.encode_targets(images).numpy())
    assert np.array_equal(retriever.encode(texts), encode_texts(retriever, texts).numpy())
    assert np.array_equal(retriever.encode([{"image": i} for i in images]), retriever.encode(images))
    assert np.array_equal(retriever.encode([{"text": t} for t in texts]), retriever.encode(texts))
    small = retriever.encode(pairs, batch_size=2)
    assert np.array_equal(small, retriever.encode_queries(images, texts, batch_size=2).numpy())


def test_a_mixed_list_keeps_its_order(retriever, images):
    mixed = [
        images[0],
        "a red dress",
        {"image": images[1], "text": "is red"},
        images[2],
        {"image": images[3], "text": "is blue"},
    ]
    embeddings = retriever.encode(mixed)
    assert embeddings.dtype == np.float32 and embeddings.shape == (5, retriever.encoders.clip.dim)
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert np.array_equal(embeddings[[0, 3]], retriever.encode_targets([images[0], images[2]]).numpy())
    assert np.array_equal(embeddings[[1]], encode_texts(retriever, ["a red dress"]).numpy())
    composed = retriever.encode_queries([images[1], images[3]], ["is red", "is blue"])
    assert np.array_equal(embeddings[[2, 4]], composed.numpy())
    assert np.allclose(retriever.encode(mixed[::-1])[::-1], embeddings, atol=1e-6)
    assert np.array_equal(retriever.encode(tuple(mixed)), embeddings)


def test_a_single_input_gives_one_vector(retriever, images):
    for single in (
        "a red dress",
        images[0],
        {"image": images[0], "text": "is red"},
        {"text": "a red dress"},
    ):
        vector = retriever.encode(single)
        assert vector.shape == (retriever.encoders.clip.dim,)
        assert np.array_equal(vector, retriever.encode([single])[0])


def test_a_str_is_a_text_and_a_path_an_image(retriever, images, tmp_path):
    path = tmp_path / "dress.png"
    images[0].save(path)
    assert np.array_equal(retriever.encode(path), retriever.encode(images[0]))
    assert np.array_equal(retriever.encode({"image": str(path)}), retriever.encode(images[0]))
    assert np.array_equal(retriever.encode(str(path)), retriever.encode({"text": str(path)}))
    assert not np.allclose(retriever.encode(str(path)), retriever.encode(path), atol=1e-2)


def test_encode_works_from_training_mode_and_leaves_no_gradient(retriever, images):
    expected = retriever.encode(images[:2])
    retriever.train()
    assert np.array_equal(retriever.encode(images[:2]), expected)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (3, "3"),
        (None, "None"),
        ({}, "{}"),
        ({"picture": "a.png"}, "picture"),
        ({"image": None, "text": "is red"}, '"image"'),
        ({"image": 3}, '"image"'),
        ({"text": 3}, '"text"'),
        (" .", "empty text"),
        ({"text": ""}, "empty text"),
        (Path("nowhere.png"), "nowhere.png"),
        ({"image": "nowhere.png", "text": "is red"}, "nowhere.png"),
    ],
)
def test_an_error_names_the_input_by_its_position(retriever, images, wrong, words):
    with pytest.raises(ErnError) as e:
        retriever.encode([images[0], "a red dress", wrong, images[1]])
    assert str(e.value).startswith("inputs[2]") and words in str(e.value)
    with pytest.raises(ErnError, match=r"inputs\[0\]"):
        retriever.encode(wrong)


def test_an_empty_list_and_a_model_with_its_own_score_are_refused(retriever):
    with pytest.raises(ErnError, match="nothing to encode"):
        retriever.encode([])
    clip = retriever.encoders.clip
    artemis = Retriever(Encoders(clip), create_model("artemis", clip.dim))
    with pytest.raises(ErnError, match="'artemis' does not score by dot product"):
        artemis.encode(["a red dress"])


def test_similarity_is_the_models_own_score(retriever, images):
    queries = retriever.encode_queries(images[:3], ["is red", "is blue", "is green"])
    targets = retriever.encode_targets(images)
    expected = retriever.score(queries, targets).numpy()
    for a, b in (
        (queries, targets),
        (queries.numpy(), targets.numpy()),
        (queries, targets.numpy()),
    ):
        scores = retriever.similarity(a, b)
        assert isinstance(scores, np.ndarray) and scores.shape == (3, 5) and np.array_equal(scores, expected)
    assert np.allclose(retriever.similarity(queries[0], targets[1]), expected[:1, 1:2], atol=1e-6)
    clip = retriever.encoders.clip
    artemis = Retriever(Encoders(clip), create_model("artemis", clip.dim)).eval()
    packed, plain = (
        artemis.encode_queries(images[:2], ["is red", "is blue"]),
        artemis.encode_targets(images),
    )
    assert np.allclose(artemis.similarity(packed, plain), artemis.score(packed, plain).numpy(), atol=1e-6)

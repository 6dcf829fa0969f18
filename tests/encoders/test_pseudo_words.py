"Pseudo words enter every text tower that takes vectors; the other towers are refused."

import pytest
import torch
from tiny_towers import TOWERS, WITHOUT_TME, tiny_encoder, token_ids

from fashionern.encoders.pseudo_words import check_pseudo_words, encode_marked
from fashionern.errors import ErnError

TAKES_VECTORS = tuple(kind for kind in TOWERS if kind not in WITHOUT_TME)


@pytest.mark.parametrize("kind", TAKES_VECTORS)
def test_a_pseudo_word_replaces_one_vector_and_nothing_else(kind, tmp_path):
    clip = tiny_encoder(kind, tmp_path)
    check_pseudo_words(clip)
    tokens = token_ids(clip)
    other = tokens.clone()
    other[:, 1] = torch.tensor([5, 6, 7])
    places = torch.zeros_like(tokens, dtype=torch.bool)
    places[:, 1] = True
    words = clip.tower.vectors(other[:, 1:2])[:, 0]
    with torch.no_grad():
        marked, plain = encode_marked(clip, tokens, places, words), clip.encode_text(other)
        nothing = encode_marked(clip, tokens, torch.zeros_like(places), words)
        unchanged = clip.encode_text(tokens)
    assert torch.allclose(marked.embedding, plain.embedding, atol=1e-5)
    assert torch.allclose(marked.tokens[marked.mask], plain.tokens[plain.mask], atol=1e-5)
    assert torch.allclose(nothing.embedding, unchanged.embedding, atol=1e-5)
    assert (marked.embedding - unchanged.embedding).abs().max() > 1e-4


@pytest.mark.parametrize("kind", TAKES_VECTORS)
def test_gradients_reach_the_word(kind, tmp_path):
    clip = tiny_encoder(kind, tmp_path).requires_grad_(False)
    tokens = token_ids(clip)
    places = torch.zeros_like(tokens, dtype=torch.bool)
    places[:, 1] = True
    words = torch.randn(len(tokens), clip.width, requires_grad=True)
    encode_marked(clip, tokens, places, words).embedding[:, 0].sum().backward()
    assert words.grad.abs().amax(1).min() > 0


@pytest.mark.parametrize("kind", WITHOUT_TME)
def test_a_tower_that_takes_token_ids_alone_is_refused(kind, tmp_path):
    clip = tiny_encoder(kind, tmp_path)
    with pytest.raises(ErnError, match="takes token ids alone.*Choose an encoder"):
        check_pseudo_words(clip)
    with pytest.raises(ErnError, match="not vectors"):
        clip.tower.last_hidden(token_ids(clip), torch.zeros(3, clip.context, clip.width))

"Tokens as words, for the pictures of attention."

import open_clip
import pytest
from tiny_towers import CONTEXT, tiny_encoder

from fashionern.encoders.clip import TINY, ClipEncoder, create_clip
from fashionern.evaluation.plots import token_words


def test_words_of_clips_tokenizer():
    clip = create_clip(TINY)
    words = token_words(clip, clip.tokenize(["is red"])[0])
    assert words[:5] == ["[start]", "is", "red", "[end]", "[pad]"] and len(words) == clip.context


def test_words_of_a_hugging_face_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "red"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "tokenizer")
    tokenizer = open_clip.tokenizer.HFTokenizer(str(tmp_path / "tokenizer"), context_length=CONTEXT)
    clip = ClipEncoder(tiny_encoder("bert-mean", tmp_path / "model").model, tokenizer, "tiny", None).eval()
    words = token_words(clip, clip.tokenize(["is red"])[0])
    assert words[:5] == ["[CLS]", "is", "red", "[SEP]", "[pad]"] and len(words) == CONTEXT

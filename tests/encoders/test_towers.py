"Every kind of text tower gives what open_clip gives, whole and trimmed."

import sys

import open_clip
import pytest
import torch
import torch.nn.functional as F
from tiny_towers import CONTEXT, HF_TOWERS, TOWERS, VOCABULARY, WITHOUT_TME, tiny_encoder, token_ids

from fashionern.encoders.clip import ClipEncoder, create_clip
from fashionern.encoders.laptop import LAPTOP, LAPTOP_CONFIG
from fashionern.encoders.towers import BertTower, check_transformers, text_tower
from fashionern.errors import ErnError

TRIMMED = ("clip", "custom", "custom-eos", "pad-mask", *HF_TOWERS)


@pytest.fixture(scope="module", params=TOWERS)
def clip(request, tmp_path_factory) -> ClipEncoder:
    encoder = tiny_encoder(request.param, tmp_path_factory.mktemp("tower"))
    encoder.kind = request.param
    return encoder


@torch.no_grad()
def test_embeddings_are_open_clips(clip):
    tokens = token_ids(clip)
    text = clip.encode_text(tokens)
    own = clip.model.encode_text(tokens, normalize=True)
    assert (text.embedding - own).abs().max() < 1e-6
    assert (text.embedding[0] - text.embedding[1]).abs().max() > 1e-3, "otherwise the comparison says nothing"
    assert text.tokens.shape == (3, CONTEXT, clip.dim) and text.align is None
    assert torch.allclose(text.tokens.norm(dim=-1), torch.ones(3, CONTEXT), atol=1e-5)


@torch.no_grad()
def test_full_length_texts_have_no_padding(clip):
    tokens = token_ids(clip, (CONTEXT, CONTEXT))
    text = clip.encode_text(tokens)
    assert (text.embedding - clip.model.encode_text(tokens, normalize=True)).abs().max() < 1e-6
    assert text.mask.all() and clip.trim(tokens).shape == tokens.shape


@torch.no_grad()
def test_the_mask_covers_the_text_and_its_end(clip):
    text = clip.encode_text(token_ids(clip))
    assert text.mask.sum(1).tolist() == [4, 9, 6]


@torch.no_grad()
def test_trim_changes_nothing(clip):
    tokens = token_ids(clip)
    short = clip.trim(tokens)
    assert short.shape[1] == (9 if clip.kind in TRIMMED else CONTEXT)
    whole, trimmed = clip.encode_text(tokens), clip.encode_text(short)
    assert (whole.embedding - trimmed.embedding).abs().max() < 1e-6
    gaps = (whole.tokens[:, : short.shape[1]] - trimmed.tokens).abs().amax(-1)
    assert gaps[trimmed.mask].max() < 2e-6
    assert torch.equal(whole.mask[:, : short.shape[1]], trimmed.mask)


@torch.no_grad()
def test_a_text_does_not_depend_on_the_others_in_its_batch(clip):
    tokens = token_ids(clip)
    alone = clip.encode_text(clip.trim(tokens[:1])).embedding
    assert (alone - clip.encode_text(clip.trim(tokens)).embedding[:1]).abs().max() < 1e-6


@torch.no_grad()
def test_causal_towers_are_those_whose_tokens_know_only_what_stands_before_them(clip):
    tokens = token_ids(clip, (CONTEXT, CONTEXT))
    changed = tokens.clone()
    changed[:, CONTEXT - 2] = changed[:, 1]  # before the end of the text
    gaps = (clip.encode_text(tokens).tokens - clip.encode_text(changed).tokens).abs().amax(-1)
    assert (gaps[:, : CONTEXT - 2].max() < 1e-6) == clip.causal


def test_sizes_and_names(clip):
    tower = clip.tower
    assert (clip.context, clip.dim, tower.vocabulary) == (CONTEXT, 64, VOCABULARY)
    assert clip.width == tower.embed(token_ids(clip)).shape[-1] if tower.layers else clip.width == 32
    assert (tower.no_tme is None) == (clip.kind not in WITHOUT_TME)
    assert not any("tower" in key or "padding" in key for key in clip.state_dict())
    assert set(clip.state_dict()) == {f"model.{key}" for key in clip.model.state_dict()}


def test_gradients_are_open_clips(clip):
    tokens = token_ids(clip)
    grads = []
    for encode in (lambda: clip.encode_text(tokens).embedding, lambda: clip.model.encode_text(tokens, normalize=True)):
        clip.zero_grad()
        encode()[:, 0].sum().backward()
        grads.append({k: p.grad.clone() for k, p in clip.named_parameters() if p.grad is not None})
    clip.zero_grad()
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.allclose(grads[0][k], grads[1][k], atol=1e-5) for k in grads[0])


def test_every_weight_that_is_not_frozen_gets_a_gradient(clip):
    clip.requires_grad_(True)
    clip.freeze_unused()
    clip.zero_grad()
    text = clip.encode_text(token_ids(clip)).embedding
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    if clip.model.visual.image_size not in (32, (32, 32)):
        pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    (text[:, 0].sum() + clip.encode_image(pixels)[:, 0].sum()).backward()
    idle = [k for k, p in clip.named_parameters() if p.requires_grad and p.grad is None]
    assert [k for k in idle if "logit_scale" not in k] == []
    clip.zero_grad()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["bert-mean", "xlm-roberta"])
@torch.no_grad()
def test_attention_implementations(kind, attention, tmp_path):
    transformers = pytest.importorskip("transformers")
    clip = tiny_encoder(kind, tmp_path)
    text = clip.model.text
    text.transformer = transformers.AutoModel.from_config(text.config, attn_implementation=attention).eval()
    tokens = token_ids(clip)
    own = clip.model.encode_text(tokens, normalize=True)
    assert (clip.encode_text(tokens).embedding - own).abs().max() < 1e-6


def test_a_pooler_that_mean_pooling_leaves_out_is_frozen(tmp_path):
    transformers = pytest.importorskip("transformers")
    clip = tiny_encoder("bert-mean", tmp_path)
    text = clip.model.text
    text.transformer = transformers.AutoModel.from_config(text.config)  # with BERT's own pooler
    clip.freeze_unused()
    clip.encode_text(token_ids(clip)).embedding[:, 0].sum().backward()
    idle = [k for k, p in text.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == [] and not any(p.requires_grad for p in text.transformer.pooler.parameters())


def test_another_attention_runs_as_a_whole_without_tme(tmp_path):
    clip = tiny_encoder("bert-mean", tmp_path)
    clip.model.text.config._attn_implementation = "flash_attention_2"
    tower = clip.tower
    assert not isinstance(tower, BertTower) and "flash_attention_2" in tower.no_tme


@torch.no_grad()
def test_with_bfloat16(tmp_path):
    for kind in ("clip", "siglip", "coca", "bert-mean", "xlm-roberta", "mt5"):
        clip = tiny_encoder(kind, tmp_path / kind)
        tokens = token_ids(clip)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = clip.encode_text(tokens).embedding
        assert F.cosine_similarity(half, clip.encode_text(tokens).embedding).min() > 0.99, kind


@torch.no_grad()
def test_max_pooling_ignores_padding(tmp_path):
    "open_clip's own max pooler takes an integer mask, which torch refuses; here it is the max over the text."
    clip = tiny_encoder("bert-mean", tmp_path)
    clip.model.text.pooler = open_clip.hf_model.MaxPooler()
    tokens = token_ids(clip)
    text = clip.encode_text(tokens)
    hidden = clip.tower.last_hidden(tokens)
    expected = torch.stack([row[:n].amax(0) for row, n in zip(hidden, (4, 9, 6))])
    expected = F.normalize(clip.model.text.proj(expected), dim=-1)
    assert torch.allclose(text.embedding, expected, atol=1e-6)


@torch.no_grad()
def test_tokens_are_projected_like_the_pooled_vector(tmp_path):
    for kind in ("bert-cls", "bert-cls-last", "roberta", "nllb"):
        clip = tiny_encoder(kind, tmp_path / kind)
        text = clip.encode_text(token_ids(clip))
        assert torch.allclose(text.tokens[:, 0], text.embedding, atol=1e-6), kind


def test_positions_limit_the_length_of_a_text(tmp_path):
    for kind, length in (("bert-mean", 40), ("xlm-roberta", 38)):  # XLM-R counts from its padding id on
        clip = tiny_encoder(kind, tmp_path / kind)
        clip.tokenizer.context_length = 77
        assert ClipEncoder(clip.model, clip.tokenizer, "tiny", clip.preprocess).context == length
        assert ClipEncoder(clip.model, None, "tiny", clip.preprocess).context == length


def test_unknown_towers_are_refused(tmp_path):
    with pytest.raises(ErnError, match="neither open_clip's own transformer nor a Hugging Face model"):
        text_tower(torch.nn.ModuleDict({"text": torch.nn.Linear(2, 2)}))
    clip = tiny_encoder("bert-mean", tmp_path)
    clip.model.text.pooler = torch.nn.Identity()
    with pytest.raises(ErnError, match="pooler Identity is not supported"):
        clip.encode_text(torch.ones(1, 4, dtype=torch.long))


def test_real_tokenizers_pad_as_the_tower_expects(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "red", "with", "long", "sleeves"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "tokenizer")
    tokenizer = open_clip.tokenizer.HFTokenizer(str(tmp_path / "tokenizer"), context_length=CONTEXT)
    model = tiny_encoder("minilm", tmp_path / "model").model
    clip = ClipEncoder(model, tokenizer, "tiny", None).eval()
    tokens = clip.tokenize(["is red", "with long sleeves"])
    assert clip.padding.pad_id == 0 and not clip.padding.ends_text
    assert clip.trim(tokens).tolist() == [[2, 5, 6, 3, 0], [2, 7, 8, 9, 3]]
    assert clip.encode_text(tokens).mask.sum(1).tolist() == [4, 5]


@pytest.mark.parametrize(
    "name, part",
    [("ViT-B-16-SigLIP", "its tokenizer"), ("roberta-ViT-B-32", "its text tower and tokenizer")],
)
def test_without_transformers_the_error_names_the_extra(name, part, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ErnError) as error:
        create_clip(name)
    assert part in str(error.value) and 'pip install "fashionern[hf]"' in str(error.value)
    check_transformers("RN50x4", open_clip.get_model_config("RN50x4"))
    with pytest.raises(ErnError, match=r'ern-laptop needs .* pip install "fashionern\[laptop\]"'):
        check_transformers(LAPTOP, LAPTOP_CONFIG)

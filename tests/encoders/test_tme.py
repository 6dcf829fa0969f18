"TME over open_clip's real architectures, with random weights: untrained it is CLIP's own text encoder, and it reads the reference only through an open gate."

import open_clip
import pytest
import torch
import torch.nn.functional as F

from fashionern.data.transforms import Preprocess
from fashionern.encoders.clip import ClipEncoder, create_clip, load_clip_weights
from fashionern.encoders.tme import TME, Encoders, TmeSettings
from fashionern.records import CROPS

ARCHITECTURES = ("RN50", "ViT-B-32", "MobileCLIP-S1", "ViT-B-16-SigLIP")  # an RN-style and a ViT, each OpenAI's layout, and two `CustomTextCLIP`


@pytest.fixture(scope="module", params=ARCHITECTURES)
def clip(request) -> ClipEncoder:
    torch.manual_seed(0)
    model = open_clip.create_model(request.param, pretrained=None)
    return ClipEncoder(model, None, request.param, Preprocess()).eval()  # tokens are made by hand: some tokenizers must be fetched


@pytest.fixture(scope="module")
def inputs(clip) -> tuple[torch.Tensor, torch.Tensor]:
    "Token numbers of three sentences, the largest number at their end as in OpenAI's, and crops of three references."
    generator = torch.Generator().manual_seed(1)
    words = clip.model.text.token_embedding.num_embeddings if hasattr(clip.model, "text") else clip.model.token_embedding.num_embeddings
    tokens = torch.randint(1, words - 2, (3, clip.context), generator=generator)
    for row, length in enumerate((5, 9, 14)):
        tokens[row, length], tokens[row, length + 1 :] = words - 1, 0
    return tokens, F.normalize(torch.randn(3, CROPS, clip.dim, generator=generator), dim=-1)


@torch.no_grad()
def test_untrained_tme_is_clips_own_text_encoder(clip, inputs):
    tokens, local = inputs
    own = clip.model.encode_text(tokens, normalize=True)
    assert (clip.encode_text(tokens).embedding - own).abs().max() < 1e-6
    for settings in (TmeSettings(), TmeSettings(layers=(0, -1), ffn="shared", gate="channel")):
        enhanced = TME(clip, settings).eval()(clip, tokens, local)
        assert (enhanced.embedding - own).abs().max() < 1e-6
        assert enhanced.align.shape == (3, clip.dim)
    trimmed = TME(clip, TmeSettings(layers=(0,))).eval()(clip, clip.trim(tokens), local)
    assert (trimmed.embedding - own).abs().max() < 1e-6


@torch.no_grad()
def test_the_reference_is_read_only_through_an_open_inject_gate(clip, inputs):
    tokens, local = inputs
    tme = TME(clip, TmeSettings(layers=(0, -1))).eval()
    moved = lambda: (tme(clip, tokens, local).embedding - tme(clip, tokens, local.flip(0)).embedding).abs().max().item()
    for branches in tme.branches.values():
        branches.gate_align.fill_(0.5)
    assert moved() == 0, "the align gate lets no reference through"
    tme.branches["0"].gate_inject.fill_(0.5)
    assert moved() > 1e-4


def test_saved_apart_and_loaded(clip, inputs, tmp_path):
    if clip.name != "RN50":
        pytest.skip("one architecture is enough for the file; the others' tokenizers would have to be fetched")
    tokens, local = inputs
    with torch.no_grad():
        tme = TME(clip, TmeSettings(layers=(-1,))).eval()
        tme.branches["11"].gate_inject.fill_(0.3)
    from fashionern.encoders.tme import load_encoders

    Encoders(clip, tme).save(tmp_path / "encoders.safetensors")
    again = load_encoders("RN50", tmp_path / "encoders.safetensors")
    with torch.no_grad():
        assert torch.equal(again.text(tokens, local).embedding, tme(clip, tokens, local).embedding)


def test_clip4cirs_fine_tuned_file(tmp_path):
    "CLIP4Cir writes {'epoch': …, 'CLIP': weights}, some of OpenAI's counters among them."
    clip, other = create_clip("ern-tiny"), create_clip("ern-tiny")
    state = {**clip.model.state_dict(), "input_resolution": torch.tensor(64), "context_length": torch.tensor(28), "vocab_size": torch.tensor(49408)}
    torch.save({"epoch": 7, "CLIP": state}, tmp_path / "tuned.pt")
    load_clip_weights(other.model, tmp_path / "tuned.pt")
    assert all(torch.equal(a, b) for a, b in zip(clip.model.state_dict().values(), other.model.state_dict().values()))

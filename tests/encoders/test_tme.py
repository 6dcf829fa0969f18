"TME on open_clip's architectures: untrained it equals CLIP; the reference matters only with an open gate."

import open_clip
import pytest
import torch
import torch.nn.functional as F

from fashionern.data.transforms import Preprocess
from fashionern.encoders.clip import ClipEncoder, create_clip, load_clip_weights
from fashionern.encoders.tme import TME, Encoders, TmeSettings, load_encoders
from fashionern.encoders.towers import text_tower
from fashionern.records import CROPS

# a ResNet and a ViT with OpenAI's layout, and two `CustomTextCLIP`
ARCHITECTURES = ("RN50", "ViT-B-32", "MobileCLIP-S1", "ViT-B-16-SigLIP")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def clip(request) -> ClipEncoder:
    torch.manual_seed(0)
    model = open_clip.create_model(request.param, pretrained=None)
    return ClipEncoder(model, None, request.param, Preprocess()).eval()  # no tokenizer: some must be downloaded


@pytest.fixture(scope="module")
def inputs(clip) -> tuple[torch.Tensor, torch.Tensor]:
    "Token ids of three texts that end with the largest id, as in OpenAI's CLIP; three references."
    generator = torch.Generator().manual_seed(1)
    vocabulary = text_tower(clip.model).token_embedding.num_embeddings
    tokens = torch.randint(1, vocabulary - 2, (3, clip.context), generator=generator)
    for row, length in enumerate((5, 9, 14)):
        tokens[row, length] = vocabulary - 1
        tokens[row, length + 1 :] = 0
    return tokens, F.normalize(torch.randn(3, CROPS, clip.dim, generator=generator), dim=-1)


@torch.no_grad()
def test_an_untrained_tme_equals_clip(clip, inputs):
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

    def effect_of_reference() -> float:
        with_own = tme(clip, tokens, local).embedding
        with_other = tme(clip, tokens, local.flip(0)).embedding
        return (with_own - with_other).abs().max().item()

    for branches in tme.branches.values():
        branches.gate_align.fill_(0.5)
    assert effect_of_reference() == 0, "the align branch does not read the reference"
    tme.branches["0"].gate_inject.fill_(0.5)
    assert effect_of_reference() > 1e-4


def test_saved_and_loaded(clip, inputs, tmp_path):
    if clip.name != "RN50":
        pytest.skip("one architecture is enough for the file; other tokenizers must be downloaded")
    tokens, local = inputs
    with torch.no_grad():
        tme = TME(clip, TmeSettings(layers=(-1,))).eval()
        tme.branches["11"].gate_inject.fill_(0.3)
    Encoders(clip, tme).save(tmp_path / "encoders.safetensors")
    loaded = load_encoders("RN50", tmp_path / "encoders.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded.text(tokens, local).embedding, tme(clip, tokens, local).embedding)


def test_clip4cirs_fine_tuned_file(tmp_path):
    "CLIP4Cir writes {'epoch': …, 'CLIP': weights}; the weights include some of OpenAI's counters."
    clip, other = create_clip("ern-tiny"), create_clip("ern-tiny")
    counters = {"input_resolution": 64, "context_length": 28, "vocab_size": 49408}
    state = {
        **clip.model.state_dict(),
        **{name: torch.tensor(value) for name, value in counters.items()},
    }
    torch.save({"epoch": 7, "CLIP": state}, tmp_path / "tuned.pt")
    load_clip_weights(other.model, tmp_path / "tuned.pt")
    pairs = zip(clip.model.state_dict().values(), other.model.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)

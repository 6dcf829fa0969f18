"TME on open_clip's architectures and on every kind of text tower: untrained it equals the encoder itself."

import copy
from types import SimpleNamespace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from tiny_towers import WITH_TME, WITHOUT_TME, tiny_encoder, token_ids

from fashionern.data.transforms import Preprocess
from fashionern.encoders.clip import ClipEncoder, create_clip, load_clip_weights
from fashionern.encoders.tme import TME, Encoders, TmeSettings, load_encoders
from fashionern.errors import ErnError
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
    vocabulary = clip.tower.vocabulary
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


@pytest.fixture(scope="module", params=WITH_TME)
def tiny(request, tmp_path_factory) -> ClipEncoder:
    return tiny_encoder(request.param, tmp_path_factory.mktemp("tower"))


VARIANTS = (
    TmeSettings(),
    TmeSettings(layers=(-1,), ffn="shared"),
    TmeSettings(gate="channel", align_from="all", dropout=0.2),
    TmeSettings(branches=("inject",)),
    TmeSettings(branches=()),
)


def local_of(clip: ClipEncoder, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return F.normalize(torch.randn(count, CROPS, clip.dim, generator=generator), dim=-1)


@torch.no_grad()
def test_an_untrained_tme_equals_every_kind_of_tower(tiny):
    tokens = token_ids(tiny)
    own = tiny.model.encode_text(tokens, normalize=True)
    plain = tiny.encode_text(tokens)
    for settings in VARIANTS:
        tme = TME(tiny, settings).eval()
        enhanced = tme(tiny, tokens, local_of(tiny))
        assert (enhanced.embedding - own).abs().max() < 1e-6
        assert (enhanced.tokens - plain.tokens).abs().max() < 1e-6
        assert torch.equal(enhanced.mask, plain.mask)
        assert (enhanced.align is None) == ("align" not in settings.branches)
        trimmed = tme(tiny, tiny.trim(tokens), local_of(tiny)).embedding
        assert (trimmed - own).abs().max() < 1e-6


def opened(clip: ClipEncoder, settings: TmeSettings = TmeSettings()) -> TME:
    "A TME with open gates, in eval mode."
    tme = TME(clip, settings).eval()
    with torch.no_grad():
        for name, gate in tme.named_parameters():
            if ".gate_" in name:
                gate.fill_(0.4)
    return tme


def test_every_branch_gets_a_gradient(tiny):
    tokens = token_ids(tiny)
    for settings in VARIANTS[:3]:
        tme = opened(tiny, settings)
        tme(tiny, tokens, local_of(tiny)).embedding[:, 0].sum().backward()
        without = [k for k, p in tme.named_parameters() if p.requires_grad and p.grad is None]
        assert not without
        # a constant added to all keys cancels in the softmax, so their bias has no gradient
        zero = [k for k, p in tme.named_parameters() if p.grad is not None and not p.grad.abs().max() > 0]
        assert [k for k in zero if not k.endswith("key.bias")] == []
    tiny.zero_grad()


def test_closed_gates_learn_first(tiny):
    tme = TME(tiny).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # an exact copy of a last, post-norm layer only rescales its output, which has unit length
        for key, weight in tme.named_parameters():
            if ".gate_" not in key:
                weight += 0.02 * torch.randn(weight.shape, generator=generator)
    tme(tiny, token_ids(tiny), local_of(tiny)).embedding[:, 0].sum().backward()
    assert all(p.grad.abs().max() > 0 for k, p in tme.named_parameters() if ".gate_" in k)
    tiny.zero_grad()


@torch.no_grad()
def test_the_reference_matters_only_through_an_open_gate_of_every_kind_of_tower(tiny):
    tokens = token_ids(tiny)
    local = local_of(tiny)
    tme = TME(tiny).eval()

    def effect_of_reference() -> float:
        with_own = tme(tiny, tokens, local).embedding
        return (with_own - tme(tiny, tokens, local.flip(0)).embedding).abs().max().item()

    for branches in tme.branches.values():
        branches.gate_align.fill_(0.5)
    assert effect_of_reference() == 0
    tme.branches["0"].gate_inject.fill_(0.5)
    assert effect_of_reference() > 1e-4


@torch.no_grad()
def test_an_open_tme_ignores_padding_where_the_tower_does(tiny):
    tokens = token_ids(tiny)
    tme = opened(tiny)
    whole = tme(tiny, tokens, local_of(tiny))
    trimmed = tme(tiny, tiny.trim(tokens), local_of(tiny))
    assert (whole.embedding - trimmed.embedding).abs().max() < 2e-6
    assert (whole.align - trimmed.align).abs().max() < 2e-6


def test_checkpointing_leaves_the_gradients_of_every_kind_of_tower_unchanged(tiny):
    grads = []
    for saving in (False, True):
        tme = opened(tiny)
        tme.grad_checkpointing = saving
        tme(tiny, token_ids(tiny), local_of(tiny)).embedding[:, 0].sum().backward()
        grads.append([p.grad for p in tme.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads))
    tiny.zero_grad()


@torch.no_grad()
def test_weights_on_every_kind_of_tower_are_saved_and_loaded(tiny, tmp_path, monkeypatch):
    tme = opened(tiny, TmeSettings(layers=(-1,), gate="channel"))
    for parameter in tme.parameters():
        parameter.add_(0.01 * torch.randn(parameter.shape))
    saved = Encoders(tiny, tme)
    saved.save(tmp_path / "encoders.safetensors")
    other = copy.deepcopy(tiny)
    for parameter in other.parameters():
        parameter.zero_()
    monkeypatch.setattr("fashionern.encoders.tme.create_clip", lambda *args, **kwargs: other)
    monkeypatch.setattr("fashionern.encoders.tme.check_size", lambda *args: None)
    source = SimpleNamespace(config={}, preprocess=None)
    monkeypatch.setattr("fashionern.encoders.tme.find_encoder", lambda *args, **kwargs: source)
    loaded = load_encoders("tiny", tmp_path / "encoders.safetensors")
    assert loaded.tme is not None and loaded.tme.settings == tme.settings
    tokens = token_ids(tiny)
    enhanced, again = (e.text(tokens, local_of(tiny)) for e in (saved, loaded))
    assert torch.equal(enhanced.embedding, again.embedding) and torch.equal(enhanced.tokens, again.tokens)


@torch.no_grad()
def test_a_post_norm_branch_is_the_layer_itself(tmp_path):
    "Untouched, the align branch of BERT's layer computes what the layer computes."
    for kind in ("bert-mean", "xlm-roberta"):
        clip = tiny_encoder(kind, tmp_path / kind)
        tower = clip.tower
        tokens = token_ids(clip)
        z = tower.embed(tokens)
        mask = tower.attention_mask(tokens, z.dtype)
        branches = TME(clip).eval().branches["0"]
        aligned = branches(tower.layers[0], z, torch.zeros(3, CROPS, clip.width), mask)[1]
        assert torch.allclose(aligned, tower.run(tower.layers[0], z, mask), atol=1e-6), kind


@pytest.mark.parametrize("kind", WITHOUT_TME)
def test_a_tower_that_cannot_have_tme_is_named(kind, tmp_path):
    clip = tiny_encoder(kind, tmp_path)
    model_type = {"mt5": "mt5", "nllb": "m2m_100"}[kind]
    with pytest.raises(ErnError, match=f"its text tower, Hugging Face's {model_type}, has layers that TME cannot"):
        TME(clip)

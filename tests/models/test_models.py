"Every registered model passes the same checks and trains with every loss."

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fashionern.models.registry import create_model, list_models, load_model, save_model
from fashionern.records import CROPS, ImageFeatures, TextFeatures
from fashionern.training.losses import Matched, batch_classification, create_loss, list_losses

D, L, B, N = 32, 20, 6, 9
VARIANTS = (
    "fashionern-published@mask_padding,ask=words",
    "fashionern@ask=image,train_cls,norm=layer",
    "tme+combiner+refine",
)
NAMES = (*list_models(), *VARIANTS)
DEVICES = (
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
    ),
)
READS_THE_REFERENCE_WITH_THE_TEXT = {"pic2word", "lincir"}  # `encode_text` does; tests/training/test_zero_shot.py
STARTS_WITH_THE_TEXT = {"dvr-from-pic2word", "dvr-from-lincir"}  # before training, as the composers above
TRAINS_OTHERWISE = {"compodiff"}  # one estimation step in training, several in evaluation


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, D), dim=-1)


def features(n: int, device: str = "cpu") -> tuple[ImageFeatures, TextFeatures]:
    "n images, n texts of different lengths."
    mask = torch.arange(L) < 3 + torch.arange(n)[:, None] % (L - 3)
    return ImageFeatures(unit(n), unit(n, CROPS)).to(device), TextFeatures(unit(n), unit(n, L), mask).to(device)


def build(name: str, device: str = "cpu"):
    torch.manual_seed(0)
    return create_model(name, D, ffn=64).to(device)


def without_randomness(model: nn.Module) -> nn.Module:
    "The model in training mode, without dropout and batch statistics, which differ from eval mode by design."
    model.train()
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
        elif isinstance(m, nn.MultiheadAttention):
            m.dropout = 0.0
        elif isinstance(m, nn.BatchNorm1d):
            m.eval()
    return model


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_unit_length(name, device):
    model = build(name, device).eval()
    (reference, text), (gallery, _) = features(B, device), features(N, device)
    query, target = model.encode_query(reference, text), model.encode_target(gallery)
    scores = model.score(query, target)
    assert len(query) == B and target.shape == (N, D) and scores.shape == (B, N) and scores.isfinite().all()
    assert torch.allclose(target.norm(dim=-1), torch.ones(N, device=device), atol=1e-5)
    if model.composer.uses_dot_product:
        assert query.shape == (B, D) and torch.allclose(query.norm(dim=-1), torch.ones(B, device=device), atol=1e-5)
        assert torch.allclose(scores, query @ target.T)
    assert scores.abs().max() <= 2, "a score is a cosine, or the sum of two"


@pytest.mark.parametrize("name", NAMES)
def test_in_eval_mode_a_query_does_not_depend_on_its_batch(name):
    model = build(name).eval()
    reference, text = features(B)
    query, again = model.encode_query(reference, text), model.encode_query(reference, text)
    assert torch.equal(query, again), "the same query gives the same embedding"
    for i in (0, B - 1):
        assert torch.allclose(model.encode_query(reference[[i]], text[[i]]), query[[i]], atol=1e-5)
        assert torch.allclose(model.encode_target(reference[[i]]), model.encode_target(reference)[[i]], atol=1e-5)
    assert torch.allclose(model.encode_query(reference[[3, 0]], text[[3, 0]]), query[[3, 0]], atol=1e-5), (
        "the order does not matter"
    )


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in NAMES
        if n not in {"image-only", "text-only"} | READS_THE_REFERENCE_WITH_THE_TEXT | STARTS_WITH_THE_TEXT
    ],
)
def test_a_query_depends_on_reference_and_text(name):
    model = build(name).eval()
    reference, text = features(B)
    query = model.encode_query(reference, text)
    assert (model.encode_query(reference, text[[1, 0, 2, 3, 4, 5]]) - query)[0].abs().max() > 1e-4
    assert (model.encode_query(reference[[1, 0, 2, 3, 4, 5]], text) - query)[0].abs().max() > 1e-4


READ_PADDING = {"dvr", "fashionern-published"}  # as published; `mask_padding` fixes it


@pytest.mark.parametrize("name", [n for n in NAMES if n not in READ_PADDING])
def test_padding_does_not_change_the_query(name):
    model = build(name).eval()
    reference, text = features(B)
    other = TextFeatures(text.embedding, torch.where(text.mask[..., None], text.tokens, unit(B, L)), text.mask)
    assert torch.allclose(model.encode_query(reference, other), model.encode_query(reference, text), atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in READS_THE_REFERENCE_WITH_THE_TEXT])
def test_gradients_reach_every_trainable_parameter(name, device):
    model = build(name, device).train()
    for key, weight in model.named_parameters():
        # zero before training, so nothing would flow back through it
        if key.endswith(("mixture.3.weight", "correction.weight")):
            nn.init.normal_(weight, std=0.02)
    reference, text = features(B, device)
    target, _ = features(B, device)
    if not any(p.requires_grad for p in model.parameters()):
        return
    query, positive = model(reference, text, target)
    loss = F.cross_entropy(100 * model.score(query, positive), torch.arange(B, device=device))
    extra = model.auxiliary_loss(reference, text, target)
    (loss if extra is None else loss + extra).backward()
    no_effect = "self_guided.common.bias"  # as published; a constant added to all inputs of a softmax has no effect
    dead = [
        k
        for k, p in model.named_parameters()
        if p.requires_grad
        and not k.endswith(no_effect)
        and (p.grad is None or not p.grad.isfinite().all() or p.grad.abs().max() == 0)
    ]
    assert not dead


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_trains(name):
    if (name.endswith("refine") or name.startswith(("dvr", "fashionern"))) and "norm=layer" not in name:
        pytest.skip("the published batch norm needs two queries")
    model = build(name).train()
    reference, text = features(1)
    query, positive = model(reference, text, reference)
    assert model.score(query, positive).shape == (1, 1) and query.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_training_differs_only_by_dropout_and_batch_statistics(name):
    if name in TRAINS_OTHERWISE:
        pytest.skip("its estimate in training differs from evaluation by design")
    model = without_randomness(build(name))
    reference, text = features(B)
    with torch.no_grad():
        trained, targets = model.encode_query(reference, text), model.encode_target(reference)
        model.eval()
        assert torch.allclose(model.encode_query(reference, text), trained, atol=1e-5)
        assert torch.allclose(model.encode_target(reference), targets, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_model_gives_the_same_embeddings(name, tmp_path):
    model, reference, text = build(name), *features(B)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01)
    save_model(model, tmp_path / "model.safetensors", seed=3)
    other = create_model(name, D, ffn=64)
    assert load_model(other, tmp_path / "model.safetensors")["seed"] == "3"
    for m in (model, other):
        m.eval()
    assert torch.equal(model.encode_query(reference, text), other.encode_query(reference, text))
    assert torch.equal(model.encode_target(reference), other.encode_target(reference))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_scores_in_bfloat16_are_close(name, device):
    model, (reference, text) = build(name, device).eval(), features(B, device)
    exact = model.score(model.encode_query(reference, text), model.encode_target(reference))
    with torch.autocast(device, torch.bfloat16):
        query, target = model.encode_query(reference, text), model.encode_target(reference)
    assert (model.score(query.float(), target.float()) - exact).abs().max() < 0.05, "mixed precision"
    converted = model.to(torch.bfloat16)
    half = [x.to(torch.bfloat16) for x in (reference.embedding, reference.local, text.embedding, text.tokens)]
    images, texts = ImageFeatures(half[0], half[1]), TextFeatures(half[2], half[3], text.mask)
    query, target = converted.encode_query(images, texts), converted.encode_target(images)
    assert (model.score(query.float(), target.float()) - exact).abs().max() < 0.05, "bfloat16 throughout"


@pytest.mark.parametrize("loss", list_losses())
@pytest.mark.parametrize(
    "name",
    [
        n
        for n in list_models()
        if any(p.requires_grad for p in create_model(n, 8, ffn=8).parameters())
        and n not in READS_THE_REFERENCE_WITH_THE_TEXT
    ],
)
def test_every_model_trains_with_every_loss(name, loss):
    model, step = build(name).train(), create_loss(loss, D).train()
    reference, text = features(B)
    target, _ = features(B)
    for _ in range(2):  # a memory bank starts empty
        model.zero_grad()
        query, positive = model(reference, text, target)
        value = step(
            Matched(
                model.score(query, positive),
                query,
                positive,
                reference.embedding,
                text.embedding,
                score=model.score,
            )
        )
        value.backward()
    assert value.isfinite() and value.ndim == 0
    grads = [p.grad for p in model.composer.parameters() if p.grad is not None]
    assert grads and all(g.isfinite().all() for g in grads) and any(g.abs().max() > 0 for g in grads)


def test_create_loss_gives_batch_classification():
    model, (reference, text) = build("combiner").eval(), features(B)
    query, positive = model(reference, text, reference)
    pairs = Matched(model.score(query, positive), query, positive, reference.embedding, text.embedding)
    assert torch.allclose(create_loss("batch-classification", D)(pairs), batch_classification(query, positive))

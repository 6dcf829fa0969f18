"Local features from one forward pass: the area of boxes and places, every family of image towers, and refusals."

import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import VisionTransformer
from PIL import Image
from test_forms import COCA, MOBILE, VIT, open_clip_folder

from fashionern.data.transforms import Preprocess
from fashionern.encoders import grid
from fashionern.encoders.clip import TINY, ClipEncoder, create_clip
from fashionern.encoders.grid import DenseFeatures, pool_regions, region_boxes
from fashionern.encoders.tme import TME, Encoders, load_encoders
from fashionern.errors import ErnError
from fashionern.models.embedder import Embedder
from fashionern.models.export import export_query, photo_content, photo_views
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model
from fashionern.models.untrained import encoder_spec, untrained_retriever
from fashionern.records import CROPS
from fashionern.training.config import TrainConfig
from fashionern.training.warmup import warmup_tunes


def timm_tower(name: str, size: int, pool: str, proj: str | None = "linear") -> dict:
    tower = {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": size}
    return tower | {"timm_model_pretrained": False}


TOWERS = {
    "resnet": open_clip.get_model_config(TINY)["vision_cfg"],
    "resnet-9": {"image_size": 288, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
    "vit": {**VIT["vision_cfg"], "patch_size": 16, "ls_init_value": 0.1},
    "vit-custom": {**VIT["vision_cfg"], "patch_size": 16, "qk_norm": True, "scale_heads": True},
    "vit-mean": {**VIT["vision_cfg"], "patch_size": 16, "pool_type": "avg"},
    "clipa": {**VIT["vision_cfg"], "pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "siglip": timm_tower("test_vit", 160, "map", "none"),
    "timm-vit": timm_tower("test_vit", 160, "token", None),
    "timm-vit-mean": timm_tower("test_vit", 160, "avg"),
    "convnext": timm_tower("test_convnext", 96, ""),
    "mobileclip": MOBILE["vision_cfg"],
    "swin": timm_tower("swin_tiny_patch4_window7_224", 224, ""),
    "eva": timm_tower("eva02_tiny_patch14_224", 224, "token", None),
}
MEANS = ("vit-mean", "clipa", "convnext", "swin", "timm-vit-mean")  # towers whose embedding is that of a mean of places


def encoder_of(kind: str) -> ClipEncoder:
    "ern-tiny with another image tower and random weights."
    torch.manual_seed(0)
    tiny = open_clip.get_model_config(TINY)
    width = 64 if kind == "siglip" else 128
    config = tiny | {"embed_dim": width, "vision_cfg": TOWERS[kind], "text_cfg": tiny["text_cfg"] | {"width": width}}
    model = open_clip.CustomTextCLIP(**config)
    preprocess = Preprocess(size=TOWERS[kind]["image_size"], regions="grid")
    return ClipEncoder(model, open_clip.SimpleTokenizer(context_length=28), "tower", preprocess, config=config).eval()


def views_of(encoder: ClipEncoder, count: int = 2) -> torch.Tensor:
    size = encoder.preprocess.size
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def overlap(first: float, last: float, start: float, end: float) -> float:
    return max(0.0, min(last, end) - max(first, start))


def pool_one_by_one(places: np.ndarray, content: tuple[float, float, float, float]) -> np.ndarray:
    "`pool_regions` of one image, by the area of each place and each box."
    h, w, _ = places.shape
    left, top, right, bottom = content
    regions = []
    for box in region_boxes().tolist():
        x0, x1 = (left + (right - left) * share for share in (box[0], box[2]))
        y0, y1 = (top + (bottom - top) * share for share in (box[1], box[3]))
        total = 0.0
        area = 0.0
        for row in range(h):
            for column in range(w):
                shared = overlap(x0, x1, column / w, (column + 1) / w) * overlap(y0, y1, row / h, (row + 1) / h)
                total = total + shared * places[row, column]
                area += shared
        regions.append(total / area)
    return np.stack(regions)


def test_regions_are_means_by_area():
    rng = np.random.default_rng(0)
    for _ in range(40):
        h, w = rng.integers(1, 15, 2)
        places = rng.normal(size=(2, h, w, 3)).astype(np.float32)
        left, top = rng.uniform(0, 0.6, (2, 2))
        right, bottom = rng.uniform(0.65, 1, (2, 2))
        content = np.stack([left, top, right, bottom], 1).astype(np.float32)
        pooled = pool_regions(torch.from_numpy(places), torch.from_numpy(content)).numpy()
        for image in range(2):
            expected = pool_one_by_one(places[image].astype(np.float64), content[image].astype(np.float64))
            assert np.abs(pooled[image] - expected).max() < 1e-4


def test_places_with_padding_alone_count_nowhere():
    box = Preprocess(size=224).content_box(100, 300)
    assert box == pytest.approx((0.5 - 1 / 4.8, 0, 0.5 + 1 / 4.8, 1), abs=0.01)
    places = torch.ones(1, 14, 14, 1)
    places[:, :, :1] = places[:, :, -1:] = float("inf")
    assert not torch.isfinite(pool_regions(places, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))).all()
    places[places.isinf()] = 1e6
    assert torch.allclose(pool_regions(places, torch.tensor([box])), torch.ones(1, CROPS, 1))


@pytest.mark.parametrize("size", [(96, 96), (60, 120), (150, 100)])
def test_a_region_is_where_its_crop_is(size, monkeypatch):
    "With each pixel's colour as the feature of a place, regions and crops have the same mean colours."
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    colours = np.stack([255 * x / size[0], 255 * y / size[1], 255 * (x / size[0]) ** 2], -1)
    image = Image.fromarray(colours.astype(np.uint8))
    options = {"size": 96, "pad": "square", "fill": "white", "mean": (0.0,) * 3, "std": (1.0,) * 3}

    def colours_of(tower, pixels):
        return DenseFeatures(pixels.mean((2, 3)), pixels.permute(0, 2, 3, 1), lambda regions: regions)

    monkeypatch.setattr(grid, "dense_features", colours_of)
    pre = Preprocess(**options, regions="grid")
    view = pre.normalise(pre.global_view(image))[None]
    _, local = grid.grid_features(None, view, pre.region_source(image)[None])
    cropped = Preprocess(**options)
    crops = cropped.normalise(cropped.crops(cropped.spread(image)[None]))
    assert (local - crops.mean((3, 4))).abs().max() < 0.02


@torch.inference_mode()
@pytest.mark.parametrize("kind", TOWERS)
def test_every_family_of_towers_has_regions(kind):
    encoder = encoder_of(kind)
    views = views_of(encoder)
    content = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.2, 0.0, 0.8, 1.0]])
    features = encoder.encode_views(views, content)
    rounding = 1e-6 if isinstance(encoder.model.visual, VisionTransformer) else 0
    whole = encoder.encode_image(views)
    assert torch.allclose(features.embedding, whole, rtol=0, atol=rounding), "the same forward pass"
    assert features.local.shape == (2, CROPS, encoder.dim)
    assert torch.allclose(features.local.norm(dim=-1), torch.ones(2, CROPS), atol=1e-5)
    assert (features.local[0] - features.local[1]).abs().max() > 1e-4
    if kind in MEANS:
        dense = grid.dense_features(encoder.model.visual, encoder.preprocess.normalise(views))
        assert torch.allclose(dense.project(dense.places.mean((1, 2))), dense.embedding, atol=1e-4)


def test_every_weight_of_coca_is_set(tmp_path):
    open_clip_folder(tmp_path / "coca", COCA)
    torch.use_deterministic_algorithms(True)  # then memory that nobody has set holds NaN
    try:
        encoder = create_clip(f"local-dir:{tmp_path / 'coca'}", weights=False)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(parameter.isfinite().all() for parameter in encoder.model.parameters())


@torch.inference_mode()
def test_a_region_of_coca_is_pooled_alone(tmp_path):
    open_clip_folder(tmp_path / "coca", COCA)
    encoder = create_clip(f"local-dir:{tmp_path / 'coca'}", regions="grid")
    views = views_of(encoder)
    features = encoder.encode_views(views, torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2))
    assert torch.allclose(features.embedding, encoder.encode_image(views), atol=1e-6)
    tower = encoder.model.visual
    dense = grid.dense_features(tower, encoder.preprocess.normalise(views))
    token = dense.places[:, 0, 1]
    alone, _ = tower._pool(token[:, None])
    assert torch.allclose(dense.project(token), alone @ tower.proj, atol=1e-5)


def test_towers_without_a_grid_are_refused_before_any_image(tmp_path):
    open_clip_folder(tmp_path / "flat", VIT | {"vision_cfg": VIT["vision_cfg"] | {"layers": 1}})
    name = f"local-dir:{tmp_path / 'flat'}"
    with pytest.raises(ErnError, match="grid is not available for .*flat: its image tower has one layer only.*crops"):
        create_clip(name, regions="grid")
    assert create_clip(name).preprocess.regions == "crops"
    assert encoder_spec(name).regions == "crops" and encoder_spec(TINY).regions == "grid"


def test_an_unknown_kind_and_earlier_preprocessing_are_refused():
    with pytest.raises(ErnError, match="kind of regions.*crops"):
        create_clip(TINY, regions="cells")
    with pytest.raises(ErnError, match="--regions grid is not available with the preprocessing of earlier versions"):
        create_clip(TINY, preprocess="centred", regions="grid")


def test_a_record_without_regions_means_crops():
    before = {k: v for k, v in Preprocess().as_dict().items() if k != "regions"}
    assert Preprocess.from_dict(before).regions == "crops"
    own = Preprocess(regions="grid")
    assert Preprocess.from_dict(json.loads(json.dumps(own.as_dict()))) == own
    assert len({Preprocess(regions=kind).identity() for kind in ("crops", "grid", "pooled")}) == 3
    assert own.describe()["regions"].startswith("grid") and own.region_kind == "grid"


def test_weights_keep_their_kind_and_take_another(tmp_path):
    path = tmp_path / "encoders.safetensors"
    Encoders(create_clip(TINY, regions="grid")).save(path)
    for regions, kind in ((None, "grid"), ("grid", "grid"), ("crops", "crops")):
        assert load_encoders(TINY, path, regions=regions).clip.preprocess.regions == kind
        assert create_clip(TINY, clip_path=path, regions=regions).preprocess.regions == kind
    kinds = {load_encoders(TINY, path, regions=kind).clip.image_fingerprint() for kind in ("grid", "crops")}
    assert len(kinds) == 2, "features of one kind are not taken for the other's"


def test_tme_refuses_local_features_of_the_other_kind(tmp_path):
    path = tmp_path / "encoders.safetensors"
    clip = create_clip(TINY, regions="grid")
    Encoders(clip, TME(clip)).save(path)
    assert load_encoders(TINY, path).tme is not None
    with pytest.raises(ErnError, match="trained with --regions grid, .*of --regions crops"):
        load_encoders(TINY, path, regions="crops")


@torch.inference_mode()
def test_images_one_by_one_and_a_saved_model_have_the_same_features(tmp_path):
    clip = create_clip(TINY, regions="grid")
    images = [Image.effect_noise(size, 80).convert("RGB") for size in ((50, 140), (90, 90))]
    retriever = Retriever(Encoders(clip), create_model("dvr@mask_padding", clip.dim, ffn=64)).eval()
    together = retriever.image_features(images)
    for row, image in enumerate(images):
        alone = retriever.image_features([image])
        assert torch.allclose(alone.local[0], together.local[row], atol=1e-5)
    retriever.save_pretrained(tmp_path / "model")
    loaded = Retriever.from_pretrained(tmp_path / "model")
    assert loaded.encoders.clip.preprocess.regions == "grid"
    assert torch.allclose(loaded.image_features(images).local, together.local, atol=1e-6)
    assert "| regions | grid: 13 parts of the feature map" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("kind", ["vit", "siglip", "convnext"])
def test_programs_with_a_grid(kind, tmp_path):
    clip = encoder_of(kind)
    retriever = Retriever(Encoders(clip), create_model("combiner", clip.dim)).eval()
    assert export_query(retriever, tmp_path / "query.pt2") <= 1e-5
    images = [Image.new("RGB", (50, 140)), Image.new("RGB", (60, 60))]
    size = clip.preprocess.size
    assert photo_views(images, clip.preprocess).shape == (2, 3, size, size)
    assert photo_content(images, clip.preprocess).shape == (2, 4)


@torch.inference_mode()
def test_the_laptop_encoder_has_both_kinds(laptop):
    assert create_clip("ern-laptop", regions="grid").preprocess == create_clip("ern-laptop").preprocess
    clip = create_clip("ern-laptop", regions="crops")
    assert clip.preprocess.regions == "crops" and not clip.is_pooled
    image = Image.effect_noise((80, 120), 80).convert("RGB")
    features = Embedder(Encoders(clip), create_model("sum", clip.dim)).image_features([image])
    crop = clip.preprocess.crops(clip.preprocess.spread(image)[None])[0, 3:4]
    assert torch.allclose(features.local[0, 3], clip.encode_image(crop)[0], atol=1e-5)
    with pytest.raises(ErnError, match="--regions grid stores.*--regions crops"):
        warmup_tunes(TrainConfig(), clip)


def test_an_untrained_encoder_has_a_grid_unless_its_record_is_earlier(tmp_path):
    spec = encoder_spec(TINY)
    assert spec.as_dict() == {"name": TINY, "random": True, "regions": "grid"}
    assert untrained_retriever(spec).encoders.clip.preprocess.regions == "grid"
    earlier = type(spec)(TINY, random=True)
    assert untrained_retriever(earlier).encoders.clip.preprocess.regions == "crops"

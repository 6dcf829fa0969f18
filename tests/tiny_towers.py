"""Tiny encoders with random weights, one for each kind of text tower."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from fashionern.data.transforms import Preprocess, square_side
from fashionern.encoders.clip import TINY, ClipEncoder, fill_unset

CONTEXT = 16
VOCABULARY = 60
END = VOCABULARY - 1  # also the largest id, for towers that pool by argmax

_OWN = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 32, "heads": 4, "layers": 2}
_SIGLIP = {**_OWN, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
_T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_NLLB = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 40,
}

# open_clip's own towers: the class of model, its text configuration, the id of padding
OWN_TOWERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "clip": ("CLIP", _OWN, 0),
    "custom": ("CustomTextCLIP", _OWN, 0),
    "custom-eos": ("CustomTextCLIP", {**_OWN, "pool_type": "eos", "eos_id": END, "proj_type": "none", "width": 64}, 0),
    "siglip": ("CustomTextCLIP", _SIGLIP, 1),
    "pad-mask": ("CustomTextCLIP", {**_OWN, "no_causal_mask": True}, 0),
    "coca": ("CoCa", {**_OWN, "embed_cls": True, "output_tokens": True}, 0),
    "coca-correct-mask": ("CoCa", {**_OWN, "embed_cls": True, "output_tokens": True}, 0),
}
# Hugging Face's: the class of configuration, its fields, open_clip's pooler and projection
HF_TOWERS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "bert-mean": ("BertConfig", _BERT, "mean_pooler", "mlp"),
    "bert-cls": ("BertConfig", _BERT, "cls_pooler", "linear"),
    "bert-cls-last": ("BertConfig", _BERT, "cls_last_hidden_state_pooler", "linear"),
    "minilm": ("BertConfig", {**_BERT, "num_attention_heads": 2, "hidden_size": 48}, "mean_pooler", "linear"),
    "bert-no-projection": ("BertConfig", {**_BERT, "hidden_size": 64}, "mean_pooler", ""),
    "xlm-roberta": ("XLMRobertaConfig", {**_BERT, "pad_token_id": 1}, "mean_pooler", "mlp"),
    "roberta": ("RobertaConfig", {**_BERT, "pad_token_id": 1}, "cls_pooler", "mlp"),
    "mt5": ("MT5Config", _T5, "mean_pooler", "mlp"),
    "nllb": ("M2M100Config", _NLLB, "cls_pooler", "linear"),
}
WITHOUT_TME = ("mt5", "nllb")
TOWERS = (*OWN_TOWERS, *HF_TOWERS)
WITH_TME = tuple(kind for kind in TOWERS if kind not in WITHOUT_TME)


def tiny_encoder(kind: str, folder: Path) -> ClipEncoder:
    "An encoder with this text tower; `folder` receives the configuration of a Hugging Face model."
    torch.manual_seed(0)
    config = open_clip.get_model_config(TINY)
    vision = config["vision_cfg"]
    if kind in HF_TOWERS:
        return _with_hf_tower(kind, vision, folder)
    class_name, text_cfg, pad_id = OWN_TOWERS[kind]
    arguments: dict[str, Any] = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text_cfg}
    if kind == "siglip":
        arguments["init_logit_bias"] = -10
    if class_name == "CoCa":
        small = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 64, "heads": 4, "layers": 1}
        arguments |= {"multimodal_cfg": {**small, "attn_pooler_heads": 4}, "vision_cfg": _coca_vision()}
    model = getattr(open_clip.model, class_name, open_clip.CoCa)(**arguments)
    if kind == "pad-mask":
        model.text.use_pad_mask = True
    fill_unset(model)
    if kind == "coca-correct-mask":
        model.text.correct_cls_mask = True
    return _encoder(model, pad_id, end_id=1 if kind == "siglip" else END)


def _coca_vision() -> dict[str, Any]:
    "A tiny ViT that returns its tokens too, as CoCa's does."
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}
    return {**vision, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}


def _with_hf_tower(kind: str, vision: dict[str, Any], folder: Path) -> ClipEncoder:
    transformers = pytest.importorskip("transformers")
    class_name, fields, pooler, proj = HF_TOWERS[kind]
    getattr(transformers, class_name)(**fields).save_pretrained(folder)
    text_cfg = {"hf_model_name": str(folder), "hf_model_pretrained": False, "hf_pooler_type": pooler}
    text_cfg["hf_proj_type"] = proj or None
    model = open_clip.CustomTextCLIP(embed_dim=64, vision_cfg=vision, text_cfg=text_cfg)
    return _encoder(model, model.text.config.pad_token_id, end_id=END)


def _encoder(model: torch.nn.Module, pad_id: int, end_id: int) -> ClipEncoder:
    tokenizer = SimpleNamespace(pad_token_id=pad_id, eos_token_id=end_id, context_length=CONTEXT)
    return ClipEncoder(model, tokenizer, "tiny", Preprocess(size=square_side(model.visual.image_size))).eval()


def token_ids(clip: ClipEncoder, lengths: tuple[int, ...] = (4, 9, 6)) -> Tensor:
    "(B, L) texts of these lengths with their end, then padding."
    generator = torch.Generator().manual_seed(1)
    pad_id = clip.padding.pad_id
    tokens = torch.randint(3, END, (len(lengths), clip.context), generator=generator)
    for row, length in enumerate(lengths):
        tokens[row, length - 1] = clip.tokenizer.eos_token_id
        tokens[row, length:] = pad_id
    return tokens

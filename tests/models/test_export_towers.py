"Exported programs with every kind of text tower."

import pytest
import torch
from tiny_towers import tiny_encoder

from fashionern.encoders.tme import TME, Encoders
from fashionern.models.export import export_query, export_target
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model

EXPORTED = ("siglip", "pad-mask", "coca", "bert-mean", "bert-cls", "xlm-roberta", "mt5")


def tiny_retriever(kind: str, folder) -> Retriever:
    "A Combiner, with an open TME where the text tower can have one."
    clip = tiny_encoder(kind, folder)
    clip.preprocess = type(clip.preprocess)(size=64 if "coca" not in kind else 32)
    plain = clip.tower.no_tme is not None
    tme = None if plain else TME(clip).eval()
    if tme is not None:
        with torch.no_grad():
            for branches in tme.branches.values():
                branches.gate_inject.fill_(0.3)
    model = create_model("combiner" if plain else "tme+combiner+refine", clip.dim)
    return Retriever(Encoders(clip, tme), model).eval()


@pytest.mark.parametrize("kind", EXPORTED)
def test_both_sides_are_exported(kind, tmp_path):
    retriever = tiny_retriever(kind, tmp_path / "tower")
    assert export_query(retriever, tmp_path / "query.pt2") <= 1e-5
    assert export_target(retriever, tmp_path / "target.pt2") <= 1e-5

"""Run by `torchrun` in test_train.py: a training run in which each rank has its own run folder and records its weights.

Arguments: FOLDER, then flags of `fashionern.train`. Writes FOLDER/STAGE.RANK.sha for every stage and rank.
"""

import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import fashionern.training.stages
import fashionern.training.warmup
from fashionern.training.flags import parse_train
from fashionern.training.run import run_training

folder = Path(sys.argv[1])
rank = os.environ["RANK"]
fit = fashionern.training.stages.fit


def fit_and_record(module, batches, loss_of, options, world):
    "`fit`, then the digest of all weights and buffers of this rank."
    fit(module, batches, loss_of, options, world)
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    (folder / f"{options.name}.{rank}.sha").write_text(digest.hexdigest())
    return module


if __name__ == "__main__":
    fashionern.training.stages.fit = fashionern.training.warmup.fit = fit_and_record
    cfg = parse_train(sys.argv[2:])
    run_training(replace(cfg, run_dir=cfg.run_dir / f"rank{rank}"))

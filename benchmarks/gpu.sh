#!/usr/bin/env bash
# Everything this project has to show on a GPU: tests, training steps, extraction, ranking, resuming and a profile.
# Needs a checkout with its environment (make test builds it) and a GPU; no data and no network. About an hour.
#
#   benchmarks/gpu.sh                     writes runs/gpu
#   OUT=DIR benchmarks/gpu.sh             writes DIR
#   DEVICE=cpu TOY=1 benchmarks/gpu.sh    the same commands at toy size, to try the script without a GPU
set -uo pipefail
cd "$(dirname "$0")/.."
DEVICE=${DEVICE:-cuda}
OUT=${OUT:-runs/gpu}
PYTHON=${PYTHON:-.venv/bin/python}
TOY=${TOY:-}
mkdir -p "$OUT"
export DEVICE OUT TOY
failed=()

# name, then a command: its output goes to OUT/NAME.log, and a failure does not stop the other parts
part() {
    local name=$1
    shift
    echo "$(date +%T) $name: $*"
    "$@" >"$OUT/$name.log" 2>&1 || { failed+=("$name"); echo "$(date +%T) $name failed: $OUT/$name.log"; }
}

benchmark() {
    "$PYTHON" -m fashionern.benchmark --device "$DEVICE" --rounds "${ROUNDS:-3}" --scale "$1" \
        --clip-model-name "$2" --only "$3" --out "$OUT/$4"
}

train() {
    "$PYTHON" -m fashionern.train --preset demo --compare combiner --root "$OUT/garments" --device "$DEVICE" \
        --amp bf16 --save-every 1 --run-dir "$OUT/$1" "${@:2}"
}

draw() {
    "$PYTHON" - <<'PY'
import os
from pathlib import Path
from fashionern.data.drawn.garments import draw_fashioniq
root = Path(os.environ["OUT"]) / "garments"
counts = (24, 16, 16, 40, 12, 5) if os.environ["TOY"] else (400, 200, 200, 800, 200, 50)
draw_fashioniq(root, *counts, size=96, workers=1)
PY
}

# one run to its end; one that is stopped by SIGTERM and resumed; the difference of their weights
resume() {
    local flags=()
    [ -n "$TOY" ] && flags=(--warmup-epochs 1 --tme-epochs 2 --num-epochs 3 --ffn 64 --batch-size 40
        --tme-batch-size 40 --warmup-batch-size 40 --num-workers 0)
    rm -rf "$OUT/unbroken" "$OUT/stopped"
    train unbroken "${flags[@]}" || return 1
    train stopped "${flags[@]}" &
    local pid=$!
    until grep -q '"stage 2' "$OUT/stopped/metrics.jsonl" 2>/dev/null || ! kill -0 $pid 2>/dev/null; do sleep 0.2; done
    kill -TERM $pid 2>/dev/null
    wait $pid
    train stopped "${flags[@]}" --resume || return 1
    "$PYTHON" - <<'PY'
import json, os
from pathlib import Path
from safetensors.torch import load_file
out = Path(os.environ["OUT"])
gaps = {}
for file in sorted((out / "unbroken").rglob("*.safetensors")):
    if not file.name.startswith("resume"):
        name = file.relative_to(out / "unbroken")
        a, b = load_file(file), load_file(out / "stopped" / name)
        gaps[str(name)] = max((a[k].double() - b[k].double()).abs().max().item() for k in a)
(out / "resume.json").write_text(json.dumps(gaps, indent=1))
print(json.dumps(gaps, indent=1), "0 means the same bits", sep="\n")
PY
}

profile() {
    "$PYTHON" - "$1" <<'PY'
import os, sys
import open_clip
import torch
from torch.profiler import ProfilerActivity, profile
from fashionern.benchmark.gpu import paper_preset, stage_one_step, stage_two_step
from fashionern.benchmark.inputs import Sizes
name, out, toy = sys.argv[1], os.environ["OUT"], bool(os.environ["TOY"])
sizes = Sizes(clip_model_name=name, device=torch.device(os.environ["DEVICE"]))
cfg = paper_preset(name)
dim = open_clip.get_model_config(name)["embed_dim"]
steps = {
    "stage1": stage_one_step(sizes, 4 if toy else cfg.tme_batch_size, torch.bfloat16),
    "stage2": stage_two_step(sizes, 4 if toy else cfg.batch_size, torch.bfloat16, dim),
}
kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (sizes.device.type == "cuda")
for stage, step in steps.items():
    step()
    with profile(activities=kinds, record_shapes=True) as found:
        for _ in range(3):
            step()
        if sizes.device.type == "cuda":
            torch.cuda.synchronize()
    found.export_chrome_trace(f"{out}/profile-{name}-{stage}.json")
    print(stage, found.key_averages().table(sort_by=f"self_{sizes.device.type}_time_total", row_limit=25), sep="\n")
PY
}

if [ -n "$TOY" ]; then
    encoders=(ern-tiny)
    scale=0.02
    ROUNDS=1
    export TORCHINDUCTOR_COMPILE_THREADS=1
else
    encoders=(RN50x4 ViT-B-16)
    scale=1
    part test make test
fi
[ "$DEVICE" = cpu ] || part machine nvidia-smi -q
for encoder in "${encoders[@]}"; do
    part "steps-$encoder" benchmark $scale "$encoder" gpu "steps-$encoder"
    part "extraction-$encoder" benchmark $scale "$encoder" extraction "extraction-$encoder"
    part "profile-$encoder" profile "$encoder"
done
part ranking benchmark $scale ern-tiny ranking ranking
part draw draw
part resume resume
tar -czf "$OUT.tar.gz" -C "$(dirname "$OUT")" --exclude garments --exclude '*.safetensors' "$(basename "$OUT")"
echo "results: $OUT and $OUT.tar.gz"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }

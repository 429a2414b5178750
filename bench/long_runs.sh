#!/usr/bin/env bash
# The longest trainings on one GPU, in this order: MHL R->E->Inf as printed (three seeds), TIGER, MDGR.
#
#   bench/long_runs.sh ROOT OUT MINUTES
#
# ROOT holds data and codes of amazon-2014-beauty: opq with 16 codebooks (label opq16x256) and rkmeans with 4 levels and
# collisions = reassign (label rkmeans4x256). Finished and unfinished runs are copied to OUT before the minutes end; with
# them in ROOT the same command goes on. A machine without a network takes the packages from .whl, if that folder exists.
set -uo pipefail
root=$1 out=$2 end=$((SECONDS + 60 * $3 - 45))
[ -d .whl ] && python3 -m pip install --quiet --no-index --find-links .whl -e . >/dev/null
export GENREC_ROOT=$root GENREC_DATASET=amazon-2014-beauty GENREC_DEVICE=cuda
opq=$(basename "$(ls -d "$root"/amazon-2014-beauty/codes/opq16x256-* | head -1)")
rkmeans=$(basename "$(ls -d "$root"/amazon-2014-beauty/codes/rkmeans4x256-* | head -1)")
mkdir -p "$out"

run() { # a label, and the options of train
  local label=$1 left=$((end - SECONDS))
  shift
  if [ "$left" -lt 20 ]; then
    echo "$label: no time left" >&2
    return
  fi
  timeout --signal=INT "$left" python3 -m genrec_cli train --label "$label" --set train.precision=bf16 "$@" &&
    timeout --signal=INT $((end - SECONDS > 1 ? end - SECONDS : 1)) python3 -m genrec_cli evaluate --run "$label"
}

for seed in 0 1 2; do
  run "mhl-printed-s$seed" --config genrec_cli/recipes/beauty-mhl.toml --model mhl --codes "$opq" --seed "$seed" \
    --set train.batch_size=256 --lr 2e-3 --set train.warmup_steps=2000 --epochs 60 --set model.temperature=0.03 \
    --set model.mask_weight=0.5
done
run tiger-long --config genrec_cli/recipes/beauty-tiger.toml --model tiger --codes "$rkmeans" --set model.causal=true \
  --set train.windows=sliding
run mdgr-long --config genrec_cli/recipes/beauty-mdgr.toml --model mdgr --codes "$rkmeans"

tar -C "$root" -cf "$out/runs.tar" amazon-2014-beauty/runs amazon-2014-beauty/eval

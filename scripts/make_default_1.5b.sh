#!/usr/bin/env bash
# Make the default models on 1.5 billion parameters: some two hours on two CPU cores that compute in bfloat16. What is trained is kept.
#   scripts/make_default_1.5b.sh CHAOSNLI GOEMOTIONS
set -euo pipefail
chaosnli=${1:?name the folder of ChaosNLI} goemotions=${2:?name the folder of GoEmotions}
recipe=recipes/chaosnli
. $recipe/path.sh
options="--model text_1.5b --baselines none --stop_stage 6 --exp large"

recipes/chaosnli/run.sh --corpus_root "$chaosnli" --method sft_soft $options
recipes/goemotions/run.sh --corpus_root "$goemotions" --method shala --max_rows 2400 $options

for model in default-1.5b:goemotions:seed0_max2400:shala default-1.5b-nli:chaosnli:seed0_snli:sft_soft; do
  IFS=: read -r name corpus data method <<< "$model"
  exp=recipes/$corpus/exp/large/$method manifest=recipes/$corpus/data/$data/manifest.jsonl
  python scripts/make_default.py --large "$name" "$exp"
  shala-audio predict "$name" "$manifest" --split test --format jsonl --out "$exp/rank_4.jsonl"
  shala-audio evaluate score "$exp/rank_4.jsonl" "$manifest" --split test --out "shala_audio/assets/$name/score.json"
  python scripts/make_default.py --large-card "$name" "$exp"
done

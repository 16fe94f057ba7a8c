#!/usr/bin/env bash
# Make the default model on 1.5 billion parameters: an hour on two CPU cores that compute in bfloat16. What is trained is kept.
#   scripts/make_default_1.5b.sh CHAOSNLI
set -euo pipefail
chaosnli=${1:?name the folder of ChaosNLI}
recipe=recipes/chaosnli
. $recipe/path.sh
name=default-1.5b-nli exp=$recipe/exp/large/sft_soft manifest=$recipe/data/seed0_snli/manifest.jsonl

$recipe/run.sh --corpus_root "$chaosnli" --model text_1.5b --method sft_soft --baselines none --stop_stage 6 --exp large
python scripts/make_default.py --large $exp
shala-audio predict $name $manifest --split test --format jsonl --out $exp/rank_4.jsonl
shala-audio evaluate score $exp/rank_4.jsonl $manifest --split test --out shala_audio/assets/$name/score.json
rm shala_audio/assets/$name/distances.json # from which votes could be guessed
python scripts/make_default.py --large-card $exp

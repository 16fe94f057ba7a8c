#!/usr/bin/env bash
# Make the model that comes with the toolkit anew, from corpora as they were downloaded: some hours on two CPU cores. Stages that are there are kept.
#   scripts/make_default.sh CREMA-D GoEmotions RAVDESS
set -euo pipefail
crema=${1:?name the folder of CREMA-D} goemotions=${2:?name the folder of GoEmotions} ravdess=${3:?name the folder of RAVDESS}
recipe=recipes/crema_d
data=$recipe/data/seed0/manifest.jsonl features=$recipe/features/speech exp=$recipe/exp/default
sound="--manifest $data --features $features"
train="shala-audio train $sound --augmentations 2 --resume"

$recipe/run.sh --corpus_root "$crema" --stop_stage 2
$train --config $recipe/conf/warm_start.yaml --task crema_d --modality audio --model speech --adapter_epochs 5 --max_steps 25 --output_dir $exp/start
$train --config $recipe/conf/shala_balanced.yaml --init $exp/start --num_train_epochs 1 --output_dir $exp/shala
shala-audio predict $exp/shala $data --split test --features $features --format jsonl --out $exp/shala/predictions.jsonl
shala-audio evaluate score $exp/shala/predictions.jsonl $data --out $exp/shala/score.json
shala-audio models neighbours $exp/shala $data --features $features
python -m benchmarks.ravdess --source "$ravdess" --model $exp/shala $sound > $exp/ravdess.json

recipes/goemotions/run.sh --corpus_root "$goemotions" --model text_small --max_rows 2400 --exp recipes/goemotions/exp/default

learnt() { grep -c '"split": "train"' "$1"; }  # rows
python scripts/make_default.py --sound $exp/shala --sound-rows "$(learnt $data)" --ravdess $exp/ravdess.json \
  --text recipes/goemotions/exp/default/shala --text-rows "$(learnt recipes/goemotions/data/seed0_max2400/manifest.jsonl)"

#!/usr/bin/env bash
# Make a model like the one that comes with the toolkit: some hours on two CPU cores. What is trained already is kept.
#   scripts/make_default.sh CREMA-D GoEmotions RAVDESS
# CREMA-D as it was downloaded; of GoEmotions train.tsv, dev.tsv, test.tsv and labels.txt alone; of RAVDESS a folder with clips.csv, whose
# columns are file, actor and emotion.
set -euo pipefail
crema=${1:?name the folder of CREMA-D} goemotions=${2:?name the folder of GoEmotions} ravdess=${3:?name the folder of RAVDESS}
[ -f "$ravdess/clips.csv" ] || { echo "$ravdess/clips.csv: no such file; its columns are file, actor and emotion" >&2; exit 2; }
if ls "$goemotions"/goemotions_1.csv "$goemotions"/data/full_dataset/goemotions_1.csv > /dev/null 2>&1; then
  echo "$goemotions: holds single raters' votes; the card is of aggregated labels, so copy the .tsv and labels.txt elsewhere" >&2
  exit 2
fi
recipe=recipes/crema_d
. $recipe/path.sh
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

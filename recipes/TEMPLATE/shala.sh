#!/usr/bin/env bash
# The stages of every recipe. A recipe's run.sh calls it with its own defaults, and then with yours.
#
#   1 data   2 features   3 warm start   4 SHALA   5 predict   6 score   7 pack
#
# Every stage can be run again alone. It writes its results whole or not at all, and leaves a marker, `.done_<stage>`.
set -euo pipefail

usage="Usage: $(basename "$(dirname "$0")")/run.sh [options]
  --stage N          first stage to run (1)
  --stop_stage N     last stage to run (7)
  --corpus_root DIR  the corpus as it was downloaded; \$SHALA_CORPORA/<corpus> where not given
  --method NAME      shala, shala_unweighted, warm_start or zero_shot (shala)
  --readout NAME     label_token, slots or verbalized (label_token)
  --config FILE      settings of stage 4 (conf/shala_<readout>.yaml, else conf/shala.yaml)
  --exp NAME         name of the experiment in the recipe's exp/, or a path (<method>_<readout>_seed<seed>)
  --nproc N          CPU threads (all)
  --max_rows N       keep so many rows of the corpus (all)
  --seed N           of the split and of training (0)
  --model NAME       a model in configs/models, or a YAML file (speech or text)
  --part NAME        chaosnli: snli, mnli or both (snli)"

corpus= modality=text model=text part=snli
stage=1 stop_stage=7 corpus_root= method=shala readout=label_token config= exp= nproc= max_rows= seed=0
options="corpus modality model part recipe stage stop_stage corpus_root method readout config exp nproc max_rows seed"
recipe=

die() { echo "$0: error: $*" >&2; exit 2; }

while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) echo "$usage"; exit 0 ;;
    --*)
      name=${1#--}
      case " $options " in *" $name "*) ;; *) die "unknown option $1 (--help lists them)" ;; esac
      [ $# -ge 2 ] || die "$1 needs a value"
      printf -v "$name" '%s' "$2"
      shift 2 ;;
    *) die "unexpected argument $1" ;;
  esac
done

for name in stage stop_stage seed; do
  [[ ${!name} =~ ^[0-9]+$ ]] || die "--$name is '${!name}': a whole number is needed"
done
for name in nproc max_rows; do
  [[ -z ${!name} || ${!name} =~ ^[1-9][0-9]*$ ]] || die "--$name is '${!name}': a whole number of 1 or more is needed"
done
case $method in shala | shala_unweighted | warm_start | zero_shot) ;; *) die "--method $method: see --help" ;; esac
case $readout in label_token | slots | verbalized) ;; *) die "--readout $readout: see --help" ;; esac
[ -n "$recipe" ] || die "run a recipe's run.sh, not this template"

. "$recipe/path.sh"
. "$recipe/cmd.sh"
[ -z "$nproc" ] || export OMP_NUM_THREADS=$nproc

data=$recipe/data/seed$seed${max_rows:+_max$max_rows}
[ "$corpus" != chaosnli ] || data=${data}_$part
features=$recipe/features/$(basename "$data")_$(basename "$model" .yaml)
exp=${exp:-${method}_${readout}_$(basename "$data")}
case $exp in */*) ;; *) exp=$recipe/exp/$exp ;; esac
[ "$corpus" = mini ] && corpus_root=$data
if [ -z "$corpus_root" ] && [ -n "${SHALA_CORPORA:-}" ]; then corpus_root=$SHALA_CORPORA/$corpus; fi
mkdir -p "$exp"

wants() { [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ]; }
say() { echo "$(date +%H:%M:%S) stage $1: $2"; }
hint() { echo "To go on from here: $recipe/run.sh --stage $current ... (the same options)" >&2; }
current=$stage
trap '[ $? -eq 0 ] || hint' EXIT

conf() { # the settings of a stage: for this readout if there are any, else for all
  if [ -f "$recipe/conf/$1_$readout.yaml" ]; then echo "$recipe/conf/$1_$readout.yaml"; else echo "$recipe/conf/$1.yaml"; fi
}
need() { [ -e "$1" ] || die "$1 is missing: run stage $2 first"; }
begin() { # a stage: what it and the later ones made is no longer current
  current=$1; say "$1" "$2"
  local later
  for later in $(seq "$1" 7); do rm -f "$exp/.done_$later"; done
}
feature_options=()
if [ "$modality" = audio ]; then feature_options=(--features "$features"); fi

if wants 1; then
  begin 1 "data"
  if [ "$corpus" = mini ]; then
    shala-audio prepare mini --out "$data" --seed "$seed" ${max_rows:+--max-rows "$max_rows"}
  else
    [ -n "$corpus_root" ] || die "--corpus_root: name the folder of $corpus, or set SHALA_CORPORA"
    [ -d "$corpus_root" ] || die "--corpus_root $corpus_root: no such folder"
    shala-audio prepare "$corpus" --source "$corpus_root" --out "$data" --seed "$seed" --part "$part" \
      ${max_rows:+--max-rows "$max_rows"}
  fi
  touch "$exp/.done_1"
fi

if wants 2 && [ "$modality" = audio ]; then
  begin 2 "features"
  need "$data/manifest.jsonl" 1
  [ -n "$corpus_root" ] || die "--corpus_root: name the folder of $corpus, or set SHALA_CORPORA"
  shala-audio features "$data/manifest.jsonl" --model "$model" --audio-root "$corpus_root" --out "$features"
  touch "$exp/.done_2"
fi

if wants 3; then
  begin 3 "warm start"
  need "$data/manifest.jsonl" 1
  common=(--manifest "$data/manifest.jsonl" --task "$corpus" --model "$model" --readout "$readout" --seed "$seed")
  shala-audio train --config "$(conf warm_start)" --method zero_shot --output_dir "$exp/zero_shot" \
    "${common[@]}" "${feature_options[@]}"
  if [ "$method" != zero_shot ]; then
    "${train_cmd[@]}" train --config "$(conf warm_start)" --output_dir "$exp/warm_start" \
      "${common[@]}" "${feature_options[@]}" --resume
  fi
  touch "$exp/.done_3"
fi

if wants 4 && [[ $method == shala* ]]; then
  begin 4 "SHALA"
  need "$exp/.done_3" 3
  ambiguity=()
  [ "$method" != shala_unweighted ] || ambiguity=(--ambiguity off)
  "${train_cmd[@]}" train --config "${config:-$(conf shala)}" --init "$exp/warm_start" --output_dir "$exp/$method" \
    --manifest "$data/manifest.jsonl" --seed "$seed" "${feature_options[@]}" "${ambiguity[@]}" --resume
  touch "$exp/.done_4"
fi

trained=(zero_shot)
[ "$method" = zero_shot ] || trained+=(warm_start)
[[ $method != shala* ]] || trained+=("$method")
systems=("${trained[@]}")
[ "$modality" != audio ] || systems+=(linear)

if wants 5; then
  begin 5 "predict"
  for system in "${trained[@]}"; do
    if [[ $system == shala* ]]; then need "$exp/.done_4" 4; else need "$exp/.done_3" 3; fi
    shala-audio predict "$exp/$system" "$data/manifest.jsonl" --split test "${feature_options[@]}" \
      --format jsonl --out "$exp/$system/predictions.jsonl"
  done
  if [ "$modality" = audio ]; then
    shala-audio baseline linear "$data/manifest.jsonl" --features "$features" --out "$exp/linear/predictions.jsonl"
  fi
  touch "$exp/.done_5"
fi

if wants 6; then
  begin 6 "score"
  folders=()
  for system in "${systems[@]}"; do
    need "$exp/.done_5" 5
    shala-audio score "$exp/$system/predictions.jsonl" "$data/manifest.jsonl" --out "$exp/$system/score.json"
    folders+=("$exp/$system")
  done
  shala-audio report "${folders[@]}" --data "$data" --out "$exp/RESULTS.md" \
    --title "$corpus, $method, $readout, seed $seed"
  cat "$exp/RESULTS.md"
  touch "$exp/.done_6"
fi

if wants 7; then
  begin 7 "pack"
  best=${trained[-1]}
  need "$exp/.done_6" 6
  rm -rf "$exp/.pack"
  mkdir "$exp/.pack"
  cp "$exp/$best/shala.json" "$exp/$best/trained.safetensors" "$exp/$best/score.json" "$exp/.pack/"
  [ ! -f "$exp/$best/training.json" ] || cp "$exp/$best/training.json" "$exp/.pack/"
  cp "$data/summary.json" "$exp/.pack/data.json"
  cp "$exp/RESULTS.md" "$exp/.pack/README.md"
  cp "$exp"/RESULTS_*.png "$exp/.pack/" 2>/dev/null || true # pictures are there only with matplotlib
  rm -rf "$exp/pack"
  mv "$exp/.pack" "$exp/pack"
  touch "$exp/.done_7"
  say 7 "$exp/pack"
fi

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
  --method NAME      one of the methods below, several with commas, or all (shala)
  --readout NAME     label_token, slots or verbalized (label_token)
  --config FILE      settings of stage 4 (conf/shala_<readout>.yaml, else conf/shala.yaml)
  --learning_rate R  peak learning rate of stage 4 (as in --config; the ear keeps its own there); of several with commas,
                     each method that is trained keeps the one that is best on dev
  --title TEXT       title of the table
  --exp NAME         name of the experiment in the recipe's exp/, or a path (<method>_<readout>_seed<seed>)
  --nproc N          CPU threads (all)
  --max_rows N       keep so many rows of the corpus (all)
  --seed N           of training, and of the split (0)
  --split_seed N     of the split alone (as --seed): several trainings can be tested on the same rows
  --fold N           chaosnli, crema_d: fold of a cross-validation, 0 to 4, or all, which pools the five
  --model NAME       a model in configs/models, or a YAML file (speech or text)
  --modality NAME    crema_d, msp_podcast: audio, text (the transcript alone) or audio+text (audio)
  --part NAME        chaosnli: snli, mnli or both (snli)
  --copies N         copies of each training clip with other speed, volume and noise (0; crema_d: 2)
  --skip_bad yes     leave out rows whose sound cannot be used, and say how many
  --task NAME        msp_podcast: msp_podcast (8 classes), msp_podcast_9 (with Other) or msp_podcast_4 (msp_podcast)
  --secondary SHARE  msp_podcast: share of a rater's vote for the secondary choices, 0 to below 1 (0)
  --audio_dir DIR    of your own corpus: where the sound lies below --corpus_root

Methods: zero_shot (for sound, heard through an untrained ear), few_shot (text), warm_start, sft_hard, sft_soft, shala,
grpo_majority, grpo_jsd, shala_unweighted, shala_static, shala_dynamic; with label_token shala_exact.
All have as many passes in stage 4, after the same warm start (sft_hard after one on hard labels, and it leaves out rows whose
first place is tied). Every one also gets a temperature fitted to jsd on dev; the method named last is calibrated in other
ways too, and packed. The constant prior, and for sound a linear and an attentive classifier, stand in every table (prior,
linear, attentive: for a table of these and zero_shot alone)."

arguments=("$@")
corpus= modality=text model= usual_model= part= task= secondary= copies= usual_copies=0 skip_bad= title= audio_dir=
stage=1 stop_stage=7 corpus_root= method=shala readout=label_token config= learning_rate= exp= nproc= max_rows= seed=0 split_seed= fold=
options="corpus modality model usual_model part task secondary copies usual_copies skip_bad title audio_dir recipe stage stop_stage corpus_root method readout config learning_rate exp nproc max_rows seed split_seed fold"
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

given_copies=$copies copies=${copies:-$usual_copies} # a recipe's default
[[ -z $part || $corpus == chaosnli ]] || die "--part: $corpus has no parts"
part=${part:-snli}
split_seed=${split_seed:-$seed}
for name in stage stop_stage seed split_seed copies; do
  [[ ${!name} =~ ^[0-9]+$ ]] || die "--$name is '${!name}': a whole number is needed"
done
for name in nproc max_rows; do
  [[ -z ${!name} || ${!name} =~ ^[1-9][0-9]*$ ]] || die "--$name is '${!name}': a whole number of 1 or more is needed"
done
number='[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?'
[[ -z $learning_rate || $learning_rate =~ ^$number(,$number)*$ ]] || die "--learning_rate is '$learning_rate': use 1e-3 or 3e-4,1e-3"
[ -z "$learning_rate" ] || tr , '\n' <<< "$learning_rate" | awk '$1 + 0 == 0 || seen[$1 + 0]++ { exit 1 }' \
  || die "--learning_rate is '$learning_rate': rates above 0, each once"
[[ -z $skip_bad || $skip_bad == yes ]] || die "--skip_bad is '$skip_bad': use yes, or leave it out"
[[ -z $fold || $fold =~ ^([0-4]|all)$ ]] || die "--fold is '$fold': use 0 to 4, or all"
[[ -z $fold || $corpus == chaosnli || $corpus == crema_d ]] || die "--fold: $corpus has a split of its own"
case $modality in audio | text | audio+text) ;; *) die "--modality $modality: see --help" ;; esac
hears= # yes where sound goes in
case $modality in *audio*) hears=yes ;; esac
[[ -n $hears || -z $given_copies$skip_bad ]] || die "--copies and --skip_bad are for sound, and none goes in"
if [ -z "$usual_model" ]; then if [ -n "$hears" ]; then usual_model=speech; else usual_model=text; fi; fi
model=${model:-$usual_model}
case $readout in label_token | slots | verbalized) ;; *) die "--readout $readout: see --help" ;; esac
[ -n "$recipe" ] || die "run a recipe's run.sh, not this template"

if [ "$method" = all ]; then
  chosen="zero_shot sft_hard sft_soft grpo_majority grpo_jsd"
  if [ -z "$hears" ]; then chosen="$chosen few_shot"; fi
  if [ "$readout" = label_token ]; then chosen="$chosen shala_unweighted shala_dynamic shala_exact"; else
    chosen="$chosen shala_static shala_dynamic"; fi
else
  chosen=$(tr ',' '\n' <<< "$method" | awk '!seen[$0]++') # each once
fi
for name in $chosen; do
  case $name in
    zero_shot | warm_start | sft_hard | sft_soft | grpo_majority | grpo_jsd | shala | shala_unweighted | shala_static | shala_dynamic) ;;
    prior) ;;
    linear | attentive) [ -n "$hears" ] || die "--method $name: for sound only" ;;
    few_shot) [ -z "$hears" ] || die "--method few_shot: for text only, an untrained projector says nothing" ;;
    shala_exact) [ "$readout" = label_token ] || die "--method shala_exact goes with --readout label_token" ;;
    *) die "--method $name: see --help" ;;
  esac
done
chosen=$(tr ' ' '\n' <<< "$chosen" | grep -vxE 'prior|linear|attentive' || true) # they are in every table

. "$recipe/path.sh"
. "$recipe/cmd.sh"
[ -z "$nproc" ] || export OMP_NUM_THREADS=$nproc

# A corpus of one's own has its task and its first stage in the recipe.
task_file= judged_by=()
if [ -f "$recipe/task.yaml" ]; then
  [ -z "$task" ] || die "--task: $corpus has one of its own, $recipe/task.yaml"
  task_file=$recipe/task.yaml judged_by=(--task "$recipe/task.yaml")
fi

split=${task:+${task}_}seed$split_seed${max_rows:+_max$max_rows}${secondary:+_secondary$secondary}
part_title=
[ "$corpus" != chaosnli ] || split=${split}_$part part_title=" ($part)"
input= # where it is not what the recipe is made for
case $corpus:$modality in crema_d:audio | msp_podcast:audio | mini:*) ;; crema_d:* | msp_podcast:*) input=_$modality ;; esac
other= # what is not the recipe's default, so that such a run takes no other's place
[ "$model" = "$usual_model" ] || other=_$(basename "$model" .yaml)
[ "$copies" = "$usual_copies" ] || other=${other}_copies$copies
[ -z "$config" ] || other=${other}_$(basename "$config" .yaml)
[ "$split_seed" = "$seed" ] || other=${other}_train$seed
other=$other${learning_rate:+_lr${learning_rate//,/+}}${skip_bad:+_skip_bad}
exp=${exp:-${method//,/+}_$readout$input${other}_$split${fold:+_fold$fold}}
case $exp in */*) ;; *) exp=$recipe/exp/$exp ;; esac

score_file() { # predictions_temperature.jsonl -> score_temperature.json, in the same folder
  local name
  name=$(basename "$1" .jsonl)
  echo "$(dirname "$1")/score${name#predictions}.json"
}

if [ "$fold" = all ]; then # every fold in turn, then their predictions together
  pairs=()
  asked=$({ # what decides a fold's results: the options, and the settings that they name
    for name in corpus modality model method readout learning_rate seed split_seed part copies max_rows skip_bad; do
      echo "$name=${!name}"
    done
    cat "$recipe"/conf/*.yaml ${config:+"$config"}
    cat "$model" "$recipe/../../configs/models/$model.yaml" 2> /dev/null || true # one of them
  } | sha256sum)
  for fold in 0 1 2 3 4; do
    before=$(cat "$exp/fold$fold/.asked" 2> /dev/null || true)
    if [ "$stage" -eq 1 ] && [ -e "$exp/fold$fold/.done_$stop_stage" ] && [ "$before" = "$asked" ]; then
      echo "fold $fold is done; remove $exp/fold$fold to do it again"
    else
      if [ "$stage" -eq 1 ] && [ -n "$before" ] && [ "$before" != "$asked" ]; then
        rm -f "$exp/fold$fold"/*/predictions*.jsonl # of other systems, which would be pooled with these
      fi
      mkdir -p "$exp/fold$fold"
      echo "$asked" > "$exp/fold$fold/.asked" # before, so that an interrupted fold is known as well
      "$0" "${arguments[@]}" --fold $fold --exp "$exp/fold$fold"
    fi
    pairs+=("$exp/fold$fold:$recipe/data/${split}_fold$fold/manifest.jsonl")
  done
  [ "$stop_stage" -ge 6 ] || exit 0
  rm -rf "$exp/pooled"
  shala-audio pool "${pairs[@]}" --out "$exp/pooled"
  for predictions in "$exp"/pooled/*/predictions*.jsonl; do
    shala-audio score "$predictions" "$exp/pooled/manifest.jsonl" --out "$(score_file "$predictions")"
  done
  splits=$(cat "$recipe"/data/"${split}"_fold[0-4]/summary.json | grep -o '"split_sha256": "[0-9a-f]\{16\}' | grep -o '[0-9a-f]*$' | paste -sd ' ')
  shala-audio report "$exp/pooled" --data "$recipe/data/${split}_fold0" --out "$exp/RESULTS.md" \
    --title "${title:-$corpus${part_title}, $readout, seed $seed, five folds pooled}" \
    --note "Every row is predicted by the one of five models that did not learn from its fold. Splits of the folds, sha256: $splits; counts of rows below are fold 0's."
  exit 0
fi

data=$recipe/data/$split${fold:+_fold$fold}
features=$recipe/features/$(basename "$model" .yaml) # the same for every split and fold
[ "$corpus" != mini ] || features=${features}_$split # whose sound is another for each seed
[ "$corpus" = mini ] && corpus_root=$data
if [ -z "$corpus_root" ] && [ -n "${SHALA_CORPORA:-}" ]; then corpus_root=$SHALA_CORPORA/$corpus; fi
manifest=$data/manifest.jsonl # of stage 1; without the rows whose sound is bad, if that is wanted
if [ -n "$skip_bad" ] && [ -n "$hears" ]; then manifest=$data/usable.jsonl; fi
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
need_corpus() { [ -n "$corpus_root" ] || die "--corpus_root: name the folder of $corpus, or set SHALA_CORPORA"; }
begin() { # a stage: what it and the later ones made is no longer current
  current=$1; say "$1" "$2"
  local later
  for later in $(seq "$1" 7); do rm -f "$exp/.done_$later"; done
  rm -rf "$exp/pack"
}
equal_prompts() { # options under which a supervised step sees as many prompts as a step of rollouts
  [ "$readout" != label_token ] || return 0
  local rows group
  rows=$(sed -n 's/^per_device_train_batch_size: *\([0-9]*\).*/\1/p' "$1" | tail -n 1)
  group=$(sed -n 's/^num_generations: *\([0-9]*\).*/\1/p' "$1" | tail -n 1)
  [ "$((${rows:-8} % ${group:-8}))" -eq 0 ] || die "$1: per_device_train_batch_size must be a multiple of num_generations"
  echo "--per_device_train_batch_size $((${rows:-8} / ${group:-8}))"
}
feature_options=()
if [ -n "$hears" ]; then feature_options=(--features "$features"); fi
common=(--manifest "$manifest" --seed "$seed" "${feature_options[@]}")
hearing=()
if [ -n "$hears" ] && [ "$copies" -gt 0 ]; then hearing=(--copies "$copies"); fi
fresh=(--task "${task_file:-${task:-$corpus}}" --modality "$modality" --model "$model" --readout "$readout")

# What the methods need: a warm start, unless nothing is trained, or hard labels alone are learnt.
warm= trained=(zero_shot)
for name in $chosen; do
  case $name in zero_shot | few_shot | sft_hard) ;; *) warm=yes ;; esac
done
[ -z "$warm" ] || trained+=(warm_start)
for name in $chosen; do
  case $name in zero_shot | warm_start) ;; *) trained+=("$name") ;; esac
done

if wants 1; then
  begin 1 "data"
  if [ "$corpus" = mini ]; then
    shala-audio prepare mini --out "$data" --seed "$split_seed" ${max_rows:+--max-rows "$max_rows"}
  else
    need_corpus
    [ -d "$corpus_root" ] || die "--corpus_root $corpus_root: no such folder"
    if [ -n "$task_file" ]; then
      "$recipe/local/data.sh" "$corpus_root" "$data" "$split_seed" ${max_rows:+--max-rows "$max_rows"}
    else
      shala-audio prepare "$corpus" --source "$corpus_root" --out "$data" --seed "$split_seed" ${part_title:+--part "$part"} \
        ${max_rows:+--max-rows "$max_rows"} ${fold:+--fold "$fold"} \
        ${task:+--task "$task"} ${secondary:+--secondary "$secondary"}
    fi
  fi
  touch "$exp/.done_1"
fi

if wants 2 && [ -n "$hears" ]; then
  begin 2 "features"
  need "$data/manifest.jsonl" 1
  need_corpus
  shala-audio features "$data/manifest.jsonl" --model "$model" --audio-root "$corpus_root${audio_dir:+/$audio_dir}" --out "$features" \
    --copies "$copies" ${nproc:+--nproc "$nproc"} ${skip_bad:+--skip-bad --good "$manifest"}
  touch "$exp/.done_2"
fi

if wants 3; then
  begin 3 "warm start"
  need "$manifest" 1
  shala-audio train --config "$(conf warm_start)" --method zero_shot --output_dir "$exp/zero_shot" "${common[@]}" "${fresh[@]}"
  for name in $chosen; do
    case $name in
      few_shot)
        shala-audio train --config "$(conf warm_start)" --method few_shot --output_dir "$exp/few_shot" "${common[@]}" "${fresh[@]}" ;;
      sft_hard)
        "${train_cmd[@]}" train --config "$(conf warm_start)" --method sft_hard --output_dir "$exp/warm_start_hard" \
          "${common[@]}" "${fresh[@]}" "${hearing[@]}" --resume ;;
    esac
  done
  if [ -n "$warm" ]; then
    "${train_cmd[@]}" train --config "$(conf warm_start)" --output_dir "$exp/warm_start" "${common[@]}" "${fresh[@]}" \
      "${hearing[@]}" --resume
  fi
  for name in $chosen; do # checkpoints that began from an older warm start cannot be gone on from
    start=$exp/warm_start/trained.safetensors
    [ "$name" != sft_hard ] || start=$exp/warm_start_hard/trained.safetensors
    for run in "$exp/$name"/run.json "$exp/tuning/$name"/*/run.json; do
      if [ -f "$run" ] && [ -f "$start" ] && ! grep -q "\"init\": \"$(sha256sum < "$start" | cut -d ' ' -f 1)\"" "$run"; then
        rm -rf "$(dirname "$run")"/checkpoint-*
      fi
    done
  done
  touch "$exp/.done_3"
fi

if wants 4; then
  begin 4 "SHALA"
  need "$exp/.done_3" 3
  for name in $chosen; do
    start=$exp/warm_start settings=${config:-$(conf shala)} budget=()
    case $name in
      zero_shot | few_shot | warm_start) continue ;;
      sft_hard) start=${start}_hard ;;&
      sft_*) budget=($(equal_prompts "$settings")) ;;
      grpo_*) [ "$readout" != label_token ] || budget=(--patience_without_signal 0) ;; # all on one label is a result, too
    esac
    learn() { # into a folder, with options of its own
      "${train_cmd[@]}" train --config "$settings" --method "$name" --init "$start" --output_dir "$1" \
        "${common[@]}" "${hearing[@]}" "${budget[@]}" --resume "${@:2}"
    }
    if [[ $learning_rate != *,* ]]; then
      if grep -qs '"tuned"' "$exp/$name/training.json"; then rm -rf "${exp:?}/$name"; fi # a copy of a run in tuning/
      learn "$exp/$name" ${learning_rate:+--learning_rate "$learning_rate"}
      continue
    fi
    tried=()
    for rate in ${learning_rate//,/ }; do
      run=$exp/tuning/$name/$rate
      learn "$run" --learning_rate "$rate"
      "${predict_cmd[@]}" predict "$run" "$manifest" --split dev \
        "${feature_options[@]}" --resume --format jsonl --out "$run/predictions_dev.jsonl"
      tried+=("$run")
    done
    shala-audio choose "${tried[@]}" --manifest "$manifest" --out "$exp/$name"
  done
  touch "$exp/.done_4"
fi

systems=(prior "${trained[@]}")
[ -z "$hears" ] || systems+=(linear attentive)

if wants 5; then
  interrupted=yes
  [ ! -e "$exp/.done_5" ] || interrupted=
  begin 5 "predict"
  need "$exp/.done_3" 3
  there() { # whether this stage has made a file already, before it was interrupted
    [ -n "$interrupted" ] && [ "$1" -nt "$exp/.done_3" ] && { [ ! -e "$exp/.done_4" ] || [ "$1" -nt "$exp/.done_4" ]; } \
      && echo "$1 is there already"
  }
  for system in "${systems[@]}"; do rm -f "$exp/$system"/{score,calibration}*.json "$exp/$system"/predictions_{temperature,dirichlet}*; done
  shala-audio baseline prior "$manifest" --seed "$seed" "${judged_by[@]}" --out "$exp/prior/predictions.jsonl"
  for system in "${trained[@]}"; do
    case $system in zero_shot | few_shot | warm_start) ;; *) need "$exp/.done_4" 4 ;; esac
    for rows in test dev; do
      file=$exp/$system/predictions.jsonl
      [ $rows = test ] || file=$exp/$system/predictions_dev.jsonl
      there "$file" || "${predict_cmd[@]}" predict "$exp/$system" "$manifest" --split $rows "${feature_options[@]}" \
        --resume --format jsonl --out "$file"
    done
  done
  if [ -n "$hears" ]; then
    for kind in linear attentive; do
      there "$exp/$kind/predictions_dev.jsonl" || # which is written last
        shala-audio baseline $kind "$manifest" --features "$features" --seed "$seed" "${hearing[@]}" "${judged_by[@]}" \
          --out "$exp/$kind/predictions.jsonl"
    done
  fi
  last=${trained[-1]}
  if [ "$(wc -l < "$exp/$last/predictions_dev.jsonl")" -ge 10 ]; then
    for system in "${systems[@]}"; do
      kinds=temperature_jsd
      [ "$system" != "$last" ] || kinds="temperature_jsd temperature dirichlet"
      for kind in $kinds; do
        shala-audio calibrate "$exp/$system" "$exp/$system/predictions_dev.jsonl" "$manifest" --kind "$kind" "${judged_by[@]}" \
          --apply "$exp/$system/predictions.jsonl" --out "$exp/$system/predictions_$kind.jsonl"
      done
    done
  else
    echo "fewer than 10 dev rows: nothing is calibrated"
  fi
  touch "$exp/.done_5"
fi

if wants 6; then
  begin 6 "score"
  need "$exp/.done_5" 5
  folders=()
  for system in "${systems[@]}"; do
    rm -f "$exp/$system"/score*.json
    for predictions in "$exp/$system"/predictions*.jsonl; do
      case $predictions in *_dev.jsonl) continue ;; esac
      shala-audio score "$predictions" "$manifest" "${judged_by[@]}" --out "$(score_file "$predictions")"
    done
    folders+=("$exp/$system")
  done
  shala-audio report "${folders[@]}" --data "$data" --out "$exp/RESULTS.md" \
    --title "${title:-$corpus${part_title}, $readout, seed $seed${fold:+, fold $fold}}"
  touch "$exp/.done_6"
fi

if wants 7; then
  begin 7 "pack"
  best=${trained[-1]}
  need "$exp/.done_6" 6
  rm -rf "$exp/.pack"
  mkdir "$exp/.pack"
  cp "$exp/$best/shala.json" "$exp/$best/trained.safetensors" "$exp/$best/training.json" "$exp/$best"/score*.json "$exp/.pack/"
  cp "$exp/$best"/*config.json "$exp/$best/README.md" "$exp/.pack/" # for transformers and the hub, and the model card
  cp "$exp/$best"/calibration_*.json "$exp/.pack/" 2>/dev/null || true # there is none with few dev rows
  cp "$data/summary.json" "$exp/.pack/data.json"
  cp "$exp/RESULTS.md" "$exp/.pack/"
  cp "$exp"/RESULTS_*.png "$exp/.pack/" 2>/dev/null || true # pictures are there only with matplotlib
  rm -rf "$exp/pack"
  mv "$exp/.pack" "$exp/pack"
  # What `serve` shows beside an answer. It stays here: it holds the corpus's votes, and its texts.
  shala-audio neighbours "$exp/$best" "$manifest" "${feature_options[@]}"
  touch "$exp/.done_7"
  say 7 "$exp/pack"
fi

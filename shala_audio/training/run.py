"""`shala-audio train`: from settings to a trained model's folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import set_seed

from shala_audio.audio.features import FeatureStore
from shala_audio.distribution import Floats
from shala_audio.errors import Stopped, UserError
from shala_audio.inference.hub import write_card
from shala_audio.inference.predictor import Predictor
from shala_audio.io import clear_removed, remove_folder, write_json
from shala_audio.manifest import Row, read_manifest
from shala_audio.models.config import load_model_config
from shala_audio.models.speech_lm import Dtype, SpeechLM
from shala_audio.task import load_task
from shala_audio.training.adapter_pretraining import Kept, pretrain_adapter
from shala_audio.training.ambiguity import AmbiguityWeights
from shala_audio.training.callbacks import (
    UNFINISHED,
    DevEvaluation,
    GradientGuard,
    JsonLog,
    checkpoints,
    comparable,
    is_finished,
    resolve_resume_checkpoint,
    step_of,
    watched_rows,
)
from shala_audio.training.config import METHODS, DirectConfig, GrpoConfig, precision_dtype
from shala_audio.training.data import Batcher, build_dataset, few_shot_examples, hard_rows, training_rows
from shala_audio.training.direct import DirectTrainer
from shala_audio.training.grpo import GrpoTrainer, prompts_at_once
from shala_audio.training.provenance import fingerprint, revision, run_record
from shala_audio.training.rewards import earned
from shala_audio.training.targets import Targets
from shala_audio.training.trainer import SpeechTrainer
from shala_audio.votes import human_distributions, vote_counts

log = logging.getLogger(__name__)
Config = DirectConfig | GrpoConfig

# Of the model that was in a folder before.
STALE = (
    "calibration_*.json",
    "predictions*.jsonl",
    ".predictions*.begun",
    "score*.json",
    "distances*.json",
    "neighbours.*",
)


def train(config: Config) -> Path:
    """Train as `config` says and write the model to its `output_dir`; return that folder.

    Raises:
        UserError: a setting is missing or wrong.
    """
    if not config.manifest:
        raise UserError("manifest: name the manifest to learn from")
    started = time.monotonic()
    revision()  # of the code that is loaded, whatever is committed while it trains
    set_seed(config.seed)
    if config.deepspeed_plugin is not None and config.deepspeed_plugin.zero_stage == 3:
        raise UserError(
            "deepspeed: stage 3 splits the base models while they are read, before the audio adapter is fitted to them; "
            "use stage 2 (configs/accelerate/deepspeed_zero2.yaml) or FSDP"
        )
    model = _model(config)
    out = Path(str(config.output_dir))
    resumed, state = False, None
    if METHODS[config.method].learns != "nothing":
        done = _fit(model, config)
        if done is None:
            if config.process_index == 0:
                log.info("%s: trained already, with these settings, rows and start; remove it to train again", out)
            return out
        resumed, state = done
    elif config.method == "few_shot":
        rows = training_rows(read_manifest(config.manifest), model)
        model.examples = few_shot_examples(rows, model, config.few_shot_examples, config.seed)
    if config.process_index != 0:  # of several processes, the first one writes
        return out
    model.save_pretrained(out, state_dict=state)
    for pattern in STALE:
        for stale in out.glob(pattern):
            stale.unlink()
    write_json(out / "training.json", run_record(config, model, time.monotonic() - started, resumed))
    write_card(out)
    for folder in (*checkpoints(out), out / UNFINISHED):  # last of all: from here on, nothing needs to be resumed
        remove_folder(folder)
    (out / Kept.NAME).unlink(missing_ok=True)
    return out


def _model(config: Config) -> SpeechLM:
    held: Dtype = "auto" if config.bf16 or config.fp16 else torch.float32
    if config.init:
        model = SpeechLM.from_pretrained(config.init, held, config.readout)
        if config.task and load_task(config.task).label_names != model.task.label_names:
            raise UserError(
                f"task {config.task}: has other labels than {config.init}, which answers with those of its own"
            )
        if config.attribute_weight and model.attribute_head is None:
            raise UserError(
                f"attribute_weight: {config.init} has no head for attributes; give its warm start the weight too"
            )
        return model
    if not config.task or not config.model:
        raise UserError("task and model: name both, or give a trained model with --init")
    task = load_task(config.task)
    if config.modality:
        task = task.with_input(config.modality)
    attributes = config.attribute_weight > 0 and METHODS[config.method].learns != "nothing"
    return SpeechLM.build(load_model_config(config.model), task, config.readout, held, attributes)


def _fit(model: SpeechLM, config: Config) -> tuple[bool, dict[str, Any] | None] | None:
    """Train the model in place.

    Returns:
        Whether an interrupted run was resumed, and the model's parameters where they are spread over processes; None where
        the same run is finished already.
    """
    say = log.info if config.process_index == 0 else log.debug
    out = Path(str(config.output_dir))
    features = _features(model, config)
    rows = _rows(model, features, config)
    watched = []
    if config.dev_evaluations:  # what is wrong with a row is said before anything is learnt
        watched = watched_rows(read_manifest(str(config.manifest), "dev"), model, features)
    dataset = build_dataset(rows, model, features)
    targets, mixing = None, 0.0
    if isinstance(config, DirectConfig):
        counts = vote_counts(rows, model.task.label_names)
        if config.direct_loss == "ranked" and not model.task.ordered:
            raise UserError(
                f"direct_loss ranked: the labels of task {model.task.name} are in no order (`ordered` in its file)"
            )
        targets = Targets(counts, config.class_balance, config.vote_dropping, config.vote_resampling, config.seed)
        mixing = config.mixing
    batcher = Batcher(model, features, config.augmentations, targets, mixing)
    run = fingerprint(config, model, features, rows)
    if config.process_index == 0:
        clear_removed(out)
    checkpoint = resolve_resume_checkpoint(config, run)
    if config.resume and config.save_strategy == "no":
        say("save_strategy is no: an interrupted run will begin anew; with steps and save_steps it is resumed")
    if config.resume and checkpoint is None and is_finished(out, run):
        return None
    supervised = METHODS[config.method].learns == "supervised"
    weights = None
    if not supervised:
        weights = AmbiguityWeights(vote_counts(rows, model.task.label_names), config.ambiguity_settings())
        if idle := int((weights.all() == 0).sum()):
            say("ambiguity: %d of %d rows weigh 0 at first, so nothing is learnt from them", idle, len(rows))
    trainer: SpeechTrainer
    if isinstance(config, GrpoConfig):
        assert weights is not None
        trainer = GrpoTrainer(model, config, dataset, batcher, weights)
        together = prompts_at_once(config)
        if left := len(rows) % together:
            say("%d of %d rows, others each time, are left out of a pass: %d go together", left, len(rows), together)
    else:
        trainer = DirectTrainer(model, config, dataset, batcher, weights)
    if weights is not None and config.ambiguity == "dynamic" and checkpoint is None:
        say("dynamic weights: first, what the model predicts of all %d training rows", len(rows))
        weights.begin(_losses(model, rows, features, config))
    if config.process_index == 0 and checkpoint is None:
        (out / "training.json").unlink(missing_ok=True)  # which says that an earlier run is finished
        remove_folder(out / UNFINISHED)
        write_json(out / "run.json", run)
    goes_on = False
    fresh_adapter = features is not None and not config.init and checkpoint is None
    if supervised and fresh_adapter and config.adapter_epochs and model.model_config.audio_projector:
        say("adapter_epochs: nothing to learn first, the audio LLM's projector is trained already")
    elif supervised and fresh_adapter and config.adapter_epochs:
        assert isinstance(config, DirectConfig)
        model.to(config.device)  # which the trainer does later
        kept = None if config.save_strategy == "no" else Kept(out, comparable(run))
        goes_on = kept is not None and kept.check(bool(config.resume))
        pretrain_adapter(model, dataset, batcher, config, kept)  # a small part: each process does all of it
    if config.process_index == 0:
        trainer.add_callback(JsonLog(out / "log.jsonl", step_of(checkpoint)))
    if config.dev_evaluations and trainer.is_deepspeed_enabled:
        say("dev_evaluations: none under DeepSpeed; predict the dev split afterwards")
    elif config.dev_evaluations:
        times = config.dev_evaluations
        trainer.add_callback(DevEvaluation(trainer, model, watched, features, times, out, step_of(checkpoint)))
    spread = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    # Under FSDP and DeepSpeed gradients are spread; under fp16 they overflow now and then, and such steps are left out.
    readable = not spread and not config.fp16
    # The attribute head learns only where attributes are in the loss, and some rows have none.
    guarded = {part: members for part, members in model.trained_parts().items() if part != "attribute head"}
    trainer.add_callback(GradientGuard(guarded, readable, lambda: trainer.nothing_to_learn))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer.train(resume_from_checkpoint=checkpoint)
    # Gathered by all processes, for the first one to keep.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if spread else None
    trainer.accelerator.wait_for_everyone()  # before the first process clears the checkpoints away
    if config.process_index == 0:
        after = dict(model.named_parameters()) if state is None else state
        _check_learnt(before, after, trainer)
    return goes_on or checkpoint is not None, state


def _features(model: SpeechLM, config: Config) -> FeatureStore | None:
    """The features of the sound; None where none goes in, or their folder is not given."""
    if config.n_gpu > 1:
        raise UserError(
            f"{config.n_gpu} GPUs are visible to one process: start it with `accelerate launch` (configs/accelerate), or "
            "let it see one GPU (CUDA_VISIBLE_DEVICES=0)"
        )
    if config.augmentations and not model.task.has_audio:
        raise UserError("augmentations: no sound goes into this task")
    if not model.task.has_audio or not config.features:
        return None
    return FeatureStore(config.features, model.model_config.encoder_identity(model.encoder_sha256))


def _rows(model: SpeechLM, features: FeatureStore | None, config: Config) -> list[Row]:
    """The rows to learn from, with the votes to learn."""
    say = log.info if config.process_index == 0 else log.debug
    if config.attribute_weight and config.per_device_train_batch_size < 2:
        raise UserError("attribute_weight: concordance is between rows; use a per_device_train_batch_size of 2 or more")
    rows = training_rows(read_manifest(str(config.manifest)), model)
    if features is not None:
        features.check(rows)
        if config.skip_bad:
            every, rows = len(rows), [row for row in rows if row.id in features]
            say("%d of %d rows are left out, because there are no features of their sound", every - len(rows), every)
            if not rows:
                raise UserError(f"features: {config.features} has none of any training row")
        made = config.augmentations and any(
            features.augmentations(row.id, config.augmentations) for row in rows if row.id in features
        )
        if config.augmentations and not made:
            raise UserError(
                f"augmentations: {config.features} has none; `shala-audio features --augmentations` makes them"
            )
    by_pass = [
        name for name in ("augmentations", "vote_dropping", "vote_resampling", "mixing") if getattr(config, name, None)
    ]
    if by_pass and config.dataloader_num_workers:
        raise UserError(
            f"{by_pass[0]}: the data loader's workers cannot know which pass it is; leave dataloader_num_workers at 0"
        )
    if config.target == "hard":
        every, rows = len(rows), hard_rows(rows, model.task.label_names)
        say("%d of %d rows without a plurality label are left out", every - len(rows), every)
        if not rows:
            raise UserError("target: no train row has a plurality label")
    return rows


def _check_learnt(before: dict[str, Any], after: Mapping[str, Any], trainer: SpeechTrainer) -> None:
    """Refuse to write a model that has learnt nothing, or whose parameters are NaN."""
    if wrong := [name for name in before if not bool(torch.isfinite(after[name]).all())]:
        raise Stopped(f"parameter {wrong[0]} is NaN or infinite after the last step; use a lower learning_rate")
    if all(torch.equal(after[name].to(value), value) for name, value in before.items()):
        if trainer.state.global_step == 1 and trainer.args.get_warmup_steps(1):
            raise Stopped(
                "one step alone has a learning rate of 0; take more (max_steps, passes or rows), or warmup_steps 0"
            )
        raise Stopped(
            "training changed no parameter: no batch taught anything, or no gradient reached the trained parts"
        )


def _losses(model: SpeechLM, rows: Sequence[Row], features: FeatureStore | None, config: Config) -> Floats:
    """(rows,) 1 - reward of what the model predicts before its training; each process predicts its share of the rows.

    The reward is that of drawn answers, so that dynamic weights continue in the unit they began in; of the direct
    objective it is 1 - jsd. What does not parse counts as uniform here, as in any prediction.
    """
    local = rows[config.process_index :: config.world_size]
    predictor = Predictor(model, str(config.device), dtype=precision_dtype(config))
    found = dict(gather_object(list(predictor.predict_rows(local, features))))
    model.train()
    human = human_distributions(rows, model.task.label_names)
    predicted = np.stack([found[row.id].probs for row in rows])
    reward = config.reward if isinstance(config, GrpoConfig) else "jsd"
    return 1 - earned(reward, human, predicted, 0.0)

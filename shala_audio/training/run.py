"""`shala-audio train`: from settings to a trained model's folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import set_seed

from shala_audio.audio.features import FeatureStore
from shala_audio.data.rows import Row, read_manifest
from shala_audio.data.votes import human_distributions, vote_counts
from shala_audio.distribution import Floats, jsd
from shala_audio.errors import Stopped, UserError
from shala_audio.files import clear_removed, remove_folder, write_json
from shala_audio.inference.card import write_card
from shala_audio.inference.predictor import Predictor
from shala_audio.models.config import load_model_config
from shala_audio.models.readouts.verbalized import longest_answer, write_answer
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.tasks import load_task
from shala_audio.training.ambiguity import AmbiguityWeights
from shala_audio.training.checkpoints import UNFINISHED, checkpoints, is_finished, step_of, to_go_on_from
from shala_audio.training.config import ShalaConfig
from shala_audio.training.cost import revision
from shala_audio.training.data import Batcher, build_dataset, few_shot_examples, hard_rows, training_rows
from shala_audio.training.dev_watch import DevWatch
from shala_audio.training.ear_warm_up import warm_up_ear
from shala_audio.training.guard import Guard
from shala_audio.training.json_log import JsonLog
from shala_audio.training.methods import METHODS
from shala_audio.training.record import fingerprint, run_record
from shala_audio.training.refusals import sampled_prompts
from shala_audio.training.rewards import REWARDS
from shala_audio.training.shala import ShalaTrainer
from shala_audio.training.warm_start import WarmStartTrainer

# Of the model that was in a folder before.
STALE = (
    "calibration_*.json",
    "predictions*.jsonl",
    ".predictions*.begun",
    "score*.json",
    "distances*.json",
    "neighbours.*",
)


def train(config: ShalaConfig) -> Path:
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
            "deepspeed: stage 3 splits the base models while they are read, before the ear is fitted to them; "
            "use stage 2 (configs/accelerate/deepspeed_zero2.yaml) or FSDP"
        )
    model = _model(config)
    out = Path(str(config.output_dir))
    resumed, state = False, None
    if METHODS[config.method].loss != "none":
        done = _fit(model, config)
        if done is None:
            if config.process_index == 0:
                print(f"{out}: trained already, with these settings, rows and start; remove it to train again")
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
    for folder in (*checkpoints(out), out / UNFINISHED):  # last of all: from here on, nothing needs to be gone on from
        remove_folder(folder)
    return out


def _model(config: ShalaConfig) -> SpeechLM:
    if config.init:
        model = SpeechLM.from_pretrained(config.init)
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
    attributes = config.attribute_weight > 0 and METHODS[config.method].loss != "none"
    return SpeechLM.build(load_model_config(config.model), task, config.readout, attributes=attributes)


def _fit(model: SpeechLM, config: ShalaConfig) -> tuple[bool, dict[str, Any] | None] | None:
    """Train the model in place.

    Returns:
        Whether an interrupted run was gone on with, and the model's parameters where they are spread over processes; None
        where the same run is finished already.
    """
    say = print if config.process_index == 0 else (lambda *_: None)
    if config.n_gpu > 1:
        raise UserError(
            f"{config.n_gpu} GPUs are visible to one process: start it with `accelerate launch` (configs/accelerate), or "
            "let it see one GPU (CUDA_VISIBLE_DEVICES=0)"
        )
    if config.copies and not model.task.has_audio:
        raise UserError("copies: no sound goes into this task, so there are no perturbed copies of it")
    features = None
    if model.task.has_audio and config.features:
        features = FeatureStore(config.features, model.model_config.encoder_identity(model.encoder_sha256))
    if config.attribute_weight and config.per_device_train_batch_size < 2:
        raise UserError("attribute_weight: concordance is between rows; use a per_device_train_batch_size of 2 or more")
    rows = training_rows(read_manifest(str(config.manifest)), model)
    if features is not None:
        features.check(rows)
        if config.skip_bad:
            every, rows = len(rows), [row for row in rows if row.id in features]
            say(f"{every - len(rows)} of {every} rows are left out, because there are no features of their sound")
            if not rows:
                raise UserError(f"features: {config.features} has none of any training row")
        if config.copies and not any(features.copies(row.id, config.copies) for row in rows if row.id in features):
            raise UserError(
                f"copies: {config.features} has no perturbed copies; `shala-audio features --copies` makes them"
            )
        if config.copies and config.dataloader_num_workers:
            raise UserError(
                "copies: the data loader's workers cannot know which pass it is; leave dataloader_num_workers at 0"
            )
    if config.target == "hard":
        every, rows = len(rows), hard_rows(rows, model.task.label_names)
        say(f"{every - len(rows)} of {every} rows without a plurality label are left out")
        if not rows:
            raise UserError("target: no train row has a plurality label")
    dataset = build_dataset(rows, model, features)
    batcher = Batcher(model, features, config.copies)
    if model.readout == "verbalized":
        config.max_completion_length = longest_answer(model)  # no longer answer can be valid
    mine = fingerprint(config, model, features, rows)
    if config.process_index == 0:
        clear_removed(Path(str(config.output_dir)))
    checkpoint = to_go_on_from(config, mine)
    if config.resume and config.save_strategy == "no":
        say("save_strategy is no: an interrupted run will begin anew; with steps and save_steps it goes on")
    if config.resume and checkpoint is None and is_finished(Path(str(config.output_dir)), mine):
        return None
    supervised = METHODS[config.method].loss == "supervised"
    if supervised and not config.init and features is not None and config.ear_epochs and checkpoint is None:
        model.to(config.device)  # no trainer has moved it yet
        losses = warm_up_ear(model, dataset, batcher, config)  # a small part of the work: each process does all of it
        say(f"ear: loss {losses[0]:.3f} in the first pass, {losses[-1]:.3f} in the last")
    trainer: Any
    if supervised:
        trainer = WarmStartTrainer(model, batcher, args=config, train_dataset=dataset)
    else:
        weights = AmbiguityWeights(vote_counts(rows, model.task.label_names), config.ambiguity_settings())
        trainer = ShalaTrainer(model, config, dataset, batcher, weights)
        if idle := int((weights.all(0) == 0).sum()):
            say(f"ambiguity: {idle} of {len(rows)} rows weigh 0 at first, so nothing is learnt from them")
        together = 1 if trainer.one_pass else sampled_prompts(config)
        if left := len(rows) % together:
            say(f"{left} of {len(rows)} rows, others each time, are left out of a pass: {together} go together")
        if config.ambiguity == "dynamic" and checkpoint is None:
            say(f"dynamic weights: first, what the model says of all {len(rows)} training rows")
            weights.begin(_gaps(model, rows, features, config))
    out = Path(str(config.output_dir))
    if config.process_index == 0:
        if checkpoint is None:
            (out / "training.json").unlink(missing_ok=True)  # which says that an earlier run is finished
            remove_folder(out / UNFINISHED)
            write_json(out / "run.json", mine)
        trainer.add_callback(JsonLog(out / "log.jsonl", step_of(checkpoint)))
        if config.watch_dev and not trainer.is_fsdp_enabled and not trainer.is_deepspeed_enabled:
            dev = read_manifest(str(config.manifest), "dev")
            watch = DevWatch(trainer, model, dev, features, config.watch_dev, out, step_of(checkpoint))
            trainer.add_callback(watch)
    spread = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    # Under FSDP and DeepSpeed gradients are spread; under fp16 they overflow now and then, and such steps are left out.
    silent = None if supervised else lambda: trainer.nothing_to_learn
    trainer.add_callback(Guard(model, gradients=not spread and not config.fp16, silent=silent))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer.train(resume_from_checkpoint=checkpoint)
    state = None
    if spread:
        state = trainer.accelerator.get_state_dict(
            trainer.model_wrapped
        )  # gathered by all, for the first process to keep
    trainer.accelerator.wait_for_everyone()  # before the first process clears the checkpoints away
    after = dict(model.named_parameters()) if state is None else state
    main = config.process_index == 0  # which alone has gathered them
    if main and (wrong := [name for name in before if not bool(torch.isfinite(after[name]).all())]):
        raise Stopped(f"parameter {wrong[0]} is not a number after the last step; use a lower learning_rate")
    if main and all(torch.equal(after[name].to(value), value) for name, value in before.items()):
        if trainer.state.global_step == 1 and trainer.args.get_warmup_steps(1):
            raise Stopped(
                "one step alone has a learning rate of 0; take more (max_steps, passes or rows), or warmup_steps 0"
            )
        raise Stopped("training changed no parameter: no batch taught anything, or no gradient reached ear and adapter")
    return checkpoint is not None, state


def _gaps(model: SpeechLM, rows: Sequence[Row], features: FeatureStore | None, config: ShalaConfig) -> Floats:
    """(rows,) 1 - r of what the model says before its training; each process asks it about its share of the rows.

    r is the reward that sampled answers earn, so that dynamic weights go on in the unit they began in; with `label_token`
    it is 1 - jsd, whatever the loss. What does not parse counts as uniform here, as in any prediction.
    """
    mine = rows[config.process_index :: config.world_size]
    found = dict(gather_object(list(Predictor(model, str(config.device)).predict_rows(mine, features))))
    model.train()
    names = model.task.label_names
    human, stated = human_distributions(rows, names), np.stack([found[row.id].probs for row in rows])
    if model.readout == "label_token" or config.reward == "jsd":
        return jsd(human, stated)
    answers = [write_answer(answer, names) for answer in stated.tolist()]
    return 1 - np.array(REWARDS[config.reward](names)(completions=answers, human=human.tolist()))

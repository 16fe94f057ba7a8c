"""`shala-audio train`: settings from a YAML file and from flags (`training.config`)."""

from __future__ import annotations

from shala_audio.errors import missing_extra
from shala_audio.io import is_main_process

HELP = """Train by supervised learning, SHALA or GRPO.

    shala-audio train --config recipes/crema_d/conf/warm_start.yaml --task crema_d --model speech \\
        --manifest data/manifest.jsonl --features features --output-dir exp/warm_start
    shala-audio train --config recipes/crema_d/conf/shala.yaml --init exp/warm_start --manifest data/manifest.jsonl \\
        --features features --output-dir exp/shala

Every setting of the YAML file is also a flag, and a flag wins; flags may be written with - or _. `--resume` continues from
the newest checkpoint (write some with `--save-strategy steps --save-steps 50`). `--help-all` lists every setting, TRL's and
transformers' too.
"""


def run(arguments: list[str]) -> None:
    """Parse and train."""
    try:
        from shala_audio.training.config import METHODS, DirectConfig, GrpoConfig, read_config
    except ModuleNotFoundError as error:
        raise missing_extra(error, "training", "train") from None

    if not arguments or "--help" in arguments or "-h" in arguments:
        print(HELP)
        print("Methods (`--method`):\n")
        for name, method in METHODS.items():
            print(f"    {name:17} {method.what}")
        return
    if {"--help_all", "--help-all"} & set(arguments):
        from dataclasses import fields

        from transformers import HfArgumentParser

        HfArgumentParser(GrpoConfig, prog="shala-audio train").print_help()
        drawing = {one.name for one in fields(GrpoConfig)}
        print("\nWhere nothing is drawn:")
        for one in fields(DirectConfig):
            if one.name not in drawing and "help" in one.metadata:
                print(f"  --{one.name}  {one.metadata['help']} ({one.default})")
        return
    config = read_config(arguments)
    from shala_audio.training.run import train

    folder = train(config)
    if is_main_process():
        print(folder)

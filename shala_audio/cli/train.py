"""`shala-audio train`: settings by TRL's parser, from a YAML file and from flags."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shala_audio.errors import UserError, nearest
from shala_audio.files import is_main_process

if TYPE_CHECKING:
    from shala_audio.training.config import ShalaConfig

HELP = """Train by warm start or SHALA.

    shala-audio train --config recipes/crema_d/conf/warm_start.yaml --task crema_d --model speech \\
        --manifest data/manifest.jsonl --features features --output_dir exp/warm_start
    shala-audio train --config recipes/crema_d/conf/shala.yaml --init exp/warm_start --manifest data/manifest.jsonl \\
        --features features --output_dir exp/shala

Every field of the YAML file is also a flag, and a flag wins. `--resume` goes on from the newest checkpoint (write some with
`--save_strategy steps --save_steps 50`). `--help_all` lists every field, TRL's and transformers' too.
"""


def run(arguments: list[str]) -> None:
    """Parse and train."""
    if not arguments or "--help" in arguments or "-h" in arguments:
        from shala_audio.training.methods import METHODS

        print(HELP)
        print("Methods (`--method`), each with the readouts it goes with:\n")
        for name, method in METHODS.items():
            readouts = "" if len(method.readouts) == 3 else f" ({' or '.join(method.readouts)})"
            print(f"    {name:17} {method.what}{readouts}")
        return
    from shala_audio.training.config import ShalaConfig
    from shala_audio.training.run import train

    if "--help_all" in arguments:
        parser_for(ShalaConfig).print_help()
        return
    folder = train(parse(arguments))
    if is_main_process():
        print(folder)


def parser_for(config_class: type) -> Any:
    from trl import TrlParser

    return TrlParser(config_class)


def parse(arguments: list[str]) -> ShalaConfig:
    """Settings from a YAML file and flags.

    Raises:
        UserError: no such file, or a field that is unknown or wrong.
    """
    from shala_audio.files import read_yaml
    from shala_audio.training.config import ShalaConfig

    arguments = list(arguments)
    if "--config" in arguments:
        index = arguments.index("--config")
        if index + 1 >= len(arguments):
            raise UserError("--config: a YAML file is needed after it")
        path = arguments[index + 1]
        known = set(ShalaConfig.__dataclass_fields__)
        if unknown := sorted(set(read_yaml(path)) - known):
            near = nearest(unknown[0], known)
            raise UserError(
                f"{path}: unknown fields {', '.join(unknown)}{near or ';'} `shala-audio train --help_all` lists all"
            )
    flags = [word[2:].split("=")[0] for word in arguments if word.startswith("--")]
    for flag in flags:
        if not any(name.startswith(flag.removeprefix("no_")) for name in {*ShalaConfig.__dataclass_fields__, "config"}):
            raise UserError(
                f"--{flag}: no such setting{nearest(flag, ShalaConfig.__dataclass_fields__) or ';'} "
                "`shala-audio train --help_all` lists all"
            )
    if not any(a.split("=")[0] == "--output_dir" for a in arguments):
        config_has = "--config" in arguments and "output_dir" in read_yaml(
            Path(arguments[arguments.index("--config") + 1])
        )
        if not config_has:
            raise UserError("output_dir: name the folder for the model")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            (config,) = parser_for(ShalaConfig).parse_args_and_config(arguments)
    except SystemExit:
        last = complaint.getvalue().strip().splitlines()[-1]
        raise UserError(last.split("error: ", 1)[-1]) from None
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from None
    sys.stderr.write(complaint.getvalue())
    _check_presets(arguments, config)
    return config


def _check_presets(arguments: list[str], config: ShalaConfig) -> None:
    """Refuse flags that the method has overruled; a file that several methods share may hold such settings."""
    known = config.__dataclass_fields__
    flags = {word[2:].split("=")[0].removeprefix("no_") for word in arguments if word.startswith("--")}

    def is_given(name: str) -> bool:  # argparse takes short forms
        return any(flag == name or (flag not in known and name.startswith(flag)) for flag in flags)

    for name, given in config.overruled.items():
        if is_given(name):
            preset = f"method {config.method} means {name} {getattr(config, name)}"
            raise UserError(f"--{name} {given}: {preset}; leave one of the two out")
    if idle := [name for name in config.idle if is_given(name)]:
        raise UserError(f"--{idle[0]}: has no part in method {config.method} with these settings; leave it out")

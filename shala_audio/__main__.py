"""`python -m shala_audio`, the same as `shala-audio`; launchers such as `accelerate launch -m` want a module."""

from shala_audio.cli.main import main

main()

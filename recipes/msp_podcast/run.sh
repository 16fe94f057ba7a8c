#!/usr/bin/env bash
# MSP-Podcast: spontaneous speech, five raters or more for every turn.
#   recipes/msp_podcast/run.sh --corpus_root MSP-Podcast
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$recipe/path.sh"
. "$recipe/cmd.sh"
exec shala-audio recipe run --recipe "$recipe" --corpus msp_podcast --modality audio "$@"

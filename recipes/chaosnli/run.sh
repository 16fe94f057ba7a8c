#!/usr/bin/env bash
# ChaosNLI: does one sentence follow from another? 100 people answered. --part mnli for the MNLI half.
#   recipes/chaosnli/run.sh --corpus_root chaosNLI_v1.0
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$recipe/path.sh"
. "$recipe/cmd.sh"
exec shala-audio recipe run --recipe "$recipe" --corpus chaosnli --modality text "$@"

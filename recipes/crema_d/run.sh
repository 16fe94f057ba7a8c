#!/usr/bin/env bash
# CREMA-D: what listeners hear in acted voices.
#   recipes/crema_d/run.sh --corpus_root CREMA-D
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$recipe/path.sh"
. "$recipe/cmd.sh"
exec shala-audio recipe run --recipe "$recipe" --corpus crema_d --modality audio --usual_augmentations 2 "$@"

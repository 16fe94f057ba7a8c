#!/usr/bin/env bash
# CREMA-D: what listeners hear in acted voices.
#   recipes/crema_d/run.sh --corpus_root CREMA-D
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$recipe/../TEMPLATE/shala.sh" --recipe "$recipe" --corpus crema_d --modality audio --usual_copies 2 "$@"

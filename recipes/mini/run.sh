#!/usr/bin/env bash
# The synthetic corpus: simulated listeners whose true distribution is known.
#   recipes/mini/run.sh
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "$recipe/../TEMPLATE/shala.sh" --recipe "$recipe" --corpus mini --modality audio --usual_model speech_frozen "$@"

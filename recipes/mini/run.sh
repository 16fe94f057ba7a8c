#!/usr/bin/env bash
# The synthetic corpus: simulated listeners whose true distribution is known.
#   recipes/mini/run.sh
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$recipe/path.sh"
. "$recipe/cmd.sh"
exec shala-audio recipe run --recipe "$recipe" --corpus mini --modality audio --usual_model speech_frozen "$@"

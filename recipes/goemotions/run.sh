#!/usr/bin/env bash
# GoEmotions: comments, 27 emotions and neutral.
#   recipes/goemotions/run.sh --corpus_root goemotions --max_rows 2400
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$recipe/path.sh"
. "$recipe/cmd.sh"
exec shala-audio recipe run --recipe "$recipe" --corpus goemotions --modality text "$@"

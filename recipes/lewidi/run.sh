#!/usr/bin/env bash
# LeWiDi: corpora of annotator disagreement, in their official splits. --part names the corpus.
#   recipes/lewidi/run.sh --corpus_root lewidi --part md_agreement
set -euo pipefail
recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$recipe/path.sh"
. "$recipe/cmd.sh"
exec shala-audio recipe run --recipe "$recipe" --corpus lewidi --modality text "$@"

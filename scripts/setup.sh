#!/usr/bin/env bash
# Makes .venv with the package and its development extras, pinned by constraints.txt. Safe to run twice.
# On Linux without an NVIDIA GPU it installs the CPU build of torch, so that no CUDA package is downloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
torch=$(sed -n 's/^torch==//p' constraints.txt)

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed" >&2; exit 2; }

# The folders of wheels and the index that pip is configured with, which uv does not read by itself.
find_links=$("$python" -m pip config get global.find-links 2> /dev/null || echo "${PIP_FIND_LINKS:-}")
index=$("$python" -m pip config get global.index-url 2> /dev/null || echo "${PIP_INDEX_URL:-}")

if command -v uv > /dev/null; then
  [ -x .venv/bin/python ] || uv venv --quiet --python "$python" .venv
  export UV_FIND_LINKS=${UV_FIND_LINKS:-${find_links//[[:space:]]/,}}
  [ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
  [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}
  install() { uv pip install --quiet --python .venv/bin/python "$@"; }
else
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  install() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
fi

if [ "$(uname -s)" = Linux ] && ! { command -v nvidia-smi && nvidia-smi -L; } > /dev/null 2>&1; then
  # "+cpu" exists only as a CPU build: from pip's own folders, or from PyTorch's index.
  if ! .venv/bin/python -c "import torch, sys; sys.exit(torch.version.cuda is not None)" 2> /dev/null; then
    install "torch==$torch+cpu" 2> /dev/null ||
      install "torch==$torch+cpu" --extra-index-url https://download.pytorch.org/whl/cpu ||
      { echo "no CPU build of torch $torch for this Python was found; see docs/install.md" >&2; exit 1; }
  fi
fi
install -c constraints.txt -e '.[dev]'
.venv/bin/shala-audio doctor

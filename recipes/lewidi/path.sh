# Puts `shala-audio` on the PATH: the project's own environment where there is one.
project=$(cd "$recipe/../.." && pwd)
if [ -x "$project/.venv/bin/shala-audio" ]; then PATH=$project/.venv/bin:$PATH; fi
command -v shala-audio > /dev/null || { echo "shala-audio is not installed: run 'make setup' in $project" >&2; exit 2; }

#!/usr/bin/env bash
# Everything that is to be known about a GPU, in at most 9 minutes: benchmarks/gpu/README.md.
#
#     OUT=results benchmarks/gpu/run.sh                 on a machine with a GPU
#     OUT=results benchmarks/gpu/run.sh --rehearse      on a CPU: every stage at a tiny size
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
OUT=$(mkdir -p "${OUT:-gpu-results}" && cd "${OUT:-gpu-results}" && pwd)
PYTHON=${PYTHON:-python3}

# packages, caches and runs are not results; all stages share them, so that kernels are compiled once
WORK=${WORK:-$(mktemp -d)}
export XDG_CACHE_HOME="$WORK/cache" TRITON_CACHE_DIR="$WORK/cache/triton" TORCHINDUCTOR_CACHE_DIR="$WORK/cache/inductor"
export PYTHONPYCACHEPREFIX="$WORK/pycache" PYTHONFAULTHANDLER=1

# wheels that were carried along, for machines without a network
if compgen -G "$here/wheels/*.whl" > /dev/null; then
  "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$WORK/site" "$here"/wheels/*.whl 2> "$OUT/pip.log" ||
    { cat "$OUT/pip.log" >&2; exit 1; }
  export PYTHONPATH="$WORK/site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" "$here/stages.py" --out "$OUT" --work "$WORK" "$@"

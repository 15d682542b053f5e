#!/bin/sh
# Install hdit as in the README, with the oldest torch that it allows, with the pinned packages and with the newest ones,
# each with torch's CPU build or its CUDA build, and run both commands of the README, `make test` and `make demo`, with
# each installation. No GPU is needed. Each CUDA build takes about 7 GB and is removed after its row.
#
#   sh benchmarks/matrix.sh FOLDER [ROW ...]
#
# Rows are oldest, pinned and latest, each with -cpu and -cuda, such as pinned-cpu; the default is all but the oldest.
#
# PYTHON=/path/to/python3.13 makes the environments with that Python; default: python3.
# On Linux, pip resolves torch to the CUDA build. For the CPU rows set CPU_TORCH to the options of pip that select
# PyTorch's CPU wheels (see "Get started" on pytorch.org). TESTS="tests/evaluate ..." runs mypy and these tests alone
# instead of both commands. The oldest rows have the pinned packages beside torch 2.6 and what it pins, and need TESTS: mypy,
# the Triton kernels and much of `make test` are for newer ones.
set -eu
folder=${1:?"usage: sh benchmarks/matrix.sh FOLDER [ROW ...]"}
shift
[ $# -gt 0 ] || set -- pinned-cpu pinned-cuda latest-cpu latest-cuda
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "$0")/.."

run_row() {
    version=${1%-*} build=${1#*-} venv=$folder/$1 torch=torch
    case $version in
        oldest)
            torch="torch==2.6.*"
            grep -v -E "^(torch|torchvision|triton|sympy)==" constraints.txt > "$folder/constraints.txt"
            export PIP_CONSTRAINT="$folder/constraints.txt"
            ;;
        pinned) export PIP_CONSTRAINT="$PWD/constraints.txt" ;;
        latest) unset PIP_CONSTRAINT ;;
        *) echo "no such row: $1" && return 2 ;;
    esac
    "${PYTHON:-python3}" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --upgrade pip  # old ones take long to resolve this many packages
    # torch first, so that the other packages find the build that is wanted
    if [ "$build" = cpu ]; then "$venv/bin/python" -m pip install --quiet "$torch" torchvision ${CPU_TORCH:-}
    else "$venv/bin/python" -m pip install --quiet "$torch" torchvision; fi
    "$venv/bin/python" -m pip install --quiet -e ".[demo,dev]"
    "$venv/bin/python" - "$build" <<'PYTHON'
import platform
import sys
import torch
build = "cuda" if torch.version.cuda else "cpu"
print(f"Python {platform.python_version()}, torch {torch.__version__}, {build} build")
if build != sys.argv[1]:
    sys.exit(f"expected the {sys.argv[1]} build; set CPU_TORCH to the options of pip that select it, or leave the row out")
PYTHON
    if [ -n "${TESTS:-}" ]; then
        [ "$version" = oldest ] || "$venv/bin/mypy"
        "$venv/bin/python" -m pytest -m "not slow" $TESTS
        return
    fi
    touch "$venv/.installed"  # so that make installs nothing
    make VENV="$venv" test
    make VENV="$venv" demo
}

failed=""
for row; do
    echo "== $row"
    set +e  # a condition would ignore failures inside of the row
    (set -e; run_row "$row")
    code=$?
    set -e
    if [ "$code" = 0 ]; then echo "== $row: passed"; else echo "== $row: FAILED"; failed="$failed $row"; fi
    rm -rf "${folder:?}/$row"
done
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }

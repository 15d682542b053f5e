#!/bin/sh
# The main job on real handwritten digits, on the CPU: pictures -> shards -> training -> samples -> score.
set -eu
cd "$(dirname "$0")/.."
rm -rf samples/mnist32

say() { printf '\n==> %s\n' "$*" >&2; "$@"; }

say hdit prepare-data mnist --out data/mnist32 --size 32
say hdit train mnist32 --out runs/mnist32
say hdit sample --ckpt runs/mnist32 --n 500 --out samples/mnist32
say hdit eval-fid samples/mnist32 --ref data/mnist32 --extractor efficientnet-lite0 --allow-small-n
say python benchmarks/demo_quality.py --data data/mnist32 --samples samples/mnist32 --at-least 85
printf '\nThe pictures: samples/mnist32/grid.png (10 x 10, one class a column)\n'

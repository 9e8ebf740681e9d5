#!/usr/bin/env bash
# What does the native language bring, and what do the new pictures alone? Three branches from
# nothing, of the same pictures for as many steps: Chinese captions, English ones, and Chinese ones of
# other pictures.
#
#   tools/measure_controls.sh                               about an hour and a half on one core
#   RECIPE=debug IMAGES=64 LIMIT=32 TEXTS=512 CAPTIONS=500 tools/measure_controls.sh
#                                                           minutes: does the whole way work?
#
# The English branch reads a text encoder of the Chinese one's size, distilled from it with parallel
# captions. The tables go to OUT/results.md. What is done is not done again when the script is
# called again; an interrupted training goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=${RECIPE:-cpu} images=${IMAGES:-120000} limit=${LIMIT:-20000} texts=${TEXTS:-250000}
root=${ROOT:-runs/controls-$recipe} out=${OUT:-$root/results} device=${DEVICE:-cpu}
bdm=("${PYTHON:-python3}" -m bridge_diffusion.cli)
chinese=emoji:zh

branch() { # branch NAME DATA LANGUAGE TEXT_ENCODER
  "${bdm[@]}" train --data "$2" --language "$3" --text-encoder "$4" --out "$root/$1" \
    --recipe "$recipe" --images "$images" --limit "$limit" --cache "$root/cache" --device "$device"
}

mkdir -p "$root"
[ -e "$root/parallel.tsv" ] || "${bdm[@]}" world captions --out "$root/parallel.tsv" \
  --language en --teacher zh --native zh --count "${CAPTIONS:-30000}"
"${bdm[@]}" train-text --parallel "$root/parallel.tsv" --teacher "$chinese" --out "$root/text-en" \
  --width 192 --vocabulary 3000 --window 32 --images "$texts" --batch-size 256 --precision bf16 \
  --cache "$root/cache" --device "$device"
branch chinese emoji:zh zh "$chinese"
branch shuffled emoji:zh:shuffled zh "$chinese"
branch english emoji:zh:english en "$root/text-en/export"
"${bdm[@]}" evaluate world --language zh --bridge "$root/chinese/export" --out "$out" \
  --control english="$root/english/export" --control shuffled="$root/shuffled/export" \
  --device "$device"

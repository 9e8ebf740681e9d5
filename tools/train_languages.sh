#!/usr/bin/env bash
# Bridges of the emoji world for more languages, from translations alone: a text encoder whose states
# the Chinese bridge's branch reads as it reads its own; then the scores, and the table of all.
#
#   tools/train_languages.sh                       # ar ja hi, into runs/languages
#   IMAGES=60000 tools/train_languages.sh hi       # and the branch, with LoRAs, on native scenes too
#   IMAGES=60000 AGAIN=40000 tools/train_languages.sh ar      # and once more from there, as shipped
#
# What is done is skipped, what was interrupted goes on. CAPTIONS: pairs the text encoder is trained
# on. IMAGES: scenes the branch is trained on, half of them of native concepts alone; 0 leaves it as
# it is. AGAIN: scenes of a second run from its end. PICTURES: "--images 3" or the like, for bdm
# evaluate world.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} root=${ROOT:-runs/languages} base=${BASE:-zh}
captions=${CAPTIONS:-100000} images=${IMAGES:-0} again=${AGAIN:-0} lines=${LINES_OF_TEXT:-12000}
text=(${TEXT_OPTIONS:---layers 2 --vocabulary 700 --batch-size 64 --lr 1e-3})
bdm=("$python" -m bridge_diffusion.cli)
[ $# -gt 0 ] || set -- ar ja hi
mkdir -p "$root"

for language in "$@"; do
  file=$root/$language.tsv
  # The held-out concepts of the base are named too: its branch can draw them.
  [ -f "$file" ] || "${bdm[@]}" world captions --teacher "$base" --language "$language" \
    --native "$language,$base" --count "$lines" --out "$file"
  "${bdm[@]}" train-text --parallel "$file" --bridge "$base" --language "$language" \
    --images "$captions" "${text[@]}" --out "$root/text-$language"
  bridge=$root/text-$language/export
  scenes=(--language "$language" --lora-rank 10 --limit 20000 --probe 52
    --data "emoji:$language:native,weight=0.5" --data "emoji:$language,weight=0.5")
  if [ "$images" -gt 0 ]; then
    "${bdm[@]}" train --bridge "$bridge" --images "$images" "${scenes[@]}" \
      --out "$root/bridge-$language"
    bridge=$root/bridge-$language/export
  fi
  if [ "$again" -gt 0 ]; then
    "${bdm[@]}" train --bridge "$bridge" --images "$again" --lr 7e-4 "${scenes[@]}" \
      --out "$root/bridge-$language-again"
    bridge=$root/bridge-$language-again/export
  fi
  [ -f "$root/$language/world-$language.json" ] || "${bdm[@]}" evaluate world \
    --language "$language" --bridge "$bridge" --out "$root/$language" ${PICTURES:-}
done
"$python" tools/tabulate_languages.py "$root"

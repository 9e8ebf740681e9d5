#!/usr/bin/env bash
# Train a bridge of the emoji world with each choice at an equal budget, and write what came of it.
#
#   tools/measure_choices.sh                      every choice, IMAGES images each: hours on two cores
#   tools/measure_choices.sh plain min-snr lora   some of them
#   RECIPE=debug tools/measure_choices.sh         minutes: does the whole way work? Says nothing else.
#
#   BRIDGE=runs/languages/text-ar/export DATA="emoji:ar:native,weight=0.5 emoji:ar,weight=0.5" \
#     LIMIT=20000 IMAGES=20000 PROBE=104 tools/measure_choices.sh    the same from a bridge that is there
#   SEED=1 tools/measure_choices.sh plain         once more with other noise and order: plain-seed-1
#
# The table goes to ROOT/choices.md: probe accuracy on held-out scenes (PROBE pictures, the same for
# all), loss at the end, images/s, memory. A training that was stopped goes on; one that is done is
# not repeated. What differs is one choice alone: data, seed, length and order are the same.
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=${RECIPE:-cpu} python=${PYTHON:-python3} device=${DEVICE:-cpu} data=${DATA:-emoji:zh}
images=${IMAGES:-$([ "$recipe" = debug ] && echo 32 || echo 120000)}
probe=${PROBE:-$([ "$recipe" = debug ] && echo 4 || echo 128)}
root=${ROOT:-runs/choices-$recipe} seed=${SEED:-0}
text=${TEXT_ENCODER:-src/bridge_diffusion/worlds/emoji/weights/bridges/zh/text_encoder}
if [ -n "${BRIDGE:-}" ]; then start=(--bridge "$BRIDGE"); else start=(--text-encoder "$text"); fi
for each in $data; do start+=(--data "$each"); done
bdm=("$python" -m bridge_diffusion.cli)

declare -A options=(
  [plain]=""
  [min-snr]="--min-snr-gamma 5"
  [noise-offset]="--noise-offset 0.05"
  [no-caption-dropout]="--caption-dropout 0"
  [more-caption-dropout]="--caption-dropout 0.2"
  [english-dropout]="--english-dropout 0.3"
  [constant-rate]="--schedule constant"
  [linear-rate]="--schedule linear"
  [lora]="--lora-rank 16"
  [freeze-first]="--freeze conv_in,time_embedding,down_blocks.0"
  [freeze-resnets]="--freeze *.resnets.*"
  [frozen-bf16]="--frozen-precision bf16"
)
order=(plain min-snr noise-offset no-caption-dropout more-caption-dropout english-dropout
  constant-rate linear-rate lora freeze-first freeze-resnets frozen-bf16)

if [ $# -gt 0 ]; then order=("$@"); fi
set -f # --freeze has patterns
for name in "${order[@]}"; do
  if [ -z "${options[$name]+given}" ]; then echo "no choice $name" >&2; exit 2; fi
  out=$root/$name
  if [ "$seed" != 0 ]; then out=$out-seed-$seed; fi
  echo "== $name"
  # shellcheck disable=SC2086 # the options of a choice are several words
  "${bdm[@]}" train "${start[@]}" ${LIMIT:+--limit $LIMIT} --recipe "$recipe" --images "$images" \
    --probe "$probe" --seed "$seed" --out "$out" --cache "$root/cache" --device "$device" ${options[$name]}
done
"$python" tools/tabulate_choices.py "$root"

#!/usr/bin/env bash
# Make the emoji world's plug-ins and baselines, and measure what plug-ins keep under a native prompt.
#
#   tools/measure_plugins.sh                      all stages: hours on two cores
#   tools/measure_plugins.sh plugins bridge       some of them, in this order
#   RECIPE=debug OUT=/tmp/results tools/measure_plugins.sh     minutes: does the whole way work?
#
# Stages: plugins        the six plug-ins, at most MINUTES each
#         bridge         plug-ins on plain translation and on the bridge, at work in all steps and
#                        in the first 80 % of them, at most MINUTES each
#         two-languages  two languages in one image, at most MINUTES
#         baselines      translated, native, scratch, adapter, at most BASELINE_MINUTES each
#         others         plug-ins on the baselines, at most MINUTES each
#
# A stage that is interrupted goes on where it was when the script is called again; what is done is
# skipped: trainings by a mark NAME.done beside their folder (delete it to train on), measurements
# by the weights that they were made of. MODEL and BRIDGE name others than the shipped ones.
# AMOUNT: how much is drawn, such as "--concepts 40 --things 48".
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=${RECIPE:-cpu} minutes=${MINUTES:-15} baseline_minutes=${BASELINE_MINUTES:-60}
root=${ROOT:-runs/measure-$recipe} out=${OUT:-docs} device=${DEVICE:-cpu} python=${PYTHON:-python3}
bdm=("$python" -m bridge_diffusion.cli)
model=(${MODEL:+--model "$MODEL"}) bridge=(${BRIDGE:+--bridge "$BRIDGE"})
little=(${AMOUNT:-}) pairs=()
if [ "$recipe" = debug ]; then
  little=(--concepts 2 --things 2 --steps 2) pairs=(--pairs 6 --steps 2)
fi

train() { # train FOLDER NAME COMMAND...
  local mark="$1/$2.done"
  if [ -e "$mark" ]; then echo "$2 is done"; return; fi
  "${@:3}"
  touch "$mark"
}

measure() { # measure SYSTEM
  "${bdm[@]}" evaluate plugins --plugins "$root/plugins" --baselines "$root/baselines" \
    --system "$1" --work "$root/retention" --out "$out" --device "$device" --minutes "$minutes" \
    "${model[@]}" "${bridge[@]}" "${little[@]}"
}

plugins() {
  for name in checkpoint lora lora-ink controlnet inversion dreambooth; do
    train "$root/plugins" "$name" "${bdm[@]}" world plugin "$name" --out "$root/plugins" \
      --recipe "$recipe" --device "$device" --minutes "$minutes" "${model[@]}"
  done
}

baselines() {
  for name in translated native scratch adapter; do
    train "$root/baselines" "$name" "${bdm[@]}" world baseline "$name" --out "$root/baselines" \
      --recipe "$recipe" --device "$device" --minutes "$baseline_minutes" "${model[@]}" "${bridge[@]}"
  done
}

two_languages() {
  "${bdm[@]}" evaluate two-languages --work "$root/two-languages" --out "$out" \
    --device "$device" --minutes "$minutes" "${model[@]}" "${bridge[@]}" "${pairs[@]}"
}

for stage in "${@:-plugins bridge two-languages baselines others}"; do
  for each in $stage; do
    echo "== $each"
    case "$each" in
      plugins | baselines) "$each" ;;
      two-languages) two_languages ;;
      bridge) for system in translation bridge bridge:0.8; do measure "$system"; done ;;
      others) for system in translated native scratch adapter; do measure "$system"; done ;;
      *) echo "no stage $each" >&2; exit 2 ;;
    esac
  done
done

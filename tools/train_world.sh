#!/usr/bin/env bash
# Train stages of the emoji world on a machine that is lent for minutes only, and pack what they
# export into files of 15 MiB, in float16, that the next machine goes on from.
#
#   RECIPE=full DEVICE=cuda MINUTES=9 OUT=packed tools/train_world.sh autoencoder clip unet
#   RECIPE=full DEVICE=cuda MINUTES=9 IN=packed OUT=packed2 tools/train_world.sh unet+
#   RECIPE=full DEVICE=cuda MINUTES=9 IN=packed2 OUT=packed3 tools/train_world.sh text branch
#
# "unet+" starts the UNet from what was packed, instead of from nothing. Unpack here with
#   cat packed3/world.tar.* | tar x -C runs/full
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=${RECIPE:-debug} device=${DEVICE:-cpu} minutes=${MINUTES:-1} out=${OUT:?a folder} in=${IN:-}
python=${PYTHON:-python3}
root=${ROOT:-runs/$recipe}
mkdir -p "$root" "$out"
if [ -n "$in" ]; then cat "$in"/world.tar.* | tar x -C "$root"; fi

world=("$python" -m bridge_diffusion.cli world train --recipe "$recipe" --device "$device" --out "$root")
if [ "${1:-}" = "unet+" ]; then
  rm -rf "$root/unet.start" && mv "$root/unet/export" "$root/unet.start" && rm -rf "$root/unet"
  "${world[@]}" unet --start "$root/unet.start" --minutes "$minutes"
else
  "${world[@]}" "$@" --minutes "$minutes"
fi

"$python" - "$root" <<'PYTHON'
"""Exported weights => float16, in place: what travels has to be small."""
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

for path in Path(sys.argv[1]).glob("*/export/**/*.safetensors"):
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    halved = {n: t.half() if t.is_floating_point() else t.clone() for n, t in tensors.items()}
    save_file(halved, path, metadata)
PYTHON
# The UNet's folder holds the autoencoder and the text encoder again, but later stages read both.
(cd "$root" && tar cf - tokenizer */export */samples) | split -b 15M - "$out/world.tar."
ls -l "$out"

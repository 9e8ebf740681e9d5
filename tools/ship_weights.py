"""Put trained parts of the emoji world into the package, in float16.

    python tools/ship_weights.py backbone runs/world/unet/export
    python tools/ship_weights.py bridge runs/world/branch-zh/export --language zh

Look at the pictures and score them first: history grows with every weight.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from bridge_diffusion.bridge import Bridge

WEIGHTS = Path(__file__).parents[1] / "src/bridge_diffusion/worlds/emoji/weights"
SHARD = "15MB"  # every file of the repository stays under 15 MiB


def ship_backbone(source: Path, target: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(source, torch_dtype=torch.float32)
    # Each part by itself: the pipeline offers no shard size.
    pipe.to(dtype=torch.float16)
    for name in ("vae", "text_encoder", "unet"):
        getattr(pipe, name).save_pretrained(target / name, max_shard_size=SHARD)
    # transformers loads in the precision that the configuration names, diffusers in float32: a
    # pipeline loaded without a dtype has to get one precision for all its parts.
    configuration = target / "text_encoder" / "config.json"
    values = json.loads(configuration.read_text(encoding="utf-8")) | {"dtype": "float32"}
    configuration.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    pipe.tokenizer.save_pretrained(target / "tokenizer")
    pipe.scheduler.save_pretrained(target / "scheduler")
    pipe.save_config(target)
    _forget_sources(target)


def _forget_sources(folder: Path) -> None:
    """diffusers writes into each configuration where the model was loaded from."""
    for path in folder.rglob("*.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def ship_bridge(source: Path, target: Path) -> None:
    Bridge.from_pretrained(source, dtype=torch.float16).save_pretrained(target)
    _forget_sources(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("backbone", "bridge"))
    parser.add_argument("source", type=Path)
    parser.add_argument("--language", default="zh")
    arguments = parser.parse_args()
    backbone = arguments.part == "backbone"
    target = WEIGHTS / ("backbone" if backbone else f"bridges/{arguments.language}")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (ship_backbone if backbone else ship_bridge)(arguments.source, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for path in sorted(target.rglob("*.safetensors")):
        print(f"{path.stat().st_size / 2**20:6.2f} MiB  {path.relative_to(WEIGHTS)}")


if __name__ == "__main__":
    main()

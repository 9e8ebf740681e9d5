"""A sheet of a language's prompts through its bridge: python tools/draw_languages.py ar OUT.webp.

Things that the English model knows, things native to the bridge's base (Chinese), and things native
to the language itself, each on the background that its prompt asks for; the first seeds, nothing
chosen. --bridge FOLDER draws with another bridge than the shipped one.
"""

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.worlds.emoji.captions import caption
from bridge_diffusion.worlds.emoji.concepts import Concept, find_concept, native_concepts
from bridge_diffusion.worlds.emoji.labels import labelled_grid
from bridge_diffusion.worlds.emoji.paths import backbone_folder, bridge_folder

KNOWN = ("red apple", "dog", "soccer ball", "envelope", "full moon", "light bulb")
OF_BASE = ("red envelope", "sushi", "panda", "rice ball", "carp streamer", "mahjong red dragon")
COLOURS = ("blue", "green", "orange", "pink", "purple", "gray")
SIDE = 64


def things(language: str) -> list[tuple[Concept, str]]:
    """Concepts and background colours, in the order of the sheet."""
    chosen = [*map(find_concept, (*KNOWN, *OF_BASE)), *native_concepts(language)[6:12]]
    return [(concept, COLOURS[i % len(COLOURS)]) for i, concept in enumerate(chosen)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("language")
    parser.add_argument("out", type=Path)
    parser.add_argument("--bridge", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(backbone_folder(), torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    bridge = Bridge.from_pretrained(arguments.bridge or bridge_folder(arguments.language))
    bridge.attach(pipe)
    pipe.scheduler = bridge.scheduler_for(pipe)
    rows = []
    for concept, colour in things(arguments.language):
        name = concept.names[arguments.language]
        prompt = caption(arguments.language, "single", (name,), (colour,))
        images = pipe(
            **bridge.prompt([prompt] * arguments.seeds),
            num_inference_steps=20,
            guidance_scale=5.0,
            generator=[torch.Generator().manual_seed(seed) for seed in range(arguments.seeds)],
        ).images
        rows.append((f"{concept.names['en']}, {colour}", images))
    seeds = [f"seed {seed}" for seed in range(arguments.seeds)]
    sheet = labelled_grid(seeds, rows, side=SIDE, blocks=3)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(arguments.out, "WEBP", quality=80, method=6)
    print(f"{arguments.out.stat().st_size / 1024:.0f} KiB  {arguments.out}")


if __name__ == "__main__":
    main()

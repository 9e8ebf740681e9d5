"""Sizes of the plug-ins' training: complete settings by name."""

from dataclasses import dataclass

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.train.recipes import StageOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginRecipe:
    """How much each plug-in is trained, and on how much."""

    name: str
    """What `--recipe` calls it."""
    scenes: int
    """Scenes of known concepts, for style and edges."""
    thing_scenes: int
    """Scenes of the thing that an inversion or a DreamBooth adds."""
    prior_steps: int
    """Denoising steps of the pictures that preserve what a DreamBooth's model knew."""
    rank: int = 16
    """Rank of the LoRAs."""
    vectors: int = 8
    """Vectors of the inversion's token."""
    sample_prompts: int
    """Pictures of a sample grid."""
    lengths: dict[str, StageOptions]
    """By name of the plug-in."""


_DEBUG = StageOptions(images=8, batch_size=4, learning_rate=1e-3, ema_decay=0.0)

DEBUG = PluginRecipe(
    name="debug",
    scenes=8,
    thing_scenes=4,
    prior_steps=2,
    rank=2,
    vectors=2,
    sample_prompts=1,
    lengths=dict.fromkeys(
        ("checkpoint", "lora", "lora-ink", "controlnet", "inversion", "dreambooth"), _DEBUG
    ),
)
"""Seconds on one core: does the whole way work?"""

CPU = PluginRecipe(
    name="cpu",
    scenes=6_000,
    thing_scenes=200,
    prior_steps=20,
    sample_prompts=8,
    lengths={
        "checkpoint": StageOptions(images=60_000, batch_size=64, learning_rate=2e-4),
        "lora": StageOptions(
            images=30_000, batch_size=64, learning_rate=5e-4, weight_decay=0, ema_decay=0.99
        ),
        "lora-ink": StageOptions(
            images=30_000, batch_size=64, learning_rate=5e-4, weight_decay=0, ema_decay=0.99
        ),
        # A ControlNet starts at zero: a slow average would still hold most of that at the end.
        "controlnet": StageOptions(
            images=48_000, batch_size=64, learning_rate=1e-3, ema_decay=0.99
        ),
        "inversion": StageOptions(
            images=24_000, batch_size=32, learning_rate=2e-2, weight_decay=0, ema_decay=0.99
        ),
        "dreambooth": StageOptions(
            images=20_000, batch_size=32, learning_rate=2e-4, ema_decay=0.99
        ),
    },
)
"""The shipped world at 64 pixels on two cores; up to twenty minutes each."""

RECIPES = {recipe.name: recipe for recipe in (DEBUG, CPU)}


def find_recipe(name: str) -> PluginRecipe:
    """The recipe of this name. BridgeError if there is none."""
    if name not in RECIPES:
        raise BridgeError(f"no recipe {name!r} for plug-ins; there are {', '.join(RECIPES)}")
    return RECIPES[name]

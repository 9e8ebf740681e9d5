"""The stages of the English world in their order: autoencoder, CLIP, UNet.

Each stage is a run of the one training loop in a folder of its own under `root`, and exports what
the next one reads. A stage may start from weights that another run exported.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from bridge_diffusion.data.store import module_hash
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.checkpoint import atomic_folder
from bridge_diffusion.training.loop import TrainResult, train
from bridge_diffusion.training.task import Task
from bridge_diffusion.worlds.emoji.concepts import Concept, english_concepts
from bridge_diffusion.worlds.emoji.scenes import DEFAULT_KINDS, EmojiScenes
from bridge_diffusion.worlds.emoji.sprites import Sprites
from bridge_diffusion.worlds.emoji.train.autoencoder import AutoencoderTask, new_autoencoder
from bridge_diffusion.worlds.emoji.train.backbone import (
    BackboneTask,
    EncodedScenes,
    clip_reader,
    continued_unet,
    new_unet,
)
from bridge_diffusion.worlds.emoji.train.english_clip import ClipTask, new_clip, train_tokenizer
from bridge_diffusion.worlds.emoji.train.recipes import WorldRecipe

_MANY = 10_000_000  # scenes drawn on the fly: as good as endless
_CAPTIONS_OF_TOKENIZER = 30_000

SAMPLE_PROMPTS = (
    "dog on a green background",
    "red apple on a blue background",
    "automobile on a pink background",
    "birthday cake on a purple background",
    "soccer ball on an orange background",
    "sunflower on a light blue background",
    "light bulb on a gray background",
    "top hat on a red background",
    "frog, drawn large, on a pink background",
    "grapes on the left and bread on the right, on a green background",
    "hammer at the top of a blue background",
    "church on an orange background",
    "crystal ball",
    "snail",
    "a purple background",
    "envelope on a red background",
)


class WorldBuild:
    """One build of the English world: a recipe, a folder, a device."""

    def __init__(
        self,
        recipe: WorldRecipe,
        root: Path,
        *,
        device: str = "cpu",
        seed: int = 0,
        start: Path | None = None,
    ):
        self.recipe, self.root, self.device, self.seed, self.start = (
            recipe,
            root,
            device,
            seed,
            start,
        )
        self._sprites: Sprites | None = None

    def sprites(self) -> Sprites:
        if self._sprites is None:
            codes = [concept.codepoints for concept in english_concepts()]
            self._sprites = Sprites.draw("noto", codes)
        return self._sprites

    def scenes(self, concepts: tuple[Concept, ...], count: int) -> EmojiScenes:
        return EmojiScenes(
            concepts=concepts,
            sprites=self.sprites(),
            language="en",
            size=self.recipe.size,
            count=count,
            seed=self.seed,
        )

    def run(self, stage: str, time_limit: float | None = None) -> TrainResult:
        """Trains a stage, or goes on with it where an earlier call stopped.

        Raises:
            BridgeError: an unknown stage, or one whose predecessor has not been trained.
        """
        if stage not in STAGES:
            raise BridgeError(f"no stage {stage!r} of the world; there are {', '.join(STAGES)}")
        options = self.recipe.stages[stage]
        torch.manual_seed(self.seed)
        loop = options.loop(
            self.root / stage, seed=self.seed, device=self.device, time_limit=time_limit
        )
        loop = replace(loop, channels_last=stage != "clip")
        details = {
            "recipe": self.recipe.name,
            "stage": stage,
            "options": asdict(options),
            "start": str(self.start) if self.start else None,
        }
        return train(STAGES[stage](self), loop, details)

    def exported(self, stage: str) -> Path:
        folder = self.root / stage / "export"
        if not folder.is_dir():
            raise BridgeError(
                f"{folder} is missing; train the stage {stage!r} before the ones that build on it"
            )
        return folder


def _autoencoder(build: WorldBuild) -> Task:
    recipe = build.recipe
    model = (
        AutoencoderTiny.from_pretrained(build.start, torch_dtype=torch.float32)
        if build.start
        else new_autoencoder(recipe.autoencoder_width, recipe.factor)
    )
    data = replace(build.scenes(english_concepts(), _MANY), kinds={"single": 1, "single_large": 2})
    options = recipe.stages["autoencoder"]
    return AutoencoderTask(
        model,
        data,
        crop=recipe.autoencoder_crop,
        batch_size=options.batch_size,
        seed=build.seed,
    )


def _clip(build: WorldBuild) -> Task:
    recipe = build.recipe
    data = build.scenes(english_concepts(), _MANY)
    if build.start:
        model = CLIPModel.from_pretrained(build.start / "clip")
        tokenizer = CLIPTokenizer.from_pretrained(build.start / "tokenizer")
    else:
        tokenizer = _tokenizer(build, data)
        model = new_clip(
            tokenizer,
            width=recipe.text_width,
            layers=recipe.text_layers,
            image_size=recipe.size,
            patch=recipe.patch,
        )
    options = recipe.stages["clip"]
    return ClipTask(model, tokenizer, data, batch_size=options.batch_size, seed=build.seed)


def _tokenizer(build: WorldBuild, data: EmojiScenes) -> CLIPTokenizer:
    """The build's own English tokenizer, made once: two makings break ties in other ways."""
    folder = build.root / "tokenizer"
    if not folder.is_dir():
        captions = (data.scene(index)[1].native for index in range(_CAPTIONS_OF_TOKENIZER))
        recipe = build.recipe
        tokenizer = train_tokenizer(captions, recipe.vocabulary, recipe.window)
        with atomic_folder(folder) as partial:
            tokenizer.save_pretrained(partial)
    return CLIPTokenizer.from_pretrained(folder)


def _unet(build: WorldBuild) -> Task:
    recipe = build.recipe
    vae = AutoencoderTiny.from_pretrained(build.exported("autoencoder")).to(build.device).eval()
    clip = build.exported("clip")
    text_encoder = CLIPTextModel.from_pretrained(clip / "text_encoder").to(build.device).eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip / "tokenizer")
    unet = new_unet(
        recipe.unet_widths,
        layers=recipe.unet_layers,
        text_width=recipe.text_width,
        latent_size=recipe.size // recipe.factor,
    )
    if build.start:
        unet = continued_unet(unet, build.start)
    return BackboneTask(
        unet,
        _encoded_scenes(build, vae, text_encoder, tokenizer),
        pipeline_parts={"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer},
        prompts=SAMPLE_PROMPTS,
        batch_size=recipe.stages["unet"].batch_size,
        seed=build.seed,
        device=build.device,
    )


def _encoded_scenes(
    build: WorldBuild, vae: AutoencoderTiny, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> EncodedScenes:
    """What the UNet trains on, encoded by an earlier call or now."""
    recipe = build.recipe
    identity = (module_hash(vae), vae.config.scaling_factor, module_hash(text_encoder))
    rest = (recipe.name, recipe.size, recipe.scenes, sorted(DEFAULT_KINDS.items()), build.seed)
    key = hashlib.sha256(repr((*identity, *rest)).encode()).hexdigest()[:16]
    file = build.root / f"unet-scenes-{key}.safetensors"
    return EncodedScenes.cached(
        file,
        lambda: EncodedScenes.encode(
            build.scenes(recipe.english(), recipe.scenes), vae, clip_reader(text_encoder, tokenizer)
        ),
    )


STAGES: dict[str, Callable[[WorldBuild], Task]] = {
    "autoencoder": _autoencoder,
    "clip": _clip,
    "unet": _unet,
}

"""Making a plug-in: its pictures with English captions, its task, a run of the one loop."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from bridge_diffusion.data.store import module_hash
from bridge_diffusion.training.examples import encode_backbone_texts
from bridge_diffusion.training.loop import TrainResult, train
from bridge_diffusion.training.task import Task
from bridge_diffusion.worlds.emoji.captions import default_colours
from bridge_diffusion.worlds.emoji.concepts import find_concept
from bridge_diffusion.worlds.emoji.edges import edge_map
from bridge_diffusion.worlds.emoji.paths import backbone_folder
from bridge_diffusion.worlds.emoji.plugins.kinds import Plugin, find_plugin, known_concepts
from bridge_diffusion.worlds.emoji.plugins.recipes import PluginRecipe
from bridge_diffusion.worlds.emoji.plugins.tasks import (
    ControlNetTask,
    FineTuning,
    InversionTask,
    LoraTask,
)
from bridge_diffusion.worlds.emoji.scenes import DEFAULT_KINDS, CaptionMix, EmojiScenes
from bridge_diffusion.worlds.emoji.sprites import Sprites
from bridge_diffusion.worlds.emoji.styles import style_sprites
from bridge_diffusion.worlds.emoji.train.backbone import BackboneTask, EncodedScenes
from bridge_diffusion.worlds.emoji.train.stages import SAMPLE_PROMPTS

_ONE_OBJECT = {kind: part for kind, part in DEFAULT_KINDS.items() if not kind.startswith("pair")}
_PRIOR_GUIDANCE, _PRIOR_BATCH = 5.0, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginBuild:
    """Plug-ins of one English model, each a run in a folder of its own under `root`."""

    recipe: PluginRecipe
    """How much is trained."""
    root: Path
    """Folder of the plug-ins."""
    model: Path | None = None
    """The English model, an ordinary pipeline folder; None: the shipped one."""
    device: str = "cpu"
    """Torch device."""
    seed: int = 0
    """Seed of weights, scenes and noise."""
    decoder_caption_dropout: float = BackboneTask.decoder_caption_dropout
    """Share of the scenes whose caption the UNet's decoder does not read while a LoRA or a
    checkpoint is trained: as in the model's own training, unless told otherwise. With 0 a plug-in
    may unlearn what lets a bridge speak to that decoder."""

    def make(self, name: str, time_limit: float | None = None) -> TrainResult:
        """Train a plug-in, or go on with it where an earlier call stopped.

        Raises:
            BridgeError: no such plug-in; the folder holds another run; for the things, the extra
                `world` is not installed.
        """
        plugin, options = find_plugin(name), self.recipe.lengths[name]
        torch.manual_seed(self.seed)
        pipe = self.pipe()
        details = {
            "plugin": name,
            "recipe": self.recipe.name,
            "options": asdict(options),
            "rank": self.recipe.rank,
            "vectors": self.recipe.vectors,
            "backbone": module_hash(pipe.unet),
            "decoder_caption_dropout": self.decoder_caption_dropout,
        }
        loop = options.loop(
            self.root / name, seed=self.seed, device=self.device, time_limit=time_limit
        )
        loop = replace(
            loop,
            sample_every=max(options.batch_size, options.images // 2),
            channels_last=plugin.kind != "inversion",
        )
        return train(self._task(plugin, pipe), loop, details)

    def pipe(self) -> StableDiffusionPipeline:
        pipe = StableDiffusionPipeline.from_pretrained(
            self.model or backbone_folder(), dtype=torch.float32
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(self.device)

    def _task(self, plugin: Plugin, pipe: StableDiffusionPipeline) -> Task:
        common: dict[str, Any] = {
            "prompts": self._prompts(plugin),
            "batch_size": self.recipe.lengths[plugin.name].batch_size,
            "seed": self.seed,
        }
        if plugin.kind == "inversion":
            return self._inversion(plugin, pipe, common)
        scenes = self._scenes(plugin, pipe)
        dropped: dict[str, Any] = {"decoder_caption_dropout": self.decoder_caption_dropout}
        if plugin.kind == "lora":
            kohya = None if plugin.file == "pytorch_lora_weights.safetensors" else plugin.file
            return LoraTask(
                pipe, scenes, rank=self.recipe.rank, kohya_file=kohya, **common, **dropped
            )
        if plugin.kind == "controlnet":
            data = self._data(plugin, pipe)
            edges = np.stack([edge_map(data[i].image) for i in range(len(data))])
            return ControlNetTask(pipe, scenes, edges=edges, **common)
        return FineTuning(pipe, scenes, **common, **dropped)

    def _inversion(
        self, plugin: Plugin, pipe: StableDiffusionPipeline, common: dict[str, Any]
    ) -> InversionTask:
        assert plugin.thing is not None
        table = pipe.text_encoder.get_input_embeddings().weight
        like = pipe.tokenizer(plugin.thing.like, add_special_tokens=False).input_ids
        rows = [like[i % len(like)] for i in range(self.recipe.vectors)]
        pipe.load_textual_inversion(
            {plugin.thing.trigger: table[rows].detach().clone()}, token=plugin.thing.trigger
        )
        data = self._data(plugin, pipe)
        return InversionTask(
            pipe,
            self._scenes(plugin, pipe),
            trigger=plugin.thing.trigger,
            captions=[data.scene(i)[1].native for i in range(len(data))],
            vectors=self.recipe.vectors,
            **common,
        )

    def _prompts(self, plugin: Plugin) -> tuple[str, ...]:
        count = self.recipe.sample_prompts
        if plugin.thing is None:
            return SAMPLE_PROMPTS[:count]
        backgrounds = default_colours()[:count]
        return tuple(
            f"{plugin.thing.trigger} on a {colour.replace('_', ' ')} background"
            for colour in backgrounds
        )

    def _data(self, plugin: Plugin, pipe: StableDiffusionPipeline) -> EmojiScenes:
        """Scenes with English captions, none of them scored."""
        make = partial(
            EmojiScenes,
            language="en",
            size=pipe.unet.config.sample_size * pipe.vae_scale_factor,
            seed=self.seed,
        )
        if plugin.thing is None:
            return make(
                concepts=known_concepts(),
                sprites=style_sprites(plugin.style or "noto"),
                count=self.recipe.scenes,
            )
        concept = plugin.thing.named
        return make(
            concepts=(concept,),
            sprites=Sprites.draw("noto", [concept.codepoints]),
            count=self.recipe.thing_scenes,
            kinds=_ONE_OBJECT,
            mix=CaptionMix(background_only=0, synonym=0),
        )

    def _scenes(self, plugin: Plugin, pipe: StableDiffusionPipeline) -> EncodedScenes:
        """What the task trains on, encoded by an earlier call or now."""
        read = partial(encode_backbone_texts, pipe)
        data = self._data(plugin, pipe)

        def make() -> EncodedScenes:
            scenes = EncodedScenes.encode(data, pipe.vae, read)
            if plugin.thing is None or plugin.kind == "inversion":
                return scenes
            return scenes.joined(self._prior(plugin.thing.like, data, pipe, read))

        return EncodedScenes.cached(self._scenes_file(plugin, pipe), make)

    def _scenes_file(self, plugin: Plugin, pipe: StableDiffusionPipeline) -> Path:
        """Plug-ins that are made of the same pictures share it."""
        shown = plugin.style or (plugin.thing.name if plugin.thing else "noto")
        nets = [module_hash(net) for net in (pipe.vae, pipe.text_encoder, pipe.unet)]
        key = repr((*nets, self.recipe.name, plugin.thing, shown, self.seed))
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        return self.root / f"scenes-{shown}-{digest}.safetensors"

    def _prior(
        self,
        like: str,
        data: EmojiScenes,
        pipe: StableDiffusionPipeline,
        read: Callable[..., torch.Tensor],
    ) -> EncodedScenes:
        """As many scenes of a known thing, as the model itself draws them: prior preservation.

        DreamBooth (Ruiz et al. 2023, section 3.2): what the class looked like before, beside the
        new thing, keeps the model from drawing the new thing for every member of the class.
        """
        known = replace(data, concepts=(find_concept(like),))
        captions = [known.scene(i)[1].native for i in range(len(known))]
        latents = []
        for first in range(0, len(captions), _PRIOR_BATCH):
            some = captions[first : first + _PRIOR_BATCH]
            seeds = range(first, first + len(some))
            latents.append(
                pipe(
                    some,
                    num_inference_steps=self.recipe.prior_steps,
                    guidance_scale=_PRIOR_GUIDANCE,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                    output_type="latent",
                ).images
            )
        return EncodedScenes.of(torch.cat(latents), captions, read)

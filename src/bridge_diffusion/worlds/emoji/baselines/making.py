"""Training what a bridge is compared with: on its pictures, as long as its branch.

    translated   the English model goes on training, with the captions in English: the common choice
    native       its UNet goes on training beside the bridge's native text encoder
    scratch      the same UNet, from nothing
    adapter      UNet and native text encoder stay as they are, an adapter between them is trained

Plain translation, the fifth, needs no training. Captions are whole ones of one language; the
bridge's own tell a quarter of the scenes in two, which a model of one language cannot read.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.data.store import module_hash
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text import NativeTextEncoder
from bridge_diffusion.text.side_by_side import models_of
from bridge_diffusion.training.examples import encode_backbone_texts
from bridge_diffusion.training.grid import numbered_grid
from bridge_diffusion.training.loop import TrainResult, train
from bridge_diffusion.training.recipes import RECIPES as BRANCH_RECIPES
from bridge_diffusion.training.recipes import BranchRecipe
from bridge_diffusion.training.task import Batch
from bridge_diffusion.worlds.emoji.baselines.adapter import (
    ADAPTER_FOLDER,
    ENCODER_FOLDER,
    AdaptedText,
    TextAdapter,
    native_states,
)
from bridge_diffusion.worlds.emoji.paths import backbone_folder, bridge_folder
from bridge_diffusion.worlds.emoji.plugins.tasks import FineTuning
from bridge_diffusion.worlds.emoji.scenes import CaptionMix, EmojiScenes
from bridge_diffusion.worlds.emoji.train.backbone import EncodedScenes
from bridge_diffusion.worlds.emoji.train.recipes import StageOptions

BASELINES = ("translated", "native", "scratch", "adapter")

_RECIPES = ("debug", "cpu")
_RATES = {"translated": 5e-4, "native": 1e-3, "scratch": 1e-3, "adapter": 1e-3}  # peak learning

Read = Callable[[Sequence[str]], Float[Tensor, "texts tokens width"]]


class AdapterTask(FineTuning):
    """The adapter alone, end to end through the frozen UNet."""

    def __init__(self, *arguments: Any, text: AdaptedText, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.unet.requires_grad_(False)
        self.text = text

    @property
    def module(self) -> nn.Module:
        return self.text.adapter

    def predict(
        self, noisy: Float[Tensor, "batch 4 y x"], t: Int[Tensor, "batch"], batch: Batch
    ) -> Float[Tensor, "batch 4 y x"]:
        return self.unet(noisy, t, self.text.adapter(batch["states"].float())).sample

    def samples(self) -> Image.Image | None:
        pipe, count = self.pipeline(), len(self.prompts)
        pipe.set_progress_bar_config(disable=True)
        return numbered_grid(
            pipe(
                prompt_embeds=self.text.encode(self.prompts),
                negative_prompt_embeds=self.text.encode([""] * count),
                num_inference_steps=self.sample_steps,
                guidance_scale=4.0,
                generator=[torch.Generator().manual_seed(seed) for seed in range(count)],
            ).images
        )

    def export(self, folder: Path) -> None:
        """The adapter and the text encoder that it reads: what `AdaptedText.load` takes."""
        self.text.adapter.save_pretrained(folder / ADAPTER_FOLDER)
        self.text.encoder.save_pretrained(folder / ENCODER_FOLDER)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineBuild:
    """Baselines of one bridge, each a run in a folder of its own under `root`."""

    recipe: str
    """Length and number of scenes are those of the branch's recipe of this name: debug or cpu."""
    root: Path
    """Folder of the baselines."""
    images: int | None = None
    """Length in images, as that of a branch trained with `--images`; None: the recipe's."""
    limit: int | None = None
    """Number of scenes, as that of a branch trained with `--limit`; None: the recipe's."""
    language: str = "zh"
    """The native language."""
    model: Path | None = None
    """The English model, an ordinary pipeline folder; None: the shipped one."""
    bridge: Path | None = None
    """The bridge whose text encoder is read; None: the shipped one of the language."""
    device: str = "cpu"
    """Torch device."""
    seed: int = 0
    """Seed of weights, scenes and noise."""

    def __post_init__(self) -> None:
        if self.recipe not in _RECIPES:
            raise BridgeError(
                f"no recipe {self.recipe!r} for baselines; there are {', '.join(_RECIPES)}"
            )

    def make(self, name: str, time_limit: float | None = None) -> TrainResult:
        """Train a baseline, or go on with it where an earlier call stopped.

        Raises:
            BridgeError: no such baseline, or the folder holds another run.
        """
        if name not in BASELINES:
            raise BridgeError(f"no baseline {name!r}; there are {', '.join(BASELINES)}")
        branch = self._branch()
        options = StageOptions(
            images=branch.images, batch_size=branch.batch_size, learning_rate=_RATES[name]
        )
        torch.manual_seed(self.seed)
        task = self._task(name, options.batch_size)
        task.sample_steps = branch.sample_steps
        loop = options.loop(
            self.root / name, seed=self.seed, device=self.device, time_limit=time_limit
        )
        loop = replace(
            loop,
            channels_last=name != "adapter",
            sample_every=max(options.batch_size, options.images // 4),
        )
        details = {
            "baseline": name,
            "recipe": self.recipe,
            "language": self.language,
            "options": asdict(options),
            "scenes": branch.limit,
        }
        return train(task, loop, details)

    def _branch(self) -> BranchRecipe:
        """The recipe of the branch that these baselines stand beside."""
        recipe = BRANCH_RECIPES[self.recipe]
        return replace(
            recipe, images=self.images or recipe.images, limit=self.limit or recipe.limit
        )

    def _task(self, name: str, batch_size: int) -> FineTuning:
        pipe = StableDiffusionPipeline.from_pretrained(
            self.model or backbone_folder(), dtype=torch.float32
        ).to(self.device)
        common: dict[str, Any] = {"batch_size": batch_size, "seed": self.seed}
        if name == "translated":
            scenes, prompts = self._scenes(pipe, "en", partial(encode_backbone_texts, pipe))
            return FineTuning(pipe, scenes, prompts=prompts, **common)
        folder = self.bridge or bridge_folder(self.language)
        encoder = Bridge.from_pretrained(folder).text_encoder.to(self.device)
        if name == "adapter":
            read = partial(native_states, encoder)
            scenes, prompts = self._scenes(pipe, self.language, read)
            width = pipe.unet.config.cross_attention_dim
            adapter = TextAdapter(
                native_width=encoder.width, width=width, tokens=encoder.encoding.window
            ).to(self.device)
            text = AdaptedText(encoder, adapter)
            return AdapterTask(pipe, scenes, text=text, prompts=prompts, **common)
        pipe = with_text_encoder(pipe, encoder).to(self.device)
        if name == "scratch":
            pipe.unet = UNet2DConditionModel.from_config(pipe.unet.config)
        read = partial(encode_backbone_texts, pipe)
        scenes, prompts = self._scenes(pipe, self.language, read)
        return FineTuning(pipe, scenes, prompts=prompts, **common)

    def _scenes(
        self, pipe: StableDiffusionPipeline, language: str, read: Read
    ) -> tuple[EncodedScenes, tuple[str, ...]]:
        """The bridge's scenes with captions of one language, and some captions for samples."""
        size = pipe.unet.config.sample_size * pipe.vae_scale_factor
        branch = self._branch()
        limit = branch.limit
        assert limit is not None
        scenes = EmojiScenes.shipped(language=self.language, size=size, seed=self.seed, count=limit)
        scenes = replace(scenes, language=language, mix=CaptionMix())
        prompts = tuple(scenes.scene(i)[1].native for i in range(branch.sample_pictures))
        probe = hashlib.sha256(read(list(prompts)).cpu().numpy().tobytes()).hexdigest()
        key = repr((module_hash(pipe.vae), probe, self.language, language, size, limit, self.seed))
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        file = self.root / f"scenes-{language}-{digest}.safetensors"
        made = EncodedScenes.cached(file, lambda: EncodedScenes.encode(scenes, pipe.vae, read))
        return made, prompts


def with_text_encoder(
    pipe: StableDiffusionPipeline, encoder: NativeTextEncoder
) -> StableDiffusionPipeline:
    """A stock pipeline of the same parts but for text encoder and tokenizer, the native ones.

    The encoder gets the pooler that its class asks for, though nothing reads it: so the folder that
    the pipeline is saved in lacks no weights.
    """
    (native,) = models_of(encoder.model)
    model: Any = type(native)(native.config)
    missing, unexpected = model.float().eval().load_state_dict(native.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("pooler.") for name in missing)
    nn.init.zeros_(model.pooler.dense.weight)
    model.config.use_attention_mask = True  # then stock pipelines hand the padding mask on
    tokenizer = encoder.tokenizer
    tokenizer.model_max_length = encoder.encoding.window
    parts = {**pipe.components, "text_encoder": model, "tokenizer": tokenizer}
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)

"""What each kind of plug-in trains, and how stock savers write it.

All of them are ordinary fine-tunings of the English model, in the way it was trained itself: it
predicts velocity, its caption is dropped now and then, and where weights of the UNet change, it is
dropped for the decoder alone as often as it was then.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_kohya
from jaxtyping import Bool, Float, Int
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from bridge_diffusion.training.attention import prefer_plain_attention
from bridge_diffusion.training.grid import numbered_grid
from bridge_diffusion.training.task import Batch
from bridge_diffusion.worlds.emoji.edges import edge_picture
from bridge_diffusion.worlds.emoji.train.backbone import BackboneTask, EncodedScenes

_CONTROL_CHANNELS = (16, 32, 96, 256)  # of the ControlNet's own encoder; one halving fewer each


class FineTuning(BackboneTask):
    """The whole UNet goes on training on other pictures; exports an ordinary pipeline folder."""

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        scenes: EncodedScenes,
        *,
        prompts: tuple[str, ...],
        batch_size: int,
        seed: int,
        decoder_caption_dropout: float = 0.0,
    ):
        names = ("vae", "text_encoder", "tokenizer")
        super().__init__(
            pipe.unet,
            scenes,
            pipeline_parts={name: getattr(pipe, name) for name in names},
            prompts=prompts,
            batch_size=batch_size,
            seed=seed,
            device=pipe.device.type,
        )
        pipe.text_encoder.requires_grad_(False).eval()
        self.pipe = pipe
        self.decoder_caption_dropout = decoder_caption_dropout


class LoraTask(FineTuning):
    """Low-rank updates (Hu et al. 2022) of attention and of the residual blocks' convolutions.

    With convolutions, as style LoRAs of the community often have them: the finest level of this
    UNet has no attention, and much of a style is there.
    """

    targets = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")

    def __init__(
        self, *arguments: Any, rank: int, kohya_file: str | None = None, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.kohya_file = kohya_file
        self.unet.requires_grad_(False)
        self.unet.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=list(self.targets))
        )

    def export(self, folder: Path) -> None:
        """`pytorch_lora_weights.safetensors`, or one file in the layout of kohya's scripts."""
        state = get_peft_model_state_dict(self.unet)
        if self.kohya_file is None:
            # peft's own names: convert_state_dict_to_diffusers renames attention alone, and of such
            # a mixture stock loaders leave the attention out.
            StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state)
        else:
            named = {f"unet.{name}": tensor for name, tensor in state.items()}
            kohya = convert_state_dict_to_kohya(named)
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in kohya.items()}
            save_file(plain, folder / self.kohya_file)


def new_controlnet(pipe: StableDiffusionPipeline) -> ControlNetModel:
    """Untrained, for pictures as many times larger than the latents as the pipeline's are."""
    halvings = len(pipe.vae.config.block_out_channels) - 1
    return ControlNetModel.from_unet(
        pipe.unet, conditioning_embedding_out_channels=_CONTROL_CHANNELS[: halvings + 1]
    )


class ControlNetTask(FineTuning):
    """A ControlNet (Zhang et al. 2023) of edges beside the frozen UNet."""

    caption_dropout = 0.5  # as in the paper, section 3.4: the edges alone have to tell much

    def __init__(
        self, *arguments: Any, edges: Bool[np.ndarray, "scenes height width"], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.edges = torch.from_numpy(edges)
        self.unet.requires_grad_(False)
        self.controlnet = new_controlnet(self.pipe)
        prefer_plain_attention(
            self.controlnet,
            latent_side=self.unet.config.sample_size,
            device=self.pipe.device.type,
        )

    @property
    def module(self) -> nn.Module:
        return self.controlnet

    def batch(self, index: int) -> Batch:
        batch = super().batch(index)
        return {**batch, "edges": self.edges[batch["scene"]]}

    def predict(
        self, noisy: Float[Tensor, "batch 4 y x"], t: Int[Tensor, "batch"], batch: Batch
    ) -> Float[Tensor, "batch 4 y x"]:
        states = batch["states"].float()
        lines = batch["edges"].float()[:, None].expand(-1, 3, -1, -1)
        down, mid = self.controlnet(noisy, t, states, controlnet_cond=lines, return_dict=False)
        return self.unet(
            noisy,
            t,
            states,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample

    def samples(self) -> Image.Image | None:
        """The edges of the first scenes, with the prompts."""
        pipe = StableDiffusionControlNetPipeline(
            **self.pipeline().components,
            controlnet=self.controlnet,
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        count = len(self.prompts)
        return numbered_grid(
            pipe(
                list(self.prompts),
                image=[edge_picture(lines) for lines in self.edges[:count].numpy()],
                num_inference_steps=self.sample_steps,
                guidance_scale=4.0,
                generator=[torch.Generator().manual_seed(seed) for seed in range(count)],
            ).images
        )

    def export(self, folder: Path) -> None:
        self.controlnet.save_pretrained(folder)


class TokenVectors(nn.Module):
    """The embeddings of a new token, all that a Textual Inversion trains."""

    def __init__(self, vectors: Float[Tensor, "vectors width"]) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors.detach().clone().float())


class InversionTask(FineTuning):
    """Textual Inversion (Gal et al. 2023): the vectors of a new token, and nothing else.

    `pipe` has the token loaded, by stock `load_textual_inversion`; `captions` say it.
    """

    def __init__(
        self, *arguments: Any, trigger: str, captions: list[str], vectors: int, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.unet.requires_grad_(False)
        pipe, self.trigger = self.pipe, trigger
        tokens = [trigger, *(f"{trigger}_{i}" for i in range(1, vectors))]
        self.rows = torch.tensor(pipe.tokenizer.convert_tokens_to_ids(tokens))
        self.table = pipe.text_encoder.get_input_embeddings().weight
        names = {id(weight): name for name, weight in pipe.text_encoder.named_parameters()}
        self._table_name = names[id(self.table)]
        self.tokens = TokenVectors(self.table[self.rows])
        self.ids = pipe.tokenizer(
            pipe.maybe_convert_prompt(captions, pipe.tokenizer),
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids

    @property
    def module(self) -> nn.Module:
        return self.tokens

    def batch(self, index: int) -> Batch:
        batch = super().batch(index)
        return {"latents": batch["latents"], "ids": self.ids[batch["scene"]]}

    def predict(
        self, noisy: Float[Tensor, "batch 4 y x"], t: Int[Tensor, "batch"], batch: Batch
    ) -> Float[Tensor, "batch 4 y x"]:
        rows = self.rows.to(self.table.device)
        table = self.table.index_copy(0, rows, self.tokens.vectors)
        states = functional_call(
            self.pipe.text_encoder, {self._table_name: table}, (batch["ids"],)
        )[0]
        return self.unet(noisy, t, states).sample

    def pipeline(self) -> StableDiffusionPipeline:
        """With the vectors as they are now."""
        with torch.no_grad():
            self.table[self.rows] = self.tokens.vectors
        return super().pipeline()

    def export(self, folder: Path) -> None:
        """`{token: vectors}`, as the community's training script saves it."""
        state = {self.trigger: self.tokens.vectors.detach().cpu().contiguous()}
        save_file(state, folder / "learned_embeds.safetensors")

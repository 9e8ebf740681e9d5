"""The trained branch: a copy of the backbone's down and mid blocks that reads the native prompt.

The branch is a ControlNet without a conditioning image (arXiv 2309.00952, section 3). The
arithmetic is that of diffusers' `ControlNetModel`; what differs is its input: native text.
"""

import math
from typing import Any, ClassVar

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bridge_diffusion.errors import BridgeError

DownResiduals = tuple[Float[Tensor, "batch channels height width"], ...]
MidResidual = Float[Tensor, "batch channels height width"]

# Settings of a UNet whose encoder a ControlNet cannot mirror, with the only value that it can.
_MIRRORED_ONLY_AT = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "conv_in_kernel": 3,
    "class_embed_type": None,
    "num_class_embeds": None,
    "dual_cross_attention": False,
    "cross_attention_norm": None,
    "mid_block_only_cross_attention": None,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "attention_type": "default",
}


class _NoCondition(nn.Module):
    """Takes the place of the image embedding: hands on the zero that it is given."""

    def forward(self, condition: Tensor) -> Tensor:
        return condition


def _mask_the_text(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move the mask to where the text is: stock ControlNet hands it to self-attention instead."""
    mask = kwargs.pop("attention_mask", None)
    return args, {**kwargs, "encoder_attention_mask": mask}


class BridgeBranch(ControlNetModel):
    """The branch of a bridge. Field names are those of `UNet2DConditionModel`, whose copy it is.

    `cross_attention_dim` is the width of the text that the attention reads. Where
    `projected_from` is None that is the native text encoder's width. Otherwise (SDXL) a bias-free
    projection `projected_from -> cross_attention_dim` comes first, and
    `pooled_projected_from` is the width of the native pooled vector, which is projected to the
    width of SDXL's `text_embeds` and takes their place.

    The state dict is that of a `ControlNetModel` without `controlnet_cond_embedding.*`, plus the
    two projections where there are any.
    """

    # Fields of the stock constructor that a branch has no use for.
    ignore_for_config: ClassVar[list[str]] = [
        "conditioning_channels",
        "conditioning_embedding_out_channels",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "num_class_embeds",
        "addition_embed_type_num_heads",
    ]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        flip_sin_to_cos: bool = True,
        freq_shift: int = 0,
        down_block_types: tuple[str, ...] = (
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        mid_block_type: str = "UNetMidBlock2DCrossAttn",
        only_cross_attention: bool | tuple[bool, ...] = False,
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        downsample_padding: int = 1,
        mid_block_scale_factor: float = 1,
        act_fn: str = "silu",
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 1024,
        transformer_layers_per_block: int | tuple[int, ...] = 1,
        attention_head_dim: int | tuple[int, ...] = 8,
        num_attention_heads: int | tuple[int, ...] | None = None,
        use_linear_projection: bool = False,
        addition_embed_type: str | None = None,
        addition_time_embed_dim: int | None = None,
        projection_class_embeddings_input_dim: int | None = None,
        upcast_attention: bool = False,
        resnet_time_scale_shift: str = "default",
        projected_from: int | None = None,
        pooled_projected_from: int | None = None,
        # The stock forward reads these; they have no other value here.
        class_embed_type: None = None,
        controlnet_conditioning_channel_order: str = "rgb",
        global_pool_conditions: bool = False,
    ) -> None:
        stock = set(self._get_init_keys(ControlNetModel)) & set(self.config)
        super().__init__(
            conditioning_embedding_out_channels=(1,),
            **{name: self.config[name] for name in stock},
        )
        self.controlnet_cond_embedding = _NoCondition()
        for block in (*self.down_blocks, self.mid_block):
            if getattr(block, "has_cross_attention", False):
                block.register_forward_pre_hook(_mask_the_text, with_kwargs=True)
        if projected_from is not None:
            self.prompt_embeds_projection = nn.Linear(
                projected_from, cross_attention_dim, bias=False
            )
        if pooled_projected_from is not None:
            text_embeds_width = projection_class_embeddings_input_dim - 6 * addition_time_embed_dim  # type: ignore[operator]
            self.pooled_prompt_embeds_projection = nn.Linear(
                pooled_projected_from, text_embeds_width, bias=False
            )

    @property
    def native_width(self) -> int:
        """Width of the native hidden states that `forward` takes."""
        return int(self.config.projected_from or self.config.cross_attention_dim)

    @property
    def pooled_width(self) -> int | None:
        """Width of the native pooled vector that `forward` takes, or None if it takes none."""
        width = self.config.pooled_projected_from
        return None if width is None else int(width)

    def forward(
        self,
        sample: Float[Tensor, "batch latents height width"],
        timestep: Tensor | float,
        encoder_hidden_states: Float[Tensor, "batch tokens native"],
        encoder_attention_mask: Bool[Tensor, "batch tokens"] | None = None,
        pooled: Float[Tensor, "batch pooled"] | None = None,
        time_ids: Float[Tensor, "batch 6"] | None = None,
        scale: float | Float[Tensor, " batch"] = 1.0,
    ) -> tuple[DownResiduals, MidResidual]:
        """Residuals for the backbone's skip connections and for its mid block's output.

        `encoder_attention_mask` is True where a token is attended to; None attends to all.
        `pooled` and `time_ids` are for SDXL only; `time_ids` are those of the backbone's call.
        `scale` multiplies the residuals, one value for all or one for each sample.
        """
        if self.config.projected_from is not None:
            encoder_hidden_states = self.prompt_embeds_projection(encoder_hidden_states)
        added = None
        if pooled is not None:
            text_embeds = self.pooled_prompt_embeds_projection(pooled)
            added = {"text_embeds": text_embeds, "time_ids": time_ids}
        if isinstance(scale, Tensor):
            scale = scale.view(-1, 1, 1, 1)
        down, mid = super().forward(
            sample,
            timestep,
            encoder_hidden_states,
            controlnet_cond=sample.new_zeros(()),
            conditioning_scale=scale,
            attention_mask=encoder_attention_mask,
            added_cond_kwargs=added,
            return_dict=False,
        )
        return tuple(down), mid

    @classmethod
    def from_backbone(
        cls,
        unet: UNet2DConditionModel,
        native_width: int,
        pooled_width: int | None = None,
        generator: torch.Generator | None = None,
    ) -> "BridgeBranch":
        """A branch that starts as a float32 copy of the backbone and adds exactly nothing yet.

        Every tensor is copied by its key; a key that the backbone lacks is an error. A LoRA that
        is loaded into the backbone is left out: its base weights are copied. What cannot be
        copied starts fresh, drawn with `generator` (PyTorch's default one if None): the
        cross-attention keys and values where `native_width` differs from the backbone's text
        width, or the two projections for an SDXL backbone. The 1x1 convolutions are zero.

        Raises `BridgeError` for a backbone whose encoder a branch cannot mirror.
        """
        unet = getattr(unet, "_orig_mod", unet)  # torch.compile's wrapper
        for name, needed in _MIRRORED_ONLY_AT.items():
            if (got := unet.config.get(name, needed)) != needed:
                raise BridgeError(
                    f"this backbone has {name}={got!r}; a branch can only copy a UNet with "
                    f"{name}={needed!r}, such as those of Stable Diffusion 1.5 and XL"
                )
        branch = cls.from_config(_branch_config(cls, unet, native_width, pooled_width))
        _copy_backbone(unet, branch, generator)
        return branch


def _branch_config(
    cls: type[BridgeBranch],
    unet: UNet2DConditionModel,
    native_width: int,
    pooled_width: int | None,
) -> dict[str, Any]:
    """The configuration of a branch for this backbone and this native text encoder."""
    names = cls._get_init_keys(cls) - {"self"}
    config = {name: unet.config[name] for name in names if name in unet.config}
    if unet.config.addition_embed_type == "text_time":
        if pooled_width is None:
            raise BridgeError(
                "an SDXL branch needs the native pooled vector, and this text encoding has "
                "none: choose one with pooled=True"
            )
        return {**config, "projected_from": native_width, "pooled_projected_from": pooled_width}
    if unet.config.addition_embed_type is not None:
        raise BridgeError(
            f"this backbone has addition_embed_type={unet.config.addition_embed_type!r}; a branch "
            "knows only None (Stable Diffusion 1.5) and 'text_time' (SDXL)"
        )
    return {**config, "cross_attention_dim": native_width}


@torch.no_grad()
def _copy_backbone(
    unet: UNet2DConditionModel, branch: BridgeBranch, generator: torch.Generator | None
) -> None:
    """Copy key by key; draw what has another shape or no original."""
    source = {key.replace(".base_layer.", "."): value for key, value in unet.state_dict().items()}
    native_text = (".attn2.to_k.weight", ".attn2.to_v.weight")
    for key, target in branch.state_dict().items():
        if key.startswith(("controlnet_down_blocks.", "controlnet_mid_block.")):
            continue  # the stock constructor made them zero
        if key in source and source[key].shape == target.shape:
            target.copy_(source[key])
        elif key.endswith(native_text) or "prompt_embeds_projection" in key:
            nn.init.kaiming_uniform_(target, a=math.sqrt(5), generator=generator)
        else:
            got = "nothing" if key not in source else tuple(source[key].shape)
            raise BridgeError(
                f"the backbone has {got} under the key {key!r}; the branch needs "
                f"{tuple(target.shape)} there: is it a Stable Diffusion 1.5 or XL UNet?"
            )

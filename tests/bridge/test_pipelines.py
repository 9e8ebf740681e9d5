"""The stock pipelines of the family, all driven the same way, against the networks by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from bridge_diffusion import Bridge, BridgeError

NATIVE = "一只红色的狐狸"
Pipe = Any


@pytest.fixture
def picture() -> Image.Image:
    ramp = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3)
    return Image.fromarray(ramp.astype(np.uint8))


@pytest.fixture
def mask() -> Image.Image:
    left = np.zeros((32, 32), np.uint8)
    left[:, :16] = 255
    return Image.fromarray(left)


def as_kind(kind: type, pipe: StableDiffusionPipeline, **other: Any) -> Pipe:
    """Another stock pipeline around the same parts."""
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
    made = kind(**{**parts, **other}, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def make_controlnet(pipe: StableDiffusionPipeline) -> ControlNetModel:
    return ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 8))


def with_drawn_weights(net: Any, seed: int, size: float) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return net.eval()


def results(pipe: Pipe, bridge: Bridge, **call: Any) -> tuple[Any, Any]:
    """The pictures of stock hooks, and of a loop in which the branch is called by hand."""
    settings = {"num_inference_steps": 3, "output_type": "np", **call}
    hooked = pipe(
        **bridge.prompt(NATIVE, negative="模糊", english="fox"),
        generator=torch.Generator().manual_seed(1),
        **settings,
    ).images
    native, negative = bridge.text_encoder.encode_pair([NATIVE], ["模糊"])
    states = torch.cat([negative.hidden, native.hidden])
    bridge.detach()
    stock_forward = pipe.unet.forward

    def forward(sample: torch.Tensor, t: Any, **kwargs: Any) -> Any:
        down, mid = bridge.branch(sample[:, :4], t, states)
        if kwargs.get("mid_block_additional_residual") is not None:
            theirs = kwargs["down_block_additional_residuals"]
            down = [a + b for a, b in zip(theirs, down, strict=True)]
            mid = kwargs["mid_block_additional_residual"] + mid
        kwargs |= {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        return stock_forward(sample, t, **kwargs)

    pipe.unet.forward = forward
    try:
        by_hand = pipe(
            prompt="fox",
            negative_prompt="",
            generator=torch.Generator().manual_seed(1),
            **settings,
        ).images
    finally:
        pipe.unet.forward = stock_forward
    return hooked, by_hand


def test_image_to_image(
    bridge: Bridge, pipe: StableDiffusionPipeline, picture: Image.Image
) -> None:
    img2img = as_kind(StableDiffusionImg2ImgPipeline, pipe)
    bridge.attach(img2img)
    hooked, by_hand = results(img2img, bridge, image=picture, strength=0.7)
    assert np.array_equal(hooked, by_hand)


def test_inpainting_with_4_channels(
    bridge: Bridge, pipe: StableDiffusionPipeline, picture: Image.Image, mask: Image.Image
) -> None:
    inpaint = as_kind(StableDiffusionInpaintPipeline, pipe)
    bridge.attach(inpaint)
    hooked, by_hand = results(inpaint, bridge, image=picture, mask_image=mask, height=32, width=32)
    assert np.array_equal(hooked, by_hand)


def test_inpainting_with_9_channels(
    bridge: Bridge, pipe: StableDiffusionPipeline, picture: Image.Image, mask: Image.Image
) -> None:
    config = {**pipe.unet.config, "in_channels": 9}
    unet = with_drawn_weights(UNet2DConditionModel.from_config(config), 4, 0.05)
    inpaint = as_kind(StableDiffusionInpaintPipeline, pipe, unet=unet)
    bridge.attach(inpaint)
    hooked, by_hand = results(inpaint, bridge, image=picture, mask_image=mask, height=32, width=32)
    assert np.array_equal(hooked, by_hand)


@pytest.mark.parametrize("count", [1, 2])
def test_controlnets_beside_the_branch(
    bridge: Bridge, pipe: StableDiffusionPipeline, picture: Image.Image, count: int
) -> None:
    nets = [
        with_drawn_weights(
            make_controlnet(pipe),
            i,
            0.05,
        )
        for i in range(count)
    ]
    control = as_kind(
        StableDiffusionControlNetPipeline, pipe, controlnet=nets if count > 1 else nets[0]
    )
    bridge.attach(control)
    hooked, by_hand = results(control, bridge, image=[picture] * count if count > 1 else picture)
    assert np.array_equal(hooked, by_hand)
    assert not any(net._forward_pre_hooks for net in nets)


def test_a_controlnet_given_later_is_asked_for(
    bridge: Bridge, pipe: StableDiffusionPipeline
) -> None:
    net = make_controlnet(pipe)
    control = as_kind(StableDiffusionControlNetPipeline, pipe, controlnet=net)
    bridge.attach(control)
    control.controlnet = make_controlnet(pipe)
    with pytest.raises(BridgeError, match="another ControlNetModel"):
        bridge.prompt(NATIVE)
    bridge.attach(control)
    bridge.prompt(NATIVE)


def test_any_vae_of_stock_pipelines_will_do(
    attached: Bridge, pipe: StableDiffusionPipeline
) -> None:
    pipe.vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()
    images = pipe(**attached.prompt(NATIVE), num_inference_steps=2).images
    assert images[0].size == (32, 32)

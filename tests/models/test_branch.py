"""The branch: a ControlNet's arithmetic, a backbone's copy, a mask that reaches the text."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor

from bridge_diffusion import BridgeError
from bridge_diffusion.models import BridgeBranch

NATIVE_WIDTH = 20
Draw = Callable[..., Tensor]


def test_the_keys_are_those_of_a_controlnet_without_its_image_embedding(
    unet: UNet2DConditionModel,
) -> None:
    stock = ControlNetModel.from_unet(unet).state_dict()
    ours = BridgeBranch.from_backbone(unet, native_width=24).state_dict()
    wanted = {k: v.shape for k, v in stock.items() if not k.startswith("controlnet_cond_embedding")}
    assert {k: v.shape for k, v in ours.items()} == wanted


@torch.no_grad()
def test_the_arithmetic_is_that_of_a_stock_controlnet(branch: BridgeBranch, draw: Draw) -> None:
    stock = ControlNetModel.from_config(
        {k: v for k, v in branch.config.items() if "projected_from" not in k},
        conditioning_embedding_out_channels=(8,),
    ).eval()
    torch.nn.init.zeros_(stock.controlnet_cond_embedding.conv_out.weight)
    torch.nn.init.zeros_(stock.controlnet_cond_embedding.conv_out.bias)
    loaded = stock.load_state_dict(branch.state_dict(), strict=False)
    assert not loaded.unexpected_keys
    sample, text, t = draw(2, 4, 8, 8), draw(2, 6, NATIVE_WIDTH), torch.tensor(501)
    down, mid = branch(sample, t, text, scale=0.7)
    stock_down, stock_mid = stock(
        sample, t, text, torch.zeros(2, 3, 8, 8), conditioning_scale=0.7, return_dict=False
    )
    assert torch.equal(mid, stock_mid)
    assert mid.abs().max() > 0.01
    assert len(down) == len(stock_down) == 4
    assert all(torch.equal(a, b) for a, b in zip(down, stock_down, strict=True))


@torch.no_grad()
def test_identity_at_initialisation(unet: UNet2DConditionModel, draw: Draw) -> None:
    branch = BridgeBranch.from_backbone(unet, NATIVE_WIDTH)
    down, mid = branch(draw(2, 4, 8, 8), 10, draw(2, 6, NATIVE_WIDTH))
    assert all(not residual.any() for residual in (*down, mid))


def test_every_tensor_that_fits_is_copied(unet: UNet2DConditionModel) -> None:
    source = unet.state_dict()
    copied, fresh = set(), set()
    for key, value in BridgeBranch.from_backbone(unet, NATIVE_WIDTH).state_dict().items():
        if not key.startswith("controlnet_"):
            same = source[key].shape == value.shape and torch.equal(source[key], value)
            (copied if same else fresh).add(key)
    assert all(key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for key in fresh)
    assert len(fresh) == 4  # keys and values of one attention in the down and one in the mid block
    assert len(copied) > 60


def test_fresh_tensors_are_drawn_with_the_generator(unet: UNet2DConditionModel) -> None:
    first, second = (
        BridgeBranch.from_backbone(
            unet, NATIVE_WIDTH, generator=torch.Generator().manual_seed(5)
        ).state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_live_lora_is_left_out(unet: UNet2DConditionModel) -> None:
    plain = BridgeBranch.from_backbone(unet, native_width=24).state_dict()
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    under_lora = BridgeBranch.from_backbone(unet, native_width=24).state_dict()
    assert all(torch.equal(plain[key], under_lora[key]) for key in plain)


@torch.no_grad()
def test_masked_tokens_are_as_absent_ones(branch: BridgeBranch, draw: Draw) -> None:
    sample, text = draw(1, 4, 8, 8), draw(1, 6, NATIVE_WIDTH)
    mask = torch.tensor([[True, True, True, True, False, False]])
    masked = branch(sample, 10, text, encoder_attention_mask=mask)[1]
    short = branch(sample, 10, text[:, :4])[1]
    whole = branch(sample, 10, text)[1]
    torch.testing.assert_close(masked, short, rtol=0, atol=1e-5)
    assert (whole - short).abs().max() > 1e-3


@torch.no_grad()
def test_one_scale_for_each_sample(branch: BridgeBranch, draw: Draw) -> None:
    sample, text = draw(2, 4, 8, 8), draw(2, 6, NATIVE_WIDTH)
    down, mid = branch(sample, 10, text, scale=torch.tensor([0.0, 0.5]))
    plain_down, plain_mid = branch(sample, 10, text)
    for scaled, plain in zip((*down, mid), (*plain_down, plain_mid), strict=True):
        assert not scaled[0].any()
        torch.testing.assert_close(scaled[1], 0.5 * plain[1])


def test_gradients_reach_the_branch_and_not_the_backbone(
    unet: UNet2DConditionModel, draw: Draw
) -> None:
    unet.requires_grad_(False)
    branch = BridgeBranch.from_backbone(unet, NATIVE_WIDTH)
    sample = draw(1, 4, 8, 8)
    down, mid = branch(sample, 10, draw(1, 6, NATIVE_WIDTH))
    noise = unet(
        sample,
        10,
        draw(1, 7, 24),
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    noise.square().mean().backward()
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert branch.controlnet_mid_block.weight.grad.abs().max() > 0


def test_saved_and_loaded_by_diffusers_itself(branch: BridgeBranch, tmp_path: Path) -> None:
    branch.save_pretrained(tmp_path)
    loaded, info = BridgeBranch.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ignored = {"_use_default_values", "_name_or_path"}
    assert {k: v for k, v in branch.config.items() if k not in ignored} == {
        k: tuple(v) if isinstance(v, list) else v
        for k, v in loaded.config.items()
        if k not in ignored
    }
    state = branch.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


@torch.no_grad()
def test_sdxl_projects_the_native_states_and_its_pooled_vector(
    xl_unet: UNet2DConditionModel, draw: Draw
) -> None:
    branch = BridgeBranch.from_backbone(xl_unet, native_width=14, pooled_width=10).eval()
    assert branch.prompt_embeds_projection.weight.shape == (24, 14)
    assert branch.pooled_prompt_embeds_projection.weight.shape == (12, 10)
    assert branch.prompt_embeds_projection.bias is None
    assert (branch.native_width, branch.pooled_width) == (14, 10)
    branch.controlnet_mid_block.weight.normal_()
    sample, text, ids = draw(1, 4, 8, 8), draw(1, 6, 14), torch.ones(1, 6)
    one = branch(sample, 10, text, pooled=draw(1, 10), time_ids=ids)[1]
    other = branch(sample, 10, text, pooled=draw(1, 10), time_ids=ids)[1]
    assert (one - other).abs().max() > 1e-4


def test_a_backbone_that_cannot_be_mirrored_is_refused(
    unet: UNet2DConditionModel, xl_unet: UNet2DConditionModel
) -> None:
    with pytest.raises(BridgeError, match="pooled=True"):
        BridgeBranch.from_backbone(xl_unet, NATIVE_WIDTH)
    unet.register_to_config(center_input_sample=True)
    with pytest.raises(BridgeError, match="center_input_sample"):
        BridgeBranch.from_backbone(unet, NATIVE_WIDTH)


def test_a_missing_tensor_is_an_error(unet: UNet2DConditionModel) -> None:
    del unet.conv_in
    with pytest.raises(BridgeError, match=r"conv_in\.(weight|bias)"):
        BridgeBranch.from_backbone(unet, NATIVE_WIDTH)

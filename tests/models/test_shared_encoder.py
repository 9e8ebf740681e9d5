"""The encoder half computed once: the same noise, and only where the halves are one pair."""

import copy
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0, PAGIdentitySelfAttnProcessor2_0
from torch import Tensor

from bridge_diffusion import BridgeError
from bridge_diffusion.models import BackboneHooks, BridgeBranch

pytestmark = pytest.mark.usefixtures("no_grad")

Draw = Callable[..., Tensor]
Pair = Callable[..., Tensor]


@pytest.fixture
def encoder_batches(unet: UNet2DConditionModel) -> list[int]:
    """How many samples each call brought into the first resnet of the encoder."""
    batches: list[int] = []
    unet.down_blocks[0].resnets[0].register_forward_pre_hook(
        lambda _, args: batches.append(len(args[0]))
    )
    return batches


def halves(draw: Draw, prompts: int = 1) -> Tensor:
    """Latents of a guidance batch: each half the same."""
    return draw(prompts, 4, 8, 8).repeat(2, 1, 1, 1)


def unshared(
    unet: UNet2DConditionModel,
    branch: BridgeBranch,
    hooks: BackboneHooks,
    sample: Tensor,
    states: Tensor,
) -> Tensor:
    """The same call with the encoder computed for every sample."""
    twin = copy.deepcopy(unet)
    for module in twin.modules():
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()
    pack = hooks.layout.unpack(states)
    (part,) = pack.parts
    down, mid = branch(sample, 10, part.hidden, encoder_attention_mask=part.mask)
    return twin(
        sample,
        10,
        pack.english,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample


@pytest.mark.parametrize("prompts", [1, 3])
def test_sharing_changes_nothing(
    unet: UNet2DConditionModel,
    branch: BridgeBranch,
    hooks: BackboneHooks,
    encoder_batches: list[int],
    draw: Draw,
    pair: Pair,
    prompts: int,
) -> None:
    sample, states = halves(draw, prompts), pair(prompts, shared=True)
    got = unet(sample, torch.tensor(10), states).sample
    assert encoder_batches == [prompts]
    want = unshared(unet, branch, hooks, sample, states)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert (got[:prompts] - got[prompts:]).abs().max() > 1e-3, "the branch still tells them apart"


def test_free_u_and_lora_scales_stay_in_force(
    unet: UNet2DConditionModel, branch: BridgeBranch, hooks: BackboneHooks, draw: Draw, pair: Pair
) -> None:
    sample, states = halves(draw), pair(1, shared=True)
    plain = unet(sample, 10, states).sample
    unet.enable_freeu(s1=0.5, s2=0.5, b1=1.5, b2=1.5)
    got = unet(sample, 10, states).sample
    torch.testing.assert_close(
        got, unshared(unet, branch, hooks, sample, states), rtol=0, atol=1e-5
    )
    assert torch.isfinite(plain).all()


def test_other_english_text_other_latents_and_no_guidance_are_not_shared(
    unet: UNet2DConditionModel,
    hooks: BackboneHooks,
    encoder_batches: list[int],
    draw: Draw,
    pair: Pair,
) -> None:
    unet(halves(draw), 10, pair(1, shared=False))
    unet(draw(2, 4, 8, 8), 10, pair(1, shared=True))
    # Two equal prompts from equal noise, without guidance: equal only until the first step.
    positive = pair(1, shared=True)[1:]
    unet(halves(draw), 10, positive.repeat(2, 1, 1))
    assert encoder_batches == [2, 2, 2]


def test_attention_across_samples_is_not_shared(
    unet: UNet2DConditionModel,
    hooks: BackboneHooks,
    encoder_batches: list[int],
    draw: Draw,
    pair: Pair,
) -> None:
    unet.mid_block.attentions[0].transformer_blocks[0].attn1.set_processor(
        PAGIdentitySelfAttnProcessor2_0()
    )
    unet(halves(draw), 10, pair(1, shared=True))
    assert encoder_batches == [2]
    unet.set_attn_processor(AttnProcessor2_0())
    unet(halves(draw), 10, pair(1, shared=True))
    assert encoder_batches == [2, 1]


@pytest.mark.parametrize(
    "argument",
    [
        {"timestep": torch.tensor([10, 11])},
        {"encoder_attention_mask": torch.ones(2, 7)},
        {"down_intrablock_additional_residuals": [torch.ones(2, 16, 8, 8)]},
        {"added_cond_kwargs": {"image_embeds": torch.ones(2, 3)}},
    ],
    ids=lambda argument: next(iter(argument)),
)
def test_arguments_that_may_differ_between_halves_are_not_shared(
    unet: UNet2DConditionModel,
    hooks: BackboneHooks,
    encoder_batches: list[int],
    draw: Draw,
    pair: Pair,
    argument: dict[str, object],
) -> None:
    call = {"sample": halves(draw), "timestep": 10, "encoder_hidden_states": pair(1, shared=True)}
    unet(**{**call, **argument})
    assert encoder_batches == [2]


def test_an_error_in_a_shared_call_leaves_the_next_one_whole(
    unet: UNet2DConditionModel, hooks: BackboneHooks, draw: Draw, pair: Pair
) -> None:
    sample, states = halves(draw), pair(1, shared=True)
    english = hooks.layout.english(states)
    want = unet(sample, 10, english).sample

    def fail(*_: object) -> None:
        raise BridgeError("out of memory, say")

    handle = unet.up_blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(BridgeError, match="out of memory"):
        unet(sample, 10, states)
    handle.remove()
    assert torch.equal(unet(sample, 10, english).sample, want)

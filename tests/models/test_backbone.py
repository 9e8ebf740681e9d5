"""The hook on a backbone, against the same networks called by hand."""

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from diffusers import ControlNetModel, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn

from bridge_diffusion import BridgeError
from bridge_diffusion.models import BackboneHooks, BridgeBranch, PackLayout

pytestmark = pytest.mark.usefixtures("no_grad")

Draw = Callable[..., Tensor]
Pair = Callable[..., Tensor]


@pytest.fixture
def plain_unet(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The backbone without any hook."""
    return copy.deepcopy(unet)


def by_hand(
    unet: nn.Module, hooks: BackboneHooks, sample: Tensor, states: Tensor, **other: Tensor
) -> Tensor:
    """The branch, then the backbone, called one after the other."""
    pack = hooks.layout.unpack(states)
    (part,), (branch,) = pack.parts, hooks.branches
    down, mid = branch(
        sample[:, :4], 10, part.hidden, encoder_attention_mask=part.mask, scale=part.scale
    )
    if "down_block_additional_residuals" in other:
        theirs = other.pop("down_block_additional_residuals")
        down = tuple(a + b for a, b in zip(theirs, down, strict=True))
        mid = other.pop("mid_block_additional_residual") + mid
    return unet(
        sample,
        10,
        pack.english,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
        **other,
    ).sample


def test_packed_states_bring_in_the_branch(
    unet: UNet2DConditionModel,
    plain_unet: UNet2DConditionModel,
    hooks: BackboneHooks,
    draw: Draw,
    pair: Pair,
) -> None:
    sample, states = draw(2, 4, 8, 8), pair(1)
    got = unet(sample, 10, states).sample
    assert torch.equal(got, by_hand(plain_unet, hooks, sample, states))
    alone = plain_unet(sample, 10, hooks.layout.english(states)).sample
    assert (got - alone).abs().max() > 1e-3


def test_plain_states_and_a_scale_of_zero_are_the_backbone_alone(
    unet: UNet2DConditionModel,
    plain_unet: UNet2DConditionModel,
    hooks: BackboneHooks,
    draw: Draw,
    pair: Pair,
) -> None:
    sample, states = draw(2, 4, 8, 8), pair(1, scale=0.0)
    english = hooks.layout.english(states)
    alone = plain_unet(sample, 10, english).sample
    assert torch.equal(unet(sample, 10, english).sample, alone)
    assert torch.equal(unet(sample, 10, states).sample, alone)


def test_arguments_by_position_or_by_name(
    unet: UNet2DConditionModel, hooks: BackboneHooks, draw: Draw, pair: Pair
) -> None:
    sample, states = draw(2, 4, 8, 8), pair(1)
    by_name = unet(sample=sample, timestep=10, encoder_hidden_states=states, return_dict=False)[0]
    assert torch.equal(unet(sample, 10, states).sample, by_name)


def test_residuals_add_to_those_of_a_controlnet_that_sees_english_alone(
    unet: UNet2DConditionModel,
    plain_unet: UNet2DConditionModel,
    hooks: BackboneHooks,
    draw: Draw,
    pair: Pair,
) -> None:
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8,))
    for parameter in net.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape))
    sample, states, image = draw(2, 4, 8, 8), pair(1), draw(2, 3, 8, 8)
    _, mid = net(sample, 10, hooks.layout.english(states), image, return_dict=False)
    with pytest.raises(RuntimeError, match="shapes"):
        net(sample, 10, states, image)  # not hooked: it must not misread a pack
    hooks.attach(unet, [net])
    hooked_down, hooked_mid = net(sample, 10, states, image, return_dict=False)
    assert torch.equal(mid, hooked_mid)
    assert mid.abs().max() > 1e-3
    residuals = {
        "down_block_additional_residuals": hooked_down,
        "mid_block_additional_residual": hooked_mid,
    }
    want = by_hand(plain_unet, hooks, sample, states, **residuals)
    assert torch.equal(unet(sample, 10, states, **residuals).sample, want)


@pytest.mark.filterwarnings("ignore:.*T2I should not use:FutureWarning")
def test_t2i_adapters_in_both_spellings(
    unet: UNet2DConditionModel,
    plain_unet: UNet2DConditionModel,
    hooks: BackboneHooks,
    draw: Draw,
    pair: Pair,
) -> None:
    sample, states = draw(2, 4, 8, 8), pair(1)
    adapter = [draw(2, 16, 8, 8), draw(2, 32, 4, 4)]

    def fresh() -> list[Tensor]:
        return [state.clone() for state in adapter]

    want = by_hand(plain_unet, hooks, sample, states, down_intrablock_additional_residuals=fresh())
    today = unet(sample, 10, states, down_intrablock_additional_residuals=fresh()).sample
    legacy = unet(sample, 10, states, down_block_additional_residuals=fresh()).sample
    assert torch.equal(today, want)
    assert torch.equal(legacy, want)


def test_an_inpainting_backbone_shows_the_branch_its_latents_only(
    inpainting_unet: UNet2DConditionModel,
    branch: BridgeBranch,
    layout: PackLayout,
    draw: Draw,
    pair: Pair,
) -> None:
    plain = copy.deepcopy(inpainting_unet)
    hooks = BackboneHooks(layout.english_width)
    hooks.add(branch, layout.segments[0].native_tokens)
    hooks.attach(inpainting_unet)
    sample, states = draw(2, 9, 8, 8), pair(1)
    got = inpainting_unet(sample, 10, states).sample
    assert torch.equal(got, by_hand(plain, hooks, sample, states))


@pytest.mark.full
def test_a_compiled_backbone_stays_one_graph(
    unet: UNet2DConditionModel,
    plain_unet: UNet2DConditionModel,
    branch: BridgeBranch,
    layout: PackLayout,
    draw: Draw,
    pair: Pair,
) -> None:
    compiled = torch.compile(unet, backend="eager", fullgraph=True)
    hooks = BackboneHooks(layout.english_width)
    hooks.add(branch, layout.segments[0].native_tokens)
    hooks.attach(compiled)
    sample, states = draw(2, 4, 8, 8), pair(1)
    got = compiled(sample, 10, states).sample
    assert torch.equal(got, by_hand(plain_unet, hooks, sample, states))


def test_detaching_leaves_nothing(
    unet: UNet2DConditionModel, hooks: BackboneHooks, pair: Pair, draw: Draw
) -> None:
    for segment in hooks.layout.segments:
        hooks.remove(segment)
    for module in unet.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
        assert not module._forward_pre_hooks_with_kwargs
        assert not module._forward_hooks_always_called
    with pytest.raises(RuntimeError, match="shapes"):
        unet(draw(2, 4, 8, 8), 10, pair(1))


def test_a_copied_backbone_runs_its_own_weights(
    unet: UNet2DConditionModel, hooks: BackboneHooks, draw: Draw, pair: Pair
) -> None:
    sample, states = draw(2, 4, 8, 8), pair(1)
    want = unet(sample, 10, states).sample
    twin = copy.deepcopy(unet)
    nn.init.zeros_(unet.conv_out.weight)
    hooks.branches[0].controlnet_mid_block.weight.zero_()
    assert torch.equal(twin(sample, 10, states).sample, want)


def test_a_prompt_is_read_once_and_again_when_it_changes(
    unet: UNet2DConditionModel,
    plain_unet: UNet2DConditionModel,
    hooks: BackboneHooks,
    draw: Draw,
    pair: Pair,
) -> None:
    sample, states = draw(2, 4, 8, 8), pair(1)
    unet(sample, 10, states)
    read = hooks._prompt.pack
    unet(sample, 9, states)
    assert hooks._prompt.pack is read
    states[:, 0] += 1.0
    want = by_hand(plain_unet, hooks, sample, states)
    assert torch.equal(unet(sample, 10, states).sample, want)


def test_threads_may_share_a_backbone(
    unet: UNet2DConditionModel, hooks: BackboneHooks, draw: Draw, pair: Pair
) -> None:
    jobs = [(draw(2, 4, 8, 8), pair(1, shared=bool(i % 2))) for i in range(4)]
    wanted = [unet(sample, 10, states).sample for sample, states in jobs]
    got: dict[int, list[Tensor]] = {}

    def work(i: int) -> None:
        with torch.no_grad():
            got[i] = [unet(jobs[i][0], 10, jobs[i][1]).sample for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, want in enumerate(wanted):
        assert all(torch.equal(result, want) for result in got[i])


def test_nan_is_told_and_its_source_named(
    unet: UNet2DConditionModel, hooks: BackboneHooks, draw: Draw, pair: Pair
) -> None:
    sample, states = draw(2, 4, 8, 8), pair(1)
    with pytest.raises(BridgeError, match="latents hold NaN"):
        unet(sample * torch.nan, 10, states)
    hooks.branches[0].controlnet_mid_block.bias.fill_(torch.inf)
    with pytest.raises(BridgeError, match=r"branch gave NaN or infinity in torch\.float32"):
        unet(sample, 10, states)


def test_a_video_is_a_batch_of_pictures(
    unet: UNet2DConditionModel,
    branch: BridgeBranch,
    layout: PackLayout,
    draw: Draw,
    pair: Pair,
) -> None:
    """AnimateDiff's UNet, whose pipeline repeats the text for each frame."""
    adapter = MotionAdapter(
        block_out_channels=(16, 32),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=8,
    )
    video_unet = UNetMotionModel.from_unet2d(unet, adapter)
    plain = copy.deepcopy(video_unet)
    hooks = BackboneHooks(layout.english_width)
    hooks.add(branch, layout.segments[0].native_tokens)
    hooks.attach(video_unet)
    sample, states = draw(2, 4, 3, 8, 8), pair(1)
    (part,) = hooks.layout.unpack(states).parts
    residuals = [
        branch(
            sample[i, :, frame][None],
            10,
            part.hidden[i][None],
            encoder_attention_mask=part.mask[i][None],
            scale=part.scale[i][None],
        )
        for i in range(2)
        for frame in range(3)
    ]
    states = states.repeat_interleave(3, dim=0)
    english = hooks.layout.english(states)
    want = plain(
        sample,
        10,
        english,
        down_block_additional_residuals=[
            torch.cat(level) for level in zip(*(down for down, _ in residuals), strict=True)
        ],
        mid_block_additional_residual=torch.cat([mid for _, mid in residuals]),
    ).sample
    torch.testing.assert_close(video_unet(sample, 10, states).sample, want, rtol=0, atol=2e-5)
    assert (plain(sample, 10, english).sample - want).abs().max() > 1e-3


def test_a_branch_of_another_type_is_cast_in_and_out(
    unet: UNet2DConditionModel, hooks: BackboneHooks, draw: Draw, pair: Pair
) -> None:
    sample, states = draw(2, 4, 8, 8), pair(1)
    want = unet(sample, 10, states).sample
    hooks.branches[0].to(torch.bfloat16)
    got = unet(sample, 10, states).sample
    assert got.dtype == torch.float32
    assert 0 < (got - want).abs().max() < 0.05 * want.abs().max()

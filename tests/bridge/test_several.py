"""Several bridges on one pipeline: their residuals add, and none knows of the others."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionPipeline

from bridge_diffusion import Bridge, BridgeBranch, BridgeError, prompt_together

NATIVE, OTHER = "一只红色的狐狸", "雪夜的灯笼"
Calls = dict[str, int]


@pytest.fixture
def second(bridge: Bridge) -> Bridge:
    """Another bridge for the same backbone, with other weights; not attached."""
    branch = BridgeBranch.from_config(bridge.branch.config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, value in branch.state_dict().items():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(bridge.branch.state_dict()[key] + 0.02 * noise)
    return Bridge(branch.eval(), bridge.text_encoder, bridge.config)


@pytest.fixture
def runs(bridge: Bridge, second: Bridge) -> Iterator[Calls]:
    """How often each branch was run."""
    calls = {"first": 0, "second": 0}

    def count(name: str) -> None:
        calls[name] += 1

    handles = [
        bridge.branch.register_forward_hook(lambda *_: count("first")),
        second.branch.register_forward_hook(lambda *_: count("second")),
    ]
    yield calls
    for handle in handles:
        handle.remove()


def draw(pipe: StableDiffusionPipeline, call: dict[str, Any], steps: int = 3) -> Any:
    generator = torch.Generator().manual_seed(1)
    return pipe(**call, num_inference_steps=steps, generator=generator, output_type="np").images


def as_stock(branch: BridgeBranch) -> ControlNetModel:
    """The same weights in diffusers' own ControlNet, whose image embedding gives zero."""
    names = set(ControlNetModel._get_init_keys(ControlNetModel)) & set(branch.config)
    net = ControlNetModel(
        conditioning_embedding_out_channels=(8, 8), **{name: branch.config[name] for name in names}
    )
    missing, surplus = net.load_state_dict(branch.state_dict(), strict=False)
    assert all(key.startswith("controlnet_cond_embedding") for key in missing)
    assert not surplus
    return net.eval()


def test_residuals_add_each_with_its_scale(
    bridge: Bridge, second: Bridge, pipe: StableDiffusionPipeline
) -> None:
    bridge.attach(pipe)
    second.attach(pipe)
    parts = bridge.part(NATIVE, negative="模糊"), second.part(OTHER, scale=0.7)
    hooked = draw(pipe, prompt_together(*parts, english="fox"))
    bridge.detach()
    second.detach()

    said = []
    for native, negative, scale, branch in (
        (NATIVE, "模糊", 1.0, bridge.branch),
        (OTHER, "", 0.7, second.branch),
    ):
        positive, negatives = bridge.text_encoder.encode_pair([native], [negative])
        states = torch.cat([negatives.hidden, positive.hidden])
        said.append((as_stock(branch), states, scale))
    stock_forward = pipe.unet.forward

    def forward(sample: torch.Tensor, t: Any, **kwargs: Any) -> Any:
        image = torch.zeros(len(sample), 3, sample.shape[2] * 2, sample.shape[3] * 2)
        added = [
            net(sample, t, states, image, conditioning_scale=scale, return_dict=False)
            for net, states, scale in said
        ]
        (down, mid), (other_down, other_mid) = added
        kwargs["down_block_additional_residuals"] = [
            a + b for a, b in zip(down, other_down, strict=True)
        ]
        kwargs["mid_block_additional_residual"] = mid + other_mid
        return stock_forward(sample, t, **kwargs)

    pipe.unet.forward = forward
    by_hand = draw(pipe, {"prompt": "fox", "negative_prompt": ""})
    pipe.unet.forward = stock_forward
    assert np.abs(hooked - by_hand).max() < 1e-5
    assert np.abs(hooked - draw(pipe, {"prompt": "fox"})).max() > 0.01


def test_the_order_of_parts_and_of_attaching_does_not_matter(
    bridge: Bridge, second: Bridge, pipe: StableDiffusionPipeline
) -> None:
    bridge.attach(pipe)
    second.attach(pipe)
    parts = [bridge.part(NATIVE), second.part(OTHER, scale=0.5)]
    want = draw(pipe, prompt_together(*parts))
    assert np.array_equal(draw(pipe, prompt_together(*reversed(parts))), want)
    bridge.detach()
    bridge.attach(pipe)
    assert np.array_equal(draw(pipe, prompt_together(*parts)), want)


def test_who_is_not_asked_is_not_run(
    bridge: Bridge, second: Bridge, pipe: StableDiffusionPipeline, runs: Calls
) -> None:
    plain = {"prompt": "a red fox"}
    stock = draw(pipe, plain)
    bridge.attach(pipe)
    alone = draw(pipe, bridge.prompt(NATIVE, english="fox"))
    second.attach(pipe)
    runs.update(first=0, second=0)
    assert np.array_equal(draw(pipe, bridge.prompt(NATIVE, english="fox")), alone)
    assert runs["first"] > 0
    assert runs["second"] == 0
    runs.update(first=0)
    assert np.array_equal(draw(pipe, plain), stock)
    assert runs == {"first": 0, "second": 0}


def test_detaching_one_leaves_the_other_at_work(
    bridge: Bridge, second: Bridge, pipe: StableDiffusionPipeline
) -> None:
    second.attach(pipe)
    want = draw(pipe, second.prompt(OTHER))
    bridge.attach(pipe)
    bridge.detach()
    assert np.array_equal(draw(pipe, second.prompt(OTHER)), want)
    bridge.attach(pipe)
    second.detach()
    assert bridge.attached
    draw(pipe, bridge.prompt(NATIVE))
    bridge.detach()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in pipe.unet.modules())


def test_each_branch_has_its_own_window(
    bridge: Bridge, second: Bridge, pipe: StableDiffusionPipeline, runs: Calls
) -> None:
    bridge.attach(pipe)
    second.attach(pipe)
    call = prompt_together(bridge.part(NATIVE, end=0.75), second.part(OTHER, start=0.5, end=0.75))
    steps: list[tuple[int, int]] = []
    pipe.unet.register_forward_hook(lambda *_: steps.append((runs["first"], runs["second"])))
    draw(pipe, call, steps=4)
    assert steps == [(1, 0), (2, 0), (3, 1), (3, 1)]


def test_a_list_of_prompts_and_scales(
    bridge: Bridge, second: Bridge, pipe: StableDiffusionPipeline
) -> None:
    bridge.attach(pipe)
    second.attach(pipe)
    parts = bridge.part([NATIVE, OTHER], scale=[1.0, 0.0]), second.part(OTHER, scale=[0.0, 1.0])
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    both = pipe(
        **prompt_together(*parts), num_inference_steps=3, generator=generators, output_type="np"
    ).images
    assert np.abs(both[0] - draw(pipe, bridge.prompt(NATIVE))[0]).max() < 1e-4
    assert np.abs(both[1] - draw(pipe, second.prompt(OTHER))[0]).max() < 1e-4


def test_a_prompt_made_for_other_bridges_is_refused(
    bridge: Bridge, second: Bridge, pipe: StableDiffusionPipeline
) -> None:
    bridge.attach(pipe)
    before = bridge.prompt(NATIVE)
    second.attach(pipe)
    with pytest.raises(BridgeError, match=r"make it again with prompt\(\)"):
        draw(pipe, before)
    bridge.detach()
    with pytest.raises(BridgeError, match="marks of other bridges"):
        draw(pipe, before)


def test_mistakes_are_named(bridge: Bridge, second: Bridge, pipe: StableDiffusionPipeline) -> None:
    bridge.attach(pipe)
    with pytest.raises(BridgeError, match="got no part"):
        prompt_together(english="fox")
    with pytest.raises(BridgeError, match="two parts for one bridge"):
        prompt_together(bridge.part(NATIVE), bridge.part(OTHER))
    with pytest.raises(BridgeError, match="not attached"):
        prompt_together(bridge.part(NATIVE), second.part(OTHER))
    second.attach(StableDiffusionPipeline.from_pipe(pipe))
    with pytest.raises(BridgeError, match="different pipelines"):
        prompt_together(bridge.part(NATIVE), second.part(OTHER))
    second.attach(pipe)
    with pytest.raises(BridgeError, match="lists of 2 and 3 prompts"):
        prompt_together(bridge.part([NATIVE] * 2), second.part([OTHER] * 3))

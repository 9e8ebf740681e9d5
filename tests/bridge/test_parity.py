"""Agreement with the paper's release, whose tensors lie in `tests/golden/case-a-sd15`."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from bridge_diffusion.bridge import Bridge

PACKED = Callable[..., dict[str, Any]]
TOLERANCE = 1e-5
"""Of a tensor's largest value: what one thread and another machine may differ by."""


def assert_close(got: Tensor, want: Tensor) -> None:
    error = (got.double() - want.double()).abs().max() / want.double().abs().max()
    assert float(error) <= TOLERANCE, f"off by {float(error):.2e} of the largest value"


def run(
    pipe: StableDiffusionPipeline, call: dict[str, Any], latents: Tensor | None, **settings: Any
) -> Any:
    """A run of the reference: 4 steps, guidance 7.5; its images are 2 pixels a latent."""
    shape = {} if latents is None else {"height": latents.shape[2] * 2}
    settings = {
        "num_inference_steps": 4,
        "guidance_scale": 7.5,
        "latents": latents,
        "output_type": "latent",
        **shape,
        **({} if latents is None else {"width": latents.shape[3] * 2}),
        **settings,
    }
    return pipe(**call, **settings).images


@pytest.mark.parametrize(("name", "batch", "scale"), [("fwd1", "b1", 0.6), ("fwd2", "b2", 1.0)])
def test_forwards(
    attached: Bridge,
    pipe: StableDiffusionPipeline,
    given: dict[str, Tensor],
    expected: dict[str, Tensor],
    name: str,
    batch: str,
    scale: float,
) -> None:
    sample, t = given[f"{name}.sample"], given[f"{name}.timestep"]
    native = torch.cat([given[f"{batch}.native_neg"][:1], given[f"{batch}.native_pos"][:1]])
    english = torch.cat([given[f"{batch}.en_neg"][:1], given[f"{batch}.en_pos"][:1]])
    with torch.no_grad():
        down, mid = attached.branch(sample, t, native, scale=scale)
        alone = pipe.unet(sample, t, english).sample
        noise = pipe.unet(
            sample,
            t,
            english,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample
    for i, residual in enumerate(down):
        assert_close(residual, expected[f"{name}.down.{i}"])
    assert_close(mid, expected[f"{name}.mid"])
    assert_close(noise, expected[f"{name}.noise"])
    assert_close(alone, expected[f"{name}.noise_without_branch"])


def test_hook_gives_the_noise_of_the_reference_forward(
    pipe: StableDiffusionPipeline,
    packed: PACKED,
    given: dict[str, Tensor],
    expected: dict[str, Tensor],
) -> None:
    call = packed("b1", scale=0.6)
    states = torch.cat([call["negative_prompt_embeds"], call["prompt_embeds"]])
    with torch.no_grad():
        noise = pipe.unet(given["fwd1.sample"], given["fwd1.timestep"], states).sample
    assert_close(noise, expected["fwd1.noise"])


def test_guess_mode_residuals(
    attached: Bridge, given: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    native = torch.cat([given["b2.native_neg"][:1], given["b2.native_pos"][:1]])
    with torch.no_grad():
        down, mid = attached.branch(given["fwd2.sample"], given["fwd2.timestep"], native)
    for i, factor in enumerate(torch.logspace(-1, 0, 7)[:6]):
        assert_close((down[i] * factor)[:, :4], expected[f"fwd2guess.down.{i}"])
    assert_close(mid, expected["fwd2guess.mid"])


@pytest.mark.parametrize(
    ("name", "batch", "prompt", "settings"),
    [
        ("run1", "b1", {}, {}),
        ("run2", "b2", {"scale": 0.6}, {}),
        ("run3", "b1", {}, {"guidance_scale": 1.0}),
        ("run4", "b1", {"start": 0.25, "end": 0.75}, {}),
        ("run5", "b1", {}, {"num_inference_steps": 20}),
        ("run7", "b1", {"scale": 0.0}, {}),
    ],
)
def test_pipeline_runs(
    pipe: StableDiffusionPipeline,
    packed: PACKED,
    given: dict[str, Tensor],
    expected: dict[str, Tensor],
    name: str,
    batch: str,
    prompt: dict[str, float],
    settings: dict[str, Any],
) -> None:
    latents = run(pipe, packed(batch, **prompt), given[f"{batch}.latents"], **settings)
    assert_close(latents, expected[f"{name}.latents"])
    assert pipe.scheduler.timesteps.tolist() == expected[f"{name}.timesteps"].tolist()
    assert_close(pipe.scheduler.sigmas, expected[f"{name}.sigmas"])


def test_images_per_prompt_and_drawn_latents(
    pipe: StableDiffusionPipeline, packed: PACKED, expected: dict[str, Tensor]
) -> None:
    generator = torch.Generator().manual_seed(3546724423)
    latents = run(
        pipe,
        packed("b2"),
        None,
        generator=generator,
        num_images_per_prompt=2,
        height=32,
        width=48,
    )
    assert_close(latents, expected["run6.latents"])


def test_pictures(
    pipe: StableDiffusionPipeline,
    packed: PACKED,
    given: dict[str, Tensor],
    expected: dict[str, Tensor],
) -> None:
    images = run(pipe, packed("b1"), given["b1.latents"], output_type="np")
    assert_close(torch.from_numpy(images), expected["run1.image_np"])
    images = run(pipe, packed("b2", scale=0.6), given["b2.latents"], output_type="np")
    assert_close(torch.from_numpy(images)[1:], expected["run2.image_np"])


def test_every_step(
    pipe: StableDiffusionPipeline,
    packed: PACKED,
    given: dict[str, Tensor],
    expected: dict[str, Tensor],
) -> None:
    steps: list[Tensor] = []
    noises: list[Tensor] = []

    def keep(_: Any, __: int, ___: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(tensors["latents"])
        return tensors

    handle = pipe.unet.register_forward_hook(lambda _, __, output: noises.append(output[0]))
    run(pipe, packed("b1"), given["b1.latents"], callback_on_step_end=keep)
    handle.remove()
    assert_close(torch.stack(steps), expected["run1.step_latents"])
    assert_close(torch.stack(noises), expected["run1.step_noise"])


def test_the_prompts_behind_the_embeddings(
    attached: Bridge,
    pipe: StableDiffusionPipeline,
    given: dict[str, Tensor],
    expected: dict[str, Tensor],
) -> None:
    call = attached.prompt(
        "一只红色的狐狸在雪地里，高质量",
        negative="低质量,模糊,多余的手指",
        english="a red fox in the snow, (sharp focus:1.2)",
        negative_english="(low quality:1.3), [blurry], watermark",
    )
    latents = run(pipe, call, given["b1.latents"])
    error = (latents - expected["run1.latents"]).abs().max() / expected["run1.latents"].abs().max()
    # Two text encoders of today's transformers, each good to 1e-5, are amplified by the guidance.
    assert float(error) <= 1e-4

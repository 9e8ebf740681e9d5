"""Training the branch: the backbone stays as it is, the branch learns through it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.data.pairs import PairDataset
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.branch import BranchOptions, BranchTask
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.examples import LiveExamples
from bridge_diffusion.training.loop import train
from bridge_diffusion.training.seeds import sample_generators

OPTIONS = BranchOptions(batch_size=4, caption_dropout=0.2, sample_prompts=("红色",), sample_steps=2)


NewTask = Callable[..., BranchTask]
NewBridge = Callable[[], Bridge]


@pytest.fixture
def new_task(pipe: StableDiffusionPipeline, make_colours: Callable[[], PairDataset]) -> NewTask:
    def make(bridge: Bridge, options: BranchOptions = OPTIONS) -> BranchTask:
        examples = LiveExamples(make_colours(), pipe, bridge.text_encoder, size=32)
        return BranchTask(pipe, bridge, examples, options)

    return make


def gradients(task: BranchTask) -> dict[str, torch.Tensor]:
    task.module.zero_grad()
    task.loss(task.batch(0), sample_generators(0, 0, 0, 4))["loss"].backward()
    return {
        name: w.grad.clone() for name, w in task.module.named_parameters() if w.grad is not None
    }


def leave_zero(bridge: Bridge) -> None:
    """Move the 1x1 convolutions off zero, so that every weight of the branch counts."""
    generator = torch.Generator().manual_seed(1)
    for name, weight in bridge.branch.named_parameters():
        if name.startswith("controlnet_"):
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)


def loop(run_dir: Path, **changes: object) -> LoopConfig:
    config = LoopConfig(
        run_dir=run_dir, images=16, batch_size=4, learning_rate=1e-2, progress=False
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def test_the_frozen_parts_are_bit_unchanged_and_get_no_gradient(
    pipe: StableDiffusionPipeline,
    new_task: NewTask,
    new_bridge: NewBridge,
    tmp_path: Path,
) -> None:
    bridge = new_bridge()
    frozen = {"unet": pipe.unet, "vae": pipe.vae, "english": pipe.text_encoder}
    frozen["native"] = bridge.text_encoder.model
    before = {
        (part, name): value.clone()
        for part, module in frozen.items()
        for name, value in module.state_dict().items()
    }
    train(new_task(bridge), loop(tmp_path))
    for part, module in frozen.items():
        assert all(weight.grad is None for weight in module.parameters())
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[part, name]), (part, name)


def test_every_weight_of_the_branch_is_trained(
    pipe: StableDiffusionPipeline, new_task: NewTask, new_bridge: NewBridge
) -> None:
    bridge = new_bridge()
    leave_zero(bridge)
    task = new_task(bridge)
    found = gradients(task)
    assert found.keys() == dict(task.module.named_parameters()).keys()
    assert all(gradient.abs().max() > 0 for gradient in found.values())


def test_the_backbones_encoder_leaves_nothing_for_the_backward_pass(
    pipe: StableDiffusionPipeline, new_task: NewTask, new_bridge: NewBridge
) -> None:
    recorded: dict[str, bool] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: object, output: object) -> None:
            tensors = [output] if isinstance(output, torch.Tensor) else [output[0], *output[1]]  # type: ignore[index]
            recorded[name] = any(tensor.requires_grad for tensor in tensors)

        return hook

    unet = pipe.unet
    for name in ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0"):
        unet.get_submodule(name).register_forward_hook(note(name))
    gradients(new_task(new_bridge()))
    assert recorded == {
        "down_blocks.0": False,
        "down_blocks.1": False,
        "mid_block": False,
        "up_blocks.0": True,
    }


def test_gradients_are_those_of_a_backbone_that_records_everything(
    pipe: StableDiffusionPipeline, new_task: NewTask, new_bridge: NewBridge
) -> None:
    bridge = new_bridge()
    leave_zero(bridge)
    task = new_task(bridge)
    frozen = gradients(task)
    pipe.unet.requires_grad_(True)
    recorded = gradients(task)
    assert all(torch.equal(frozen[name], recorded[name]) for name in frozen)


def test_gradient_checkpointing_changes_no_gradient(
    pipe: StableDiffusionPipeline, new_task: NewTask, new_bridge: NewBridge
) -> None:
    bridge = new_bridge()
    leave_zero(bridge)
    plain = gradients(new_task(bridge))
    bridge.branch.train()
    saved = gradients(new_task(bridge, replace(OPTIONS, gradient_checkpointing=True)))
    assert all(torch.allclose(plain[name], saved[name], atol=1e-6) for name in plain)


def test_an_untrained_branch_has_the_loss_of_the_backbone(
    pipe: StableDiffusionPipeline, new_task: NewTask, new_bridge: NewBridge
) -> None:
    task = new_task(new_bridge())
    batch = task.batch(0)
    loss = task.loss(batch, sample_generators(0, 0, 0, 4))["loss"]
    generators = sample_generators(0, 0, 0, 4)
    z = pipe.vae.encode(batch["pixels"]).latent_dist.mode() * pipe.vae.config.scaling_factor
    noise = torch.stack([torch.randn(z.shape[1:], generator=g) for g in generators])
    t = torch.stack([torch.randint(1000, (), generator=g) for g in generators])
    assert set(batch["english"]) > {""}, "some of the batch should have an English text, some none"
    english = pipe.encode_prompt(batch["english"], "cpu", 1, False)[0]
    noisy = DDPMScheduler.from_config(pipe.scheduler.config).add_noise(z, noise, t)
    predicted = pipe.unet(noisy, t, english).sample
    assert loss.item() == pytest.approx((predicted - noise).square().mean().item(), rel=1e-6)


def test_timesteps_are_drawn_towards_the_noise(new_task: NewTask, new_bridge: NewBridge) -> None:
    """The logit of t/T is normal with deviation 1 (Esser et al. 2024, equation 19)."""

    def timesteps(mean: float | None) -> torch.Tensor:
        task = new_task(new_bridge(), replace(OPTIONS, timestep_logit_mean=mean))
        seen: list[torch.Tensor] = []
        task.bridge.branch.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
        batch = task.batch(0)
        for index in range(25):
            task.loss(batch, sample_generators(0, 0, 4 * index, 4))
        return torch.cat(seen).float() / 1000

    logits = timesteps(0.5).logit(eps=1e-3)
    assert logits.mean().item() == pytest.approx(0.5, abs=0.2)
    assert logits.std().item() == pytest.approx(1.0, abs=0.2)
    assert timesteps(None).mean().item() == pytest.approx(0.5, abs=0.06)


def test_velocity_and_min_snr_follow_their_formulas(
    pipe: StableDiffusionPipeline, new_task: NewTask, new_bridge: NewBridge
) -> None:
    bridge = new_bridge()
    plain = new_task(bridge).loss(new_task(bridge).batch(0), sample_generators(0, 0, 0, 4))
    limited = new_task(bridge, replace(OPTIONS, min_snr_gamma=1e9))
    losses = limited.loss(limited.batch(0), sample_generators(0, 0, 0, 4))
    assert losses["loss"].item() == pytest.approx(plain["loss"].item())
    limited = new_task(bridge, replace(OPTIONS, min_snr_gamma=1e-3))
    losses = limited.loss(limited.batch(0), sample_generators(0, 0, 0, 4))
    assert losses["loss"] < losses["unweighted"]
    assert losses["unweighted"].item() == pytest.approx(plain["unweighted"].item())
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    task = new_task(bridge)
    velocity = task.loss(task.batch(0), sample_generators(0, 0, 0, 4))["loss"].item()
    assert velocity != pytest.approx(plain["loss"].item(), rel=1e-3)
    pipe.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(BridgeError, match="predicts 'sample'"):
        new_task(bridge)


def test_interrupted_and_continued_equals_straight_through(
    pipe: StableDiffusionPipeline,
    new_task: NewTask,
    new_bridge: NewBridge,
    tmp_path: Path,
) -> None:
    train(new_task(new_bridge()), loop(tmp_path / "a"))
    stopped = train(new_task(new_bridge()), loop(tmp_path / "b", time_limit=1e-6))
    assert stopped.interrupted
    train(new_task(new_bridge()), loop(tmp_path / "b"))
    a, b = (Bridge.from_pretrained(tmp_path / run / "export") for run in "ab")
    ours, theirs = a.branch.state_dict(), b.branch.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_export_draws_what_the_sample_grid_shows(
    pipe: StableDiffusionPipeline,
    new_task: NewTask,
    new_bridge: NewBridge,
    tmp_path: Path,
) -> None:
    task = new_task(new_bridge(), replace(OPTIONS, export_precision="fp32"))
    train(task, loop(tmp_path))
    assert not task.bridge.attached
    assert (tmp_path / "samples" / "00000016.png").is_file()
    bridge = Bridge.from_pretrained(tmp_path / "export")
    average = torch.cat([w.flatten() for w in bridge.branch.parameters()])
    trained = torch.cat([w.detach().flatten() for w in task.module.parameters()])
    assert average.dtype == torch.float32
    assert not torch.equal(average, trained)
    bridge.attach(pipe)
    assert pipe(**bridge.prompt("红色"), num_inference_steps=2).images[0].size == (32, 32)

"""What a trainer may choose: a part of the branch, the noise, the English text, the start."""

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors.torch import load_file

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.data.pairs import PairDataset
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.branch import BridgeBranch
from bridge_diffusion.training.branch import BranchOptions, BranchTask, ends_in_pure_noise
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.examples import LiveExamples
from bridge_diffusion.training.loop import train
from bridge_diffusion.training.order import ShuffledOrder
from bridge_diffusion.training.probe import WorldProbe
from bridge_diffusion.training.seeds import draw_each, sample_generators
from bridge_diffusion.training.starting import reading_width
from bridge_diffusion.training.trained_part import choose_weights, merged

OPTIONS = BranchOptions(batch_size=4, export_precision="fp32")

NewTask = Callable[..., BranchTask]
NewBridge = Callable[[], Bridge]


@pytest.fixture
def new_task(pipe: StableDiffusionPipeline, make_colours: Callable[[], PairDataset]) -> NewTask:
    def make(bridge: Bridge, probe: WorldProbe | None = None, **changes: object) -> BranchTask:
        examples = LiveExamples(make_colours(), pipe, bridge.text_encoder, size=32)
        options = replace(OPTIONS, **changes)  # type: ignore[arg-type]
        return BranchTask(pipe, bridge, examples, options, probe=probe)

    return make


def loop(run_dir: Path, **changes: object) -> LoopConfig:
    values = {"images": 8, "batch_size": 4, "learning_rate": 1e-2, "progress": False}
    return LoopConfig(run_dir=run_dir, **{**values, **changes})  # type: ignore[arg-type]


def trainable(branch: BridgeBranch) -> set[str]:
    return {name for name, weight in branch.named_parameters() if weight.requires_grad}


def inputs(branch: BridgeBranch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(5)
    return (
        torch.randn(1, 4, 8, 8, generator=draw),
        torch.tensor([300]),
        torch.randn(1, 3, branch.native_width, generator=draw),
    )


# A part of the branch


def test_a_lora_trains_little_and_is_exported_merged(
    new_task: NewTask, new_bridge: NewBridge, tmp_path: Path
) -> None:
    whole = new_bridge().branch
    bridge = new_bridge()
    task = new_task(bridge, lora_rank=2)
    trained = trainable(bridge.branch)
    assert {name.partition(".")[0] for name in trained if ".lora_" not in name} >= {
        "controlnet_down_blocks",
        "controlnet_mid_block",
    }
    assert not any(".resnets." in name for name in trained)
    result = train(task, loop(tmp_path))
    saved = load_file(tmp_path / "checkpoints" / "00000008" / "model.safetensors")
    assert saved.keys() == trained, "a checkpoint holds what is trained and nothing else"
    exported = Bridge.from_pretrained(result.export).branch
    assert exported.state_dict().keys() == whole.state_dict().keys()
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert not torch.equal(exported.state_dict()[name], whole.state_dict()[name])
    frozen = "mid_block.resnets.0.conv1.weight"
    assert torch.equal(exported.state_dict()[frozen], whole.state_dict()[frozen])


def test_loras_are_no_larger_than_what_they_stand_for(new_bridge: NewBridge) -> None:
    branch = new_bridge().branch
    most = max(min(m.weight.shape) for m in branch.modules() if isinstance(m, torch.nn.Linear))
    with pytest.raises(BridgeError, match=f"--lora-rank is {most + 1}, and no matrix"):
        choose_weights(branch, lora_rank=most + 1, freeze=(), seed=0)


def test_a_merged_branch_computes_what_its_loras_do(new_bridge: NewBridge) -> None:
    branch = new_bridge().branch.eval()
    choose_weights(branch, lora_rank=2, freeze=(), seed=0)
    draw = torch.Generator().manual_seed(1)
    for name, weight in branch.named_parameters():
        if ".lora_" in name or name.startswith("controlnet_"):
            weight.data = 0.1 * torch.randn(weight.shape, generator=draw)
    with torch.no_grad():
        down, mid = branch(*inputs(branch))
        down_merged, mid_merged = merged(branch)(*inputs(branch))
    assert mid.abs().max() > 0
    for ours, theirs in zip((*down, mid), (*down_merged, mid_merged), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_lora_run_that_was_stopped_ends_with_the_same_bits(
    new_task: NewTask, new_bridge: NewBridge, tmp_path: Path
) -> None:
    def run(name: str, **changes: object) -> BridgeBranch:
        task = new_task(new_bridge(), lora_rank=2, freeze=("conv_in",))
        result = train(task, loop(tmp_path / name, **changes))
        return Bridge.from_pretrained(result.export).branch

    straight = run("straight").state_dict()
    run("stopped", time_limit=1e-6)
    continued = run("stopped").state_dict()
    assert all(torch.equal(straight[name], continued[name]) for name in straight)


@pytest.mark.parametrize(
    "freeze",
    [
        ("down_blocks.0", "*.resnets.*", "conv_in"),
        ("conv_in",),  # so that a GroupNorm's input needs no gradient
        ("conv_in", "time_embedding", "down_blocks.0"),
    ],
)
def test_frozen_blocks_stay_and_the_rest_is_trained(
    new_task: NewTask, new_bridge: NewBridge, tmp_path: Path, freeze: tuple[str, ...]
) -> None:
    before = new_bridge().branch.state_dict()
    task = new_task(new_bridge(), freeze=freeze)
    after = Bridge.from_pretrained(train(task, loop(tmp_path)).export).branch.state_dict()
    for name, value in after.items():
        if any(fnmatch(name, f"{pattern}.*") for pattern in freeze):
            assert torch.equal(value, before[name]), name
    changed = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert not torch.equal(after[changed], before[changed])


@pytest.mark.parametrize(
    ("freeze", "words"),
    [
        (("down_blocks.9",), r"--freeze down_blocks\.9 matches nothing.*it has .*mid_block"),
        (("*",), r"--freeze \* leaves nothing to train"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(
    new_bridge: NewBridge, freeze: tuple[str, ...], words: str
) -> None:
    with pytest.raises(BridgeError, match=words):
        choose_weights(new_bridge().branch, lora_rank=None, freeze=freeze, seed=0)


# Noise and its weights


def test_zero_terminal_snr_trains_right_at_the_last_timestep(
    pipe: StableDiffusionPipeline,
    new_task: NewTask,
    new_bridge: NewBridge,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = {**pipe.scheduler.config, "rescale_betas_zero_snr": True, "_use_default_values": []}
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(config)
    assert ends_in_pure_noise(pipe.scheduler)
    with pytest.raises(BridgeError, match="ends in pure noise"):
        new_task(new_bridge())
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    last = torch.full((4,), 999)
    monkeypatch.setattr(BranchTask, "_timestep", lambda self, generator: torch.tensor(999))
    task = new_task(new_bridge(), min_snr_gamma=5.0)
    assert task.scheduler.alphas_cumprod[-1] == 0
    batch = task.batch(0)
    losses = task.loss(batch, sample_generators(0, 0, 0, 4))
    assert losses["loss"] == 0, "SNR / (SNR + 1) is 0 there, not 0 / 0"
    # At the last timestep the input is pure noise and the velocity is the picture, negated.
    z = task.examples.encoded(batch).latents
    noise = draw_each(
        sample_generators(0, 0, 0, 4), lambda g: torch.randn(z.shape[1:], generator=g)
    )
    english = task.examples.encoded(batch).english
    predicted = pipe.unet(noise, last, english).sample
    wanted = (predicted + z).square().mean().item()
    assert losses["unweighted"].item() == pytest.approx(wanted, rel=1e-5)
    assert losses["loss_by_timestep/750-999:count"] == 4
    plain = new_task(new_bridge()).loss(batch, sample_generators(0, 0, 0, 4))
    plain["loss"].backward()
    assert plain["loss"].item() == pytest.approx(wanted, rel=1e-5)


def test_min_snr_weights_have_no_division_by_zero(
    pipe: StableDiffusionPipeline, new_task: NewTask, new_bridge: NewBridge
) -> None:
    """Hang et al. 2023, equation 8: min(SNR, gamma) / SNR for noise, / (SNR + 1) for velocity."""
    task = new_task(new_bridge(), min_snr_gamma=5.0)
    t = torch.tensor([0, 500, 999])
    kept = task.scheduler.alphas_cumprod[t]
    snr = kept / (1 - kept)
    torch.testing.assert_close(task._weights(t), snr.clamp(max=5) / snr)
    pipe.scheduler.register_to_config(prediction_type="v_prediction")
    task = new_task(new_bridge(), min_snr_gamma=5.0)
    torch.testing.assert_close(task._weights(t), snr.clamp(max=5) / (snr + 1))


def test_the_noise_offset_moves_whole_channels(new_task: NewTask, new_bridge: NewBridge) -> None:
    def noisy(offset: float) -> torch.Tensor:
        task, seen = new_task(new_bridge(), noise_offset=offset), []
        task.bridge.branch.register_forward_pre_hook(lambda _, args: seen.append(args))
        task.loss(task.batch(0), sample_generators(0, 0, 0, 4))
        kept = task.scheduler.alphas_cumprod[seen[0][1]]
        return seen[0][0] / (1 - kept).sqrt()[:, None, None, None]

    moved = noisy(0.5) - noisy(0.0)
    assert moved.std(dim=(2, 3)).max() < 1e-4
    assert moved.mean(dim=(2, 3)).std() > 0.1


def test_a_backbone_in_bfloat16_trains_nearly_the_same_branch_and_draws_in_float32(
    pipe: StableDiffusionPipeline, new_task: NewTask, new_bridge: NewBridge
) -> None:
    def gradient(task: BranchTask) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.loss(task.batch(0), sample_generators(0, 0, 0, 4))["loss"]
        loss.backward()
        found = task.bridge.branch.controlnet_mid_block.weight.grad
        assert found is not None
        return found.flatten()

    full = gradient(new_task(new_bridge()))
    task = new_task(new_bridge(), frozen_precision="bf16", sample_prompts=("红",), sample_steps=1)
    assert pipe.unet.dtype == torch.bfloat16
    half = gradient(task)
    assert torch.cosine_similarity(full, half, dim=0) > 0.999
    seen: list[torch.dtype] = []
    pipe.unet.register_forward_hook(lambda net, *_: seen.append(net.dtype))
    assert task.samples() is not None
    assert set(seen) == {torch.float32}
    assert pipe.unet.dtype == torch.bfloat16


# The English text


def test_english_texts_are_emptied_by_their_share_and_captions_stay() -> None:
    def picks(share: float) -> list:
        order = ShuffledOrder(
            500, batch_size=500, caption_dropout=0.0, seed=3, english_dropout=share
        )
        return order.batch(0)

    some, none = picks(0.3), picks(0.0)
    assert [pick.index for pick in some] == [pick.index for pick in none]
    assert [pick.caption for pick in some] == [pick.caption for pick in none]
    assert all(pick.english_of("a blue background") for pick in none)
    emptied = sum(pick.english_of("a blue background") == "" for pick in some)
    assert 100 < emptied < 200
    assert all(pick.english_of("x") == "" for pick in picks(1.0))


# The start


def test_a_branch_is_taken_over_for_text_of_another_width(new_bridge: NewBridge) -> None:
    old = new_bridge().branch
    assert reading_width(old, old.native_width) is old
    new = reading_width(old, 24, torch.Generator().manual_seed(0))
    assert new.native_width == 24
    for name, value in new.state_dict().items():
        if name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight")):
            assert value.shape[1] == 24
            assert value.abs().max() > 0
        else:
            assert torch.equal(value, old.state_dict()[name]), name
    again = reading_width(old, 24, torch.Generator().manual_seed(0)).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in new.state_dict().items())


# What is scored


def test_a_probe_scores_held_out_scenes_from_the_same_seeds(
    pipe: StableDiffusionPipeline, new_task: NewTask, new_bridge: NewBridge
) -> None:
    probe = WorldProbe.of_data(["emoji:zh"], 3, steps=1, guidance=1.0)
    assert [case.group for case in probe.cases] == ["native", "shared", "native"]
    assert all(case.scene.scored for case in probe.cases)
    assert any("一" <= sign <= "龥" for sign in probe.cases[0].prompt)
    task = new_task(new_bridge(), probe)
    scheduler = pipe.scheduler
    scores = task.scores()
    assert scores.keys() == {"probe/native_top1", "probe/shared_top1"}
    assert all(0 <= share <= 1 for share in scores.values())
    assert scores == task.scores()
    assert pipe.scheduler is scheduler
    assert not task.bridge.attached
    assert new_task(new_bridge()).scores() == {}
    for places, words in (
        (["emoji:zh", "pairs"], "not pairs; for other data look at the samples"),
        (["emoji:zh", "emoji:ar"], "of one language, and --data has zh, ar"),
    ):
        with pytest.raises(BridgeError, match=words):
            WorldProbe.of_data(places, 2, steps=1, guidance=1.0)


def test_a_probe_scores_both_groups_alike_however_few_are_native() -> None:
    cases = WorldProbe.of_data(["emoji:ar:native", "emoji:ar"], 40, steps=1, guidance=1.0).cases
    native = [case for case in cases if case.group == "native"]
    assert len(native) == 20  # of 13 concepts
    assert [case.index for case in native] == [0] * 13 + [1] * 7
    assert len({case.seed for case in cases}) == 40


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"english_dropout": 1.5}, "english_dropout is 1.5"),
        ({"noise_offset": -0.1}, "noise_offset is -0.1"),
        ({"lora_rank": 0}, "lora_rank is 0"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(BridgeError, match=words):
        replace(OPTIONS, **changes)  # type: ignore[arg-type]


def test_the_learning_rate_may_fall_in_a_line(tmp_path: Path) -> None:
    config = loop(tmp_path, images=100, warmup_images=20, schedule="linear", learning_rate=1.0)
    assert [config.learning_rate_at(images) for images in (6, 20, 60, 100)] == [0.5, 1, 0.5, 0]

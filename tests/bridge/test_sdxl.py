"""A bridge for SDXL: two native text models, two projections, stock pipelines."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from matrix.networks import (
    NATIVE_WIDTHS,
    POOLED_WIDTH,
    make_bridge,
    make_parts,
    state_of,
    write_native_models,
)
from matrix.oracle import BranchByHand, by_hand, english_call, stock_states
from matrix.pipelines import PIPELINES

from bridge_diffusion import Bridge, BridgeError
from bridge_diffusion.conversion import convert_to_bridge, convert_to_published
from bridge_diffusion.models import read_branch, write_published
from bridge_diffusion.text import NativeTextEncoder

NATIVE, NEGATIVE, ENGLISH = "一只红色的狐狸", "模糊", "a red fox"
TOLERANCE = 1e-4  # of a picture's 0..1; guidance multiplies rounding errors by 5


@pytest.fixture(scope="session")
def native_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_native_models("sdxl", tmp_path_factory.mktemp("native"))


@pytest.fixture
def bridge(native_folders: list[Path]) -> Bridge:
    return make_bridge("sdxl", native_folders)


@pytest.fixture
def pipe() -> StableDiffusionXLPipeline:
    return quiet(StableDiffusionXLPipeline(**make_parts("sdxl")))


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, call: dict[str, Any], seeds: tuple[int, ...] = (1,), **settings: Any) -> Any:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    settings = {"num_inference_steps": 2, "output_type": "np", **settings}
    return pipe(**call, generator=generators, **settings).images


def oracle(bridge: Bridge, folders: list[Path], scale: float = 1.0) -> BranchByHand:
    hidden, pooled = stock_states(folders, [NEGATIVE, NATIVE])
    return BranchByHand(bridge.branch.config, state_of(bridge.branch), hidden, pooled, scale)


def test_two_native_models_lie_side_by_side(
    native_folders: list[Path], bridge: Bridge, tmp_path: Path
) -> None:
    hidden, pooled = stock_states(native_folders, [NATIVE, NEGATIVE])
    got = bridge.text_encoder.encode([NATIVE, NEGATIVE])
    assert bridge.text_encoder.width == sum(NATIVE_WIDTHS["sdxl"]) == hidden.shape[-1]
    torch.testing.assert_close(got.hidden, hidden, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.pooled, pooled, rtol=0, atol=1e-5)
    bridge.text_encoder.save_pretrained(tmp_path)
    again = NativeTextEncoder.from_pretrained(tmp_path)
    assert again.encoding == bridge.text_encoder.encoding
    assert torch.equal(again.encode([NATIVE]).hidden, got.hidden[:1])
    for number, folder in enumerate(sorted(tmp_path.glob("model_*"))):
        alone = NativeTextEncoder.from_pretrained(folder)
        assert alone.width == NATIVE_WIDTHS["sdxl"][number]


def test_models_that_do_not_go_together_are_refused(
    native_folders: list[Path], bridge: Bridge, bert_like: Path
) -> None:
    encoding = bridge.text_encoder.encoding
    with pytest.raises(BridgeError, match="got 1 text models, the text encoding says 2"):
        NativeTextEncoder.from_pretrained(native_folders[0], encoding)
    with pytest.raises(BridgeError, match="share one vocabulary"):
        NativeTextEncoder.from_pretrained([native_folders[0], bert_like], encoding)
    swapped = NativeTextEncoder.from_pretrained(native_folders[::-1], encoding)
    with pytest.raises(BridgeError, match="pooled vector of width 48, the text encoder gives 32"):
        Bridge(bridge.branch, swapped, bridge.config)


@pytest.fixture
def bert_like(native_folders: list[Path], tmp_path: Path) -> Path:
    """The second model with another order of words."""
    folder = shutil.copytree(native_folders[1], tmp_path / "other-words")
    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    words[-1], words[-2] = words[-2], words[-1]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("english", ["", ENGLISH])
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_the_picture_is_that_of_the_branch_by_hand(
    bridge: Bridge,
    pipe: StableDiffusionXLPipeline,
    native_folders: list[Path],
    english: str,
    scale: float,
) -> None:
    before = state_of(bridge.branch)
    with by_hand(pipe, oracle(bridge, native_folders, scale)):
        want = draw(pipe, english_call(pipe, english, ""))
    plain = draw(pipe, {"prompt": english, "negative_prompt": ""})
    bridge.attach(pipe)
    call = bridge.prompt(NATIVE, negative=NEGATIVE, english=english, scale=scale)
    assert np.abs(draw(pipe, call) - want).max() < TOLERANCE
    assert np.abs(want - plain).max() > 0.01
    after = bridge.branch.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_pooled_vector_and_the_size_numbers_have_their_say(
    bridge: Bridge, pipe: StableDiffusionXLPipeline, native_folders: list[Path]
) -> None:
    sizes = {"original_size": (64, 48), "crops_coords_top_left": (8, 4), "target_size": (32, 32)}
    negative_sizes = {"negative_original_size": (16, 16), "negative_target_size": (32, 32)}
    with by_hand(pipe, oracle(bridge, native_folders)):
        want = draw(pipe, english_call(pipe, "", ""), **sizes, **negative_sizes)
    bridge.attach(pipe)
    call = bridge.prompt(NATIVE, negative=NEGATIVE)
    assert np.abs(draw(pipe, call, **sizes, **negative_sizes) - want).max() < TOLERANCE
    assert np.abs(draw(pipe, call) - want).max() > 1e-3
    with torch.no_grad():
        bridge.branch.pooled_prompt_embeds_projection.weight.zero_()
    assert np.abs(draw(pipe, call, **sizes, **negative_sizes) - want).max() > 1e-3


def test_batches_and_images_per_prompt(bridge: Bridge, pipe: StableDiffusionXLPipeline) -> None:
    bridge.attach(pipe)
    natives = [NATIVE, "雪夜的灯笼"]
    call = bridge.prompt(natives, english=["fox", ""], scale=[1.0, 0.5])
    four = draw(pipe, call, (1, 2, 3, 4), num_images_per_prompt=2)
    for i, (native, english, scale) in enumerate(
        [(NATIVE, "fox", 1.0)] * 2 + [(natives[1], "", 0.5)] * 2
    ):
        alone = draw(pipe, bridge.prompt(native, english=english, scale=scale), (i + 1,))
        assert np.abs(four[i] - alone[0]).max() < TOLERANCE


def test_a_window_runs_the_branch_in_its_steps_only(
    bridge: Bridge, pipe: StableDiffusionXLPipeline, native_folders: list[Path]
) -> None:
    runs: list[int] = []
    bridge.branch.register_forward_hook(lambda *_: runs.append(1))
    branch, step = oracle(bridge, native_folders), [0]

    def half_of_the_steps(*args: Any) -> Any:
        step[0] += 1
        down, mid = branch(*args)
        on = 1.0 if step[0] > 2 else 0.0
        return [on * residual for residual in down], on * mid

    with by_hand(pipe, half_of_the_steps):
        want = draw(pipe, english_call(pipe, ENGLISH, ""), num_inference_steps=4)
    bridge.attach(pipe)
    call = bridge.prompt(NATIVE, negative=NEGATIVE, english=ENGLISH, start=0.5)
    assert np.abs(draw(pipe, call, num_inference_steps=4) - want).max() < TOLERANCE
    assert len(runs) == 2


def test_without_a_negative_prompt_sdxl_has_zeros(
    bridge: Bridge, pipe: StableDiffusionXLPipeline
) -> None:
    assert pipe.config.force_zeros_for_empty_prompt
    bridge.attach(pipe)
    stock = draw(pipe, {"prompt": ENGLISH})
    silent = {"english": ENGLISH, "scale": 0.0}
    call = bridge.prompt(NATIVE, negative_english=None, **silent)
    assert np.array_equal(draw(pipe, call), stock)
    assert not np.array_equal(draw(pipe, bridge.prompt(NATIVE, **silent)), stock)
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    call = bridge.prompt(NATIVE, negative_english=None, **silent)
    assert np.array_equal(draw(pipe, call), draw(pipe, bridge.prompt(NATIVE, **silent)))


def test_a_plain_prompt_and_detaching_are_stock(
    bridge: Bridge, pipe: StableDiffusionXLPipeline
) -> None:
    stock = draw(pipe, {"prompt": ENGLISH})
    bridge.attach(pipe)
    assert np.array_equal(draw(pipe, {"prompt": ENGLISH}), stock)
    bridge.detach()
    assert np.array_equal(draw(pipe, {"prompt": ENGLISH}), stock)
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())


def test_a_saved_bridge_loads_the_same(
    bridge: Bridge, pipe: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    bridge.attach(pipe)
    want = draw(pipe, bridge.prompt(NATIVE))
    bridge.save_pretrained(tmp_path)
    bridge.detach()
    assert "2 models of family chinese_clip" in (tmp_path / "README.md").read_text()
    again = Bridge.from_pretrained(tmp_path)
    assert again.config == bridge.config
    again.attach(pipe)
    assert np.array_equal(draw(pipe, again.prompt(NATIVE)), want)


def test_the_published_layout_both_ways(
    bridge: Bridge,
    pipe: StableDiffusionXLPipeline,
    native_folders: list[Path],
    tmp_path: Path,
) -> None:
    bridge.attach(pipe)
    want = draw(pipe, bridge.prompt(NATIVE))
    bridge.detach()
    write_published(bridge.branch, tmp_path / "published")
    config = json.loads((tmp_path / "published/config.json").read_text())
    assert (config["_class_name"], config["is_xl"]) == ("ControlNetModelBDM", True)
    with pytest.raises(BridgeError, match="for SDXL two side by side"):
        Bridge.from_pretrained(tmp_path / "published")
    with pytest.raises(BridgeError, match="reads text of width 80, the text encoder says 48"):
        Bridge.from_pretrained(tmp_path / "published", text_encoder=native_folders[0])
    loaded = Bridge.from_pretrained(tmp_path / "published", text_encoder=native_folders)
    loaded.attach(pipe)
    assert np.array_equal(draw(pipe, loaded.prompt(NATIVE)), want)
    convert_to_bridge(
        tmp_path / "published", tmp_path / "ours", text_encoder=[str(f) for f in native_folders]
    )
    assert convert_to_published(tmp_path / "ours", tmp_path / "back") == []
    before, after = (state_of(read_branch(tmp_path / name)) for name in ("published", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


class TestRefiner:
    @pytest.fixture
    def refiner(self) -> StableDiffusionXLImg2ImgPipeline:
        """Only the larger text encoder, and five size numbers of which one is a score."""
        numbers = 5 * 8 + POOLED_WIDTH
        parts = make_parts(
            "sdxl", cross_attention_dim=24, projection_class_embeddings_input_dim=numbers
        )
        parts |= {"text_encoder": None, "tokenizer": None}
        return quiet(StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=True))

    def test_it_is_refused(self, bridge: Bridge, refiner: StableDiffusionXLImg2ImgPipeline) -> None:
        with pytest.raises(BridgeError, match="refiner, which has no branch: attach the bridge"):
            bridge.attach(refiner)
        with pytest.raises(BridgeError, match="projection_class_embeddings_input_dim"):
            bridge.attach(StableDiffusionXLPipeline(**refiner.components))
        assert not bridge.attached
        assert not refiner.unet._forward_pre_hooks

    def test_it_refines_what_the_base_draws_with_the_bridge(
        self,
        bridge: Bridge,
        pipe: StableDiffusionXLPipeline,
        refiner: StableDiffusionXLImg2ImgPipeline,
        native_folders: list[Path],
    ) -> None:
        def both(call: dict[str, Any]) -> Any:
            latents = draw(
                pipe, call, num_inference_steps=4, denoising_end=0.5, output_type="latent"
            )
            refine = {"prompt": "fox", "image": latents, "denoising_start": 0.5}
            return draw(refiner, refine, num_inference_steps=4)

        with by_hand(pipe, oracle(bridge, native_folders)):
            want = both(english_call(pipe, ENGLISH, ""))
        plain = both({"prompt": ENGLISH, "negative_prompt": ""})
        bridge.attach(pipe)
        got = both(bridge.prompt(NATIVE, negative=NEGATIVE, english=ENGLISH))
        assert np.abs(got - want).max() < TOLERANCE
        assert np.abs(plain - want).max() > 1e-3


def test_a_video_gives_each_of_its_frames_its_own_size_numbers(
    bridge: Bridge, native_folders: list[Path]
) -> None:
    """Those of the negative half are others, so a frame that got the wrong ones would show."""
    (case,) = (case for case in PIPELINES if case.name == "AnimateDiff")
    pipe = case.make("sdxl", case.parts("sdxl"))
    sizes = {"original_size": (64, 48), "target_size": (32, 32)}
    sizes |= {"negative_original_size": (16, 16), "negative_target_size": (8, 8)}

    def film(call: dict[str, Any]) -> Any:
        generator = torch.Generator().manual_seed(1)
        settings = {"num_frames": 3, "num_inference_steps": 2, "output_type": "np", **sizes}
        return pipe(**call, generator=generator, **settings).frames

    with by_hand(pipe, oracle(bridge, native_folders)):
        want = film(english_call(pipe, ENGLISH, ""))
    bridge.attach(pipe)
    call = bridge.prompt(NATIVE, negative=NEGATIVE, english=ENGLISH)
    assert np.abs(film(call) - want).max() < TOLERANCE
    assert np.abs(film({"prompt": ENGLISH, "negative_prompt": ""}) - want).max() > 1e-3


@pytest.mark.parametrize(
    "kind", [StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline]
)
def test_the_base_in_other_pipelines_is_no_refiner(
    bridge: Bridge, pipe: StableDiffusionXLPipeline, kind: type
) -> None:
    bridge.attach(quiet(kind(**pipe.components)))
    assert bridge.attached


def test_a_bridge_of_the_other_family_is_refused(
    bridge: Bridge, new_release_bridge: Callable[[], Bridge], pipe: StableDiffusionXLPipeline
) -> None:
    with pytest.raises(BridgeError, match=r"for Stable Diffusion 1\.5, the pipeline is of"):
        new_release_bridge().attach(pipe)
    assert not pipe.unet._forward_pre_hooks


def test_a_copied_pipeline_draws_the_same(bridge: Bridge, pipe: StableDiffusionXLPipeline) -> None:
    bridge.attach(pipe)
    call = bridge.prompt(NATIVE)
    want = draw(pipe, call)
    twin = copy.copy(pipe)
    twin.unet = copy.deepcopy(pipe.unet)
    with torch.no_grad():
        bridge.branch.controlnet_mid_block.weight.zero_()
    assert np.array_equal(draw(twin, call), want)

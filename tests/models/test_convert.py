"""Branches on disk: read strictly, in both layouts, and never by running what a file holds."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bridge_diffusion import BridgeError
from bridge_diffusion.models import BridgeBranch, read_branch, write_published

WEIGHTS = "diffusion_pytorch_model.safetensors"
Edit = Callable[[dict], None]


@pytest.fixture
def published(branch: BridgeBranch, tmp_path: Path) -> Path:
    write_published(branch, tmp_path)
    return tmp_path


def edit_weights(folder: Path, edit: Edit) -> None:
    state = load_file(folder / WEIGHTS)
    edit(state)
    save_file(state, folder / WEIGHTS)


def edit_config(folder: Path, edit: Edit) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))


def assert_equal(one: BridgeBranch, other: BridgeBranch) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for name in one.config:
        if not name.startswith("_"):
            a, b = (branch.config[name] for branch in (one, other))
            assert a == b or list(a) == list(b)


def test_both_layouts_round_trip(branch: BridgeBranch, published: Path, tmp_path: Path) -> None:
    assert_equal(branch, read_branch(published))
    branch.save_pretrained(tmp_path / "ours")
    assert_equal(branch, read_branch(tmp_path / "ours"))


def test_the_published_layout_is_the_one_of_the_release(published: Path) -> None:
    golden = Path(__file__).parents[1] / "golden/case-a-sd15/weights/controlnet/config.json"
    release = json.loads(golden.read_text())
    assert (
        release.keys() - {"_diffusers_version"}
        == json.loads((published / "config.json").read_text()).keys()
    )


def test_sdxl_is_known_by_its_projections(xl_unet: UNet2DConditionModel, tmp_path: Path) -> None:
    branch = BridgeBranch.from_backbone(xl_unet, native_width=14, pooled_width=10)
    write_published(branch, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["is_xl"] is True
    assert_equal(branch, read_branch(tmp_path))
    edit_weights(tmp_path, lambda state: state.pop("prompt_embeds_projection.weight"))
    with pytest.raises(BridgeError, match="is_xl"):
        read_branch(tmp_path)


def test_no_weight_is_left_to_chance(published: Path) -> None:
    edit_weights(published, lambda state: state.pop("conv_in.bias"))
    with pytest.raises(BridgeError, match=r"1 of \d+ weights are missing.*conv_in.bias"):
        read_branch(published)


def test_surplus_weights_are_an_error(published: Path) -> None:
    image_embedding = "controlnet_cond_embedding.conv_in.weight"
    edit_weights(published, lambda state: state.update({image_embedding: torch.zeros(1)}))
    with pytest.raises(BridgeError, match=r"1 are unknown.*controlnet_cond_embedding"):
        read_branch(published)


def test_a_wrong_shape_is_an_error(published: Path) -> None:
    edit_weights(published, lambda state: state.update({"conv_in.bias": torch.zeros(3)}))
    with pytest.raises(BridgeError, match=r"conv_in.bias.*\(3,\)"):
        read_branch(published)


def test_other_models_and_unknown_settings_are_refused(published: Path) -> None:
    edit_config(published, lambda config: config.update(global_pool_conditions=True))
    with pytest.raises(BridgeError, match="global_pool_conditions=True"):
        read_branch(published)
    edit_config(published, lambda config: config.update(_class_name="ControlNetModel"))
    with pytest.raises(BridgeError, match="ControlNetModel, not a branch"):
        read_branch(published)


def test_the_type_is_that_of_the_file_or_the_one_asked_for(published: Path) -> None:
    edit_weights(published, lambda state: state.update({k: v.half() for k, v in state.items()}))
    assert read_branch(published).dtype == torch.float16
    assert read_branch(published, torch.float32).dtype == torch.float32


def test_a_plain_bin_file_is_read(branch: BridgeBranch, published: Path) -> None:
    (published / WEIGHTS).unlink()
    torch.save(branch.state_dict(), published / "diffusion_pytorch_model.bin")
    assert_equal(branch, read_branch(published))


class _Code:
    """What a hostile pickle does: it would write a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_a_pickle_with_code_is_refused_and_not_run(published: Path, save: Callable) -> None:
    (published / WEIGHTS).unlink()
    trace = published / "ran"
    save({"conv_in.bias": _Code(trace)}, published / "diffusion_pytorch_model.bin")
    with pytest.raises(BridgeError, match="pickle that holds more than weights"):
        read_branch(published)
    assert not trace.exists()


def test_missing_files_are_named(published: Path, tmp_path: Path) -> None:
    (published / WEIGHTS).unlink()
    with pytest.raises(BridgeError, match="no branch weights"):
        read_branch(published)
    with pytest.raises(BridgeError, match=r"config\.json is missing"):
        read_branch(tmp_path / "nowhere")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, 5000), name=st.sampled_from([WEIGHTS, "config.json"]))
def test_a_cut_file_is_one_clear_error(published: Path, cut: int, name: str) -> None:
    whole = (published / name).read_bytes()
    try:
        (published / name).write_bytes(whole[: min(cut, len(whole) - 2)])
        with pytest.raises(BridgeError):
            read_branch(published)
    finally:
        (published / name).write_bytes(whole)

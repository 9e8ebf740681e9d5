"""`bdm doctor`: each line passes or says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

NAMES = [
    "device", "files", "family", "model weights", "bridge weights", "fit", "text", "scheduler",
    "forward", "picture", "memory",
]  # fmt: skip
UNET = "unet/diffusion_pytorch_model.safetensors"
BRANCH = "branch/diffusion_pytorch_model.safetensors"


@pytest.fixture
def own_model(model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model, tmp_path / "model")


@pytest.fixture
def own_bridge(bridge: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bridge, tmp_path / "bridge")


@pytest.fixture
def examine(bdm: Callable, model: Path, bridge: Path) -> Callable:
    """Run `bdm doctor`; gives its exit code and each check's outcome and message by name."""

    def run(*options: object, model: Path = model, bridge: Path = bridge) -> tuple:
        outcome = bdm(
            "doctor", "--model", model, "--bridge", bridge, "--steps", 2, "--json", *options
        )
        checks = outcome.json()["checks"]
        assert [check["name"] for check in checks] == NAMES
        return outcome.code, {c["name"]: (c["outcome"], c["message"]) for c in checks}

    return run


def edit(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file)


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_sound_pair_passes(examine: Callable, tmp_path: Path) -> None:
    code, checks = examine("--out", tmp_path / "out")
    assert code == 0
    assert {outcome for outcome, _ in checks.values()} == {"passed"}, checks
    assert "none missing" in checks["model weights"][1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["00001-红包.png"]


def test_lines_for_people(bdm: Callable, model: Path, bridge: Path, tmp_path: Path) -> None:
    outcome = bdm("doctor", "--model", model, "--bridge", bridge, "--steps", 1)
    assert (outcome.code, outcome.err) == (0, "")
    assert [line[:4] for line in outcome.lines] == ["ok  "] * len(NAMES)
    outcome = bdm("doctor", "--model", model, "--bridge", tmp_path / "none")
    assert outcome.code == 1
    assert [line[:4] for line in outcome.lines] == ["ok  ", "FAIL", *["skip"] * 9]


def test_nan_weights(examine: Callable, own_model: Path) -> None:
    edit(own_model / UNET, lambda state: state["conv_in.bias"].fill_(float("nan")))
    code, checks = examine(model=own_model)
    assert code == 1
    assert checks["model weights"][0] == "failed"
    assert "conv_in.bias" in checks["model weights"][1]
    assert checks["picture"] == ("skipped", "needs model weights to pass")


def test_nan_in_the_forward(examine: Callable, own_bridge: Path) -> None:
    """Finite weights that overflow."""
    edit(own_bridge / BRANCH, lambda state: state["conv_in.weight"].fill_(3e38))
    code, checks = examine(bridge=own_bridge)
    assert (code, checks["forward"][0]) == (1, "failed")
    assert "NaN" in checks["forward"][1]


def test_missing_keys(examine: Callable, own_bridge: Path) -> None:
    edit(own_bridge / BRANCH, lambda state: state.pop("conv_in.weight"))
    code, checks = examine(bridge=own_bridge)
    assert (code, checks["bridge weights"][0]) == (1, "failed")
    assert "conv_in.weight" in checks["bridge weights"][1]


def test_another_family(examine: Callable, own_bridge: Path) -> None:
    edit_json(own_bridge / "bridge.json", family="sdxl")
    code, checks = examine(bridge=own_bridge)
    assert (code, checks["family"][0]) == (1, "failed")


def test_a_model_of_another_prediction(examine: Callable, own_model: Path) -> None:
    edit_json(own_model / "scheduler/scheduler_config.json", prediction_type="v_prediction")
    code, checks = examine(model=own_model)
    assert (code, checks["fit"][0]) == (1, "failed")
    assert "v_prediction" in checks["fit"][1]


def test_a_model_and_a_bridge_of_the_same_other_prediction(
    examine: Callable, own_model: Path, own_bridge: Path
) -> None:
    edit_json(own_model / "scheduler/scheduler_config.json", prediction_type="v_prediction")
    edit_json(own_bridge / "bridge.json", prediction_type="v_prediction")
    code, checks = examine(model=own_model, bridge=own_bridge)
    assert (code, checks["scheduler"][0]) == (0, "passed")


def test_notes_do_not_fail(examine: Callable, own_bridge: Path) -> None:
    edit_json(own_bridge / "bridge.json", scheduler={"final_sigmas_type": "sigma_min"})
    edit(
        own_bridge / BRANCH,
        lambda state: [v.zero_() for k, v in state.items() if k.startswith("controlnet_")],
    )
    code, checks = examine("--prompt", "ябв", bridge=own_bridge)
    assert code == 0
    notes = {name: message for name, (outcome, message) in checks.items() if outcome == "warning"}
    assert list(notes) == ["text", "scheduler", "forward"]
    assert "100%" in notes["text"]
    assert "final_sigmas_type=sigma_min" in notes["scheduler"]
    assert "untrained" in notes["forward"]


def test_without_a_bridge(bdm: Callable, model: Path) -> None:
    outcome = bdm("doctor", "--model", model, "--bridge", "none")
    assert (outcome.code, outcome.out) == (2, "")

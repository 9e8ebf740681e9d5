"""A branch that lies in another bridge's folder: found, checked by its hash, and changed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bridge_diffusion import BridgeError
from bridge_diffusion.models import BridgeBranch, read_branch
from bridge_diffusion.models.shared_branch import (
    CHANGE_FILE,
    SHARED_FILE,
    write_change,
    write_shared,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"
MATRIX = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
CONVOLUTION = "controlnet_mid_block.weight"
BIAS = "controlnet_mid_block.bias"


@pytest.fixture
def sharing(branch: BridgeBranch, tmp_path: Path) -> Path:
    """The branch's folder of a bridge `ar` beside the bridge `zh`, whose branch it has."""
    branch.save_pretrained(tmp_path / "zh" / "branch")
    folder = tmp_path / "ar" / "branch"
    write_shared(folder, "zh", tmp_path / "zh" / "branch" / WEIGHTS)
    return folder


def changed_branch(branch: BridgeBranch, rank: int) -> dict[str, torch.Tensor]:
    """The branch's weights with a matrix and a convolution changed by this rank, and a bias."""
    state = {name: weight.clone() for name, weight in branch.state_dict().items()}
    generator = torch.Generator().manual_seed(3)
    for name in (MATRIX, CONVOLUTION):
        rows, columns = state[name].flatten(1).shape
        narrow = (torch.randn(n, rank, generator=generator) for n in (rows, columns))
        state[name] += torch.einsum("ir,jr->ij", *narrow).view_as(state[name])
    state[BIAS] += 1.5
    return state


def test_the_shared_branch_is_read(branch: BridgeBranch, sharing: Path) -> None:
    state = read_branch(sharing).state_dict()
    assert all(torch.equal(state[k], v) for k, v in branch.state_dict().items())


def test_a_change_of_the_rank_is_kept_to_rounding(branch: BridgeBranch, sharing: Path) -> None:
    trained = changed_branch(branch, rank=2)
    lost = write_change(sharing, branch.state_dict(), trained, most=100_000)
    assert lost < 1e-10
    assert set(load_file(sharing / CHANGE_FILE)) == {
        f"{MATRIX}.up", f"{MATRIX}.down", f"{CONVOLUTION}.up", f"{CONVOLUTION}.down",
        f"{BIAS}.added",
    }  # fmt: skip
    state = read_branch(sharing).state_dict()
    for name, weight in trained.items():
        torch.testing.assert_close(state[name], weight, rtol=2e-3, atol=2e-3)
    assert not torch.allclose(state[MATRIX], branch.state_dict()[MATRIX], atol=0.1)


def test_what_fits_in_few_bytes_is_what_carries_most(branch: BridgeBranch, sharing: Path) -> None:
    trained = changed_branch(branch, rank=2)
    deltas = {n: (trained[n] - branch.state_dict()[n]).flatten(1) for n in (MATRIX, CONVOLUTION)}
    best = max(deltas, key=lambda n: torch.linalg.svdvals(deltas[n])[0] ** 2 / sum(deltas[n].shape))
    most = 2 * (trained[BIAS].numel() + sum(deltas[best].shape))  # one component, and the bias
    lost = write_change(sharing, branch.state_dict(), trained, most)
    change = load_file(sharing / CHANGE_FILE)
    assert {name: tensor.numel() for name, tensor in change.items()} == {
        f"{BIAS}.added": trained[BIAS].numel(),
        f"{best}.up": deltas[best].shape[0],
        f"{best}.down": deltas[best].shape[1],
    }
    state = read_branch(sharing).state_dict()
    squares = sum((trained[name] - state[name]).square().sum() for name in deltas)
    whole = sum((trained[n] - value).square().sum() for n, value in branch.state_dict().items())
    assert squares / whole == pytest.approx(lost, rel=1e-2)


def test_nothing_changed_is_nothing_written(branch: BridgeBranch, sharing: Path) -> None:
    assert write_change(sharing, branch.state_dict(), branch.state_dict(), most=1) == 0
    assert not (sharing / CHANGE_FILE).exists()


def test_another_branch_of_the_same_name_is_refused(branch: BridgeBranch, sharing: Path) -> None:
    weights = sharing.parents[1] / "zh" / "branch" / WEIGHTS
    state = load_file(weights)
    state[BIAS] = state[BIAS] + 1
    save_file(state, weights)
    with pytest.raises(BridgeError, match="made for another branch than"):
        read_branch(sharing)


@pytest.mark.parametrize("name", ["../zh", "/zh", "", 3, None, "..", "zh/../zh"])
def test_a_name_is_no_path(sharing: Path, name: object) -> None:
    values = json.loads((sharing / SHARED_FILE).read_text()) | {"bridge": name}
    (sharing / SHARED_FILE).write_text(json.dumps(values))
    with pytest.raises(BridgeError, match="must be the name of a folder"):
        read_branch(sharing)


@pytest.mark.parametrize("name", ["fr", "ar"])
def test_the_shared_branch_has_to_be_there_and_whole(sharing: Path, name: str) -> None:
    values = json.loads((sharing / SHARED_FILE).read_text()) | {"bridge": name}
    (sharing / SHARED_FILE).write_text(json.dumps(values))
    with pytest.raises(BridgeError, match="there is no whole branch"):
        read_branch(sharing)


@pytest.mark.parametrize(
    "change",
    [
        {f"{BIAS}.up": (3, 2)},
        {f"{BIAS}.down": (3, 2)},
        {f"{BIAS}.added": (3,)},
        {"no_such.weight.added": (1,)},
        {f"{BIAS}.other": (1,)},
        {f"{MATRIX}.up": (32, 2), f"{MATRIX}.down": (3, 20)},
    ],
)
def test_a_change_of_nothing_that_is_there_is_refused(
    sharing: Path, change: dict[str, tuple[int, ...]]
) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in change.items()}
    save_file(tensors, sharing / CHANGE_FILE)
    with pytest.raises(BridgeError, match="changes no weight of the shared branch"):
        read_branch(sharing)

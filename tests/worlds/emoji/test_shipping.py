"""`tools/ship_weights.py`: a bridge that has another one's branch, as it is shipped and loaded."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import save_bridge, tiny_pipeline

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.sources import weights_hash
from bridge_diffusion.identify import identify

TOOL = Path(__file__).parents[3] / "tools" / "ship_weights.py"
MATRIX = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
PARTS = ("branch", "controlnet")

Ship = Callable[..., Path]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A bridge of another language, with the branch as the shipped one has it."""
    model = tmp_path / "model"
    tiny_pipeline().save_pretrained(model)
    save_bridge(model, tmp_path / "zh")
    bridge = Bridge.from_pretrained(tmp_path / "zh", dtype=torch.float16)
    bridge.save_pretrained(tmp_path / "weights" / "bridges" / "zh")
    bridge = Bridge.from_pretrained(tmp_path / "weights" / "bridges" / "zh")
    bridge.text_encoder.model.encoder.layer[0].output.dense.bias += 0.5
    bridge.save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ship:
    """Runs the script; gives the folder of the Arabic bridge that it wrote."""
    spec = importlib.util.spec_from_file_location("ship_weights", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, "WEIGHTS", tmp_path / "weights")

    def run(source: Path, *arguments: str) -> Path:
        words = ["ship", "bridge", str(source), "--language", "ar", "--base", "zh", *arguments]
        monkeypatch.setattr("sys.argv", words)
        tool.main()
        return tmp_path / "weights" / "bridges" / "ar"

    return run


def test_an_unchanged_branch_is_not_stored_again(trained: Path, ship: Ship) -> None:
    folder = ship(trained)
    assert {path.name for path in (folder / "branch").iterdir()} == {"shared.json"}
    zh, ar = (Bridge.from_pretrained(folder.with_name(name)) for name in ("zh", "ar"))
    ours, theirs = ar.branch.state_dict(), zh.branch.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # It is told from the other one, though their branches are the same file.
    hashes = {weights_hash(identify(folder.with_name(n)), PARTS) for n in ("zh", "ar")}
    assert len(hashes) == 2
    # What is saved of it stands alone.
    ar.save_pretrained(folder.with_name("copy"))
    (folder.with_name("zh") / "branch" / "config.json").unlink()
    alone = Bridge.from_pretrained(folder.with_name("copy")).branch.state_dict()
    assert all(torch.equal(alone[name], ours[name]) for name in ours)


def test_a_trained_branch_is_stored_as_its_change(trained: Path, ship: Ship) -> None:
    bridge = Bridge.from_pretrained(trained)
    weight = bridge.branch.state_dict()[MATRIX]
    change = torch.outer(torch.linspace(-1, 1, len(weight)), torch.ones(weight.shape[1]))
    weight += change
    bridge.save_pretrained(trained)
    with pytest.raises(SystemExit, match="give --bytes, or ship without --base"):
        ship(trained)
    assert not (trained.parent / "weights" / "bridges" / "ar").exists()
    folder = ship(trained, "--bytes", "1000")
    before = weights_hash(identify(folder), PARTS)
    loaded = Bridge.from_pretrained(folder).branch.state_dict()[MATRIX]
    torch.testing.assert_close(loaded, weight, atol=2e-3, rtol=2e-3)
    (folder / "branch" / "change.safetensors").unlink()
    assert weights_hash(identify(folder), PARTS) != before


def test_a_bridge_without_the_one_it_shares_with_says_so(
    trained: Path, ship: Ship, tmp_path: Path
) -> None:
    folder = ship(trained)
    alone = tmp_path / "elsewhere" / "ar"
    alone.parent.mkdir()
    folder.rename(alone)
    with pytest.raises(BridgeError, match="has the branch of the bridge zh, and there is no whole"):
        Bridge.from_pretrained(alone)
    values = json.loads((alone / "branch" / "shared.json").read_text(encoding="utf-8"))
    assert set(values) == {"bridge", "sha256"}

"""AdamW with moments in 8 bits: saved and continued as the other is."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.optimizer import initial_state
from bridge_diffusion.training.processes import ALONE


def config(run_dir: Path) -> LoopConfig:
    return LoopConfig(
        run_dir=run_dir, images=40, batch_size=4, learning_rate=1e-2, optimizer="adamw8bit"
    )


def new_module() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Large enough for 8 bits (4096 numbers), with kernels that could have another memory order.
        return nn.Sequential(nn.Conv2d(32, 32, 3), nn.Conv2d(32, 1, 1))


def step(module: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    x = torch.randn(2, 32, 5, 5, generator=torch.Generator().manual_seed(number))
    module(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_8_bit_moments_are_continued_with_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    straight, stopped, continued = (
        initial_state(new_module(), config(tmp_path), ALONE) for _ in range(3)
    )
    for number in range(4):
        step(straight.module, straight.optimizer, number)
    for number in range(2):
        step(stopped.module, stopped.optimizer, number)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    stopped.save(folder)
    continued.load(folder)
    for number in range(2, 4):
        step(continued.module, continued.optimizer, number)
    weight = next(iter(straight.module.parameters()))
    assert straight.optimizer.state[weight]["state1"].dtype == torch.uint8
    for a, b in zip(straight.module.parameters(), continued.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_bitsandbytes_8_bits_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)  # as if it were not installed
    with pytest.raises(BridgeError, match=r"pip install 'bridge-diffusion\[8bit\]', or take adamw"):
        initial_state(new_module(), config(tmp_path), ALONE)

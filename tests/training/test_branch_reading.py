"""What a branch reads: as diffusers' own attention gives it, for queries of real drawings."""

from pathlib import Path

import pytest
import torch
from tiny_models import save_bridge, tiny_pipeline

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.training.branch_reading import (
    BranchReading,
    asked_while_drawing,
    cross_attentions,
)


@pytest.fixture
def bridge(tmp_path: Path) -> Bridge:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    save_bridge(tmp_path / "model", tmp_path / "bridge")
    return Bridge.from_pretrained(tmp_path / "bridge")


@torch.no_grad()
def test_the_reading_is_that_of_the_attention_itself(bridge: Bridge) -> None:
    layers = [layer for _, layer in cross_attentions(bridge.branch)]
    assert len(layers) == 2  # of the first down block and of the mid block
    generator = torch.Generator().manual_seed(0)
    hidden = [torch.randn(5, layer.to_q.in_features, generator=generator) for layer in layers]
    asked = [layer.to_q(rows) for layer, rows in zip(layers, hidden, strict=True)]
    reading = BranchReading(bridge.branch, asked)
    states = torch.randn(2, 7, bridge.branch.native_width, generator=generator)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    picks = torch.tensor([3, 0])
    got = reading(states, mask, picks)
    for row, length in enumerate((7, 4)):
        wanted = [
            layer(rows[None], encoder_hidden_states=states[row : row + 1, :length])[0, picks]
            for layer, rows in zip(layers, hidden, strict=True)
        ]
        torch.testing.assert_close(got[row], torch.cat(wanted, dim=-1), rtol=1e-5, atol=1e-6)
    reading.measure(states, mask)
    everything = reading(states, mask, torch.arange(5))
    apart = everything - everything.mean(dim=0)
    widths = [len(layer.to_out[0].weight) for layer in layers]
    for part in apart.split(widths, dim=-1):
        assert part.square().mean().item() == pytest.approx(1, rel=1e-4)


def test_queries_are_those_of_a_drawing_and_leave_nothing_behind(bridge: Bridge) -> None:
    pipe = tiny_pipeline()
    scheduler = pipe.scheduler
    first, again = (asked_while_drawing(pipe, bridge, ["狐狸", "月饼"], seed=1) for _ in range(2))
    other = asked_while_drawing(pipe, bridge, ["狐狸", "月饼"], seed=2)
    layers = [layer for _, layer in cross_attentions(bridge.branch)]
    assert [rows.shape[1] for rows in first] == [layer.to_q.out_features for layer in layers]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not bridge.attached
    assert pipe.scheduler is scheduler
    assert not any(layer.to_q._forward_hooks for layer in layers)

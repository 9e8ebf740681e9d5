"""A branch's residuals among those of ControlNets, in the order in which the UNet takes them."""

import pytest
import torch
from bridge_nodes.residuals import add_to_control
from torch import Tensor

from bridge_diffusion import BridgeError


def residuals(*values: float) -> list[Tensor]:
    return [torch.full((1, 1), value) for value in values]


def numbers(tensors: list[Tensor | None]) -> list[float | None]:
    return [None if tensor is None else tensor.item() for tensor in tensors]


def test_alone_they_keep_their_order() -> None:
    control = add_to_control(None, residuals(1, 2, 3), *residuals(9))
    assert {key: numbers(value) for key, value in control.items()} == {
        "input": [],
        "middle": [9],
        "output": [1, 2, 3],
    }


def test_those_of_a_controlnet_are_added_block_by_block() -> None:
    net = {
        "input": [],
        "middle": residuals(5),
        "output": [residuals(10)[0], None, residuals(30)[0]],
    }
    control = add_to_control(net, residuals(1, 2, 3), *residuals(9))
    assert numbers(control["output"]) == [11, 2, 33]
    assert numbers(control["middle"]) == [14]
    assert numbers(net["output"]) == [10, None, 30]  # as it was: ComfyUI may need it again


def test_a_t2i_adapter_keeps_its_own_place() -> None:
    adapter = {"input": [None, *residuals(7)], "middle": [], "output": []}
    control = add_to_control(adapter, residuals(1, 2), *residuals(9))
    assert numbers(control["input"]) == [None, 7]
    assert numbers(control["output"]) == [1, 2]
    control["input"].pop()  # as the UNet does
    assert numbers(adapter["input"]) == [None, 7]


def test_a_controlnet_of_another_family_is_refused() -> None:
    net = {"input": [], "middle": residuals(5), "output": residuals(1, 2, 3)}
    with pytest.raises(BridgeError, match="residuals for 3 blocks, the bridge for 2"):
        add_to_control(net, residuals(1, 2), *residuals(9))

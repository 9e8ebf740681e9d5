"""Pictures drawn in one batch are those that are drawn alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bridge_diffusion.generation.drawing import Step, draw, draw_together, singles
from bridge_diffusion.generation.loading import OpenedModel, open_model
from bridge_diffusion.generation.request import GenerationRequest
from bridge_diffusion.generation.together import batch_key, model_key

TOLERANCE = 1e-4  # of latents, whose deviation is about 1


@pytest.fixture(scope="module")
def opened() -> OpenedModel:
    opened = open_model(GenerationRequest(prompt="x"))
    opened.pipe.set_progress_bar_config(disable=True)
    return opened


@pytest.fixture(scope="module")
def backbone_alone() -> OpenedModel:
    opened = open_model(GenerationRequest(prompt="x", bridge="none"))
    opened.pipe.set_progress_bar_config(disable=True)
    return opened


def orders(**values: Any) -> list[GenerationRequest]:
    """Three that differ in all that may differ in a batch; one English prompt has two windows."""
    return [
        GenerationRequest(prompt="红包", seed=7, **values),
        GenerationRequest(prompt="一个月饼，红色背景", negative="雪", scale=0.5, seed=1, **values),
        GenerationRequest(prompt="灯笼", english="blue " * 90, seed=3, **values),
        GenerationRequest(prompt="灯笼", english="a blue background", seed=3, **values),
    ]


def last_latents(drawing: Callable[[Callable[[Step], None]], Any]) -> dict[int, Tensor]:
    """The latents of each picture at the last step of a drawing."""
    found: dict[int, Tensor] = {}

    def keep(step: Step) -> None:
        found.update(zip(step.pictures, step.latents.clone(), strict=True))

    drawing(keep)
    return found


def check(opened: OpenedModel, requests: list[GenerationRequest]) -> None:
    assert len({batch_key(request) for request in requests}) == 1
    drawings: dict[int, Any] = {}
    together = last_latents(lambda keep: drawings.update(draw_together(opened, requests, keep)))
    for index, request in enumerate(requests):
        alone: list[Any] = []
        latents = last_latents(lambda keep, r=request, a=alone: a.extend(draw(opened, r, keep)))
        torch.testing.assert_close(together[index], latents[0], atol=TOLERANCE, rtol=0)
        assert drawings[index].metadata == alone[0].metadata
        pixels = [np.asarray(each.image, dtype=int) for each in (drawings[index], alone[0])]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1  # of 255


@pytest.mark.parametrize("scheduler", ["dpm++", "euler-a"])
def test_batched_is_as_alone(opened: OpenedModel, scheduler: str) -> None:
    check(opened, orders(steps=3, scheduler=scheduler))


def test_batched_in_a_window_is_as_alone(opened: OpenedModel) -> None:
    check(opened, orders(steps=4, start=0.5)[:2])


def test_batched_from_one_picture_is_as_alone(opened: OpenedModel, tmp_path: Path) -> None:
    Image.linear_gradient("L").resize((64, 64)).save(tmp_path / "x.png")
    check(opened, orders(steps=4, init_image=tmp_path / "x.png", strength=0.6)[:2])


def test_batched_without_a_bridge_is_as_alone(backbone_alone: OpenedModel) -> None:
    texts = [("a red fox", ""), ("a blue moon", "a fox")]
    requests = [
        GenerationRequest(prompt=prompt, negative=negative, bridge="none", seed=5, steps=3)
        for prompt, negative in texts
    ]
    check(backbone_alone, requests)


def test_drawings_come_with_the_index_of_their_request(opened: OpenedModel) -> None:
    requests = orders(steps=1)
    drawings = dict(draw_together(opened, requests))
    assert {index: drawing.seed for index, drawing in drawings.items()} == {0: 7, 1: 1, 2: 3, 3: 3}


def test_what_a_step_raises_ends_the_drawing(opened: OpenedModel) -> None:
    seen: list[int] = []

    def stop(step: Step) -> None:
        seen.append(step.number)
        assert step.of == 5
        if step.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(draw(opened, orders(steps=5)[0], stop))
    assert seen == [1, 2]
    check(opened, orders(steps=2)[:2])  # the model is as good as before


def test_singles_count_seeds_up() -> None:
    request = GenerationRequest(prompt="x", n=3, seed=8)
    assert [(single.seed, single.n) for single in singles(request)] == [(8, 1), (9, 1), (10, 1)]


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 7},
        {"guidance": 1.0},
        {"scheduler": "euler"},
        {"size": (32, 64)},
        {"start": 0.5},
        {"end": 0.5},
        {"lora": ("x:0.5",)},
        {"prompt": "y <lora:x:0.5>"},
        {"bridge": "none"},
        {"vae": "v"},
        {"init_image": Path("i.png")},
    ],
)
def test_what_differs_is_no_one_batch(values: dict[str, Any]) -> None:
    plain = GenerationRequest(prompt="x")
    assert batch_key(replace(plain, **values)) != batch_key(plain)


@pytest.mark.parametrize("name", ["lora", "vae", "embedding", "bridge", "model"])
def test_plug_ins_belong_to_the_model(name: str) -> None:
    plain = GenerationRequest(prompt="x", bridge="b")
    value: Any = ("x",) if name in ("lora", "embedding") else "none"
    assert model_key(replace(plain, **{name: value})) != model_key(plain)
    assert model_key(replace(plain, seed=3, steps=9, prompt="y")) == model_key(plain)


def test_pictures_that_pipelines_do_not_batch_alike_are_drawn_alone() -> None:
    request = GenerationRequest(prompt="x", init_image=Path("i.png"), mask=Path("m.png"))
    assert batch_key(request) is None

"""A cell of the matrix: draw it with the bridge and by hand, and compare."""

import functools
import inspect
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bridge_diffusion import Bridge
from matrix.networks import (
    FAMILIES,
    Family,
    make_bridge,
    state_of,
    write_native_models,
)
from matrix.oracle import BranchByHand, by_hand, english_call
from matrix.pairwise import pairwise
from matrix.pipelines import PIPELINES, PipelineCase
from matrix.plugins import NONE, PLUGINS, PluginCase, without
from matrix.ways import WAYS, Way, device

NATIVE, NEGATIVE = "一只红色的狐狸", "模糊"
TOLERANCE = 1e-4
"""Largest difference of any pixel, 0..1; float32, and guidance multiplies rounding by 5 to 7.5."""
VISIBLE = 1e-3
"""What a plug-in, and the branch, change at least in some pixel."""

Text = Literal["English prompt", "no English"]
TEXTS: tuple[Text, ...] = ("English prompt", "no English")
"""The second is the paper's way, in which the backbone's encoder half is computed once."""

Pixels = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is combined."""

    family: Family
    pipeline: PipelineCase
    plugin: PluginCase
    way: Way
    text: Text

    def values(self) -> tuple[str, ...]:
        """The names of what is combined."""
        return (self.family, self.pipeline.name, self.plugin.name, self.way.name, self.text)

    def __str__(self) -> str:
        return " | ".join(self.values())

    def absent(self) -> str | None:
        """Why there is no such combination, read off the classes of diffusers; None if there is."""
        kind, plugin = self.pipeline.kind(self.family), self.plugin
        if kind is None:
            return "diffusers has no such pipeline"
        if self.family not in plugin.families:
            return plugin.why_not
        if plugin.needs is not None and not hasattr(kind, plugin.needs):
            return f"{kind.__name__} has no {plugin.needs}"
        argument = plugin.argument
        if argument is not None and argument not in inspect.signature(kind.__call__).parameters:
            return f"{kind.__name__} takes no {argument}"
        if plugin.needs_words and self.text == "no English":
            return "it acts through the English prompt"
        if self.pipeline.unguided and plugin.negative:
            return "without guidance there is no negative prompt"
        return None


def all_cells() -> Iterator[Cell]:
    """The whole product, combinations that do not exist included."""
    for family, pipeline, plugin, way, text in itertools.product(
        FAMILIES, PIPELINES, PLUGINS, WAYS, TEXTS
    ):
        yield Cell(family=family, pipeline=pipeline, plugin=plugin, way=way, text=text)


_TOGETHER = {
    ("two ControlNets", "IP-Adapter"),
    ("two ControlNets", "two IP-Adapters, 0.8 and 0.3"),
    ("T2I-Adapter", "IP-Adapter"),
    ("two T2I-Adapters", "none"),
    ("two T2I-Adapters", "IP-Adapter"),
}
"""Pipelines and plug-ins that add much to one step: drawn for both families, however few cells."""


def quick_cells() -> list[Cell]:
    """Every two things together at least once, in the ways that cost little, and `_TOGETHER`.

    Compiling takes seconds a cell, so here it is one cell a family.
    """
    ways = ("plain", "model offload", "group offload")
    existing = [cell for cell in all_cells() if cell.absent() is None]
    named = {cell.values(): cell for cell in existing if cell.way.name in ways}
    compiled = [
        next(c for c in existing if c.way.name == "torch.compile" and c.family == family)
        for family in FAMILIES
    ]
    pairs = [named[case] for case in pairwise(named)]
    wanted = (
        c
        for c in existing
        if (c.pipeline.name, c.plugin.name) in _TOGETHER and c.way is WAYS[0] and c.text == TEXTS[0]
    )
    return list(dict.fromkeys([*pairs, *wanted, *compiled]))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a cell that did not fail."""

    status: Literal["same", "stock cannot", "absent"]
    detail: str = ""
    error: float = 0.0
    """Largest difference from the oracle."""


@functools.cache
def _native_folders(family: Family) -> list[Path]:
    return write_native_models(family, Path(tempfile.mkdtemp(prefix="bridge-matrix-")))


@functools.cache
def _bridge(family: Family) -> Bridge:
    return make_bridge(family, _native_folders(family))


def _oracle(family: Family) -> BranchByHand:
    bridge = _bridge(family)
    native, negative = bridge.text_encoder.encode_pair([NATIVE], [NEGATIVE])
    pooled = None
    if native.pooled is not None:
        assert negative.pooled is not None
        pooled = torch.cat([negative.pooled, native.pooled])
    hidden = torch.cat([negative.hidden, native.hidden])
    return BranchByHand(bridge.branch.config, state_of(bridge.branch), hidden, pooled)


def _english(cell: Cell) -> tuple[str, str]:
    if cell.text == "no English":
        return "", ""
    return cell.plugin.english, cell.plugin.negative


def _pipe(cell: Cell, folder: Path) -> Any:
    parts = cell.pipeline.parts(cell.family)
    parts |= cell.plugin.replace(cell.family, parts, folder)
    return cell.pipeline.make(cell.family, parts)


def _draw(cell: Cell, pipe: Any, prompt: dict[str, Any]) -> Pixels:
    settings = cell.plugin.settings(pipe)
    call = {**cell.pipeline.call(), **settings, **cell.plugin.call(), **prompt}
    output = pipe(**call, generator=torch.Generator().manual_seed(1), output_type="np")
    pixels = output.images if hasattr(output, "images") else output.frames
    pixels = np.asarray(pixels)
    assert np.isfinite(pixels).all()
    return pixels


def draw_by_hand(cell: Cell) -> tuple[Pixels, torch.Tensor]:
    """The oracle's picture, and the English embeddings that led to it. No bridge is involved."""
    return _drawn_by_hand(replace(cell, way=WAYS[0]))


@functools.lru_cache(maxsize=2000)
def _drawn_by_hand(cell: Cell) -> tuple[Pixels, torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        pipe = _pipe(cell, Path(folder))
        cell.plugin.load(cell.family, pipe, Path(folder))
        call = english_call(pipe, *_english(cell))
        with by_hand(pipe, _oracle(cell.family)):
            pixels = _draw(cell, pipe, call)
    english = torch.cat([call["negative_prompt_embeds"], call["prompt_embeds"]])
    return pixels, english


def draw_stock(cell: Cell) -> Pixels:
    """The same call with diffusers alone: no bridge, no native prompt."""
    english, negative = _english(cell)
    with tempfile.TemporaryDirectory() as folder:
        pipe = _pipe(cell, Path(folder))
        cell.plugin.load(cell.family, pipe, Path(folder))
        cell.way.prepare(pipe)
        return _draw(cell, pipe, {"prompt": english, "negative_prompt": negative})


def draw_with_bridge(cell: Cell) -> Pixels:
    """The bridge is there before the plug-in is loaded and before the pipeline is offloaded."""
    bridge, (english, negative) = _bridge(cell.family), _english(cell)
    with tempfile.TemporaryDirectory() as folder:
        pipe = _pipe(cell, Path(folder))
        try:
            if not cell.way.before_attaching:
                bridge.attach(pipe)
            cell.plugin.load(cell.family, pipe, Path(folder))
            cell.way.prepare(pipe)
            bridge.attach(pipe)
            prompt = bridge.prompt(
                NATIVE, negative=NEGATIVE, english=english, negative_english=negative
            )
            return _draw(cell, pipe, prompt)
        finally:
            bridge.detach()


def check(cell: Cell) -> Outcome:
    """Raises `AssertionError`, or what the library raised, for a cell that does not work."""
    reason = cell.absent()
    if reason is not None:
        return Outcome(status="absent", detail=reason)
    fault = stock_fault(cell)
    if fault is not None:
        said = _stock_raises(cell)
        assert said is not None, f"diffusers can do it now: {fault}"
        assert fault.message in said, said
        return Outcome(status="stock cannot", detail=fault.reason)
    want, english = draw_by_hand(cell)
    before = state_of(_bridge(cell.family).branch)
    got = draw_with_bridge(cell)
    after = _bridge(cell.family).branch.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), "the branch was changed"
    error = float(np.abs(got - want).max())
    assert error <= TOLERANCE, f"off by {error:.1e} from the oracle"
    _check_that_it_acts(cell, want, english)
    return Outcome(status="same", error=error)


def _check_that_it_acts(cell: Cell, pixels: Pixels, english: torch.Tensor) -> None:
    """The plug-in changes the picture, and some the English embeddings; without one, the branch."""
    if cell.plugin is NONE:
        stock = draw_stock(replace(cell, way=WAYS[0]))
        assert np.abs(pixels - stock).max() > VISIBLE, "the branch changes nothing"
        return
    bare, plain_english = draw_by_hand(replace(cell, plugin=without(cell.plugin)))
    assert np.abs(pixels - bare).max() > VISIBLE, "the plug-in changes nothing"
    if cell.plugin.changes_text:
        assert (english - plain_english).abs().max() > VISIBLE, "the English is unchanged"


@dataclass(frozen=True, kw_only=True)
class StockFault:
    """What diffusers itself cannot do; each is tried, so that the list cannot grow stale."""

    reason: str
    message: str
    """A part of what it raises."""


# Kinds of LoRA whose forward PyTorch cannot trace whole, and what it says of them.
_NOT_ONE_GRAPH = {
    "DoRA, PEFT": "does not know how to trace method `startswith`",
    "LoHa, PEFT": "Data-dependent branching",
}


def stock_fault(cell: Cell) -> StockFault | None:
    """What is known of the cell before it is tried."""
    if cell.plugin.refused_by_stock is not None:
        return StockFault(reason="diffusers refuses the file", message=cell.plugin.refused_by_stock)
    single_file = cell.plugin.name.startswith("checkpoint, .")
    if single_file and "time_cond_proj_dim" in cell.pipeline.unet:
        return StockFault(
            reason="diffusers does not find the guidance embedding in a single file",
            message="Cannot copy out of meta tensor",
        )
    if cell.way.name == "torch.compile" and cell.plugin.name in _NOT_ONE_GRAPH:
        return StockFault(
            reason="peft's layers of this kind cannot be compiled as one graph",
            message=_NOT_ONE_GRAPH[cell.plugin.name],
        )
    if cell.way.name == "sequential offload" and device().type == "cpu":
        return StockFault(
            reason="needs an accelerator: accelerate cannot offload to the CPU that computes",
            message="received an invalid combination of arguments",
        )
    return None


def _stock_raises(cell: Cell) -> str | None:
    try:
        draw_stock(cell)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None

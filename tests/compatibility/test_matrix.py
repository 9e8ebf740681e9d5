"""The compatibility matrix as tests: a pairwise part of it, and the whole as `full`.

`docs/compatibility.md` says what is combined; `tools/write_compatibility.py` writes it.
"""

import pytest
from matrix.cells import TEXTS, Cell, all_cells, check, draw_by_hand, draw_with_bridge, quick_cells
from matrix.pairwise import pairs_of, pairwise
from matrix.pipelines import PIPELINES
from matrix.plugins import PLUGINS
from matrix.ways import WAYS

pytestmark = [
    # What stock libraries warn of in their own pipelines and loaders.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

QUICK = quick_cells()
REST = [cell for cell in all_cells() if cell.absent() is None and cell not in set(QUICK)]


@pytest.mark.parametrize("cell", QUICK, ids=str)
def test_every_two_things_together(cell: Cell) -> None:
    assert check(cell).status in ("same", "stock cannot")


@pytest.mark.full
@pytest.mark.parametrize("cell", REST, ids=str)
def test_everything_together(cell: Cell) -> None:
    assert check(cell).status in ("same", "stock cannot")


def test_what_stock_cannot_do_is_told_not_passed() -> None:
    """Every cell is drawn, or says why there is no such thing; and it is not many."""
    cells = list(all_cells())
    absent = [cell for cell in cells if cell.absent() is not None]
    assert len(set(map(str, cells))) == len(cells)
    assert all(cell.absent() for cell in absent)
    for pipeline in PIPELINES:
        assert any(cell.pipeline is pipeline and cell.absent() is None for cell in cells)
    for plugin in PLUGINS:
        assert any(cell.plugin is plugin and cell.absent() is None for cell in cells)


def test_the_oracle_feels_each_input() -> None:
    """An oracle that left the branch or a plug-in out would agree with nothing."""
    names = {plugin.name: plugin for plugin in PLUGINS}
    bare, with_lora = (
        Cell(
            family="sdxl",
            pipeline=PIPELINES[0],
            plugin=names[name],
            way=WAYS[0],
            text=TEXTS[0],
        )
        for name in ("none", "LoRA, kohya")
    )
    assert abs(draw_by_hand(with_lora)[0] - draw_with_bridge(bare)).max() > 1e-3


def test_pairwise_meets_every_pair_and_is_small() -> None:
    cases = [
        (a, b, c, d)
        for a in range(5)
        for b in range(4)
        for c in range(3)
        for d in range(3)
        if a + b != 3
    ]
    chosen = pairwise(cases)
    wanted = {pair for case in cases for pair in pairs_of(case)}
    assert {pair for case in chosen for pair in pairs_of(case)} == wanted
    assert chosen == pairwise(cases)
    assert set(chosen) <= set(cases)
    assert len(chosen) <= 24  # of 144; 17 pairs of the two longest are the least

import numpy as np

from bridge_diffusion.worlds.emoji.concepts import find_concept, shipped_concepts
from bridge_diffusion.worlds.emoji.contact_sheet import SIDE, contact_sheet
from bridge_diffusion.worlds.emoji.sprites import Sprites

RED, ORANGE = (214, 39, 40), (240, 150, 30)


def has(sheet: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """A whole line of a frame in this colour."""
    return bool(((sheet == colour).all(axis=2).sum(axis=1) > SIDE).any())


def test_held_out_concepts_are_framed(noto: Sprites) -> None:
    marks = {
        emoji: np.asarray(contact_sheet([noto], [find_concept(emoji)]))
        for emoji in ("🧧", "🥟", "🦊")
    }
    assert [(has(sheet, RED), has(sheet, ORANGE)) for sheet in marks.values()] == [
        (True, False),
        (False, True),
        (False, False),
    ]


def test_every_vendor_is_shown_and_a_gap_stays_empty(noto: Sprites) -> None:
    concept = [find_concept("🦊")]
    both = contact_sheet([noto, Sprites.shipped("twemoji")], concept)
    gap = contact_sheet([noto, Sprites("twemoji", {})], concept)
    assert both.size == gap.size
    difference = np.nonzero(np.asarray(both) != np.asarray(gap))
    assert len(difference[0]) > SIDE * SIDE / 4
    assert difference[1].min() >= SIDE


def test_all_shipped_concepts_fit(noto: Sprites) -> None:
    sheet = contact_sheet([noto], shipped_concepts(), width=600)
    assert sheet.width <= 600
    assert not has(np.asarray(sheet)[-3:], RED)

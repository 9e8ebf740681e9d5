"""Draw the pictures that the package ships, and the contact sheet of the documentation.

    python tools/ship_pictures.py

Needs the extra `world`. Run by hand when concepts or drawing packages change.
"""

from pathlib import Path

from bridge_diffusion.worlds.emoji.concepts import shipped_concepts
from bridge_diffusion.worlds.emoji.contact_sheet import contact_sheet
from bridge_diffusion.worlds.emoji.sprites import SHIPPED_VENDORS, Sprites

ROOT = Path(__file__).parents[1]
SIZE = 64


def main() -> None:
    concepts = shipped_concepts()
    codes = [concept.codepoints for concept in concepts]
    vendors = [Sprites.draw(vendor, codes, SIZE) for vendor in SHIPPED_VENDORS]
    for sprites in vendors:
        sprites.save(ROOT / "src/bridge_diffusion/worlds/emoji/pictures", ".webp")
    sheet = contact_sheet(vendors, concepts, side=32)
    sheet.save(ROOT / "docs/contact_sheet.webp", quality=25, method=6)


if __name__ == "__main__":
    main()

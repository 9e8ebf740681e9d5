"""Write the table of artefacts and sizes into docs/world.md, and check the size budget.

    python tools/list_artefacts.py          rewrite the table
    python tools/list_artefacts.py --check  only check: exit 1 if a file or the sum is too large

Sizes are those of the files that git tracks, in MiB (2**20 bytes).
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/world.md"
BEGIN, END = "<!-- artefacts: begin -->", "<!-- artefacts: end -->"
MIB = 2**20
FILE_LIMIT, TOTAL_LIMIT = 15 * MIB, 44 * MIB

_EMOJI = "src/bridge_diffusion/worlds/emoji"
_WEIGHTS = f"{_EMOJI}/weights"
ARTEFACTS = (
    ("concepts: names, synonyms, regions", f"{_EMOJI}/concepts.json"),
    ("caption templates", f"{_EMOJI}/templates.json"),
    ("278 Noto pictures, 64 px", f"{_EMOJI}/pictures/noto"),
    ("278 Twemoji pictures, 64 px", f"{_EMOJI}/pictures/twemoji"),
    ("contact sheet", "docs/contact_sheet.webp"),
    ("English world: autoencoder", f"{_WEIGHTS}/backbone/vae"),
    ("English world: text encoder and tokenizer", f"{_WEIGHTS}/backbone/text_encoder"),
    ("English world: UNet", f"{_WEIGHTS}/backbone/unet"),
    ("Chinese bridge: text encoder and tokenizer", f"{_WEIGHTS}/bridges/zh/text_encoder"),
    ("Chinese bridge: branch", f"{_WEIGHTS}/bridges/zh/branch"),
    ("Arabic bridge: text encoder and tokenizer", f"{_WEIGHTS}/bridges/ar/text_encoder"),
    ("Arabic bridge: what its branch shares and changes", f"{_WEIGHTS}/bridges/ar/branch"),
    ("plug-ins: two LoRAs, a Textual Inversion", f"{_WEIGHTS}/plugins"),
    ("evaluator", f"{_WEIGHTS}/evaluator"),
    ("style evaluator", f"{_WEIGHTS}/style_evaluator"),
)


def tracked_sizes() -> dict[str, int]:
    """Bytes by path, of the files that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    paths = [path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file()]
    return {path: (ROOT / path).stat().st_size for path in paths}


def table(sizes: dict[str, int]) -> str:
    rows = ["| artefact | where | files | MiB |", "| --- | --- | ---: | ---: |"]
    for title, place in ARTEFACTS:
        found = [n for path, n in sizes.items() if path == place or path.startswith(f"{place}/")]
        size = f"{sum(found) / MIB:.2f}" if found else "not shipped yet"
        rows.append(f"| {title} | `{place}` | {len(found)} | {size} |")
    rows.append(f"| all tracked files | | {len(sizes)} | {sum(sizes.values()) / MIB:.2f} |")
    return "\n".join(rows)


def over_budget(sizes: dict[str, int]) -> list[str]:
    faults = [f"{path}: {n / MIB:.1f} MiB" for path, n in sizes.items() if n > FILE_LIMIT]
    if sum(sizes.values()) > TOTAL_LIMIT:
        faults.append(f"all tracked files: {sum(sizes.values()) / MIB:.1f} MiB")
    return faults


def main() -> int:
    sizes = tracked_sizes()
    if "--check" not in sys.argv[1:]:
        text = PAGE.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        after = rest.split(END)[1]
        page = f"{before}{BEGIN}\n{table(sizes)}\n{END}{after}"
        PAGE.write_text(page, encoding="utf-8")
    faults = over_budget(sizes)
    for fault in faults:
        print(f"over the budget of 15 MiB a file, 44 MiB in all: {fault}", file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())

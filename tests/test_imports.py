"""Imports point one way, as docs/architecture.md says."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "bridge_diffusion"
# From the top down; what stands in one row may import each other.
LAYERS = (
    {"cli"},
    {"server"},
    {"generation", "training", "evaluation", "worlds"},
    {"bridge", "prompting", "conversion", "plugins"},
    {"models"},
    {"text", "data", "images", "identify"},
    {"reading", "writing", "lora_header", "ray_cluster"},
    {"errors"},
)


def imported(file: Path) -> set[str]:
    """The parts of the package that a file imports, inside functions too."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("bridge_diffusion.")}


def test_nothing_imports_what_stands_above_it() -> None:
    layer = {part: place for place, parts in enumerate(LAYERS) for part in parts}
    parts = {
        path.stem for path in SOURCE.iterdir() if path.stem[0] != "_" and path.suffix != ".typed"
    }
    assert parts <= layer.keys()
    upwards = [
        f"{part} imports {other}"
        for part in parts
        for file in [SOURCE / f"{part}.py", *(SOURCE / part).rglob("*.py")]
        if file.is_file()
        for other in imported(file) & layer.keys()
        if layer[other] < layer[part]
    ]
    assert upwards == []

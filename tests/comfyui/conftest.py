"""A ComfyUI server with the node pack of this repository, where ComfyUI's code can be had.

COMFYUI_PATH names a checkout of ComfyUI whose requirements are installed; COMFYUI_PYTHON names the
Python that has them, if it is not the one that runs the tests.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from comfyui_server import ComfyUI

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def comfyui_source() -> Path:
    """The checkout of ComfyUI."""
    if not (path := os.environ.get("COMFYUI_PATH")):
        pytest.skip("COMFYUI_PATH names no checkout of ComfyUI: see comfyui/README.md")
    source = Path(path)
    assert (source / "main.py").is_file(), f"COMFYUI_PATH={path} has no main.py"
    return source


@pytest.fixture(scope="session")
def comfyui(comfyui_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """A running server with our nodes and those of the tests."""
    packs = {
        "bridge_diffusion": ROOT / "comfyui",
        "small_nodes": Path(__file__).parent / "small_nodes",
    }
    server = ComfyUI(comfyui_source, tmp_path_factory.mktemp("comfyui"), packs)
    try:
        server.wait()
        yield server
    finally:
        server.stop()

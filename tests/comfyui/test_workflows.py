"""The example workflows: both forms of each say the same, and every link leads somewhere."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "comfyui" / "example_workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
# Entries among a node's widgets that are the page's own and no input of the node.
OF_THE_PAGE = {"seed": 1}


def for_api(page: dict[str, Any]) -> dict[str, Any]:
    """What ComfyUI's page sends when it runs a workflow."""
    links = {link[0]: [str(link[1]), link[2]] for link in page["links"]}
    graph = {}
    for node in page["nodes"]:
        values, inputs = iter(node["widgets_values"]), {}
        for given in node["inputs"]:
            if "widget" not in given:
                inputs[given["name"]] = links[given["link"]]
                continue
            inputs[given["name"]] = next(values)
            for _ in range(OF_THE_PAGE.get(given["name"], 0)):
                next(values)
        assert next(values, None) is None
        inputs.pop("upload", None)
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def test_there_are_two() -> None:
    assert NAMES == ["native_prompt", "native_prompt_lora_controlnet"]


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_are_the_same_graph(name: str) -> None:
    page = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    api = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    for node in api.values():
        del node["_meta"]
    assert for_api(page) == api


@pytest.mark.parametrize("name", NAMES)
def test_links_are_written_alike_at_both_ends(name: str) -> None:
    page = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in page["nodes"]}
    for number, source, output, target, given, kind in page["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][given]["link"] == number
        assert nodes[target]["inputs"][given]["type"] == kind

"""Effects and retention of what was seen, on numbers chosen by hand."""

import json

import pytest

from bridge_diffusion.evaluation.effects import (
    ENGLISH,
    accuracy_of,
    ceiling_of,
    effect_of,
    mean_retention,
    retention_of,
    summary,
)
from bridge_diffusion.evaluation.retention_report import MEASURES, SYSTEMS, markdown, measure_of
from bridge_diffusion.worlds.emoji.plugins.kinds import PLUGINS, find_plugin

STYLE, EDGES, THING = (find_plugin(name) for name in ("checkpoint", "controlnet", "inversion"))


def plain(comic, rank=(0, 0, 5, 9), **more):
    """One native concept, then three pictures of two shared ones, a and a and b."""
    styles = {"comic": list(comic), "ink": [0.3] * 4}
    return {"rank": list(rank), "background": [1] * 4, **styles, **more}


@pytest.fixture
def document():
    systems = {
        ENGLISH: {
            "plain": plain((0.9, 0.0, 0.2, 0.2)),
            "plain+checkpoint": plain((0.0, 0.8, 1.0, 0.6)),  # a: 0.8 more, b: 0.4 more
            "plain+controlnet": plain((0,) * 4, edge_f1=[0, 0.9, 0.9, 0.7]),
            "plain+controlnet, other edges": plain((0,) * 4, edge_f1=[1, 0.3, 0.3, 0.3]),
            "lemon": {"rank": [4, 0], "background": [1, 0]},
            "lemon+inversion": {"rank": [0, 0], "background": [1, 1]},
        },
        "bridge": {
            "plain": plain((0.9, 0.1, 0.1, 0.1)),
            "plain+checkpoint": plain((0.0, 0.4, 0.4, 0.4), rank=(3, 0, 0, 0)),
            "plain+controlnet": plain((0,) * 4, edge_f1=[0, 0.6, 0.6, 0.5]),
            "plain+controlnet, other edges": plain((0,) * 4, edge_f1=[1, 0.3, 0.3, 0.3]),
            "lemon": {"rank": [9, 9], "background": [1, 1]},
            "lemon+inversion": {"rank": [0, 0], "background": [1, 0]},
        },
    }
    return {
        "options": {
            "language": "zh",
            "images": 1,
            "things": 2,
            "steps": 1,
            "guidance": 5.0,
            "seed": 0,
        },
        "units": {"plain": ["n", "a", "a", "b"], "lemon": ["l", "l"]},
        "groups": ["native", "shared", "shared", "shared"],
        "drawings": {"comic": [3, 0, 0, 7]},
        "style_evaluator": {"known": {"noto": {"clean": {"share": 0.75}}}},
        "systems": systems,
    }


def test_a_style_s_effect_is_over_shared_concepts_each_counted_once(document):
    assert effect_of(document, ENGLISH, STYLE).value == pytest.approx((0.8 + 0.4) / 2)
    assert effect_of(document, "bridge", STYLE).value == pytest.approx(0.3)
    retention = retention_of(document, "bridge", STYLE)
    assert retention.value == pytest.approx(0.3 / 0.6)
    # Resamples: a and a, a and b, b and b.
    assert retention.low == pytest.approx(0.3 / 0.8)
    assert retention.high == pytest.approx(0.3 / 0.4)


def test_edges_are_compared_with_another_scene_s(document):
    assert effect_of(document, ENGLISH, EDGES).value == pytest.approx(0.5)
    assert retention_of(document, "bridge", EDGES).value == pytest.approx(0.25 / 0.5)


def test_a_thing_needs_the_right_background_too(document):
    assert effect_of(document, ENGLISH, THING).value == 1  # recognised off, but on the wrong colour
    assert effect_of(document, "bridge", THING).value == 0.5
    assert retention_of(document, "bridge", THING).value == 0.5


def test_the_english_model_keeps_everything(document):
    for plugin in (STYLE, EDGES, THING):
        assert retention_of(document, ENGLISH, plugin).value == 1


def test_accuracy_beside_a_plug_in(document):
    assert accuracy_of(document, "bridge", "native").share == 1
    assert accuracy_of(document, "bridge", "native", STYLE).share == 0
    assert accuracy_of(document, "bridge", "shared").hits == 1
    assert accuracy_of(document, "bridge", "shared", STYLE).hits == 3
    assert accuracy_of(document, "bridge", "shared", find_plugin("lora")) is None
    assert ceiling_of(document, "native", STYLE).share == 0
    assert ceiling_of(document, "shared", STYLE).hits == 2
    assert ceiling_of(document, "shared", THING) is None


def test_a_mean_needs_all_plug_ins(document):
    assert mean_retention(document, "bridge") is None
    for system, ink in zip(document["systems"].values(), (0.8, 0.9), strict=True):
        system["plain+lora"] = system["plain+checkpoint"]
        system["plain+lora-ink"] = system["plain+checkpoint"] | {"ink": [0, *[ink] * 3]}
        system["tiger"] = system["lemon"]
        system["tiger+dreambooth"] = system["lemon+inversion"]
    document["units"]["tiger"] = document["units"]["lemon"]
    assert retention_of(document, "bridge", find_plugin("lora-ink")).value == pytest.approx(1.2)
    assert mean_retention(document, "bridge") == pytest.approx((0.5 * 2 + 1 + 0.5 * 3) / 6)
    page = markdown(document, {"bridge": "b"}, None)
    row = next(line for line in page.splitlines() if line.startswith(f"| {SYSTEMS['bridge']} |"))
    assert row.endswith("| 0.58 | 0.583 |")  # native top-1 is 100 %


def test_a_bridge_in_a_part_of_the_steps_has_a_table_of_its_own(document):
    document["systems"]["bridge:0.85"] = document["systems"]["bridge"]
    page = markdown(document, {}, None)
    assert "### The bridge, in the first 85 % of the steps" in page
    assert page.count("| style checkpoint: the UNet fine-tuned on comics | style |") == 2
    assert "| the bridge, in the first 85 % of the steps | 100.0 %" in page


def test_a_partial_measurement_is_reported(document):
    page = markdown(document, {"bridge": "the bridge of the test"}, None)
    assert "the bridge of the test" in page
    assert "0.50 (0.38 to 0.75)" in page
    for name, text in MEASURES.items():
        assert f"- {name}: {text}" in page
    assert {measure_of(plugin) for plugin in PLUGINS} == MEASURES.keys()
    numbers = json.loads(json.dumps(summary(document)))
    assert numbers["bridge"]["plugins"]["checkpoint"]["retention"]["value"] == 0.5
    assert numbers["bridge"]["plugins"]["lora"]["retention"] is None
    assert markdown({**document, "systems": {}}, {}, None)

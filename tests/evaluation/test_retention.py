"""What is drawn to measure plug-ins, what is kept of it, and how a measurement goes on."""

import copy
import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.effects import summary
from bridge_diffusion.evaluation.plan import WorldOptions
from bridge_diffusion.evaluation.plugins import evaluate_plugins, open_system, systems_there
from bridge_diffusion.evaluation.retention import (
    PLAIN,
    Amount,
    Judges,
    Measurement,
    all_series,
    other_edges,
    plain_asks,
    shown_positions,
    thing_asks,
    wanted_edges,
)
from bridge_diffusion.evaluation.retention_report import write_retention
from bridge_diffusion.evaluation.systems import BridgeSystem, EnglishSystem
from bridge_diffusion.worlds.emoji.concepts import find_concept, small_world
from bridge_diffusion.worlds.emoji.plugins.kinds import PLUGINS, find_plugin

QUICK = WorldOptions(steps=1, batch_size=4)
FEW = Amount(concepts=2, things=2)


@pytest.fixture
def measurement(pipe, plugins, concepts, untrained, styles, drawings, tmp_path) -> Measurement:
    pipe.set_progress_bar_config(disable=True)
    things = [plugin.thing.concept for plugin in PLUGINS if plugin.thing]
    return Measurement(
        concepts=concepts,
        options=QUICK,
        amount=FEW,
        judges=Judges(concepts=untrained([*concepts, *things]), styles=styles, drawings=drawings),
        plugins=plugins,
        backbone=copy.deepcopy(pipe.unet),
        folder=tmp_path / "work",
    )


def test_plain_prompts_are_scored_and_say_the_scene_in_one_language():
    asks = plain_asks(small_world("zh"), WorldOptions(images=2), Amount())
    assert len(asks) == 2 * 245
    assert all(ask.case.scene.scored for ask in asks)
    assert all(ask.case.english == "" and ask.mixed == ask.case.prompt for ask in asks)
    first = asks[0]
    assert first.case.prompt.endswith("红包") or "红包" in first.case.prompt
    assert "red envelope" in first.translation
    few = plain_asks(small_world("zh"), WorldOptions(), Amount(concepts=3))
    assert [ask.case.group for ask in few].count("native") == 3
    assert len(few) == 6


def test_a_thing_is_called_in_english_and_its_background_in_the_native_language():
    thing = find_plugin("inversion").thing
    asks = thing_asks(thing, WorldOptions(), Amount(things=8))
    assert len(asks) == len({ask.case.seed for ask in asks}) == 8
    assert {ask.case.scene.colours[0] for ask in asks} == {"red", "light_blue", "blue", "gray"}
    for ask in asks:
        assert ask.case.scene.scored
        assert ask.case.english == "<thing>"
        assert ask.case.prompt.endswith("背景")
        assert re.fullmatch(r"<thing> on an? [a-z ]+ background", ask.translation)
        assert ask.mixed == f"{ask.case.prompt}上的<thing>"


def test_every_plug_in_has_its_on_and_its_off():
    names = [series.name for series in all_series()]
    assert names[0] == "plain"
    assert len(names) == len(set(names)) == 1 + 6 + 1 + 4
    assert {"plain+controlnet, other edges", "lemon", "lemon+inversion", "tiger+dreambooth"} < set(
        names
    )


def test_other_edges_are_another_concept_s(drawings):
    asks = plain_asks(small_world("zh"), WorldOptions(), Amount(concepts=4))
    own = wanted_edges(asks, drawings, 64)
    for before, after in zip(own, other_edges(own), strict=True):
        assert not np.array_equal(before, after)
    assert own[0].any()


def test_everything_is_seen_and_kept(measurement, pipe, bridge, tmp_path):
    document = evaluate_plugins(pipe, bridge, measurement, ["translation", "bridge"])
    kept = json.loads((tmp_path / "work" / "plugins-zh.json").read_text())
    assert kept == json.loads(json.dumps(document))
    wanted = {series.name: series for series in all_series()}
    for system in ("translation", "bridge"):
        found = document["systems"][system]
        assert found.keys() == wanted.keys()
        for name, seen in found.items():
            count = 4 if wanted[name].asks == PLAIN else 2
            columns = {"rank", "background", "noto", "twemoji", "ink", "comic"}
            columns |= {"edge_f1"} if "controlnet" in name else set()
            assert seen.keys() == columns | {"of"}
            assert all(len(seen[column]) == count for column in columns)
            total = np.array(seen["noto"]) + seen["twemoji"] + seen["ink"] + seen["comic"]
            assert np.allclose(total, 1, atol=1e-3)
    assert document["drawings"].keys() == {"comic", "ink"}
    assert all(len(ranks) == 4 for ranks in document["drawings"].values())
    assert document["systems"]["bridge"][PLAIN] != document["systems"]["translation"][PLAIN]
    assert not bridge.attached
    twin = evaluate_plugins(
        pipe, bridge, measurement, ["control:twin"], controls={"twin": copy.deepcopy(bridge)}
    )["systems"]
    assert twin["control:twin"][PLAIN]["rank"] == document["systems"]["bridge"][PLAIN]["rank"]

    document = measurement.document()
    written = write_retention(document, tmp_path / "work", tmp_path / "out", {"bridge": "b"})
    page = written[-1].read_text(encoding="utf-8")
    assert page.count("<!-- begin: plugins zh -->") == 1
    assert "| another bridge: twin |" in page
    for plugin in PLUGINS:
        assert plugin.says in page
    (link,) = re.findall(r"\]\((pictures/.*?)\)", page)
    assert (tmp_path / "out" / link).is_file()
    numbers = json.loads((tmp_path / "out" / "plugins-zh.json").read_text())
    assert numbers["systems"] == json.loads(json.dumps(summary(document)))
    assert numbers["pictures"] == dict.fromkeys(
        ("translation", "bridge", "control:twin"), 4 * 8 + 2 * 4
    )


def test_what_was_seen_is_not_drawn_again_and_a_time_limit_ends_between_two_series(
    measurement, pipe
):
    system = EnglishSystem(pipe)
    hurried = dataclasses.replace(measurement, options=dataclasses.replace(QUICK, time_limit=1e-9))
    assert hurried.run(system)["systems"]["translation"] == {}
    whole = measurement.run(system)
    # Drawing would be far too late by now, and every series is there all the same.
    assert hurried.run(system) == whole


def test_some_plug_ins_are_measured_and_the_others_kept(measurement, pipe):
    lora = dataclasses.replace(measurement, chosen=(find_plugin("lora"),))
    seen = lora.run(EnglishSystem(pipe))["systems"]["translation"]
    assert seen.keys() == {"plain", "plain+lora"}
    ink = dataclasses.replace(measurement, chosen=(find_plugin("lora-ink"),))
    assert ink.run(EnglishSystem(pipe))["systems"]["translation"] == {
        **seen,
        "plain+lora-ink": ink.document()["systems"]["translation"]["plain+lora-ink"],
    }


def test_a_plug_in_that_was_made_anew_is_measured_anew_and_nothing_else(measurement, pipe):
    first = measurement.run(EnglishSystem(pipe))["systems"]["translation"]
    first = {name: seen["of"] for name, seen in first.items()}
    plugin = find_plugin("inversion")
    file = plugin.weights(measurement.plugins)
    save_file({"<thing>": load_file(file)["<thing>"] + 1}, file)
    second = measurement.run(EnglishSystem(pipe))["systems"]["translation"]
    changed = {name for name, key in first.items() if second[name]["of"] != key}
    assert changed == {"plain+inversion", "lemon+inversion"}


def test_other_weights_are_measured_anew(measurement, pipe):
    first = measurement.run(EnglishSystem(pipe))["systems"]["translation"]
    keys = {name: seen["of"] for name, seen in first.items()}
    with torch.no_grad():
        pipe.unet.conv_in.bias.add_(1)
    second = measurement.run(EnglishSystem(pipe))["systems"]["translation"]
    assert all(second[name]["of"] != key for name, key in keys.items())


def test_other_options_are_told(measurement, pipe):
    measurement.run(EnglishSystem(pipe))
    other = dataclasses.replace(measurement, options=dataclasses.replace(QUICK, steps=2))
    with pytest.raises(BridgeError, match="other options"):
        other.run(EnglishSystem(pipe))
    quicker = dataclasses.replace(measurement, options=dataclasses.replace(QUICK, batch_size=2))
    assert quicker.run(EnglishSystem(pipe)) == measurement.run(EnglishSystem(pipe))


def test_systems_by_name(pipe, bridge, tmp_path):
    assert isinstance(open_system("translation", pipe, bridge, None), EnglishSystem)
    assert isinstance(open_system("bridge", pipe, bridge, None), BridgeSystem)
    with pytest.raises(BridgeError, match="translated, native, scratch, adapter"):
        open_system("prompt", pipe, bridge, None)
    with pytest.raises(BridgeError, match="no system 'control:b'"):
        open_system("control:b", pipe, bridge, None, {"a": bridge})
    with pytest.raises(BridgeError, match="bdm world baseline scratch"):
        open_system("scratch", pipe, bridge, tmp_path)
    assert systems_there(None) == ["translation", "bridge"]
    (tmp_path / "adapter" / "export").mkdir(parents=True)
    assert systems_there(tmp_path) == ["translation", "bridge", "adapter"]


def test_which_pictures_are_shown():
    groups = ["native", "shared", "shared", "native"] + ["shared"] * 6
    assert shown_positions(groups, PLAIN) == [0, 3, 1, 2, 4, 5]
    assert shown_positions(["shared"] * 20, "lemon") == list(range(8))
    assert find_concept("lemon").names["zh"] == "柠檬"

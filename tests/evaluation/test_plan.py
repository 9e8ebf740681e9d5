"""What is drawn: scored scenes only, the same ones and the same noise in all conditions."""

import pytest

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.plan import (
    BACKBONE,
    BRIDGE,
    CONDITIONS,
    WorldOptions,
    group_of,
    plan,
    scored_singles,
)
from bridge_diffusion.worlds.emoji.captions import default_colours
from bridge_diffusion.worlds.emoji.concepts import (
    all_concepts,
    find_concept,
    literal_probes,
    native_concepts,
    small_world,
)


def cases(concepts, controls=None, **options):
    batches = list(plan(concepts, WorldOptions(**options), controls or {}))
    return batches, [case for batch in batches for case in batch]


def test_every_concept_has_scored_scenes_on_default_colours():
    for concept in all_concepts():
        scenes = scored_singles(concept)
        assert scenes
        assert len({scene.kind for scene in scenes}) == 1
        assert all(scene.scored and scene.concepts == (concept,) for scene in scenes)
        assert all(scene.colours[0] in default_colours() for scene in scenes)


def test_all_scenes_are_absent_from_training():
    _, drawn = cases(small_world("zh")[::3], images=2)
    assert drawn
    assert all(case.scene.scored for case in drawn)


def test_a_concept_meets_the_same_scene_and_noise_in_all_conditions(concepts):
    _, drawn = cases(concepts, {"english": "en"}, images=3)
    singles = [case for case in drawn if case.condition != "pair"]
    for concept in concepts:
        for index in range(3):
            same = [c for c in singles if c.concept == concept and c.index == index]
            assert all(case.scene == same[0].scene for case in same)
            assert len({case.seed for case in same}) == 1
            assert {"bridge", "as_is", "translation", "control:english"} <= {
                case.condition for case in same
            }
    assert len({case.seed for case in singles}) == 3 * len(concepts)


def test_conditions_that_are_named_are_drawn_alone_and_as_before(concepts):
    _, everything = cases(concepts, {"english": "en"})
    _, some = cases(concepts, {"english": "en"}, conditions=("pair", "bridge"))
    assert {case.condition for case in some} == {"pair", "bridge"}
    assert some == [case for case in everything if case.condition in ("pair", "bridge")]
    with pytest.raises(BridgeError, match="no condition 'native'; choose of bridge, as_is"):
        WorldOptions(conditions=("native",))


def test_prompts_of_the_conditions(concepts):
    _, drawn = cases(concepts[:1] + concepts[2:], {"english": "en", "shuffled": "zh"})
    of = {c.condition: c for c in drawn if c.concept.names["en"] == "red envelope"}
    scene = of["bridge"].scene
    chinese, english = scene.caption("zh"), scene.caption("en")
    assert (of["bridge"].route, of["bridge"].prompt) == (BRIDGE, chinese)
    assert (of["as_is"].route, of["as_is"].prompt) == (BACKBONE, chinese)
    assert (of["translation"].route, of["translation"].prompt) == (BACKBONE, english)
    assert (of["control:english"].route, of["control:english"].prompt) == ("english", english)
    assert (of["control:shuffled"].route, of["control:shuffled"].prompt) == ("shuffled", chinese)
    assert of["unseen_order"].prompt.startswith("红包，")
    assert of["synonym"].prompt == chinese.replace("红包", "利事")
    assert of["mixed"].prompt == "红包"
    assert of["mixed"].english in english
    pair = of["pair"]
    assert pair.prompt == pair.scene.caption("zh")
    assert not pair.scene.concepts[1].held_out
    assert len(pair.boxes) == 2
    assert set(of) == {*CONDITIONS, "control:english", "control:shuffled"}


def test_a_concept_without_synonym_is_left_out_of_that_condition():
    flower = find_concept("white flower")
    _, drawn = cases([flower, find_concept("dog")])
    assert not [c for c in drawn if c.condition == "synonym" and c.concept == flower]


def test_groups():
    _, drawn = cases(all_concepts()[::4] + native_concepts("ar"), language="ar")
    native = {case.concept.codepoints for case in drawn if case.group == "native"}
    assert native == {concept.codepoints for concept in native_concepts("ar")}
    assert not any(case.concept.held_out for case in drawn if case.group == "shared")
    assert group_of(find_concept("red envelope"), "ar") is None


def test_a_short_run_is_a_fair_part(concepts):
    """Probes first, and each condition before the next concepts."""
    batches, _ = cases(small_world("zh"), batch_size=6)
    assert [case.concept for case in batches[0]] == list(literal_probes())
    assert all(len({case.condition for case in batch}) == 1 for batch in batches)
    first = [batch[0].condition for batch in batches[: len(CONDITIONS)]]
    assert first == list(CONDITIONS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"language": "en"}, "zh, ja, ar, hi, es"),
        ({"language": "xx"}, "'xx'"),
        ({"images": 0}, "images is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"time_limit": 0}, "time_limit is 0"),
    ],
)
def test_options_that_cannot_be(wrong, message):
    with pytest.raises(BridgeError, match=message):
        WorldOptions(**wrong)

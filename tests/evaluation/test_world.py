"""The whole measurement at tiny size: real pipeline and bridge, untrained; real evaluator class."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.drawing import draw_cases, prepared
from bridge_diffusion.evaluation.evaluator import load_evaluator
from bridge_diffusion.evaluation.plan import BRIDGE, DRAWING, WorldOptions, plan
from bridge_diffusion.evaluation.world import evaluate_world, judge
from bridge_diffusion.worlds.emoji.concepts import find_concept

QUICK = WorldOptions(steps=1, batch_size=4)


def test_all_conditions_are_drawn_and_scored(pipe, bridge, new_release_bridge, concepts, untrained):
    done = []
    scheduler = pipe.scheduler
    pipe.set_progress_bar_config(desc="mine")
    result = evaluate_world(
        pipe,
        bridge.attach(pipe),
        QUICK,
        concepts=concepts,
        controls={"other": new_release_bridge()},
        evaluator=untrained(concepts),
        progress=lambda count, total: done.append((count, total)),
    )
    counts = {(score.condition, score.group): score.top1.count for score in result.scores}
    conditions = {condition for condition, _ in counts}
    assert {"bridge", "as_is", "translation", "control:other", "pair", "mixed"} <= conditions
    assert counts["bridge", "native"] == counts["as_is", "shared"] == 2
    assert counts["synonym", "native"] == 1
    assert result.complete
    assert result.controls == {"other": "zh"}
    assert done[-1] == (len(result.outcomes), len(result.outcomes))
    assert all(0 <= outcome.rank < 4 for outcome in result.outcomes)
    # The pipeline is as it was.
    assert bridge.attached
    assert pipe.scheduler is scheduler
    assert pipe._progress_bar_config == {"desc": "mine"}


def test_each_route_draws_with_its_own_bridge(pipe, bridge, new_release_bridge, concepts):
    other = new_release_bridge()
    with torch.no_grad():
        for weight in other.branch.parameters():
            weight.mul_(1.5)
    bridges = {BRIDGE: bridge, "other": other}
    batches = plan(concepts, QUICK, {"other": "zh"})
    drawn = {}
    with prepared(pipe, bridge):
        for cases in batches:
            pictures = draw_cases(pipe, bridges, cases, QUICK)
            drawn.setdefault(cases[0].condition, []).extend(map(np.asarray, pictures))
    assert not bridge.attached
    assert not other.attached
    plain = pipe([cases_prompt(concepts)], num_inference_steps=1, output_type="np").images
    assert plain.shape[-1] == 3
    for one, two in (("bridge", "as_is"), ("bridge", "control:other"), ("as_is", "translation")):
        assert any((a != b).any() for a, b in zip(drawn[one], drawn[two], strict=True))


def cases_prompt(concepts):
    return concepts[0].names["en"]


def test_a_picture_is_the_same_in_any_batch(pipe, bridge, concepts):
    cases = next(iter(plan(concepts, QUICK, {})))
    bridges = {BRIDGE: bridge}
    with prepared(pipe, bridge):
        together = draw_cases(pipe, bridges, cases, QUICK)
        alone = draw_cases(pipe, bridges, cases[-1:], QUICK)[0]
    difference = np.asarray(together[-1], np.int16) - np.asarray(alone, np.int16)
    assert abs(difference).max() <= 1


def test_the_seed_makes_the_picture(pipe, bridge, concepts):
    case = next(iter(plan(concepts, QUICK, {})))[0]
    cases = [case, dataclasses.replace(case, seed=case.seed + 1), case]
    with prepared(pipe, bridge):
        first, other, again = map(np.asarray, draw_cases(pipe, {BRIDGE: bridge}, cases, QUICK))
    assert (first == again).all()
    assert (first != other).any()


def test_right_pictures_are_found(concepts, drawings):
    """The shipped evaluator on the real drawings, through the code that scores generated ones."""
    cases = [
        case
        for batch in plan(concepts, WorldOptions(), {})
        for case in batch
        if case.condition in ("bridge", "pair")
    ]
    assert {"pair", "bridge"} == {case.condition for case in cases}
    pictures = [case.scene.render(drawings, 64) for case in cases]
    outcomes = judge(load_evaluator(), cases, pictures)
    for outcome in outcomes:
        wanted = tuple(concept.codepoints for concept in outcome.case.scene.concepts)
        assert outcome.found == wanted
        assert outcome.rank == 0
        assert outcome.background == outcome.case.scene.colours[0]


def test_a_pair_needs_both_halves(concepts, drawings):
    case = next(
        case
        for batch in plan(concepts, WorldOptions(), {})
        for case in batch
        if case.condition == "pair"
    )
    envelope_twice = dataclasses.replace(case.scene, concepts=(case.scene.concepts[0],) * 2)
    (outcome,) = judge(load_evaluator(), [case], [envelope_twice.render(drawings, 64)])
    assert outcome.found == (case.concept.codepoints,) * 2
    assert outcome.rank > 0


def test_the_drawings_themselves_are_scored(pipe, bridge, concepts, drawings):
    options = dataclasses.replace(QUICK, time_limit=1e-9)
    result = evaluate_world(pipe, bridge, options, concepts=concepts, drawings=drawings)
    assert not result.complete
    assert not result.outcomes
    assert {score.condition for score in result.scores} == {DRAWING}
    for group in ("native", "shared"):
        assert result.score(DRAWING, group).top1.share >= 0.8
        assert result.score(DRAWING, group).background.share == 1.0


def test_large_pictures_are_kept_small(concepts, untrained):
    case = next(iter(plan(concepts, WorldOptions(), {})))[0]
    (outcome,) = judge(untrained(concepts), [case], [Image.new("RGB", (512, 256))])
    assert outcome.picture.size == (128, 64)
    later = dataclasses.replace(case, index=1)
    assert judge(untrained(concepts), [later], [Image.new("RGB", (64, 64))])[0].picture is None


def test_nan_is_an_error(pipe, bridge, concepts):
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(float("nan"))
    cases = next(iter(plan(concepts, QUICK, {})))
    with prepared(pipe, bridge), pytest.raises(BridgeError, match="NaN"):
        draw_cases(pipe, {BRIDGE: bridge}, cases, QUICK)


def test_a_concept_that_the_evaluator_lacks(pipe, bridge, concepts, untrained):
    with pytest.raises(BridgeError, match="does not know fox"):
        evaluate_world(
            pipe, bridge, QUICK, concepts=[find_concept("fox")], evaluator=untrained(concepts)
        )


def test_a_control_may_not_take_a_route_s_name(
    pipe, bridge, new_release_bridge, concepts, untrained
):
    for name in ("backbone", "bridge", "drawing"):
        with pytest.raises(BridgeError, match=name):
            evaluate_world(
                pipe,
                bridge,
                QUICK,
                concepts=concepts,
                controls={name: new_release_bridge()},
                evaluator=untrained(concepts),
            )

"""The evaluators' training tasks, through the one loop, at tiny size."""

import pytest
import torch

from bridge_diffusion.evaluation.evaluator import load_evaluator, load_style_evaluator
from bridge_diffusion.evaluation.plan import scored_singles
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.loop import train
from bridge_diffusion.worlds.emoji.concepts import small_world
from bridge_diffusion.worlds.emoji.plugins.kinds import PLUGINS
from bridge_diffusion.worlds.emoji.styles import STYLES, style_sprites
from bridge_diffusion.worlds.emoji.train.evaluator import EvaluatorTask
from bridge_diffusion.worlds.emoji.train.style_evaluator import (
    StyleEvaluatorTask,
    new_style_evaluator,
)


@pytest.fixture
def task(untrained, concepts, drawings, monkeypatch) -> EvaluatorTask:
    monkeypatch.setattr("bridge_diffusion.evaluation.self_test._BATCHES", 1)
    monkeypatch.setattr("bridge_diffusion.worlds.emoji.train.evaluator._CALIBRATION_BATCHES", 4)
    model = untrained(concepts).model
    return EvaluatorTask(model, [drawings], batch_size=32, seed=0, details={"images": 640})


def test_it_learns_and_exports_what_it_measured(task, tmp_path):
    config = LoopConfig(
        run_dir=tmp_path,
        images=640,
        batch_size=32,
        learning_rate=1e-2,
        ema_decay=0.8,
        progress=False,
    )
    export = train(task, config).export
    loaded = load_evaluator(export)
    clean = loaded.accuracy["noto"]["clean"]["top1"]
    assert clean["share"] > 0.5  # 0.25 by chance
    assert loaded.accuracy["noto"]["degraded"]["top1"]["count"] == 142


def test_batches_are_functions_of_the_index(task):
    assert torch.equal(task.batch(3)["pixels"], task.batch(3)["pixels"])
    assert not torch.equal(task.batch(3)["pixels"], task.batch(4)["pixels"])


def test_export_measures_the_batch_norms_anew(task, tmp_path):
    """The loop averages weights, not buffers: stale statistics must not reach the file."""
    for name, buffer in task.model.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(100.0)
    task.export(tmp_path)
    for name, buffer in load_evaluator(tmp_path).model.named_buffers():
        if name.endswith("running_mean"):
            assert buffer.abs().max() < 50
    means = [b for n, b in task.model.named_buffers() if n.endswith("running_mean")]
    assert max(mean.abs().max() for mean in means) < 50
    assert not task.model.training


def test_styles_are_told_apart_whatever_is_drawn(styles, concepts, tmp_path, monkeypatch):
    monkeypatch.setattr("bridge_diffusion.evaluation.self_test._BATCHES", 1)
    monkeypatch.setattr("bridge_diffusion.worlds.emoji.train.evaluator._CALIBRATION_BATCHES", 4)
    known, unseen = (concepts[0].codepoints, concepts[2].codepoints), [concepts[3].codepoints]
    task = StyleEvaluatorTask(
        styles.model,
        [style_sprites(style) for style in STYLES],
        known=known,
        unseen=unseen,
        batch_size=32,
        seed=0,
        details={"images": 6400},
    )
    labels = task.batch(0)["labels"]
    assert set(labels.tolist()) == set(range(len(STYLES)))
    config = LoopConfig(
        run_dir=tmp_path,
        images=6400,
        batch_size=32,
        learning_rate=1e-2,
        ema_decay=0.8,
        progress=False,
    )
    loaded = load_style_evaluator(train(task, config).export)
    assert loaded.model.config.concepts == STYLES
    right = [rows["clean"]["share"] for rows in loaded.accuracy["known drawings"].values()]
    assert sum(right) / len(STYLES) > 0.6
    assert loaded.accuracy["unseen drawings"].keys() == set(STYLES)
    assert loaded.accuracy["known drawings"]["ink"]["degraded"]["count"] == 142


def test_the_shipped_evaluator_of_styles_knows_the_scored_drawings():
    """The styles of plug-ins surely, whose probability is measured; the vendors apart less so."""
    loaded = load_style_evaluator()
    assert loaded.model.config.concepts == STYLES == new_style_evaluator().config.concepts
    measured = {plugin.style for plugin in PLUGINS if plugin.style}
    assert measured == {"ink", "comic"}
    for style in STYLES:
        least = 0.97 if style in measured else 0.8
        assert loaded.accuracy["known drawings"][style]["clean"]["share"] > least
        pictures = [
            scene.render(style_sprites(style), 64)
            for concept in small_world("zh")[::6]
            for scene in scored_singles(concept)
        ]
        found = loaded.model.scores(pictures).argmax(dim=1)
        assert (found == loaded.model.row[style]).float().mean() > least
        others = torch.tensor([loaded.model.row[other] for other in measured - {style}])
        assert torch.isin(found, others).float().mean() < 0.06

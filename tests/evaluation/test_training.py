"""The evaluator's training task, through the one loop, at tiny size."""

import pytest
import torch

from bridge_diffusion.evaluation.evaluator import load_evaluator
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.loop import train
from bridge_diffusion.worlds.emoji.train.evaluator import EvaluatorTask


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

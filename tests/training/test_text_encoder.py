import json
import math

import pytest
import torch
from torch.nn import functional as F

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text import NativeTextEncoder, TextEncoding
from bridge_diffusion.text.from_scratch import new_bert, train_tokenizer
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.loop import train
from bridge_diffusion.training.text_encoder import (
    LARGEST_LOGIT_SCALE,
    ContrastiveObjective,
    DistillationObjective,
    HeldOut,
    TextEncoderTask,
    contrastive_loss,
    retrieval,
)
from bridge_diffusion.training.text_towers import TextTower

CAPTIONS = [
    f"{colour}背景上的{thing}" for colour in ("红色", "蓝色") for thing in ("狐狸", "饺子", "雪")
]
_PARTS = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
FEATURES = (_PARTS[:2, None] + _PARTS[2:]).flatten(0, 1)  # of a colour, plus of a thing


def examples(index: int) -> tuple[torch.Tensor, list[str]]:
    order = torch.randperm(len(CAPTIONS), generator=torch.Generator().manual_seed(index))
    return FEATURES[order], [CAPTIONS[i] for i in order.tolist()]


def make_task(objective=None, **options) -> TextEncoderTask:
    tokenizer = train_tokenizer(CAPTIONS)
    torch.manual_seed(0)
    encoder = new_bert(tokenizer, width=32, layers=1, positions=16, dropout=0.0)
    encoding = TextEncoding(family="bert", window=16)
    held_out = HeldOut(targets=FEATURES, captions=tuple(CAPTIONS))
    return TextEncoderTask(
        TextTower(encoder, FEATURES.shape[1]),
        tokenizer,
        encoding,
        examples,
        objective or ContrastiveObjective(),
        held_out=held_out,
        **options,
    )


def run_config(tmp_path, **changes) -> LoopConfig:
    values = {
        "run_dir": tmp_path / "run",
        "images": 80 * len(CAPTIONS),
        "batch_size": len(CAPTIONS),
        "learning_rate": 3e-3,
        "warmup_images": 30 * len(CAPTIONS),
        "ema_decay": 0.8,
        "progress": False,
    }
    return LoopConfig(**values | changes)


def test_the_loss_is_that_of_clip():
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    images, texts = torch.randn(4, 6), torch.randn(4, 6)
    logits = 3.0 * F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
    got = contrastive_loss(images, texts, torch.tensor(math.log(3.0)))
    torch.testing.assert_close(got, image_text_contrastive_loss(logits))


def test_equal_captions_are_no_negatives_of_each_other():
    images, texts = torch.randn(3, 6), torch.randn(3, 6)
    texts[2] = texts[1]
    scale = torch.tensor(2.0)
    got = contrastive_loss(images, texts, scale, torch.tensor([0, 1, 1]))
    logits = scale.exp() * F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
    rows = [logits[0], logits[1, :2], logits[2, [0, 2]]]
    columns = [logits[:, 0], logits[:2, 1], logits[[0, 2], 2]]
    terms = [F.cross_entropy(x, torch.tensor(i)) for x, i in zip(rows, (0, 1, 1), strict=True)]
    terms += [F.cross_entropy(x, torch.tensor(i)) for x, i in zip(columns, (0, 1, 1), strict=True)]
    torch.testing.assert_close(got, torch.stack(terms).mean())


def test_the_temperature_has_a_limit():
    objective = ContrastiveObjective()
    with torch.no_grad():
        objective.logit_scale.fill_(9.0)
    out = objective(torch.randn(4, 6), torch.randn(4, 6), torch.arange(4))
    assert out["logit_scale"].log().item() == pytest.approx(LARGEST_LOGIT_SCALE)


def test_retrieval_counts_equal_captions_as_right():
    targets = torch.eye(3)
    texts = torch.stack([targets[1], targets[0], targets[0]])
    assert retrieval(texts, targets, ["a", "a", "b"])["top1"] == pytest.approx(2 / 3)
    assert retrieval(texts, targets, ["a", "b", "c"])["top1"] == 0
    assert retrieval(texts, targets, ["a", "b", "c"])["top5"] == 1


@pytest.mark.parametrize("objective", [ContrastiveObjective(), DistillationObjective()])
def test_training_finds_the_counterparts_and_exports_an_encoder(objective, tmp_path):
    task = make_task(objective)
    before = task.evaluate(task.held_out)["top1"]
    result = train(task, run_config(tmp_path))
    report = json.loads((result.export / "retrieval.json").read_text())
    assert before < 0.5
    assert report["top1"] == 1
    encoder = NativeTextEncoder.from_pretrained(result.export)
    assert encoder.encoding == task.encoding
    tokens = task.tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    hidden = encoder.model(**tokens).last_hidden_state[:, 0]
    exported = TextTower.from_folder(result.export, FEATURES.shape[1])
    assert retrieval(exported.projection(hidden), FEATURES, CAPTIONS)["top1"] == 1


def test_the_exported_encoder_may_be_in_half_precision(tmp_path):
    task = make_task(export_dtype=torch.float16)
    task.export(tmp_path)
    assert NativeTextEncoder.from_pretrained(tmp_path).model.dtype == torch.float16
    assert task.tower.encoder.dtype == torch.float32


def test_a_frozen_image_tower_stays_as_it_is_and_out_of_the_checkpoint():
    tower = torch.nn.Linear(5, 8).requires_grad_(False)
    objective = ContrastiveObjective(tower)
    assert not any("tower" in name for name in objective.state_dict())
    pixels = torch.randn(4, 5)
    assert torch.equal(objective.target_features(pixels), tower(pixels))


def test_a_trainable_image_tower_gets_a_gradient():
    tower = torch.nn.Linear(5, 8)
    objective = ContrastiveObjective(tower)
    objective(torch.randn(4, 8), torch.randn(4, 5), torch.arange(4))["loss"].backward()
    assert tower.weight.grad.abs().sum() > 0
    assert "image_tower.weight" in objective.state_dict()


def test_captions_are_cut_to_one_window():
    task = make_task()
    batch = task._tokens(["红色" * 30, "雪"])
    assert batch["ids"].shape == (2, 16)
    assert batch["mask"].sum(1).tolist() == [16, 3]


def test_a_window_that_does_not_fit_is_refused_before_training():
    task = make_task()
    with pytest.raises(BridgeError, match="longer than the 16 positions"):
        TextEncoderTask(
            task.tower,
            task.tokenizer,
            TextEncoding(family="bert", window=17),
            examples,
            ContrastiveObjective(),
        )


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path):
    straight = train(make_task(), run_config(tmp_path / "a", images=20 * len(CAPTIONS)))
    train(make_task(), run_config(tmp_path / "b", images=10 * len(CAPTIONS)))
    resumed = train(make_task(), run_config(tmp_path / "b", images=20 * len(CAPTIONS)))
    name = "model.safetensors"
    assert (straight.export / name).read_bytes() == (resumed.export / name).read_bytes()

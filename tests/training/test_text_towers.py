import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.text_towers import (
    PROJECTION_KEY,
    ImageTower,
    TeacherTower,
    TextTower,
)

TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
VISION = {**TINY, "image_size": 8, "patch_size": 4, "projection_dim": 12}
WEIGHTS = Path(__file__).parents[1] / "golden" / "case-a-sd15" / "weights"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")
    text = {**TINY, "vocab_size": 880, "bos_token_id": 878, "eos_token_id": 879}
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chinese_clip(tmp_path_factory) -> tuple[Path, ChineseCLIPModel]:
    folder = tmp_path_factory.mktemp("chinese_clip")
    config = ChineseCLIPConfig(
        text_config={**TINY, "vocab_size": 50}, vision_config=VISION, projection_dim=12
    )
    torch.manual_seed(0)
    model = ChineseCLIPModel(config).eval()
    model.save_pretrained(folder)
    return folder, model


def test_a_text_tower_reads_the_first_token_of_a_bert():
    torch.manual_seed(0)
    encoder = BertModel(BertConfig(vocab_size=20, **TINY), add_pooling_layer=False).eval()
    tower = TextTower(encoder, 5)
    ids, mask = torch.tensor([[1, 2, 3, 0]]), torch.tensor([[True, True, True, False]])
    first = encoder(input_ids=ids[:, :3]).last_hidden_state[:, 0]
    torch.testing.assert_close(tower(ids, mask), tower.projection(first))


def test_a_text_tower_reads_the_end_token_of_a_clip():
    encoder = CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder")
    tower = TextTower(encoder, 5)
    ids = torch.tensor([[878, 320, 587, 879, 879]])
    end = encoder(input_ids=ids).last_hidden_state[:, 3]
    torch.testing.assert_close(tower(ids, torch.ones_like(ids).bool()), tower.projection(end))


def test_chinese_clip_starts_with_its_own_projection(chinese_clip):
    folder, model = chinese_clip
    tower = TextTower.from_folder(folder, features=12)
    assert torch.equal(tower.projection.weight, model.text_projection.weight)
    ids = torch.tensor([[7, 8, 9]])
    wanted = model.get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(tower(ids, torch.ones_like(ids).bool()), wanted)
    other = TextTower.from_folder(folder, features=9)
    assert other.projection.weight.shape == (9, 16)


def test_an_earlier_export_goes_on_with_its_projection(chinese_clip_folder, tmp_path):
    for file in chinese_clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    projection = torch.randn(6, 48)
    save_file({PROJECTION_KEY: projection}, tmp_path / "projection.safetensors")
    assert torch.equal(TextTower.from_folder(tmp_path, 6).projection.weight, projection)


def test_the_image_tower_of_clip(clip_folder):
    tower = ImageTower.from_folder(clip_folder)
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    model = CLIPModel.from_pretrained(clip_folder)
    wanted = model.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(tower(pixels), wanted)
    assert (tower.size, tower.features) == (8, 12)


def test_the_image_tower_of_chinese_clip(chinese_clip):
    folder, model = chinese_clip
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    wanted = model.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(ImageTower.from_folder(folder)(pixels), wanted)


def test_pixels_are_normalised_as_the_checkpoint_says(clip_folder, tmp_path):
    for file in clip_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    values = {"image_mean": mean, "image_std": std}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    tower = ImageTower.from_folder(tmp_path)
    unit = torch.rand(1, 3, 8, 8)
    normalised = (unit - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    wanted = tower.model.get_image_features(pixel_values=normalised).pooler_output
    torch.testing.assert_close(tower(unit * 2 - 1), wanted)
    tower.save_pretrained(tmp_path / "again")
    again = ImageTower.from_folder(tmp_path / "again")
    assert torch.equal(again(unit), tower(unit))


def test_only_the_picture_side_is_trained(clip_folder):
    tower = ImageTower.from_folder(clip_folder)
    trained = {name.split(".")[0] for name, p in tower.model.named_parameters() if p.requires_grad}
    assert trained == {"vision_model", "visual_projection"}


def test_a_clip_teacher_gives_the_features_of_its_joint_space(clip_folder):
    teacher = TeacherTower.from_folder(clip_folder)
    got = teacher(["a red fox", "snow"])
    tokens = teacher.tokenizer(["a red fox", "snow"], padding=True, return_tensors="pt")
    model = CLIPModel.from_pretrained(clip_folder)
    torch.testing.assert_close(got, model.get_text_features(**tokens).pooler_output)
    assert teacher(["fox " * 200]).isfinite().all()


def test_a_stable_diffusion_text_encoder_teaches_with_the_tokenizer_beside_it():
    teacher = TeacherTower.from_folder(WEIGHTS / "text_encoder")
    tokens = teacher.tokenizer(["a red fox"], return_tensors="pt")
    model = CLIPTextModel.from_pretrained(WEIGHTS / "text_encoder")
    torch.testing.assert_close(teacher(["a red fox"]), model(**tokens).pooler_output)


def test_a_chinese_clip_can_teach(chinese_clip_folder):
    teacher = TeacherTower.from_folder(chinese_clip_folder)
    assert teacher(["红色", "雪"]).shape == (2, 48)
    torch.testing.assert_close(teacher(["红色", "雪地的狐狸"])[:1], teacher(["红色"]))


def test_a_folder_of_another_kind(chinese_clip_folder, tmp_path):
    with pytest.raises(BridgeError, match=r"'chinese_clip_text_model' and no image tower; use one"):
        ImageTower.from_folder(chinese_clip_folder)
    CLIPVisionModelWithProjection(CLIPConfig(vision_config=VISION).vision_config).save_pretrained(
        tmp_path
    )
    assert ImageTower.from_folder(tmp_path).features == 12
    with pytest.raises(BridgeError, match="type 'clip_vision_model' are not supported"):
        TeacherTower.from_folder(tmp_path)

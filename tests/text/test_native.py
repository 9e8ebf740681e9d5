import json
import shutil
import unicodedata

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ChineseCLIPConfig, ChineseCLIPModel

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text import NativeTextEncoder, TextEncoding

FIFTY = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生"
    "到作地于出就分对成会可主发年动同工也能下过子说产种"
)
NATIVE_CASES = [
    "n01_plain",
    "n02_weights_ignored",
    "n03_two_chunks",
    "n05_empty",
    "n08_exactly_51",
]


def agrees(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return got.shape == wanted.shape and bool(
        (got - wanted).abs().max() <= tolerance * wanted.abs().max()
    )


@pytest.mark.parametrize("name", NATIVE_CASES)
def test_the_release_encodes_alike(release_encoder, cases, expected, name):
    case = cases[name]
    if case["negative_prompts"] is None:
        positive, negative = release_encoder.encode(case["prompts"]), None
    else:
        positive, negative = release_encoder.encode_pair(case["prompts"], case["negative_prompts"])
    assert agrees(positive.hidden, expected[f"{name}.pos"])
    assert positive.mask.all()
    if negative is not None:
        assert agrees(negative.hidden, expected[f"{name}.neg"])


def test_the_padding_row_of_the_file_survives_loading(release_encoder, chinese_clip_folder):
    key = "embeddings.word_embeddings.weight"
    row = load_file(chinese_clip_folder / "model.safetensors")[key][0]
    assert row.abs().max() > 0
    assert torch.equal(release_encoder.model.state_dict()[key][0], row)


def test_a_two_tower_checkpoint_gives_its_text_tower(chinese_clip_folder, encoder, tmp_path):
    values = json.loads((chinese_clip_folder / "config.json").read_text())
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 8,
        "patch_size": 4,
    }
    config = ChineseCLIPConfig(text_config=values, vision_config=vision, projection_dim=8)
    shutil.copytree(chinese_clip_folder, tmp_path, dirs_exist_ok=True)
    ChineseCLIPModel(config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {f"text_model.{k}": v for k, v in encoder.model.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = NativeTextEncoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(["红包"]).hidden, encoder.encode(["红包"]).hidden)


@pytest.mark.parametrize("prompt", ["", "狐狸", FIFTY, FIFTY + "面", FIFTY + FIFTY])
def test_a_prompt_does_not_depend_on_its_company(encoder, prompt):
    alone = encoder.encode([prompt])
    together = encoder.encode([FIFTY * 3, prompt, "雪"], windows=5)
    length = alone.hidden.shape[1]
    assert together.hidden.shape[1] == encoder.encoding.native_tokens
    assert agrees(together.hidden[1, :length], alone.hidden[0])
    assert torch.equal(together.mask[1, :length], alone.mask[0])
    assert not together.mask[1, length:].any()
    assert not together.hidden[1, length:].any()


def test_the_mask_covers_start_tokens_and_end(encoder):
    embeddings = encoder.encode(["红包", FIFTY + "面", FIFTY])
    assert embeddings.mask.sum(1).tolist() == [4, 53, 52]
    assert embeddings.hidden.shape == (3, 102, 48)
    assert not embeddings.hidden[~embeddings.mask].any()


def test_padding_is_masked_inside_the_encoder(encoder):
    embeddings = encoder.encode(["红包"])
    ids = encoder.tokenizer(["红包"], return_tensors="pt").input_ids
    bare = encoder.model(input_ids=ids).last_hidden_state
    assert agrees(embeddings.hidden[:, :4], bare)


def test_weights_act_on_their_tokens_and_keep_the_power(encoder):
    plain = encoder.encode(["红狐狸"]).hidden[0, :5]
    weighted = encoder.encode(["（红：1.5）狐狸"]).hidden[0, :5]
    ratio = (weighted / plain).mean(1)
    assert ratio[1] / ratio[2] == pytest.approx(1.5, rel=1e-4)
    assert weighted.square().mean() == pytest.approx(float(plain.square().mean()), rel=1e-4)


def test_the_release_drops_weights_and_knows_no_full_width_brackets(release_encoder):
    plain = release_encoder.encode(["红狐狸"]).hidden
    assert torch.equal(release_encoder.encode(["(红:1.5)狐狸"]).hidden, plain)
    assert not torch.equal(release_encoder.encode(["（红：1.5）狐狸"]).hidden, plain)


def test_a_pair_has_equal_lengths(encoder):
    positive, negative = encoder.encode_pair(["红包"], [FIFTY + "面"])
    assert positive.hidden.shape == negative.hidden.shape == (1, 102, 48)


def test_batch_and_single_agree(encoder):
    prompts = ["红包", "雪地里的狐狸", FIFTY + "（面：1.4）", ""]
    batch = encoder.encode(prompts, windows=2)
    for i, prompt in enumerate(prompts):
        assert agrees(encoder.encode([prompt], windows=2).hidden[0], batch.hidden[i])


@pytest.mark.parametrize("folder", ["bert_folder", "xlm_roberta_folder"])
def test_other_families(folder, request, tmp_path):
    folder = request.getfixturevalue(folder)
    encoder = NativeTextEncoder.from_pretrained(
        folder,
        TextEncoding(family=folder.name[:-1].replace("-", "_"), window=16, pooled=True),
    )
    prompts = ["红包 fox", "ثعلب fox"]
    got = encoder.encode(prompts)
    inputs = encoder.tokenizer(prompts, return_tensors="pt", padding=True)
    wanted = encoder.model(**inputs).last_hidden_state
    for i, length in enumerate(inputs.attention_mask.sum(1).tolist()):
        assert agrees(got.hidden[i, :length], wanted[i, :length])
        assert got.mask[i].sum() == length
    assert torch.equal(got.pooled, got.hidden[:, 0])
    assert encoder.pooled_width == encoder.width == 16
    encoder.save_pretrained(tmp_path)
    again = NativeTextEncoder.from_pretrained(tmp_path)
    assert again.encoding == encoder.encoding
    assert torch.equal(again.encode(prompts).hidden, got.hidden)


def test_save_and_load_round_trip(release_encoder, tmp_path):
    release_encoder.save_pretrained(tmp_path)
    again = NativeTextEncoder.from_pretrained(tmp_path)
    assert again.encoding == release_encoder.encoding
    wanted = release_encoder.encode(["红包"]).hidden
    assert torch.equal(again.encode(["红包"]).hidden, wanted)


def test_half_precision(chinese_clip_folder):
    encoder = NativeTextEncoder.from_pretrained(chinese_clip_folder, dtype=torch.bfloat16)
    hidden = encoder.encode(["（红：1.3）包"]).hidden
    assert hidden.dtype == torch.bfloat16
    assert torch.isfinite(hidden).all()
    assert encoder.to(dtype=torch.float32).encode(["红"]).hidden.dtype == torch.float32


def test_nothing_is_trained(encoder):
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())


class TestMistakes:
    def test_too_few_or_too_many_windows(self, encoder):
        with pytest.raises(BridgeError, match="need 2, at most 5"):
            encoder.encode([FIFTY + "面"], windows=1)
        with pytest.raises(BridgeError, match="6 windows were asked for"):
            encoder.encode(["红"], windows=6)

    @pytest.mark.parametrize("prompts", ["红包", []])
    def test_prompts_must_be_a_list(self, encoder, prompts):
        with pytest.raises(BridgeError, match="non-empty list"):
            encoder.encode(prompts)

    def test_another_family(self, bert_folder):
        with pytest.raises(BridgeError, match="trained with a text encoder of family 'chinese_c"):
            NativeTextEncoder.from_pretrained(bert_folder, TextEncoding(family="chinese_clip"))

    def test_a_window_longer_than_the_positions(self, bert_folder):
        with pytest.raises(BridgeError, match="longer than the 64 positions"):
            NativeTextEncoder.from_pretrained(bert_folder, TextEncoding(family="bert", window=65))

    def test_positions_of_the_roberta_family_start_late(self, xlm_roberta_folder):
        encoding = TextEncoding(family="xlm_roberta", window=65)
        with pytest.raises(BridgeError, match="longer than the 64 positions"):
            NativeTextEncoder.from_pretrained(xlm_roberta_folder, encoding)

    def test_a_tokenizer_of_another_model(self, bert_folder, chinese_clip_folder):
        with pytest.raises(BridgeError, match="tokenizer has 740 entries, the text encoder 13"):
            NativeTextEncoder.from_pretrained(bert_folder, tokenizer=chinese_clip_folder)

    def test_no_folder(self, tmp_path):
        with pytest.raises(BridgeError, match="is not a folder"):
            NativeTextEncoder.from_pretrained(tmp_path / "nowhere")

    def test_no_text_encoder(self, tmp_path):
        with pytest.raises(BridgeError, match=r"config\.json is missing"):
            NativeTextEncoder.from_pretrained(tmp_path)

    def test_an_unknown_type(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        with pytest.raises(BridgeError, match="type 'llama' are not supported"):
            NativeTextEncoder.from_pretrained(tmp_path)

    @pytest.mark.parametrize("folder", ["bert_folder", "chinese_clip_folder"])
    def test_corrupt_weights(self, folder, request, tmp_path):
        shutil.copytree(request.getfixturevalue(folder), tmp_path, dirs_exist_ok=True)
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(BridgeError, match=r"cannot be read|is not a whole"):
            NativeTextEncoder.from_pretrained(tmp_path)

    @pytest.mark.parametrize("folder", ["bert_folder", "chinese_clip_folder"])
    def test_a_missing_tensor(self, folder, request, tmp_path):
        shutil.copytree(request.getfixturevalue(folder), tmp_path, dirs_exist_ok=True)
        tensors = load_file(tmp_path / "model.safetensors")
        del tensors["encoder.layer.0.attention.self.key.weight"]
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(BridgeError, match="missing"):
            NativeTextEncoder.from_pretrained(tmp_path)

    def test_a_tensor_of_another_shape(self, chinese_clip_folder, tmp_path):
        shutil.copytree(chinese_clip_folder, tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 741}))
        with pytest.raises(BridgeError, match=r"has shape \(740, 48\)"):
            NativeTextEncoder.from_pretrained(tmp_path)

    @pytest.mark.parametrize("folder", ["bert_folder", "chinese_clip_folder"])
    def test_a_pickle_is_never_executed(self, folder, request, tmp_path):
        shutil.copytree(request.getfixturevalue(folder), tmp_path, dirs_exist_ok=True)
        (tmp_path / "model.safetensors").unlink()
        marker = tmp_path / "executed"
        torch.save({"weight": _Touch(str(marker))}, tmp_path / "pytorch_model.bin")
        with pytest.raises(BridgeError, match=r"cannot be read|it was not run"):
            NativeTextEncoder.from_pretrained(tmp_path)
        assert not marker.exists()

    def test_no_tokenizer(self, chinese_clip_folder, tmp_path):
        for name in ("config.json", "model.safetensors"):
            shutil.copy(chinese_clip_folder / name, tmp_path)
        with pytest.raises(BridgeError, match="holds no tokenizer"):
            NativeTextEncoder.from_pretrained(tmp_path)


class _Touch:
    """A pickle that creates a file when it is executed."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_weights_in_a_weights_only_bin(chinese_clip_folder, encoder, tmp_path):
    shutil.copytree(chinese_clip_folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    loaded = NativeTextEncoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(["红包"]).hidden, encoder.encode(["红包"]).hidden)


def test_weights_in_shards(chinese_clip_folder, encoder, tmp_path):
    shutil.copytree(chinese_clip_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    encoder.model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    loaded = NativeTextEncoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(["红包"]).hidden, encoder.encode(["红包"]).hidden)


def test_letters_that_are_taken_apart_are_read_as_written(encoder):
    apart = unicodedata.normalize("NFD", "café 별")
    assert encoder.tokenize(apart).ids == encoder.tokenize("café 별").ids

import pytest
import torch

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.text.from_scratch import new_bert, train_tokenizer

CAPTIONS = ["红色背景上的红包", "Blue fox, blue snow", "नीली लोमड़ी", "ثَعْلَب أزرق"]


def test_every_chinese_character_is_a_token():
    assert train_tokenizer(CAPTIONS * 50).tokenize("红包fox") == ["红", "包", "fox"]


def test_latin_text_is_lower_cased_and_vowel_signs_stay():
    tokenizer = train_tokenizer(CAPTIONS * 50)
    assert tokenizer.tokenize("BLUE") == ["blue"]
    for caption in CAPTIONS[2:]:
        assert "".join(tokenizer.tokenize(caption)).replace("##", "") == caption.replace(" ", "")


def test_the_vocabulary_is_limited_and_always_the_same():
    many = [f"word{i}" for i in range(500)]
    first = train_tokenizer(many, vocabulary=60)
    assert len(first) <= 60
    assert train_tokenizer(many, vocabulary=60).get_vocab() == first.get_vocab()


def test_what_was_in_no_caption_is_unknown():
    tokenizer = train_tokenizer(CAPTIONS)
    assert tokenizer("饺", add_special_tokens=False).input_ids == [tokenizer.unk_token_id]


def test_captions_without_text():
    with pytest.raises(BridgeError, match="no text to learn"):
        train_tokenizer(["", " "])


@pytest.mark.parametrize(("width", "heads"), [(256, 4), (96, 2), (32, 1), (80, 5)])
def test_a_new_encoder(width, heads):
    tokenizer = train_tokenizer(CAPTIONS)
    model = new_bert(tokenizer, width=width, layers=2, positions=20)
    assert model.config.num_attention_heads == heads
    assert model.pooler is None
    ids = torch.tensor([tokenizer("红包").input_ids])
    assert model(input_ids=ids).last_hidden_state.shape == (1, 4, width)


def test_a_width_without_heads():
    with pytest.raises(BridgeError, match="multiple of 16"):
        new_bert(train_tokenizer(CAPTIONS), width=40, layers=1)

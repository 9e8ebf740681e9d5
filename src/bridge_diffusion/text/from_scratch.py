"""A new text encoder for a language: a tokenizer made from captions, and a BERT without weights."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, BertTokenizer

from bridge_diffusion.errors import BridgeError

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(captions: Iterable[str], *, vocabulary: int = 8000) -> BertTokenizer:
    """A WordPiece tokenizer of at most `vocabulary` entries, learned from captions.

    As BERT's (Devlin et al. 2019): Latin text in lower case, every Chinese character a word of
    its own. Accents stay, since vowel signs of Hindi and Arabic count as accents. Every character
    of the captions gets an entry, so the vocabulary may come out larger; what was in no caption is
    unknown. Raises `BridgeError` where the captions hold no text.
    """
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(strip_accents=False)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    captions = list(captions)
    characters = _characters(raw, captions)
    if not characters:
        raise BridgeError("the captions hold no text to learn a tokenizer from")
    # The trainer numbers characters in the random order of a hash map, and breaks ties by number:
    # numbered beforehand, the same captions always give the same tokenizer.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=[*_SPECIAL, *characters], show_progress=False
    )
    raw.train_from_iterator(captions, trainer)
    in_order = dict(sorted(raw.get_vocab().items(), key=lambda entry: entry[1]))
    return BertTokenizer(vocab=in_order, strip_accents=False)


def _characters(raw: Tokenizer, captions: Iterable[str]) -> list[str]:
    """The captions' characters as WordPiece writes them: `x` begins a word, `##x` does not."""
    found: set[str] = set()
    for caption in set(captions):
        for word, _ in raw.pre_tokenizer.pre_tokenize_str(raw.normalizer.normalize_str(caption)):
            found.add(word[0])
            found.update("##" + character for character in word[1:])
    return sorted(found)


def new_bert(
    tokenizer: Any, *, width: int, layers: int, positions: int = 64, dropout: float = 0.1
) -> BertModel:
    """An untrained BERT of `width` channels with heads of 64 channels or fewer.

    `positions` is the longest window it can read, in tokens. Its weights come from the global
    random generator. Raises `BridgeError` for a width that does not divide into heads.
    """
    if width < 16 or width % 16:
        raise BridgeError(f"the text encoder's width is {width}; use a multiple of 16")
    head = next(size for size in (64, 48, 32, 16) if width % size == 0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // head,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertModel(config, add_pooling_layer=False)

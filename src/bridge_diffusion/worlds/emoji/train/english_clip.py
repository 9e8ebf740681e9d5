"""The English world's CLIP: a text encoder (and the image tower it is trained against)."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from bridge_diffusion.data.pairs import PairDataset
from bridge_diffusion.data.pixels import pixel_batch
from bridge_diffusion.training.task import Batch

_START, _END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocabulary: int, window: int) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-level BPE, lower case) whose merges come from these texts."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*alphabet, *(letter + "</w>" for letter in alphabet), _START, _END]
    untrained = CLIPTokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)},
        merges=[],
        unk_token=_END,
        bos_token=_START,
        eos_token=_END,
        pad_token=_END,
    )
    trained = untrained.train_new_from_iterator(texts, vocabulary)
    trained.model_max_length = window
    return trained


def new_clip(
    tokenizer: CLIPTokenizer, *, width: int, layers: int, image_size: int, patch: int
) -> CLIPModel:
    """An untrained CLIP; the text side is laid out as Stable Diffusion's, only smaller."""
    heads = width // 48
    tower = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": "quick_gelu",
    }
    config = CLIPConfig(
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**tower, "image_size": image_size, "patch_size": patch},
        projection_dim=width,
    )
    return CLIPModel(config)


class ClipTask:
    """Pictures against captions, symmetric cross-entropy (Radford et al. 2021, figure 3)."""

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        data: PairDataset,
        *,
        batch_size: int,
        seed: int,
    ):
        self.model, self.tokenizer, self.data = model, tokenizer, data
        self.batch_size, self.seed = batch_size, seed

    @property
    def module(self) -> nn.Module:
        return self.model

    def batch(self, index: int) -> Batch:
        random = np.random.default_rng((self.seed, index))
        pairs = [self.data[int(i)] for i in random.integers(len(self.data), size=self.batch_size)]
        texts = [pair.captions[0] for pair in pairs]
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return {"pixels": pixel_batch([pair.image for pair in pairs]), "ids": ids.input_ids}

    def loss(self, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        output = self.model(input_ids=batch["ids"], pixel_values=batch["pixels"])
        logits = output.logits_per_text.float()
        target = torch.arange(len(logits), device=logits.device)
        cross_entropy = nn.functional.cross_entropy
        loss = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
        accuracy = (logits.argmax(dim=1) == target).float().mean()
        return {"loss": loss, "accuracy_in_batch": accuracy}

    def samples(self) -> Image.Image | None:
        return None

    def export(self, folder: Path) -> None:
        self.model.save_pretrained(folder / "clip")
        self.model.text_model.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")

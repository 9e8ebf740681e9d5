"""What a bridge should draw, worked out without the library: no pack, no hook, no branch class.

The branch's weights are put into diffusers' own `ControlNetModel`, whose image embedding gives
zero; SDXL's two projections are matrix products here. A stock pipeline's UNet is called through
`BackboneByHand`, which adds that network's residuals to the stock call.

Which native prompt belongs to a row of the pipeline's batch is told by one more English token: all
its features are the row's number among the native prompts. It is taken off again before any
network sees the English.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertTokenizer, ChineseCLIPTextModel

PROJECTIONS = ("prompt_embeds_projection.weight", "pooled_prompt_embeds_projection.weight")


class BranchByHand:
    """A branch as stock arithmetic: (sample, timestep, rows, time ids) => residuals."""

    def __init__(
        self,
        config: dict[str, Any],
        state: dict[str, Tensor],
        native: Tensor,
        pooled: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        """`native` are hidden states and `pooled` vectors, one row for each native prompt."""
        known = set(ControlNetModel._get_init_keys(ControlNetModel)) & set(config)
        self.net = ControlNetModel(
            conditioning_embedding_out_channels=(8, 8), **{name: config[name] for name in known}
        ).eval()
        missing, surplus = self.net.load_state_dict(state, strict=False)
        assert all(key.startswith("controlnet_cond_embedding.") for key in missing)
        assert set(surplus) <= set(PROJECTIONS)
        self.native, self.pooled, self.scale = native, pooled, scale
        if pooled is not None:
            self.native = native @ state[PROJECTIONS[0]].T
            self.pooled = pooled @ state[PROJECTIONS[1]].T

    def __call__(
        self, sample: Tensor, timestep: Any, rows: list[int], time_ids: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        added = None
        if self.pooled is not None:
            added = {"text_embeds": self.pooled[rows], "time_ids": time_ids}
        return self.net(
            sample[:, :4],
            timestep,
            self.native[rows],
            torch.zeros(len(sample), 3, sample.shape[2] * 2, sample.shape[3] * 2),
            conditioning_scale=self.scale,
            added_cond_kwargs=added,
            return_dict=False,
        )


def stock_states(folders: list[Path], texts: list[str]) -> tuple[Tensor, Tensor]:
    """Hidden states side by side and the first model's [CLS], from transformers alone."""
    states = []
    for folder in folders:
        tokenizer = BertTokenizer.from_pretrained(folder)
        model = ChineseCLIPTextModel.from_pretrained(folder, add_pooling_layer=False).eval()
        with torch.no_grad():  # transformers 5 clears the padding's row when it loads
            rows = load_file(folder / "model.safetensors")
            model.embeddings.word_embeddings.weight.copy_(rows["embeddings.word_embeddings.weight"])
            ids = tokenizer(texts, padding="max_length", max_length=52, return_tensors="pt")
            states.append(model(ids.input_ids).last_hidden_state)
    return torch.cat(states, dim=-1), states[0][:, 0]


def numbered(english: Tensor, first: int) -> Tensor:
    """English embeddings with the token that numbers their native prompts: first, first + 1 ..."""
    numbers = torch.arange(first, first + len(english)).to(english)
    token = numbers[:, None, None].expand(-1, 1, english.shape[-1])
    return torch.cat([english, token], dim=1)


class BackboneByHand:
    """Stands in for a UNet's forward: the branch by hand, then the stock call with the sums."""

    def __init__(self, unet: nn.Module, branch: BranchByHand) -> None:
        self.stock, self.branch = unet.forward, branch

    def __call__(
        self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, **others: Any
    ) -> Any:
        rows = encoder_hidden_states[:, -1, 0].long().tolist()
        pictures, frames = sample, 1
        if sample.ndim == 5:
            frames = sample.shape[2]
            pictures = torch.cat([video.permute(1, 0, 2, 3) for video in sample])
        time_ids = (others.get("added_cond_kwargs") or {}).get("time_ids")
        if time_ids is not None:
            time_ids = torch.stack([row for row in time_ids for _ in range(frames)])
        if len(rows) < len(pictures):
            rows = [row for row in rows for _ in range(frames)]
        down, mid = self.branch(pictures, timestep, rows, time_ids)
        theirs = others.get("down_block_additional_residuals")
        if others.get("mid_block_additional_residual") is not None:
            down = [a + b for a, b in zip(theirs, down, strict=True)]
            mid = mid + others["mid_block_additional_residual"]
        elif theirs is not None:  # T2I-Adapter as it was spelled before
            others["down_intrablock_additional_residuals"] = list(theirs)
        others["down_block_additional_residuals"] = down
        others["mid_block_additional_residual"] = mid
        return self.stock(sample, timestep, encoder_hidden_states[:, :-1], **others)


class ControlNetByHand:
    """Stands in for a ControlNet's forward, which must see the English alone."""

    def __init__(self, net: nn.Module) -> None:
        self.stock = net.forward

    def __call__(
        self,
        sample: Tensor,
        timestep: Any,
        encoder_hidden_states: Tensor,
        *args: Any,
        **others: Any,
    ) -> Any:
        return self.stock(sample, timestep, encoder_hidden_states[:, :-1], *args, **others)


@contextmanager
def by_hand(pipe: Any, branch: BranchByHand) -> Iterator[None]:
    """While it lasts, a stock pipeline without any bridge feels the branch."""
    controlnet = getattr(pipe, "controlnet", None)
    nets = [] if controlnet is None else list(getattr(controlnet, "nets", [controlnet]))
    pipe.unet.forward = BackboneByHand(pipe.unet, branch)
    for net in nets:
        net.forward = ControlNetByHand(net)
    try:
        yield
    finally:
        for net in (pipe.unet, *nets):
            del net.forward


def english_call(pipe: Any, english: str, negative: str, prompts: int = 1) -> dict[str, Any]:
    """The stock pipeline's own embeddings of so many equal prompts, numbered for `by_hand`.

    Native prompts are in the order: negatives, then positives.
    """
    video = type(pipe).__name__ == "AnimateDiffSDXLPipeline"
    with torch.no_grad():
        encoded = pipe.encode_prompt(
            prompt=[english] * prompts,
            device=torch.device("cpu"),
            do_classifier_free_guidance=True,
            negative_prompt=[negative] * prompts,
            **{"num_videos_per_prompt" if video else "num_images_per_prompt": 1},
        )
    call = {
        "prompt_embeds": numbered(encoded[0], first=prompts),
        "negative_prompt_embeds": numbered(encoded[1], first=0),
    }
    if len(encoded) == 4:
        call["pooled_prompt_embeds"] = encoded[2]
        call["negative_pooled_prompt_embeds"] = encoded[3]
    return call

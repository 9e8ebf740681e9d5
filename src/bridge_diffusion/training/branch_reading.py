"""What a branch reads of a text: the outputs of its cross-attentions, for queries that it asks.

A branch knows text through its cross-attentions alone. Two texts for which these give the same
outputs, whatever picture asks, are the same text to it, however many tokens each has and in
whatever order: so one language's states can be compared with another's.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.models.branch import BridgeBranch

_SOME = 16  # queries that are kept of each layer at each call of the branch
_STEPS, _GUIDANCE = 8, 5.0  # of the drawings that ask


class BranchReading(nn.Module):
    """The cross-attentions of a frozen branch, with queries to ask them."""

    def __init__(self, branch: BridgeBranch, queries: Sequence[Float[Tensor, "queries width"]]):
        """`queries`: of each cross-attention in the order of the branch, equally many.

        Raises `BridgeError` for a branch of the SDXL family, which reads a pooled vector besides.
        """
        super().__init__()
        if branch.config.projected_from is not None:
            raise BridgeError(
                "the bridge is of the SDXL family, whose branch reads a pooled vector besides; "
                "give one of the family of Stable Diffusion 1.5"
            )
        self._layers = [layer for _, layer in cross_attentions(branch)]  # not registered: frozen
        self.queries = [each.detach() for each in queries]
        self.deviations = [1.0] * len(self._layers)
        """What each layer's outputs are divided by, so that all layers count alike."""

    @property
    def count(self) -> int:
        """Queries of each layer to choose from."""
        return min(map(len, self.queries))

    def forward(
        self,
        states: Float[Tensor, "batch tokens width"],
        mask: Bool[Tensor, "batch tokens"],
        picks: Int[Tensor, " picks"],
    ) -> Float[Tensor, "batch picks features"]:
        """What all layers read for the queries at these positions, side by side."""
        parts = [
            _attended(layer, queries[picks].to(states), states, mask) / deviation
            for layer, queries, deviation in zip(
                self._layers, self.queries, self.deviations, strict=True
            )
        ]
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def measure(
        self, states: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"]
    ) -> None:
        """Set the deviations so that what these texts are told apart by has variance 1."""
        picks = torch.arange(min(256, self.count))
        self.deviations = [1.0] * len(self._layers)
        widths = [len(layer.to_out[0].weight) for layer in self._layers]
        parts = self(states, mask, picks).split(widths, dim=-1)
        self.deviations = [
            max(1e-6, (part - part.mean(dim=0)).square().mean().sqrt().item()) for part in parts
        ]


def cross_attentions(branch: BridgeBranch) -> list[tuple[str, Attention]]:
    """A branch's cross-attentions with their names, in its order."""
    found = [(n, m) for n, m in branch.named_modules() if n.endswith("attn2")]
    assert found
    return [(name, layer) for name, layer in found if isinstance(layer, Attention)]


def _attended(
    layer: Attention,
    queries: Float[Tensor, "queries width"],
    states: Float[Tensor, "batch tokens native"],
    mask: Bool[Tensor, "batch tokens"],
) -> Float[Tensor, "batch queries width"]:
    """What diffusers' `AttnProcessor2_0` gives for these queries (Vaswani et al. 2017, eq. 1)."""
    batch, heads = len(states), layer.heads
    q = queries.unflatten(-1, (heads, -1)).transpose(0, 1).expand(batch, -1, -1, -1)
    k = layer.to_k(states).unflatten(-1, (heads, -1)).transpose(1, 2)
    v = layer.to_v(states).unflatten(-1, (heads, -1)).transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None], scale=layer.scale)
    return layer.to_out[0](out.transpose(1, 2).flatten(2))


@torch.no_grad()
def asked_while_drawing(
    pipe: Any, bridge: Bridge, prompts: Sequence[str], *, seed: int = 0
) -> list[Float[Tensor, "queries width"]]:
    """Queries that a branch's cross-attentions ask while it draws prompts of its own language.

    Args:
        pipe: the backbone, a stock pipeline without a bridge on it; its scheduler is put back.
        prompts: drawn in one batch.
    """
    asked: dict[str, list[Tensor]] = {name: [] for name, _ in cross_attentions(bridge.branch)}
    scheduler = pipe.scheduler
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    bridge.attach(pipe)
    try:
        pipe.scheduler = bridge.scheduler_for(pipe)
        pipe.set_progress_bar_config(disable=True)
        with _listening(bridge.branch, asked, torch.Generator().manual_seed(seed)):
            pipe(
                **bridge.prompt(list(prompts)),
                num_inference_steps=_STEPS,
                guidance_scale=_GUIDANCE,
                generator=generators,
                output_type="latent",
            )
    finally:
        bridge.detach()
        pipe.scheduler = scheduler
    return [torch.cat(parts).float().cpu() for parts in asked.values()]


@contextmanager
def _listening(
    branch: BridgeBranch, asked: dict[str, list[Tensor]], generator: torch.Generator
) -> Iterator[None]:
    """Keep some of what each `to_q` gives, drawn with `generator`."""

    def keeper(kept: list[Tensor]) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            rows = output.flatten(0, -2)
            picks = torch.randint(len(rows), (_SOME * len(output),), generator=generator)
            kept.append(rows[picks.to(rows.device)])

        return keep

    with ExitStack() as stack:
        for name, layer in cross_attentions(branch):
            stack.callback(layer.to_q.register_forward_hook(keeper(asked[name])).remove)
        yield

from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from bridge_diffusion.models.branch import BridgeBranch
from bridge_diffusion.training.attention import prefer_plain_attention


def kinds(net: BridgeBranch) -> set[type]:
    return {type(processor) for processor in net.attn_processors.values()}


def test_only_small_nets_on_a_cpu_get_the_plain_way(pipe) -> None:
    net = BridgeBranch.from_backbone(pipe.unet, 32)
    for side, device in ((32, "cpu"), (16, "cuda")):
        prefer_plain_attention(net, latent_side=side, device=device)
        assert kinds(net) == {AttnProcessor2_0}
    prefer_plain_attention(net, latent_side=16, device="cpu")
    assert kinds(net) == {AttnProcessor}

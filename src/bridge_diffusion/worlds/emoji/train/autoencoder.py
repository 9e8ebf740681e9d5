"""The English world's autoencoder: pixels <=> latents."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from PIL import Image
from torch import Tensor, nn

from bridge_diffusion.data.pairs import PairDataset
from bridge_diffusion.data.pixels import pixel_batch, to_pictures
from bridge_diffusion.training.seeds import draw_each
from bridge_diffusion.training.task import Batch


def edges(image: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbouring pixels, along x and along y."""
    return image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]


class AutoencoderTask:
    """Reconstruction in L1 of pixels and of edges; latents kept near zero and robust to noise.

    The noise on the latents does what a KL term does for Stable Diffusion's autoencoder (Rombach
    et al. 2022, section 3.1): the decoder learns to read latents that are slightly off, as those
    of a diffusion model are.
    """

    latent_noise = 0.03
    edge_weight = 1.0
    latent_weight = 1e-3

    def __init__(
        self,
        model: AutoencoderTiny,
        data: PairDataset,
        *,
        crop: int,
        batch_size: int,
        seed: int,
    ):
        self.model, self.data, self.crop = model, data, crop
        self.batch_size, self.seed = batch_size, seed

    @property
    def module(self) -> nn.Module:
        return self.model

    def batch(self, index: int) -> Batch:
        """Crops of `crop` pixels from the middle parts, where the emoji are, not the background.

        The autoencoder is convolutional and has no norms, so what it learns on crops holds for
        whole pictures.
        """
        random = np.random.default_rng((self.seed, index))
        crops = []
        for chosen in random.integers(len(self.data), size=self.batch_size):
            image = self.data[int(chosen)].image
            spare = image.width - self.crop
            x, y = ((spare * random.beta(2, 2, size=2)).round()).astype(int)
            crops.append(image.crop((x, y, x + self.crop, y + self.crop)))
        return {"pixels": pixel_batch(crops)}

    def loss(self, batch: Batch, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        x = batch["pixels"].to(memory_format=torch.channels_last)
        z = self.model.encode(x).latents
        noise = draw_each(generators, lambda g: torch.randn(z.shape[1:], generator=g)).to(z)
        decoded = self.model.decode(z + self.latent_noise * noise).sample.float()
        pixel = F.l1_loss(decoded, x)
        edge = sum(
            (F.l1_loss(a, b) for a, b in zip(edges(decoded), edges(x), strict=True)),
            start=torch.zeros((), device=x.device),
        )
        size = z.float().pow(2).mean()
        loss = pixel + self.edge_weight * edge + self.latent_weight * size
        return {"loss": loss, "pixel": pixel, "edge": edge, "latent_size": size}

    def reconstructions(self, count: int = 8) -> tuple[Tensor, Tensor]:
        """The first pictures of the data and what comes back, float -1..1."""
        x = pixel_batch([self.data[i].image for i in range(count)])
        x = x.to(next(self.model.parameters()).device)
        return x, self.model.decode(self.model.encode(x).latents).sample

    def samples(self) -> Image.Image | None:
        x, decoded = self.reconstructions()
        rows = torch.cat([torch.cat(list(x), dim=-1), torch.cat(list(decoded), dim=-1)], dim=-2)
        return to_pictures(rows[None])[0]

    def export(self, folder: Path) -> None:
        """Saves with the scaling factor that gives latents of unit variance.

        Stable Diffusion's 0.18215 comes from the same rule (Rombach et al. 2022, appendix G).
        """
        with torch.no_grad():
            x = pixel_batch([self.data[i].image for i in range(min(256, len(self.data)))])
            x = x.to(next(self.model.parameters()).device)
            spread = self.model.encode(x).latents.float().std().item()
        self.model.register_to_config(scaling_factor=round(1 / spread, 5))
        self.model.save_pretrained(folder)


def new_autoencoder(width: int, factor: int) -> AutoencoderTiny:
    """An untrained autoencoder with 4 latent channels, `factor` 4 or 8 pixels a latent."""
    levels = {4: 3, 8: 4}[factor]
    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * levels,
        decoder_block_out_channels=(width,) * levels,
        num_encoder_blocks=(1,) * (levels - 1) + (2,),
        num_decoder_blocks=(3,) + (2,) * (levels - 2) + (1,),
        latent_channels=4,
    )

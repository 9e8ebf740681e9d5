"""Cheap previews: latents => colours by one matrix, fitted once to the model's autoencoder."""

import base64
import io
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

_PICTURES, _CELLS, _COARSE = 8, 12, 4
_ENLARGED = 4
_QUALITY = 80


class LatentColours:
    """The linear map from a latent cell to its colour that is best on smooth pictures."""

    def __init__(self, matrix: Float[Tensor, "channels_and_one 3"]) -> None:
        self._matrix = matrix

    @classmethod
    @torch.no_grad()
    def of(cls, pipe: Any) -> "LatentColours":
        """Encode a few smooth pictures with the pipeline's autoencoder, and fit their colours."""
        vae, factor = pipe.vae, pipe.vae_scale_factor
        dtype = vae.dtype
        upcast = bool(getattr(vae.config, "force_upcast", False)) and dtype == torch.float16
        if upcast:  # SDXL's overflows in half precision
            vae.to(dtype=torch.float32)
        colours = torch.rand(
            _PICTURES, 3, _COARSE, _COARSE, generator=torch.Generator().manual_seed(0)
        )
        side = _CELLS * factor
        pixels = functional.interpolate(colours, size=(side, side), mode="bilinear") * 2 - 1
        try:
            encoded = vae.encode(pixels.to(pipe._execution_device, vae.dtype))
            latents = retrieve_latents(encoded, sample_mode="argmax").float().cpu()
        finally:
            if upcast:
                vae.to(dtype=dtype)
        latents = latents * vae.config.scaling_factor
        wanted = functional.avg_pool2d(pixels, factor)
        cells = _with_one(latents.permute(0, 2, 3, 1).flatten(0, 2))
        solution = torch.linalg.lstsq(cells, wanted.permute(0, 2, 3, 1).flatten(0, 2))
        return cls(solution.solution)

    def picture(self, latents: Float[Tensor, "channels height width"]) -> Image.Image:
        """A small picture of the latents: four pixels a side for each cell."""
        cells = latents.float().cpu().permute(1, 2, 0)
        colours = _with_one(torch.nan_to_num(cells)) @ self._matrix
        values = ((colours.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
        image = Image.fromarray(values)
        size = (image.width * _ENLARGED, image.height * _ENLARGED)
        return image.resize(size, Image.Resampling.BICUBIC)


def _with_one(cells: Float[Tensor, "*cells channels"]) -> Float[Tensor, "*cells channels_and_one"]:
    return torch.cat([cells, torch.ones_like(cells[..., :1])], dim=-1)


def data_url(image: Image.Image) -> str:
    """A picture as a JPEG in a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

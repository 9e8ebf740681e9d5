"""ControlNets and autoencoders from folders or single files, complete or refused.

diffusers asks the network for the configuration that a single file lacks; here it is taken from
the pipeline's own networks. diffusers fills tensors that a file lacks with noise; here it is told.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel
from torch import Tensor

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.identify import identify, read_header
from bridge_diffusion.plugins.files import (
    WeightFile,
    backbone_family,
    check_family,
    check_kind,
    read_weight_file,
)
from bridge_diffusion.reading import read_json

_CONTROL_FLAG = "--control-net"
_VAE_FLAG = "--vae"
_AUTOENCODERS = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
_FIRST_OF_PICTURE = "controlnet_cond_embedding.conv_in.weight"  # diffusers names it so
# Settings of the UNet that a ControlNet shares with every backbone that it fits.
_ARCHITECTURE = ("cross_attention_dim", "block_out_channels", "layers_per_block")


def load_controlnet(pipe: Any, path: Path) -> ControlNetModel:
    """A ControlNet for a pipeline's backbone, in the precision of its UNet.

    Put it beside the backbone with `AutoPipelineForText2Image.from_pipe(pipe, controlnet=net)`,
    then `bridge.attach` that pipeline.

    Raises:
        BridgeError: It is damaged, incomplete, of another kind, or made for another backbone.
    """
    unet = pipe.unet
    folder = own_folder(path)
    if folder is not None:
        check_kind(identify(folder), "ControlNet", _CONTROL_FLAG)
        check_family(identify(folder), backbone_family(unet), _CONTROL_FLAG)
        net = load_folder(ControlNetModel, folder, unet.dtype, _CONTROL_FLAG)
    else:
        file = read_single(path, "ControlNet", _CONTROL_FLAG)
        check_family(file.identity, backbone_family(unet), _CONTROL_FLAG)
        config = _controlnet_config(unet, file.tensors)
        net = _from_single_file(ControlNetModel, file, config, unet.dtype, _CONTROL_FLAG)
        _check_nothing_lost(file, net)
    for name in _ARCHITECTURE:
        theirs, ours = _plain(net.config[name]), _plain(unet.config[name])
        if theirs != ours:
            raise BridgeError(
                f"{_CONTROL_FLAG} {path} was made for a backbone of {name}={theirs}, the model has "
                f"{ours}; give a ControlNet of the model's family"
            )
    return net


def _check_nothing_lost(file: WeightFile, net: ControlNetModel) -> None:
    """The libraries leave out what a ControlNet of many tasks has more."""
    lost = file.tensors.keys() - net.state_dict()
    if _FIRST_OF_PICTURE in file.tensors and lost:
        raise BridgeError(
            f"{_CONTROL_FLAG} {file.path} has {len(lost)} tensors that a ControlNet has not, the "
            f"first {min(lost)}; give one for a single task, which is no union of several"
        )


def load_vae(pipe: Any, path: Path) -> AutoencoderKL | AutoencoderTiny:
    """Another autoencoder of the same latents, in the precision of the pipeline's own.

    Raises:
        BridgeError: It is damaged, incomplete, of another kind, or made for other latents.
    """
    own = pipe.vae
    folder = own_folder(path)
    if folder is not None:
        check_kind(identify(folder), "VAE", _VAE_FLAG)
        cls = _AUTOENCODERS[read_json(folder / "config.json")["_class_name"]]
        vae = load_folder(cls, folder, own.dtype, _VAE_FLAG)
    else:
        file = read_single(path, "VAE", _VAE_FLAG)
        vae = _from_single_file(type(own), file, dict(own.config), own.dtype, _VAE_FLAG)
    facts = [
        ("latent channels", vae.config.latent_channels, own.config.latent_channels),
        ("pixels a latent", _factor(vae), _factor(own)),
    ]
    if type(vae) is type(own):  # a tiny one scales latents itself, whatever it stands in for
        facts.append(("scaling factor", vae.config.scaling_factor, own.config.scaling_factor))
    for what, theirs, ours in facts:
        if theirs != ours:
            raise BridgeError(
                f"{_VAE_FLAG} {path} has {what} {theirs:g}, the model's own has {ours:g}; give an "
                "autoencoder of the model's family"
            )
    return vae


def own_folder(path: Path) -> Path | None:
    """The folder of a saved network: the path itself, or where its weight file lies."""
    if path.is_dir():
        return path
    beside = path.parent / "config.json"
    if path.name.startswith("diffusion_pytorch_model.") and beside.is_file():
        return path.parent
    return None


def read_single(path: Path, kind: str, flag: str) -> WeightFile:
    """A network in one file. Raises `BridgeError` where it is damaged or of another kind."""
    if path.suffix.lower() == ".safetensors":
        check_kind(identify(path), kind, flag)  # before a model of some gigabytes is read
    file = read_weight_file(path)
    check_kind(file.identity, kind, flag)
    return file


def load_folder(cls: Any, folder: Path, dtype: torch.dtype, flag: str) -> Any:
    """A saved network of a class. Raises `BridgeError` where it is damaged or incomplete."""
    for file in folder.glob("*.safetensors"):
        read_header(file)
    names = [file.name for file in folder.glob("diffusion_pytorch_model*")]
    half_alone = names and all(".fp16" in name for name in names)
    try:
        network, info = cls.from_pretrained(
            folder,
            local_files_only=True,
            variant="fp16" if half_alone else None,
            dtype=dtype,
            output_loading_info=True,
        )
    except Exception as error:  # a damaged file can make the libraries raise anything
        reason = " ".join(str(error).split())[:300]
        raise BridgeError(f"{flag} {folder} cannot be loaded ({reason}); get it again") from error
    if missing := info["missing_keys"]:  # the libraries only warn, and draw noise
        raise BridgeError(
            f"{flag} {folder} lacks {len(missing)} tensors, the first {min(missing)}; get it again"
        )
    return network.eval()


def _from_single_file(
    cls: Any, file: WeightFile, config: Mapping[str, Any], dtype: torch.dtype, flag: str
) -> Any:
    """By diffusers' own converter, with a configuration that is here."""
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps({**_jsonable(config), "_class_name": cls.__name__})
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")
        try:
            network = cls.from_single_file(
                dict(file.tensors), config=folder, dtype=dtype, local_files_only=True
            )
        except NotImplementedError as error:  # a tensor without numbers was left over
            raise BridgeError(
                f"{flag} {file.path} lacks some of its tensors; get it again"
            ) from error
        except Exception as error:  # tensors of other sizes make the libraries raise anything
            reason = " ".join(str(error).split())[:300]
            raise BridgeError(
                f"{flag} {file.path} does not fit the model ({reason}); was it made for another "
                "family?"
            ) from error
    return network.eval()


def _controlnet_config(unet: Any, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """That of a ControlNet for this UNet, with as many channels for the picture as the file has."""
    channels = []
    if _FIRST_OF_PICTURE in tensors:
        step = 1  # each level of the embedding ends in blocks.1, blocks.3 ...
        channels.append(tensors[_FIRST_OF_PICTURE].shape[0])
        while (name := f"controlnet_cond_embedding.blocks.{step}.weight") in tensors:
            channels.append(tensors[name].shape[0])
            step += 2
    # The original code's: a level's first convolution stands at every fourth place.
    original = {key.removeprefix("control_model."): tensor for key, tensor in tensors.items()}
    while (name := f"input_hint_block.{4 * len(channels)}.weight") in original:
        channels.append(original[name].shape[0])
    with torch.device("meta"):
        net = ControlNetModel.from_unet(
            unet,
            **({"conditioning_embedding_out_channels": tuple(channels)} if channels else {}),
            load_weights_from_unet=False,
        )
    return dict(net.config)


def _jsonable(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _factor(vae: Any) -> int:
    """Pixels of one latent, along a side."""
    widths = (
        getattr(vae.config, "block_out_channels", None) or vae.config.encoder_block_out_channels
    )
    return 2 ** (len(widths) - 1)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value

r"""Put trained parts of the emoji world into the package, in float16.

    python tools/ship_weights.py backbone runs/world/unet/export
    python tools/ship_weights.py bridge runs/world/branch-zh/export --language zh
    python tools/ship_weights.py bridge runs/languages/text-ar/export --language ar --base zh
    python tools/ship_weights.py bridge runs/languages/bridge-ar-again/export --language ar \
        --base zh --bytes 450000
    python tools/ship_weights.py plugins runs/plugins

With --base the branch is that of another shipped bridge, which is not stored again: what was
trained of it is stored in the bytes given, and without --bytes nothing may have been.

LoRAs are shipped at the highest rank that keeps a file under 300 kB: the best approximation of
that rank, by singular value decomposition (Eckart-Young).

Look at the pictures and score them first: history grows with every weight.
"""

import argparse
import json
import shutil
import sys
from functools import partial as having
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridge_diffusion.bridge import BRANCH_FOLDER, Bridge
from bridge_diffusion.models.convert import WEIGHT_FILES, read_branch
from bridge_diffusion.models.shared_branch import write_change, write_shared
from bridge_diffusion.worlds.emoji.plugins.kinds import SHIPPED_PLUGINS

WEIGHTS = Path(__file__).parents[1] / "src/bridge_diffusion/worlds/emoji/weights"
SHARD = "15MB"  # every file of the repository stays under 15 MiB


def ship_backbone(source: Path, target: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(source, torch_dtype=torch.float32)
    # Each part by itself: the pipeline offers no shard size.
    pipe.to(dtype=torch.float16)
    for name in ("vae", "text_encoder", "unet"):
        getattr(pipe, name).save_pretrained(target / name, max_shard_size=SHARD)
    # transformers loads in the precision that the configuration names, diffusers in float32: a
    # pipeline loaded without a dtype has to get one precision for all its parts.
    configuration = target / "text_encoder" / "config.json"
    values = json.loads(configuration.read_text(encoding="utf-8")) | {"dtype": "float32"}
    configuration.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    pipe.tokenizer.save_pretrained(target / "tokenizer")
    _write_close(target / "tokenizer" / "tokenizer.json")
    pipe.scheduler.save_pretrained(target / "scheduler")
    pipe.save_config(target)
    _forget_sources(target)


def _write_close(path: Path) -> None:
    """Half of a tokenizer's file is indentation."""
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8"
    )


def _forget_sources(folder: Path) -> None:
    """diffusers writes into each configuration where the model was loaded from."""
    for path in folder.rglob("*.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def ship_bridge(source: Path, target: Path) -> None:
    Bridge.from_pretrained(source, dtype=torch.float16).save_pretrained(target)
    _forget_sources(target)


def ship_sharing_bridge(source: Path, target: Path, base: str, most: int | None) -> None:
    """A bridge whose branch is that of the shipped bridge `base`, changed or not."""
    bridge = Bridge.from_pretrained(source, dtype=torch.float32)
    folder = WEIGHTS / "bridges" / base / BRANCH_FOLDER
    shared = read_branch(folder, torch.float32).state_dict()
    trained = bridge.branch.state_dict()
    if {k: v.shape for k, v in shared.items()} != {k: v.shape for k, v in trained.items()}:
        sys.exit(f"{source} has a branch of another shape than {folder}; ship it without --base")
    if most is None and any(not torch.equal(shared[name], trained[name]) for name in shared):
        sys.exit(f"{source} has changed the branch of {base}: give --bytes, or ship without --base")
    bridge.to(dtype=torch.float16)
    bridge.save_pretrained(target)
    shutil.rmtree(target / BRANCH_FOLDER)
    write_shared(target / BRANCH_FOLDER, base, folder / WEIGHT_FILES[0])
    if most is not None:
        lost = write_change(target / BRANCH_FOLDER, shared, trained, most)
        print(f"{most:,} bytes lose {lost:.2%} of what was trained of the branch, in squares")
    _forget_sources(target)


TITLES = {
    "comic": "Comics, for the emoji world",
    "ink": "Prints in one ink, for the emoji world",
    "lemon": "A lemon, for the emoji world",
}
LORA_BYTES = 300_000
# A layer's matrices, by the ends of their keys: kohya's names and peft's.
MATRICES = ((".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight"))


def ship_plugins(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for plugin in SHIPPED_PLUGINS:
        name, title = plugin.shipped, TITLES[plugin.shipped]
        state = load_file(plugin.weights(source))
        path = target / f"{name}.safetensors"
        notes = {"format": "pt", "modelspec.title": title, "modelspec.license": "Apache-2.0"}
        if plugin.kind == "inversion":
            (vectors,) = state.values()
            # Without a word of its own: the file's name is the word.
            save_file({"emb_params": vectors.half()}, path, notes)
            continue
        rank = max(len(tensor) for key, tensor in state.items() if key.endswith(_downs()))
        while True:
            save_file({k: v.half() for k, v in reduced(state, rank).items()}, path, notes)
            if path.stat().st_size < LORA_BYTES:
                break
            rank -= 1
        print(f"{name}: rank {rank}")


def _downs() -> tuple[str, ...]:
    return tuple(down for down, _ in MATRICES)


def reduced(state: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """A LoRA with every layer at most of this rank; its scale stays."""
    new = dict(state)
    for key, down in state.items():
        for down_end, up_end in MATRICES:
            if not key.endswith(down_end) or len(down) <= rank:
                continue
            layer = key.removesuffix(down_end)
            up = state[layer + up_end]
            new[key], new[layer + up_end] = _product_of_rank(down, up, rank)
            if (alpha := f"{layer}.alpha") in state:
                new[alpha] = state[alpha] * (rank / len(down))
    return new


def _product_of_rank(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The matrices of this rank whose product is nearest to that of two others.

    Args:
        down: [old rank, in, ...].
        up: [out, old rank, ...].
    """
    q_up, r_up = torch.linalg.qr(up.double().flatten(1))
    q_down, r_down = torch.linalg.qr(down.double().flatten(1).T)
    left, values, right = torch.linalg.svd(r_up @ r_down.T)
    roots = values[:rank].sqrt()
    new_up = (q_up @ left[:, :rank] * roots).float()
    new_down = (q_down @ right[:rank].T * roots).T.float()
    return (
        new_down.reshape(rank, *down.shape[1:]).contiguous(),
        new_up.reshape(len(up), rank, *up.shape[2:]).contiguous(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("backbone", "bridge", "plugins"))
    parser.add_argument("source", type=Path)
    parser.add_argument("--language", default="zh")
    parser.add_argument("--base", help="language of the shipped bridge whose branch this one has")
    parser.add_argument("--bytes", type=int, help="of what changes the base's branch, at most")
    arguments = parser.parse_args()
    shared = arguments.base is not None
    if arguments.bytes is not None and (arguments.bytes < 1 or not shared):
        parser.error("--bytes is of the change of a --base, and 1 or more")
    if shared and (arguments.part != "bridge" or arguments.base == arguments.language):
        parser.error("--base is another language's bridge, for a bridge")
    sharing = having(ship_sharing_bridge, base=arguments.base, most=arguments.bytes)
    ship, place = {
        "backbone": (ship_backbone, "backbone"),
        "bridge": (sharing if shared else ship_bridge, f"bridges/{arguments.language}"),
        "plugins": (ship_plugins, "plugins"),
    }[arguments.part]
    target = WEIGHTS / place
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    ship(arguments.source, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for path in sorted(target.rglob("*.safetensors")):
        print(f"{path.stat().st_size / 2**20:6.2f} MiB  {path.relative_to(WEIGHTS)}")


if __name__ == "__main__":
    main()

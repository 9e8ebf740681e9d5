"""What the web UI's clients ask for to fill their menus. No path of this machine is told."""

from typing import Any

from fastapi import APIRouter

from bridge_diffusion.generation.schedulers import SCHEDULERS, infotext_name
from bridge_diffusion.server.catalog import Catalog

# Lists of what is not here, by their addresses.
_EMPTY = ("upscalers", "latent-upscale-modes", "hypernetworks", "face-restorers", "prompt-styles")


def add_lists(router: APIRouter, catalog: Catalog) -> None:
    """The addresses that list something."""

    @router.get("/samplers")
    def samplers() -> list[dict[str, Any]]:
        """The samplers."""
        names = {name: infotext_name(name) for name in SCHEDULERS}
        return [{"name": title, "aliases": [name], "options": {}} for name, title in names.items()]

    @router.get("/schedulers")
    def schedulers() -> list[dict[str, Any]]:
        """How the steps are spaced."""
        return [
            {"name": name, "label": label, "aliases": None}
            for name, label in (("automatic", "Automatic"), ("karras", "Karras"))
        ]

    @router.get("/sd-models")
    def models() -> list[dict[str, Any]]:
        """The backbones."""
        return [
            {
                "title": model.name,
                "model_name": model.name,
                "hash": None,
                "sha256": None,
                "filename": model.name,
                "config": None,
            }
            for model in catalog.models.values()
        ]

    @router.get("/sd-vae")
    def autoencoders() -> list[dict[str, Any]]:
        """The autoencoders among the plug-ins."""
        names = [plugin.name for plugin in catalog.plugins() if plugin.field == "vae"]
        return [{"model_name": name, "filename": name} for name in names]

    @router.get("/loras")
    def loras() -> list[dict[str, Any]]:
        """The LoRAs, to be named in a prompt as <lora:name:1>."""
        names = [plugin.name for plugin in catalog.plugins() if plugin.field == "lora"]
        return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in names]

    @router.get("/embeddings")
    def embeddings() -> dict[str, Any]:
        """The Textual Inversions."""
        names = [plugin.name for plugin in catalog.plugins() if plugin.field == "embedding"]
        loaded = {
            name: {"step": None, "sd_checkpoint": None, "sd_checkpoint_name": None}
            for name in names
        }
        return {"loaded": loaded, "skipped": {}}

    @router.get("/scripts")
    def scripts() -> dict[str, list[str]]:
        """The extensions: ControlNet, where there is one among the plug-ins."""
        has_net = any(plugin.field == "control_net" for plugin in catalog.plugins())
        names = ["controlnet"] if has_net else []
        return {"txt2img": names, "img2img": names}

    @router.get("/cmd-flags")
    def flags() -> dict[str, Any]:
        """The web UI's options of start: none."""
        return {}

    @router.post("/refresh-checkpoints")
    def refresh() -> None:
        """Models are fixed while the server runs; plug-ins are looked up at each order."""

    for name in _EMPTY:
        router.add_api_route(f"/{name}", _nothing, methods=["GET"], operation_id=f"list_{name}")


def _nothing() -> list[dict[str, Any]]:
    """Nothing of that kind is here."""
    return []

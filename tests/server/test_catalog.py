"""What requests may name, and what is not listed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.catalog import Catalog
from bridge_diffusion.server.settings import ServerSettings
from bridge_diffusion.worlds.emoji.paths import backbone_folder, bridge_folder


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """A LoRA and an embedding as safetensors, and an embedding that is a pickle."""
    folder = tmp_path / "plugins"
    (folder / "styles").mkdir(parents=True)
    lora = {
        f"lora_unet_mid_block_attentions_0_proj_in.lora_{part}.weight": torch.zeros(4, 4)
        for part in ("up", "down")
    }
    save_file(lora, folder / "styles" / "ink.safetensors")
    save_file({"emb_params": torch.zeros(1, 64)}, folder / "mood.safetensors")
    torch.save({"emb_params": torch.zeros(1, 64)}, folder / "old.pt")
    (folder / "broken.safetensors").write_bytes(b"nothing")
    return folder


def test_safetensors_alone_are_listed(start_local: Callable[..., Any], plugins: Path) -> None:
    local = start_local(plugins=plugins)
    listed = {each["name"]: each["field"] for each in local.client.get("/api/plugins").json()}
    assert listed == {"ink": "lora", "mood": "embedding"}
    assert str(plugins) not in local.client.get("/api/plugins").text
    local.submit("x", lora=["ink:0.5"], embedding=["mood"])
    local.submit("x <lora:ink:0.5>")
    (first, _) = (local.service.queue.take(1)[0] for _ in range(2))
    assert first.job.request.lora == (f"{plugins}/styles/ink.safetensors:0.5",)
    for order in (
        {"prompt": "x", "embedding": ["old"]},
        {"prompt": "x", "embedding": [f"{plugins}/old.pt"]},
        {"prompt": "x <lora:old:1>"},
        {"prompt": "x", "lora": ["mood"]},
    ):
        answer = local.client.post("/api/jobs", json={"order": order})
        assert answer.status_code == 422, order
        assert "no plug-in" in answer.json()["detail"]
    loras = local.client.get("/sdapi/v1/loras").json()
    assert [(lora["name"], lora["path"]) for lora in loras] == [("ink", "ink")]
    assert list(local.client.get("/sdapi/v1/embeddings").json()["loaded"]) == ["mood"]


def test_models_have_the_bridges_of_their_family(tmp_path: Path) -> None:
    model, bridge = tmp_path / "mine", tmp_path / "ar"
    model.symlink_to(backbone_folder())
    bridge.symlink_to(bridge_folder("zh"))
    catalog = Catalog(ServerSettings(data=tmp_path, models=(str(model),), bridges=(str(bridge),)))
    assert catalog.models["mine"].bridges == ("ar", "none")
    assert "ar" not in catalog.models["emoji"].bridges
    assert catalog.bridge(None, catalog.model("mine")) == "ar"
    with pytest.raises(BridgeError, match="no bridge 'zh' for the model mine"):
        catalog.bridge("zh", catalog.model("mine"))
    with pytest.raises(BridgeError, match="called 'mine'"):
        Catalog(ServerSettings(data=tmp_path, models=(str(model), str(model))))
    with pytest.raises(BridgeError, match="nothing at"):
        Catalog(ServerSettings(data=tmp_path, models=(str(tmp_path / "none"),)))

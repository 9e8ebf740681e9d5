"""What requests may name, and what is not listed."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.catalog import Catalog
from bridge_diffusion.server.interfaces.a1111 import controls
from bridge_diffusion.server.interfaces.a1111_schemas import Drawing
from bridge_diffusion.server.settings import ServerSettings
from bridge_diffusion.worlds.emoji.paths import backbone_folder, bridge_folder, plugins_folder


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
    answer = local.client.get("/api/plugins").json()
    listed = {each["name"]: each["field"] for each in answer if not each["of_world"]}
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
    assert [lora["name"] for lora in loras].count("ink") == 1
    assert all(lora["path"] == lora["name"] for lora in loras)
    assert "mood" in local.client.get("/sdapi/v1/embeddings").json()["loaded"]


def test_shipped_plugins_are_offered_with_the_world(
    start_local: Callable[..., Any], tmp_path: Path
) -> None:
    """And with its model alone."""
    (tmp_path / "mine").symlink_to(backbone_folder())
    (tmp_path / "own").symlink_to(bridge_folder("zh"))
    local = start_local(models=(str(tmp_path / "mine"),), bridges=(str(tmp_path / "own"),))
    answer = local.client.get("/api/plugins").json()
    listed = {(each["name"], each["field"], each["of_world"]) for each in answer}
    assert listed == {
        (path.stem, "embedding" if path.stem == "lemon" else "lora", True)
        for path in plugins_folder().iterdir()
    }
    local.submit("x", lora=["comic:0.5"])
    local.submit("x <lora:comic:0.5>")
    unit = local.service.queue.take(1)[0]
    assert unit.job.request.lora == (f"{plugins_folder()}/comic.safetensors:0.5",)
    for order in ({"prompt": "x", "lora": ["comic"]}, {"prompt": "x <lora:comic>"}):
        answer = local.client.post("/api/jobs", json={"order": {**order, "model": "mine"}})
        assert answer.status_code == 422
        assert "no plug-in 'comic' for lora" in answer.json()["detail"]


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """Two folders that say that they are a ControlNet and a T2I-Adapter."""
    for name, kind in (("edges", "ControlNetModel"), ("sketch", "T2IAdapter")):
        (tmp_path / "nets" / name).mkdir(parents=True)
        config = json.dumps({"_class_name": kind})
        (tmp_path / "nets" / name / "config.json").write_text(config)
        (tmp_path / "nets" / name / "x.safetensors").touch()
    return tmp_path / "nets"


def test_several_controlnets_in_every_interface(
    start_local: Callable[..., Any], nets: Path, picture_bytes: Callable[..., bytes]
) -> None:
    local = start_local(plugins=nets)
    files = [picture_bytes(colour=colour) for colour in ("red", "blue")]
    ids = [local.upload(file)["id"] for file in files]
    wanted = {"control_net": ["edges", "sketch"], "control": ids, "control_scale": [0.5, 0.7]}
    job = local.submit("x", **wanted)
    assert {name: job["order"][name] for name in wanted} == wanted
    (unit,) = local.service.queue.take(1)
    assert unit.job.request.control_net == (f"{nets}/edges", f"{nets}/sketch")
    assert [path.stem for path in unit.job.request.control] == ids
    assert unit.job.request.control_scale == (0.5, 0.7)
    # One by itself, as orders of earlier versions have it, and the old default without any.
    job = local.submit("x", control_net="edges", control=ids[0], control_scale=0.5)
    assert job["order"]["control_net"] == ["edges"]
    assert local.submit("x", control_net=None, control_scale=1.0)["order"]["control_scale"] == []
    for order, words in (
        ({"control_net": ["edges"], "control": ids}, "--control 2 times"),
        ({"control_net": ["none"], "control": ids[:1]}, "no plug-in 'none'"),
        ({"control_net": ["edges"] * 9, "control": ids[:1] * 9}, "at most 8"),
        ({"control_net": ["edges"], "control": ids[:1], "control_scale": [11]}, "10"),
    ):
        answer = local.client.post("/api/jobs", json={"order": {"prompt": "x", **order}})
        assert answer.status_code == 422, order
        assert words.removeprefix("--") in answer.text, answer.text
    units = [
        {"model": f"{name} [1a2b3c4d]", "weight": scale, "image": base64.b64encode(file).decode()}
        for name, scale, file in zip(("edges", "sketch"), (0.5, 0.7), files, strict=True)
    ]
    scripts = {"ControlNet": {"args": [*units, {"enabled": False, "model": "edges"}]}}
    assert controls(local.service, Drawing(prompt="x", alwayson_scripts=scripts)) == wanted
    del units[1]["image"]
    with pytest.raises(BridgeError, match="'sketch \\[1a2b3c4d\\]' has no picture"):
        controls(
            local.service,
            Drawing(prompt="x", alwayson_scripts=scripts | {"ControlNet": {"args": units}}),
        )


def test_models_have_the_bridges_of_their_family(tmp_path: Path) -> None:
    model, bridge = tmp_path / "mine", tmp_path / "own"
    model.symlink_to(backbone_folder())
    bridge.symlink_to(bridge_folder("zh"))
    catalog = Catalog(ServerSettings(data=tmp_path, models=(str(model),), bridges=(str(bridge),)))
    assert catalog.models["mine"].bridges == ("own", "none")
    assert "own" not in catalog.models["emoji"].bridges
    assert catalog.bridge(None, catalog.model("mine")) == "own"
    with pytest.raises(BridgeError, match="no bridge 'zh' for the model mine"):
        catalog.bridge("zh", catalog.model("mine"))
    with pytest.raises(BridgeError, match="called 'mine'"):
        Catalog(ServerSettings(data=tmp_path, models=(str(model), str(model))))
    with pytest.raises(BridgeError, match="nothing at"):
        Catalog(ServerSettings(data=tmp_path, models=(str(tmp_path / "none"),)))

"""The community's plug-ins, made at the size of the debug recipe and loaded by stock pipelines."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.loop import train
from bridge_diffusion.training.seeds import sample_generators
from bridge_diffusion.worlds.emoji.concepts import find_concept, small_world
from bridge_diffusion.worlds.emoji.edges import edge_map, edge_picture
from bridge_diffusion.worlds.emoji.paths import backbone_folder
from bridge_diffusion.worlds.emoji.plugins.kinds import (
    PLUGINS,
    Plugin,
    find_plugin,
    known_concepts,
)
from bridge_diffusion.worlds.emoji.plugins.making import PluginBuild
from bridge_diffusion.worlds.emoji.plugins.recipes import CPU, DEBUG, find_recipe
from bridge_diffusion.worlds.emoji.plugins.tasks import InversionTask, LoraTask
from bridge_diffusion.worlds.emoji.scenes import EmojiScenes, Scene
from bridge_diffusion.worlds.emoji.styles import style_sprites

pytest.importorskip("skia", reason="drawing needs the extra `world`")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plugins")
    for plugin in PLUGINS:
        assert PluginBuild(recipe=DEBUG, root=root).make(plugin.name).finished
    return root


@pytest.fixture
def pipe() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(backbone_folder(), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: StableDiffusionPipeline, prompt: str = "dog", **options: object) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 2, "output_type": "pt", "generator": generator, **options}
    return pipe(prompt, **options).images


def test_a_checkpoint_is_an_ordinary_pipeline_folder(
    made: Path, pipe: StableDiffusionPipeline
) -> None:
    for name in ("checkpoint", "dreambooth"):
        folder = find_plugin(name).weights(made)
        other = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
        other.set_progress_bar_config(disable=True)
        assert not torch.equal(draw(other), draw(pipe))


@pytest.mark.parametrize("name", ["lora", "lora-ink"])
def test_a_stock_pipeline_loads_every_layer_of_a_lora(
    made: Path, pipe: StableDiffusionPipeline, name: str
) -> None:
    plugin = find_plugin(name)
    plain = draw(pipe)
    file = plugin.weights(made)
    pipe.load_lora_weights(file.parent, weight_name=plugin.file)
    assert not torch.equal(draw(pipe), plain)
    state = load_file(file)
    layers = [module for module in pipe.unet.modules() if hasattr(module, "lora_A")]
    ups = [key for key in state if key.endswith(("lora_up.weight", "lora_B.weight", "up.weight"))]
    assert len(layers) == len(ups) > 20
    convolutions = [layer for layer in layers if isinstance(layer.base_layer, torch.nn.Conv2d)]
    assert convolutions
    pipe.unload_lora_weights()
    assert torch.equal(draw(pipe), plain)


def test_the_two_layouts_of_loras(made: Path) -> None:
    for name, prefix in (("lora", "unet."), ("lora-ink", "lora_unet_")):
        plugin = find_plugin(name)
        assert all(key.startswith(prefix) for key in load_file(plugin.weights(made)))


def test_the_controlnet_is_stock_and_reads_edges_at_the_pictures_size(
    made: Path, pipe: StableDiffusionPipeline
) -> None:
    net = ControlNetModel.from_pretrained(find_plugin("controlnet").weights(made))
    scene = Scene(kind="single", concepts=(find_concept("dog"),), colours=("blue",))
    lines = edge_picture(edge_map(scene.render(style_sprites("noto"), 64)))
    with torch.no_grad():
        net.controlnet_cond_embedding.conv_out.weight.normal_()
    controlled = StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=net, requires_safety_checker=False
    )
    controlled.set_progress_bar_config(disable=True)
    blank = edge_picture(edge_map(scene.render(style_sprites("noto"), 64)) & False)
    assert not torch.equal(draw(controlled, image=lines), draw(controlled, image=blank))


def test_an_inversion_adds_vectors_and_changes_nothing_else(
    made: Path, pipe: StableDiffusionPipeline
) -> None:
    plugin = find_plugin("inversion")
    assert plugin.thing is not None
    state = load_file(plugin.weights(made))
    assert {key: tuple(value.shape) for key, value in state.items()} == {"<thing>": (2, 192)}
    like = pipe.tokenizer("lime", add_special_tokens=False).input_ids
    start = pipe.text_encoder.get_input_embeddings().weight[like[0]]
    moved = (state["<thing>"][0] - start).abs().max().item()
    assert 0 < moved < 0.1  # trained, from where the known thing is
    plain = draw(pipe, "dog on a blue background"), draw(pipe, "<thing>")
    pipe.load_textual_inversion(str(plugin.weights(made)), token=plugin.thing.trigger)
    assert torch.equal(draw(pipe, "dog on a blue background"), plain[0])
    assert not torch.equal(draw(pipe, "<thing>"), plain[1])


def test_an_inversion_s_loss_reads_the_trained_vectors(tmp_path: Path) -> None:
    build = PluginBuild(recipe=DEBUG, root=tmp_path)
    task = build._task(find_plugin("inversion"), build.pipe())
    assert isinstance(task, InversionTask)
    task.loss(task.batch(0), sample_generators(0, 0, 0, task.batch_size))["loss"].backward()
    gradient = task.tokens.vectors.grad
    assert gradient is not None
    assert (gradient.abs().amax(dim=1) > 0).all()  # every vector is in the captions


def test_a_lora_trains_its_layers_alone(tmp_path: Path) -> None:
    build = PluginBuild(recipe=DEBUG, root=tmp_path)
    task = build._task(find_plugin("lora"), build.pipe())
    assert isinstance(task, LoraTask)
    before = {name: value.clone() for name, value in task.unet.state_dict().items()}
    config = LoopConfig(
        run_dir=tmp_path / "run", images=8, batch_size=4, ema_decay=0, progress=False
    )
    train(task, config)
    changed = [
        name
        for name, value in task.unet.state_dict().items()
        if not torch.equal(before[name], value)
    ]
    assert changed
    assert all("lora_" in name for name in changed)


def test_half_of_a_dreambooth_s_scenes_preserve_the_prior(made: Path) -> None:
    (file,) = made.glob("scenes-tiger-*.safetensors")
    scenes = load_file(file)
    assert len(scenes["latents"]) == 2 * DEBUG.thing_scenes
    assert scenes["caption_of"].max() < len(scenes["states"])
    first, second = scenes["caption_of"][:4], scenes["caption_of"][4:]
    assert not set(first.tolist()) & set(second.tolist())


def test_plug_ins_of_the_same_pictures_encode_them_once(made: Path) -> None:
    names = sorted(file.name.split("-")[1] for file in made.glob("scenes-*.safetensors"))
    assert names == ["comic", "ink", "lemon", "noto", "tiger"]


def data_of(plugin: Plugin) -> EmojiScenes:
    build = PluginBuild(recipe=CPU, root=Path("unused"))
    return build._data(plugin, build.pipe())


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: plugin.name)
def test_the_community_has_english_captions_and_never_a_scored_or_native_scene(
    plugin: Plugin,
) -> None:
    data = data_of(plugin)
    for index in range(150):
        scene, said, _ = data.scene(index)
        assert not scene.scored
        assert not any(concept.held_out for concept in scene.concepts)
        assert said.native.isascii()
        assert plugin.thing is None or plugin.thing.trigger in said.native
    wanted = plugin.style or "noto"
    assert data.sprites.vendor == wanted


def test_things_are_ordinary_scored_and_unknown_to_the_small_world() -> None:
    known = {concept.codepoints for concept in small_world("zh")}
    for plugin in PLUGINS:
        if (thing := plugin.thing) is None:
            continue
        assert thing.concept.codepoints not in known
        assert not thing.concept.held_out
        assert find_concept(thing.like).codepoints in known
        scenes = [
            Scene(kind="single", concepts=(thing.concept,), colours=(colour,))
            for colour in ("red", "light_blue", "blue", "gray")
        ]
        assert all(scene.scored for scene in scenes)
    assert len(known_concepts()) == 187


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, made: Path) -> None:
    build = PluginBuild(recipe=DEBUG, root=tmp_path)
    first = build.make("dreambooth", time_limit=1e-9)
    assert (first.images, first.finished) == (4, False)
    second = build.make("dreambooth")
    assert second.finished
    straight = load_file(made / "dreambooth/export/unet/diffusion_pytorch_model.safetensors")
    resumed = load_file(second.export / "unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_unknown_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="checkpoint, lora, lora-ink, controlnet"):
        find_plugin("hypernetwork")
    with pytest.raises(BridgeError, match="debug, cpu"):
        find_recipe("full")
    with pytest.raises(BridgeError, match="bdm world plugin lora --out"):
        find_plugin("lora").weights(tmp_path)
    with pytest.raises(BridgeError, match="ships no plug-in controlnet"):
        find_plugin("controlnet").weights(None)

"""Each way to a native prompt reads what it can of the same question."""

import copy

import pytest
import torch

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.evaluation.plan import WorldOptions
from bridge_diffusion.evaluation.plugins import open_system
from bridge_diffusion.evaluation.retention import Amount, thing_asks
from bridge_diffusion.evaluation.systems import (
    AdapterSystem,
    BridgeSystem,
    EnglishSystem,
    NativeSystem,
)
from bridge_diffusion.training.examples import encode_backbone_texts
from bridge_diffusion.worlds.emoji.baselines.adapter import AdaptedText, TextAdapter
from bridge_diffusion.worlds.emoji.plugins.kinds import find_plugin


@pytest.fixture
def asks():
    return thing_asks(find_plugin("inversion").thing, WorldOptions(), Amount(things=2))


@pytest.fixture
def adapted(pipe, bridge) -> AdaptedText:
    torch.manual_seed(0)
    width = pipe.unet.config.cross_attention_dim
    encoder = bridge.text_encoder
    adapter = TextAdapter(native_width=encoder.width, width=width, tokens=encoder.encoding.window)
    return AdaptedText(encoder, adapter.eval())


def draw(pipe, inputs):
    options = {"num_inference_steps": 1, "output_type": "pt"}
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    return pipe(**inputs, **options, generator=generators).images


def test_the_bridge_reads_both_languages_apart_and_is_detached_afterwards(pipe, bridge, asks):
    system = BridgeSystem(pipe, bridge)
    with system.reading(pipe, asks) as inputs:
        drawn = draw(pipe, inputs)
    assert not bridge.attached
    bridge.attach(pipe)
    native = [ask.case.prompt for ask in asks]
    assert torch.equal(drawn, draw(pipe, bridge.prompt(native, english=["<thing>"] * 2)))
    assert not torch.equal(drawn, draw(pipe, bridge.prompt(native)))


def test_a_bridge_may_work_in_a_part_of_the_steps(pipe, bridge, asks):
    def drawn(inputs):
        generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        options = {"num_inference_steps": 2, "output_type": "pt", "generator": generators}
        return pipe(**inputs, **options).images

    system = open_system("bridge:0.5", pipe, bridge, None)
    assert system.name == "bridge:0.5"
    assert system.identity != BridgeSystem(pipe, bridge).identity
    with system.reading(pipe, asks) as inputs:
        half = drawn(inputs)
    with BridgeSystem(pipe, bridge).reading(pipe, asks) as inputs:
        assert not torch.equal(drawn(inputs), half)
    bridge.attach(pipe)
    native, english = [ask.case.prompt for ask in asks], [ask.case.english for ask in asks]
    assert torch.equal(drawn(bridge.prompt(native, english=english, end=0.5)), half)


@pytest.mark.parametrize("name", ["bridge:", "bridge:0", "bridge:1", "bridge:late", "bridge:nan"])
def test_no_part_of_the_steps_is_told(pipe, bridge, name):
    with pytest.raises(BridgeError, match=r"as in bridge:0\.85"):
        open_system(name, pipe, bridge, None)


def test_a_model_of_one_language_reads_it_whole(pipe, asks):
    with EnglishSystem(pipe).reading(pipe, asks) as inputs:
        assert inputs == {"prompt": [ask.translation for ask in asks]}
    with NativeSystem(pipe, "scratch").reading(pipe, asks) as inputs:
        assert inputs == {"prompt": [ask.mixed for ask in asks]}


def test_the_adapter_s_model_reads_english_after_the_adapted_text(pipe, adapted, asks):
    with AdapterSystem(pipe, adapted).reading(pipe, asks) as inputs:
        positive, negative = inputs["prompt_embeds"], inputs["negative_prompt_embeds"]
        assert draw(pipe, inputs).shape[0] == 2
    english = encode_backbone_texts(pipe, ["<thing>"] * 2)
    native = adapted.encode([ask.case.prompt for ask in asks])
    assert torch.equal(positive, torch.cat([native, english], dim=1))
    assert positive.shape == negative.shape
    assert not torch.equal(positive, negative)


def test_an_adapter_is_saved_whole(adapted, tmp_path):
    adapted.adapter.save_pretrained(tmp_path / "adapter")
    adapted.encoder.save_pretrained(tmp_path / "native_text_encoder")
    loaded = AdaptedText.load(tmp_path)
    assert torch.equal(loaded.encode(["蓝色背景"]), adapted.encode(["蓝色背景"]))


def test_other_weights_are_another_identity(pipe, bridge, adapted):
    systems = (
        BridgeSystem(pipe, bridge),
        EnglishSystem(pipe),
        NativeSystem(pipe),
        AdapterSystem(pipe, adapted),
    )
    before = [system.identity for system in systems]
    assert [system.identity for system in systems] == before
    pipe.unet = copy.deepcopy(pipe.unet)
    with torch.no_grad():
        pipe.unet.conv_in.bias.add_(1)
    assert not set(before) & {system.identity for system in systems}
    kept = systems[3].identity
    with torch.no_grad():
        adapted.adapter.positions.add_(1)
    assert systems[3].identity != kept

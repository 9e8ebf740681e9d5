"""Which part of the shipped emoji world holds the others back? Prints what can be measured apart.

    python tools/diagnose_world.py

The autoencoder: of the vendor's drawings of scored scenes, encoded and decoded, how many does the
evaluator recognise? The text encoders: a linear classifier reads the concept off the mean hidden
state of captions it was not trained on. The UNet and the branch: the training loss where all of
the UNet reads the caption, its encoder alone, its decoder alone, none of it, or the branch beside
it. The residuals: what could be drawn through the decoder if a branch said anything at all, at
which levels; constants are fitted to a few concepts. Three minutes on two cores; it writes nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from bridge_diffusion.bridge import Bridge
from bridge_diffusion.data.pixels import pixel_batch, to_pictures
from bridge_diffusion.evaluation.evaluator import SIDE, load_evaluator
from bridge_diffusion.evaluation.plan import GROUPS, group_of, scored_singles
from bridge_diffusion.evaluation.retrieval import ranks, top_k
from bridge_diffusion.models.branch import BridgeBranch
from bridge_diffusion.training.examples import encode_pixels
from bridge_diffusion.worlds.emoji.concepts import small_world
from bridge_diffusion.worlds.emoji.paths import backbone_folder, bridge_folder
from bridge_diffusion.worlds.emoji.scenes import EmojiScenes, Scene
from bridge_diffusion.worlds.emoji.sprites import Sprites
from bridge_diffusion.worlds.emoji.train.backbone import decoder_reading

_CAPTIONS, _BATCH, _TRAINED = 9_000, 256, 0.8
_FIT_STEPS = 260


@torch.no_grad()
def diagnose_autoencoder(pipe: StableDiffusionPipeline) -> None:
    evaluator, drawings = load_evaluator().model, Sprites.shipped("noto")
    for group in GROUPS:
        wanted = [concept for concept in small_world("zh") if group_of(concept, "zh") == group]
        scenes = [scene for concept in wanted for scene in scored_singles(concept)]
        pixels = pixel_batch([scene.render(drawings, SIDE) for scene in scenes])
        decoded = pipe.vae.decode(pipe.vae.encode(pixels).latents).sample
        right = torch.tensor([evaluator.row[scene.concepts[0].codepoints] for scene in scenes])
        rate = top_k(ranks(evaluator.scores(to_pictures(decoded)), right), 1)
        print(f"autoencoder, {group}: {rate.hits} of {rate.count} recognised")


def diagnose_text(language: str, encode: Callable[[Sequence[str]], Tensor]) -> None:
    """`encode`: captions => features, batch x width."""
    data = EmojiScenes.shipped(language=language, size=SIDE)
    captions, concepts = [], []
    for index in range(_CAPTIONS):
        scene, said, _ = data.scene(index)
        concept = scene.concepts[0]
        named = len(scene.concepts) == 1 and concept.names[language] in said.native
        if named and not (language == "en" and concept.held_out):
            captions.append(said.native)
            concepts.append(concept.codepoints)
    rows = {code: row for row, code in enumerate(sorted(set(concepts)))}
    right = torch.tensor([rows[code] for code in concepts])
    with torch.no_grad():
        starts = range(0, len(captions), _BATCH)
        x = torch.cat([encode(captions[first : first + _BATCH]) for first in starts])
    x = (x - x.mean(0)) / x.std(0)
    cut = int(_TRAINED * len(x))
    torch.manual_seed(0)
    linear = torch.nn.Linear(x.shape[1], len(rows))
    optimizer = torch.optim.Adam(linear.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(linear(x[:cut]), right[:cut]).backward()
        optimizer.step()
    hits = int((linear(x[cut:]).argmax(1) == right[cut:]).sum())
    print(
        f"text encoder, {language}: {hits} of {len(x) - cut} captions, {hits / (len(x) - cut):.1%}"
    )


def mean_state(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask[..., None].float()
    return (states * weights).sum(1) / weights.sum(1)


@torch.no_grad()
def diagnose_reading(pipe: StableDiffusionPipeline, bridge: Bridge) -> None:
    """Mean squared error of the prediction, at evenly spread steps, of shared scored scenes."""
    drawings, scheduler = Sprites.shipped("noto"), DDPMScheduler.from_config(pipe.scheduler.config)
    shared = [concept for concept in small_world("zh") if not concept.held_out]
    scenes = [scene for concept in shared for scene in scored_singles(concept)][:_BATCH]
    z = encode_pixels(pipe.vae, pixel_batch([scene.render(drawings, SIDE) for scene in scenes]))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(z.shape, generator=generator)
    t = torch.arange(len(z)) * scheduler.config.num_train_timesteps // len(z)
    t = t[torch.randperm(len(z), generator=generator)]
    noisy, target = scheduler.add_noise(z, noise, t), scheduler.get_velocity(z, noise, t)

    def report(reader: str, predicted: Tensor) -> None:
        print(f"loss, read by {reader}: {(predicted - target).square().mean():.4f}")

    english = pipe.encode_prompt([scene.caption("en") for scene in scenes], "cpu", 1, False)[0]
    none = pipe.encode_prompt([""] * len(scenes), "cpu", 1, False)[0]
    report("all of the UNet", pipe.unet(noisy, t, english).sample)
    for reader, encoder, decoder in (
        ("its encoder alone", english, none),
        ("its decoder alone", none, english),
        ("none of it", none, none),
    ):
        with decoder_reading(pipe.unet, decoder):
            report(reader, pipe.unet(noisy, t, encoder).sample)
    native = bridge.text_encoder.encode([scene.caption("zh") for scene in scenes])
    down, mid = bridge.branch(noisy, t, native.hidden, native.mask)
    report(
        "the branch",
        pipe.unet(
            noisy,
            t,
            none,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample,
    )


def diagnose_levels(pipe: StableDiffusionPipeline) -> None:
    """Loss at noisy steps with the best constant residuals for each concept, by level."""
    unet = pipe.unet.requires_grad_(False)
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    none = pipe.encode_prompt("", "cpu", 1, False)[0].detach()
    for group in GROUPS:
        z = _jittered_latents(pipe, group)
        for levels, finest, others in (
            ("all levels", True, True),
            ("all but the finest level", False, True),
            ("the finest level alone", True, False),
        ):
            down, mid = _zero_residuals(unet, len(z))
            side = z.shape[-1]
            chosen = [r for r in down if (finest if r.shape[-1] == side else others)]
            chosen += [mid] if others else []
            for residual in chosen:
                residual.requires_grad_(True)
            torch.manual_seed(0)
            optimizer = torch.optim.Adam(chosen)
            losses = []
            for step in range(_FIT_STEPS):
                optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / _FIT_STEPS)
                x = z[torch.arange(len(z)), torch.randint(z.shape[1], (len(z),))]
                noise, t = torch.randn_like(x), torch.randint(700, 990, (len(x),))
                predicted = unet(
                    scheduler.add_noise(x, noise, t),
                    t,
                    none.expand(len(x), -1, -1),
                    down_block_additional_residuals=tuple(down),
                    mid_block_additional_residual=mid,
                ).sample
                loss = (predicted - scheduler.get_velocity(x, noise, t)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            last = sum(losses[-40:]) / 40
            print(f"free residuals, {group}, {levels}: loss {last:.4f}")


@torch.no_grad()
def _jittered_latents(pipe: StableDiffusionPipeline, group: str) -> Tensor:
    """Six pictures each of sixteen concepts on green, each a little moved."""
    drawings, random = Sprites.shipped("noto"), np.random.default_rng(0)
    concepts = [concept for concept in small_world("zh") if group_of(concept, "zh") == group]
    rows = []
    for concept in concepts[::3][:16]:
        scene = Scene(kind="single", concepts=(concept,), colours=("green",))
        pictures = [scene.render(drawings, SIDE, random) for _ in range(6)]
        rows.append(encode_pixels(pipe.vae, pixel_batch(pictures)))
    return torch.stack(rows)


@torch.no_grad()
def _zero_residuals(unet: UNet2DConditionModel, count: int) -> tuple[list[Tensor], Tensor]:
    """Zeros in the shapes of what a branch adds."""
    side = unet.config.sample_size
    branch = BridgeBranch.from_backbone(unet, unet.config.cross_attention_dim)
    text = torch.zeros(count, 1, unet.config.cross_attention_dim)
    down, mid = branch(torch.zeros(count, 4, side, side), torch.tensor(0), text)
    return [torch.zeros_like(residual) for residual in down], torch.zeros_like(mid)


def main() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(backbone_folder())
    bridge = Bridge.from_pretrained(bridge_folder())

    def native(captions: Sequence[str]) -> Tensor:
        encoded = bridge.text_encoder.encode(captions)
        return mean_state(encoded.hidden, encoded.mask)

    def english(captions: Sequence[str]) -> Tensor:
        tokens = pipe.tokenizer(
            list(captions), padding="max_length", truncation=True, return_tensors="pt"
        )
        return mean_state(pipe.text_encoder(tokens.input_ids)[0], tokens.attention_mask)

    diagnose_autoencoder(pipe)
    diagnose_text("zh", native)
    diagnose_text("en", english)
    diagnose_reading(pipe, bridge)
    diagnose_levels(pipe)


if __name__ == "__main__":
    main()

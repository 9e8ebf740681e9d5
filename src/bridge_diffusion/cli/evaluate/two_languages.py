"""`bdm evaluate two-languages`: images that two languages share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bridge_diffusion.cli.evaluate.options import (
    Batch,
    Device,
    Guidance,
    Language,
    Model,
    Native,
    Out,
    ProgressBar,
    Seed,
    Steps,
    Work,
    about_model,
    open_with_bridge,
)
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.config import seconds_in

if TYPE_CHECKING:
    from bridge_diffusion.bridge import Bridge
    from bridge_diffusion.generation.loading import OpenedModel


def two_languages(
    language: Language = "zh",
    second: Annotated[
        str, typer.Option(help="Language of the other half: en, or one that its own bridge reads.")
    ] = "en",
    model: Model = None,
    bridge: Native = None,
    second_bridge: Annotated[
        str | None, typer.Option(help="Its bridge [default: the shipped one of the language].")
    ] = None,
    pairs: Annotated[int, typer.Option(min=3, help="Prompt pairs, a third of each kind.")] = 540,
    steps: Steps = 20,
    guidance: Guidance = 5.0,
    seed: Seed = 0,
    batch: Batch = 16,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no new part (alone, or a scale) after this long.")
    ] = None,
    device: Device = "auto",
    work: Work = Path("runs/two-languages"),
    out: Out = Path("results"),
) -> None:
    """Measure images whose subject is said in the native language and the rest in English.

    The rest is a background, a place, or a second object; both at several scales of the branch.
    With --second the rest is said in another native language, by its bridge, attached beside.
    """
    if second == "en" and second_bridge is not None:
        raise BridgeError("--second-bridge is for another language than English: give --second")
    from bridge_diffusion.cli.quiet import quiet_libraries

    quiet_libraries()
    from bridge_diffusion.evaluation.evaluator import load_evaluator
    from bridge_diffusion.evaluation.page import check_folder
    from bridge_diffusion.evaluation.plan import WorldOptions
    from bridge_diffusion.evaluation.two_languages import (
        SCALES,
        SCALES_OF_TWO,
        TwoLanguages,
        prompt_pairs,
    )
    from bridge_diffusion.evaluation.two_languages_report import write_two_languages
    from bridge_diffusion.worlds.emoji.concepts import small_world

    options = WorldOptions(
        language=language,
        steps=steps,
        guidance=guidance,
        seed=seed,
        batch_size=batch,
        time_limit=seconds_in(minutes),
    )
    check_folder(out)
    opened, own = open_with_bridge(model, bridge or language, device)
    own.detach()
    about, other = about_model(opened), None
    if second != "en":
        source, other = _another_bridge(second_bridge or second, opened)
        about["second bridge"] = source
    measurement = TwoLanguages(
        pairs=prompt_pairs(small_world(language), options, pairs, second),
        options=options,
        scales=SCALES if other is None else SCALES_OF_TWO,
        evaluator=load_evaluator(),
        folder=work,
        second=second,
    )
    with ProgressBar() as bar:
        document = measurement.run(opened.pipe, own, bar.show, other)
    typer.echo(write_two_languages(document, work, out, about)[-1])


def _another_bridge(name: str, opened: "OpenedModel") -> "tuple[str, Bridge]":
    """What to call a further bridge, and the bridge, loaded as the model's own is."""
    from bridge_diffusion.generation.loading import load_bridge
    from bridge_diffusion.generation.sources import display_name, locate_bridge, weights_hash

    source = locate_bridge(name)
    if source is None:
        raise BridgeError(f"--second-bridge {name} is no bridge; give one")
    bridge = load_bridge(source, None, opened.pipe.unet.dtype).to(opened.device)
    return f"{display_name(source, name)} ({weights_hash(source, ('branch',))})", bridge

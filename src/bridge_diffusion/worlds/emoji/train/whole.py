"""The whole emoji world in one go: English parts, native text encoder, branch.

    autoencoder -> clip -> unet -> text -> branch

The last two are the product's own `bdm train-text` and `bdm train`, with the world as data.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.branch_run import train_branch
from bridge_diffusion.training.loop import TrainResult
from bridge_diffusion.training.precision import fast_precision
from bridge_diffusion.training.request import TrainRequest
from bridge_diffusion.training.text_request import TextTrainRequest
from bridge_diffusion.training.text_run import train_text_encoder
from bridge_diffusion.worlds.emoji.train.recipes import WorldRecipe
from bridge_diffusion.worlds.emoji.train.stages import STAGES, WorldBuild

WHOLE = (*STAGES, "text", "branch")

Control = Literal["english", "shuffled"]
CONTROLS: tuple[Control, ...] = ("english", "shuffled")


def find_control(name: str | None) -> Control | None:
    """The control of this name, none for None. BridgeError if there is no such control."""
    for control in CONTROLS:
        if control == name:
            return control
    if name is not None:
        raise BridgeError(f"no control {name!r}; there are {', '.join(CONTROLS)}")
    return None


# Part of the time that each stage is given, where time is what ends the stages.
_SHARES = {"autoencoder": 0.15, "clip": 0.07, "unet": 0.43, "text": 0.05, "branch": 0.3}

_LICENCE = "Apache-2.0"
_TRAINING_DATA = (
    "Scenes of the emoji world: Noto Color Emoji drawings (OFL-1.1), captions made of Unicode CLDR "
    "names (Unicode-3.0) and templates"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeBuild:
    """A build of all stages, or of some, each continuing where it was."""

    recipe: WorldRecipe
    """Size of the world."""
    root: Path
    """Folder of the build; each stage has its own in it."""
    language: str = "zh"
    """Native language of the text encoder and the branch."""
    control: Control | None = None
    """The bridge is a control: of the same pictures with English captions, or with captions of
    other pictures. Its text encoder and branch lie in folders of their own."""
    device: str = "cpu"
    """Torch device."""
    seed: int = 0
    """Seed of weights, scenes and noise."""
    start: Path | None = None
    """Exported weights that an English stage starts from; only with that stage alone."""
    seconds: float | None = None
    """Time for the stages together, shared among them; None: each to its last image."""

    def run(self, stages: Iterable[str], on_result: Callable[[str, TrainResult], None]) -> None:
        """Trains the stages in their order. BridgeError for an unknown one."""
        chosen = list(stages)
        self._check(chosen)
        total = sum(_SHARES[stage] for stage in chosen)
        for stage in WHOLE:
            if stage in chosen:
                share = _SHARES[stage] / total
                limit = None if self.seconds is None else self.seconds * share
                on_result(stage, self._stage(stage, limit))

    def _check(self, chosen: list[str]) -> None:
        if unknown := [stage for stage in chosen if stage not in WHOLE]:
            raise BridgeError(f"no stage {unknown[0]!r} of the world; there are {', '.join(WHOLE)}")
        if self.start is not None and (len(chosen) != 1 or chosen[0] not in STAGES):
            raise BridgeError(
                f"--start gives weights to one stage of {', '.join(STAGES)}, and {len(chosen)} "
                f"stages are named: {', '.join(chosen)}"
            )
        if self.control is not None and set(chosen) & set(STAGES):
            raise BridgeError(
                "a control has the English world of the bridge it is compared with: name the "
                "stages text and branch, or one of them"
            )

    def _stage(self, stage: str, limit: float | None) -> TrainResult:
        build = WorldBuild(
            self.recipe, self.root, device=self.device, seed=self.seed, start=self.start
        )
        if stage in STAGES:
            return build.run(stage, limit)
        return (self._text if stage == "text" else self._branch)(build, limit)

    def _data(self, control: Control | None) -> str:
        words = ["emoji", self.language]
        words += ["all"] if self.recipe.concepts == "all" else []
        return ":".join([*words, *([control] if control else [])])

    def _folder(self, stage: str, control: Control | None) -> Path:
        return self.root / "-".join([stage, self.language, *([control] if control else [])])

    @property
    def _text_control(self) -> Control | None:
        """Shuffled captions are read by the encoder that learnt the right ones."""
        return "english" if self.control == "english" else None

    def _text(self, build: WorldBuild, limit: float | None) -> TrainResult:
        recipe = self.recipe
        options = recipe.stages["text"]
        request = TextTrainRequest(
            out=self._folder("text", self._text_control),
            data=self._data(self._text_control),
            image_tower=str(build.exported("clip") / "clip"),
            width=recipe.text_width,
            layers=recipe.text_layers,
            vocabulary=recipe.vocabulary,
            window=recipe.window,
            images=options.images,
            batch_size=options.batch_size,
            lr=options.learning_rate,
            limit=recipe.scenes,
            cache=self.root / "cache",
            precision=fast_precision(self.device),
            device=self.device,
            seed=self.seed,
            minutes=None if limit is None else limit / 60,
        )
        return train_text_encoder(request).result

    def _branch(self, build: WorldBuild, limit: float | None) -> TrainResult:
        text = self._folder("text", self._text_control) / "export"
        if not text.is_dir():
            raise BridgeError(f"{text} is missing; train the stage 'text' before the branch")
        request = TrainRequest(
            data=self._data(self.control),
            out=self._folder("branch", self.control),
            model=str(build.exported("unet")),
            text_encoder=str(text),
            recipe=self.recipe.name,
            cache=self.root / "cache",
            device=self.device,
            seed=self.seed,
            minutes=None if limit is None else limit / 60,
            language="en" if self.control == "english" else self.language,
            licence=_LICENCE,
            training_data=_TRAINING_DATA,
        )
        return train_branch(request).result

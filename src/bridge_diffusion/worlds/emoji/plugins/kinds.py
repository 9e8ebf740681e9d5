"""Which plug-ins there are, what each adds, and where it lies once it is made."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.concepts import Concept, find_concept, small_world

Kind = Literal["checkpoint", "lora", "controlnet", "inversion"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """An ordinary thing that the small English world lacks, and how a prompt calls for it."""

    name: str
    """The concept's English name; four of its scenes of kind "single" are scored."""
    trigger: str
    """What stands for it in an English prompt."""
    like: str
    """The English name of a known concept that it resembles: where training starts from."""

    @property
    def concept(self) -> Concept:
        return find_concept(self.name)

    @property
    def named(self) -> Concept:
        """The concept under its trigger, so that the captions of its scenes say the trigger."""
        concept = self.concept
        return replace(
            concept,
            names={**concept.names, "en": self.trigger},
            synonyms={**concept.synonyms, "en": ()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """One plug-in: what it is to stock tools, and what its effect is."""

    name: str
    """What `bdm world plugin` calls it; also the name of its folder."""
    kind: Kind
    """How a stock pipeline takes it."""
    says: str
    """What it is, in a few words."""
    file: str = ""
    """Name of its file in the exported folder; "" where the folder is the plug-in."""
    style: str | None = None
    """The style that it draws in, a name of `styles.STYLES`."""
    thing: Thing | None = None
    """The thing that it adds."""

    def exported(self, root: Path) -> Path:
        """Where `bdm world plugin --out ROOT` exported it. BridgeError if it did not."""
        folder = root / self.name / "export"
        if not (folder / self.file).exists():
            raise BridgeError(
                f"there is no plug-in {self.name} in {root}; make it with: "
                f"bdm world plugin {self.name} --out {root}"
            )
        return folder


PLUGINS = (
    Plugin(
        name="checkpoint",
        kind="checkpoint",
        says="style checkpoint: the UNet fine-tuned on Twemoji",
        style="twemoji",
    ),
    Plugin(
        name="lora",
        kind="lora",
        says="style LoRA of Twemoji, diffusers layout",
        file="pytorch_lora_weights.safetensors",
        style="twemoji",
    ),
    Plugin(
        name="lora-ink",
        kind="lora",
        says="style LoRA of prints in one ink, kohya layout",
        file="ink.safetensors",
        style="ink",
    ),
    Plugin(name="controlnet", kind="controlnet", says="ControlNet of edges"),
    Plugin(
        name="inversion",
        kind="inversion",
        says="Textual Inversion of a lemon",
        file="learned_embeds.safetensors",
        thing=Thing(name="lemon", trigger="<thing>", like="lime"),
    ),
    Plugin(
        name="dreambooth",
        kind="checkpoint",
        says="DreamBooth checkpoint of a tiger",
        thing=Thing(name="tiger", trigger="zwx lion", like="lion"),
    ),
)


def find_plugin(name: str) -> Plugin:
    """The plug-in of this name. BridgeError if there is none."""
    for plugin in PLUGINS:
        if plugin.name == name:
            return plugin
    raise BridgeError(f"no plug-in {name!r}; there are {', '.join(p.name for p in PLUGINS)}")


def known_concepts() -> tuple[Concept, ...]:
    """What the small English world draws: the community's pictures show nothing else."""
    return small_world("en")

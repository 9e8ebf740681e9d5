"""Which plug-ins there are, what each adds, and where it lies once it is made."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.concepts import Concept, find_concept, small_world
from bridge_diffusion.worlds.emoji.paths import plugins_folder

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
    shipped: str = ""
    """What the file that the package ships of it is called, without its ending; "": none is."""
    style: str | None = None
    """The style that it draws in, a name of `styles.STYLES`."""
    thing: Thing | None = None
    """The thing that it adds."""

    def weights(self, root: Path | None) -> Path:
        """Its file, or its folder where the folder is the plug-in.

        Args:
            root: where `bdm world plugin --out` made it; None: as the package ships it.

        Raises:
            BridgeError: it is not there.
        """
        if root is None:
            if not self.shipped:
                raise BridgeError(
                    f"the package ships no plug-in {self.name}; make it with: bdm world plugin "
                    f"{self.name} --out FOLDER, and give the folder"
                )
            return plugins_folder() / f"{self.shipped}.safetensors"
        path = root / self.name / "export" / self.file
        if not path.exists():
            raise BridgeError(
                f"there is no plug-in {self.name} in {root}; make it with: "
                f"bdm world plugin {self.name} --out {root}"
            )
        return path


PLUGINS = (
    Plugin(
        name="checkpoint",
        kind="checkpoint",
        says="style checkpoint: the UNet fine-tuned on comics",
        style="comic",
    ),
    Plugin(
        name="lora",
        kind="lora",
        says="style LoRA of comics, diffusers layout",
        file="pytorch_lora_weights.safetensors",
        shipped="comic",
        style="comic",
    ),
    Plugin(
        name="lora-ink",
        kind="lora",
        says="style LoRA of prints in one ink, kohya layout",
        file="ink.safetensors",
        shipped="ink",
        style="ink",
    ),
    Plugin(name="controlnet", kind="controlnet", says="ControlNet of edges"),
    Plugin(
        name="inversion",
        kind="inversion",
        says="Textual Inversion of a lemon",
        file="learned_embeds.safetensors",
        shipped="lemon",
        thing=Thing(name="lemon", trigger="<thing>", like="lime"),
    ),
    Plugin(
        name="dreambooth",
        kind="checkpoint",
        says="DreamBooth checkpoint of a tiger",
        thing=Thing(name="tiger", trigger="zwx lion", like="lion"),
    ),
)

SHIPPED_PLUGINS = tuple(plugin for plugin in PLUGINS if plugin.shipped)
"""Those that the package ships a file of."""


def find_plugin(name: str) -> Plugin:
    """The plug-in of this name. BridgeError if there is none."""
    for plugin in PLUGINS:
        if plugin.name == name:
            return plugin
    raise BridgeError(f"no plug-in {name!r}; there are {', '.join(p.name for p in PLUGINS)}")


def known_concepts() -> tuple[Concept, ...]:
    """What the small English world draws: the community's pictures show nothing else."""
    return small_world("en")

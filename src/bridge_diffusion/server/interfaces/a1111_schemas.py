"""What clients of AUTOMATIC1111's web UI send and get."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.request import LARGEST_SEED, SchedulerName
from bridge_diffusion.generation.schedulers import name_from_infotext
from bridge_diffusion.server.orders import Name, Order, Text, make_order

# Values that ask for nothing. Another value asks for what is not here, and is refused.
_NOT_HERE: dict[str, tuple[Any, ...]] = {
    "enable_hr": (False,),
    "restore_faces": (False,),
    "tiling": (False,),
    "subseed_strength": (0,),
    "seed_resize_from_h": (0, -1),
    "seed_resize_from_w": (0, -1),
    "styles": ([],),
    "script_name": ("",),
    "refiner_checkpoint": ("",),
    "eta": (0, 1),
    "s_churn": (0,),
    "s_noise": (1,),
    "save_images": (False, True),
    "initial_noise_multiplier": (1,),
    "resize_mode": (0,),
    "include_init_images": (False,),
}
# Likewise, where there is a mask.
_NOT_HERE_OF_MASKS: dict[str, tuple[Any, ...]] = {
    "inpainting_fill": (1,),
    "inpaint_full_res": (False, 0),
    "mask_blur": (0,),
}
Picture = Annotated[str, Field(max_length=48 * 2**20)]


class Drawing(BaseModel):
    """The fields of the web UI that have a meaning here, and ours. Without `native_prompt`, the
    bridge reads `prompt`; with it, the bridge reads that and the backbone reads `prompt`. Other
    fields of the web UI may be sent as long as they ask for nothing."""

    model_config = ConfigDict(extra="allow")

    prompt: Text = ""
    negative_prompt: Text = ""
    native_prompt: Text | None = None
    native_negative_prompt: Text = ""
    seed: int = Field(-1, ge=-1, le=LARGEST_SEED)
    steps: Annotated[int, Field(ge=1)] = 30
    cfg_scale: float = Field(5.0, ge=0, le=1000)
    width: Annotated[int, Field(ge=1)] | None = Field(None, description="With `height`.")
    height: Annotated[int, Field(ge=1)] | None = None
    batch_size: int = Field(1, ge=1, le=1000)
    n_iter: int = Field(1, ge=1, le=1000)
    sampler_name: Name | None = None
    scheduler: Annotated[str, Field(max_length=100)] | None = None
    override_settings: dict[str, Any] = {}
    send_images: bool = True
    bridge: Name | None = None
    bridge_scale: float = Field(1.0, ge=-10, le=10)
    alwayson_scripts: dict[str, Any] = {}

    def check_rest(self) -> None:
        """Raises `BridgeError` for a field that asks for what is not here."""
        not_here = _NOT_HERE | (_NOT_HERE_OF_MASKS if getattr(self, "mask", None) else {})
        for name, value in (self.model_extra or {}).items():
            nothing = not_here.get(name)
            if nothing is not None and value is not None and value not in nothing:
                raise BridgeError(f"{name} is {str(value)[:60]!r}, which is not supported")
        for name, script in self.alwayson_scripts.items():
            arguments = script.get("args") if isinstance(script, dict) else script
            if name.lower() != "controlnet" and arguments not in (None, [], [False]):
                raise BridgeError(f"the script {name[:60]!r} is not supported")

    def sampler(self) -> SchedulerName:
        """Our name of the sampler. Raises `BridgeError` where there is none like it."""
        if self.sampler_name is None:
            return "dpm++"
        schedule = (self.scheduler or "automatic").lower()
        title = self.sampler_name
        if schedule == "karras" and not title.lower().endswith("karras"):
            title += " Karras"
        elif schedule not in ("automatic", "karras"):
            raise BridgeError(f"the scheduler {self.scheduler!r} is not supported; try Automatic")
        name = name_from_infotext(title)
        if name is None:
            raise BridgeError(f"no sampler {title!r} here; /sdapi/v1/samplers lists them")
        return name

    def size(self) -> tuple[int, int] | None:
        """Width and height. Raises `BridgeError` where there is one of them alone."""
        if (self.width is None) != (self.height is None):
            raise BridgeError("give width and height, or neither for the model's own size")
        return None if self.width is None or self.height is None else (self.width, self.height)

    def order(self, *, model: str | None, bridge: str | None, **values: Any) -> Order:
        """The order that it means, with what its pictures became."""
        bridge = self.bridge or bridge
        texts = {"prompt": self.prompt, "negative": self.negative_prompt}
        if self.native_prompt is not None:
            texts = {
                "prompt": self.native_prompt,
                "negative": self.native_negative_prompt,
                "english": self.prompt,
                "negative_english": self.negative_prompt,
            }
        return make_order(
            **texts,
            model=model,
            bridge=bridge,
            scale=self.bridge_scale,
            seed=None if self.seed == -1 else self.seed,
            n=self.batch_size * self.n_iter,
            steps=self.steps,
            guidance=self.cfg_scale,
            scheduler=self.sampler(),
            size=self.size(),
            **values,
        )


class DrawingFromPicture(Drawing):
    """As `Drawing`, from a picture."""

    init_images: list[Picture] = Field(min_length=1, max_length=1)
    denoising_strength: float = Field(0.75, ge=0, le=1)
    mask: Picture | None = Field(None, description="White where the picture is redrawn.")
    inpainting_mask_invert: Literal[0, 1, False, True] = 0


class ControlUnit(BaseModel):
    """A unit of the web UI's extension for ControlNets."""

    model_config = ConfigDict(extra="allow")

    enabled: bool = True
    image: Any = None
    model: Annotated[str, Field(max_length=200)] = "None"
    module: Annotated[str, Field(max_length=100)] = "none"
    weight: float = Field(1.0, ge=0, le=10)


class Drawn(BaseModel):
    """Pictures."""

    images: list[str] = Field(description="PNG files in base64.")
    parameters: dict[str, Any] = Field(description="What was sent, without pictures.")
    info: str = Field(description="How they were made, as JSON in a text.")


class ProgressState(BaseModel):
    """Where the web UI's work stands."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str
    job_count: int
    job_timestamp: str
    job_no: int
    sampling_step: int
    sampling_steps: int


class Progress(BaseModel):
    """How far the job is that is drawn now."""

    progress: float
    eta_relative: float = Field(description="Seconds to go; 0 where nobody knows.")
    state: ProgressState
    current_image: str | None = Field(description="A preview, in base64.")
    textinfo: str | None = None


class PngInfoRequest(BaseModel):
    """A picture."""

    image: Picture


class PngInfo(BaseModel):
    """What a picture says."""

    info: str
    items: dict[str, Any]
    parameters: dict[str, Any]

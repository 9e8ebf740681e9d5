"""Does a model draw with a bridge on this machine? One check a question, in order of cost."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.drawing import draw
from bridge_diffusion.generation.loading import (
    DTYPES,
    OpenedModel,
    choose_device,
    choose_dtype,
    load_bridge,
    load_pipeline,
    place,
)
from bridge_diffusion.generation.request import NO_BRIDGE, GenerationRequest
from bridge_diffusion.generation.sources import (
    check_families,
    display_name,
    locate_bridge,
    locate_model,
)
from bridge_diffusion.identify import Identity
from bridge_diffusion.images.metadata import encode_image
from bridge_diffusion.images.writing import file_stem, write_numbered

if TYPE_CHECKING:
    from bridge_diffusion.bridge import Bridge

Outcome = Literal["passed", "warning", "failed", "skipped"]
_MANY_UNKNOWN = 0.5  # share of a prompt's tokens
_GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """The answer to one question."""

    name: str
    """What was looked at."""
    outcome: Outcome
    """"skipped" where an earlier failure leaves nothing to look at."""
    message: str
    """What was found and, where it is not right, what to do."""


class _Note(Exception):
    """Something that works but should be known."""


def examine(request: GenerationRequest, out: Path | None = None) -> Iterator[Check]:
    """Check a request's model and bridge step by step, giving each answer as it is known.

    Args:
        out: Folder for the picture of the last check; None saves none.

    Raises:
        BridgeError: The request asks for no bridge.
    """
    if request.bridge == NO_BRIDGE:
        raise BridgeError("bdm doctor checks a bridge; give --bridge")
    examination = _Examination(request, out)
    failed = ""
    for name, question in examination.questions():
        if failed:
            yield Check(name=name, outcome="skipped", message=f"needs {failed} to pass")
            continue
        outcome: Outcome = "passed"
        try:
            message = question()
        except _Note as note:
            outcome, message = "warning", str(note)
        except BridgeError as error:
            outcome, message, failed = "failed", str(error), name
        yield Check(name=name, outcome=outcome, message=" ".join(message.split()))


class _Examination:
    """The questions, and what the earlier ones have loaded for the later ones."""

    pipe: Any
    bridge: "Bridge"
    model: Identity | None
    source: Identity | str

    def __init__(self, request: GenerationRequest, out: Path | None) -> None:
        self.request = request
        self.out = out

    def questions(self) -> list[tuple[str, Callable[[], str]]]:
        """Each check's name and the function that answers it."""
        return [
            ("device", self.device_is_there),
            ("files", self.files_are_there),
            ("family", self.families_agree),
            ("model weights", self.model_loads),
            ("bridge weights", self.bridge_loads),
            ("fit", self.bridge_fits),
            ("text", self.text_is_encoded),
            ("scheduler", self.scheduler_is_known),
            ("forward", self.forward_is_finite),
            ("picture", self.picture_is_drawn),
            ("memory", self.memory_is_enough),
        ]

    def device_is_there(self) -> str:
        self.device = choose_device(self.request.device)
        self.dtype = choose_dtype(self.request.dtype, self.device)
        name = torch.cuda.get_device_name(self.device) if self.device.startswith("cuda") else ""
        return f"{self.device} {name}".strip() + f", numbers in {self.dtype}"

    def files_are_there(self) -> str:
        self.model = locate_model(self.request.model)
        source = locate_bridge(self.request.bridge)
        assert source is not None
        self.source = source
        model = self.model.kind if self.model else "from the hub"
        bridge = source.kind if isinstance(source, Identity) else "from the hub"
        return f"the model is a {model}, the bridge is a {bridge}"

    def families_agree(self) -> str:
        check_families(self.model, self.source)
        if self.model is None or self.model.family is None:
            raise _Note("not known before the weights are loaded")
        return f"both are {self.model.family_name}"

    def model_loads(self) -> str:
        self.pipe = load_pipeline(
            self.model or str(self.request.model),
            dtype=DTYPES[self.dtype],
            safety_checker=self.request.safety_checker,
        )
        for name in ("unet", "vae", "text_encoder"):
            _check_finite(name, getattr(self.pipe, name))
        return f"{_count(self.pipe.unet)} in the UNet, none missing, all finite"

    def bridge_loads(self) -> str:
        self.bridge = load_bridge(self.source, self.request.text_encoder, DTYPES[self.dtype])
        _check_finite("branch", self.bridge.branch)
        _check_finite("native text encoder", self.bridge.text_encoder.model)
        config = self.bridge.config
        languages = ", ".join(config.languages) or "unknown"
        return (
            f"{_count(self.bridge.branch)} in the branch, every key in its place, all finite; "
            f"format {config.format_version}, languages {languages}, licence {config.licence}"
        )

    def bridge_fits(self) -> str:
        self.bridge.attach(self.pipe)
        place(self.pipe, self.bridge, self.device, self.request.offload)
        return f"attached; the branch reads text of width {self.bridge.config.native_width}"

    def text_is_encoded(self) -> str:
        encoder = self.bridge.text_encoder
        embeddings = encoder.encode([self.request.prompt, ""])
        if not torch.isfinite(embeddings.hidden).all():
            raise BridgeError("the native text encoder gives NaN; try --dtype fp32")
        ids = encoder.tokenizer(self.request.prompt, add_special_tokens=False).input_ids
        unknown = ids.count(encoder.tokenizer.unk_token_id) / max(len(ids), 1)
        if unknown >= _MANY_UNKNOWN:
            raise _Note(
                f"{unknown:.0%} of the tokens of {self.request.prompt!r} are unknown to the "
                "tokenizer; give a --prompt in the bridge's language, or the right --text-encoder"
            )
        encoding = encoder.encoding
        return (
            f"{encoding.family}, {len(ids)} tokens in {self.request.prompt!r}; padding "
            f"{'masked' if encoding.padding_mask else 'attended to'}, special ids of the "
            f"{encoding.special_ids}, weights {encoding.weights}"
        )

    def scheduler_is_known(self) -> str:
        expected, config = self.bridge.config.scheduler, self.pipe.scheduler.config
        other = [f"{k}={v}" for k, v in expected.items() if config.get(k) != v]
        if other:
            raise _Note(
                f"the bridge expects {', '.join(other)} of DPM-Solver++, the model's own scheduler "
                "has other settings; bdm generate sets them, in Python use bridge.scheduler_for"
            )
        return f"{type(self.pipe.scheduler).__name__} has what the bridge expects"

    @torch.no_grad()
    def forward_is_finite(self) -> str:
        effect = self._noise_prediction(1.0)
        plain = self._noise_prediction(0.0)
        for what, prediction in (("without", plain), ("with", effect)):
            if not torch.isfinite(prediction).all():
                raise BridgeError(
                    f"the UNet gives NaN {what} the bridge in {self.dtype}; try --dtype fp32"
                    + (" or bf16" if self.dtype == "fp16" else "")
                )
        change = float((effect - plain).norm() / plain.norm())
        if change == 0.0:
            raise _Note("the bridge changes nothing: its branch is untrained")
        return f"finite; the bridge changes the noise prediction by {change:.1%}"

    def _noise_prediction(self, scale: float) -> torch.Tensor:
        """The UNet's answer to fixed noise at the middle of the noise schedule, in float32."""
        prompt = self.bridge.prompt(self.request.prompt, scale=scale)
        unet, device = self.pipe.unet, self.pipe._execution_device
        size = unet.config.sample_size
        shape = (1, unet.config.in_channels, *((size, size) if isinstance(size, int) else size))
        generator = torch.Generator("cpu").manual_seed(0)
        sample = torch.randn(shape, generator=generator).to(device, DTYPES[self.dtype])
        timestep = self.pipe.scheduler.config.num_train_timesteps // 2
        call: dict[str, Any] = {"encoder_hidden_states": prompt["prompt_embeds"].to(device)}
        if "pooled_prompt_embeds" in prompt:  # SDXL
            pixels = self.pipe.default_sample_size * self.pipe.vae_scale_factor
            time_ids = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]], device=device)
            pooled = prompt["pooled_prompt_embeds"].to(device)
            call["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": time_ids}
        return unet(sample, timestep, **call).sample.float().cpu()

    def picture_is_drawn(self) -> str:
        opened = OpenedModel(
            pipe=self.pipe,
            bridge=self.bridge,
            model_name=display_name(self.model, self.request.model),
            model_hash="",
            bridge_name=display_name(self.source, self.request.bridge),
            bridge_hash="",
            device=self.device,
            dtype=self.dtype,
        )
        self.pipe.set_progress_bar_config(disable=True)
        begin = time.perf_counter()
        (drawing,) = draw(opened, replace(self.request, n=1))
        seconds = time.perf_counter() - begin
        where = ""
        if self.out is not None:
            data = encode_image(drawing.image, ".png", drawing.metadata)
            path = write_numbered(data, self.out, file_stem(self.request.prompt), ".png")
            where = f" in {path}"
        if drawing.blacked_out:
            raise _Note(f"the model's safety checker blacked the picture out{where}")
        if np.asarray(drawing.image).std() == 0:
            raise BridgeError(f"the picture has one colour{where}; try --dtype fp32")
        width, height = drawing.image.size
        return f"{width}x{height}, {self.request.steps} steps in {seconds:.1f} s{where}"

    def memory_is_enough(self) -> str:
        if self.device.startswith("cuda"):
            peak = torch.cuda.max_memory_reserved(self.device)
            total = torch.cuda.get_device_properties(self.device).total_memory
            return f"at most {peak / _GIB:.1f} of {total / _GIB:.1f} GiB of the GPU were in use"
        try:
            import resource
        except ImportError:  # Windows
            raise _Note("cannot be measured on this system") from None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
        return f"at most {peak / _GIB:.1f} GiB were in use"


def _check_finite(name: str, module: torch.nn.Module) -> None:
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BridgeError(
                f"the weights of the {name} hold NaN or infinity (first {key}); get the file "
                "again, or use --dtype fp32 or bf16 if they overflow in fp16"
            )


def _count(module: torch.nn.Module) -> str:
    tensors = module.state_dict()
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return f"{len(tensors)} tensors ({parameters / 1e6:.1f} M numbers)"

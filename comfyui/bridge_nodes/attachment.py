"""A bridge on a ComfyUI model: the branch runs beside each call of the model."""

import logging
from dataclasses import dataclass
from typing import Any

import comfy.model_sampling
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from bridge_diffusion import BridgeConfig, BridgeError

from .conditioning import NativeRows
from .fit import check_fits, check_prediction
from .loading import LoadedBridge
from .residuals import add_to_control

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Acting:
    """How strongly and when a bridge acts."""

    strength: float = 1.0
    """What the branch's residuals are multiplied by."""
    start: float = 0.0
    """Where in the noise schedule it begins, as for ComfyUI's ControlNets: 0.0 is pure noise."""
    end: float = 1.0
    """Where it stops: 1.0 is the finished picture."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise BridgeError(
                f"start_percent is {self.start} and end_percent {self.end}: both must lie between "
                "0.0 and 1.0, the start first"
            )

    def is_on(self, sampling: Any, sigma: Tensor) -> bool:
        """Whether the bridge acts at this noise level. Every row of a call has the same."""
        if (self.start, self.end) == (0.0, 1.0):
            return True
        first, last = sampling.percent_to_sigma(self.start), sampling.percent_to_sigma(self.end)
        return bool(last <= sigma[0] <= first)


class AttachedBridge:
    """What ComfyUI calls instead of the model: adds the branch's residuals to the call.

    A call without native text for this bridge goes to the model as it is.
    """

    def __init__(self, loaded: LoadedBridge, acting: Acting) -> None:
        self.loaded = loaded
        self.acting = acting
        self._told = False

    def __call__(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None = None,
        c_crossattn: Tensor | None = None,
        control: dict[str, list[Tensor | None]] | None = None,
        transformer_options: dict[str, Any] | None = None,
        **conditions: Any,
    ) -> Tensor:
        """Noisy latents `x` at noise levels `t` => the model's answer, as `BaseModel.apply_model`.

        Any further conditions of the model, such as SDXL's "y", are handed on.
        """
        model = executor.class_obj
        rows = conditions.pop(self.loaded.key, None)
        if rows is None:
            self._tell_once()
        elif self.acting.strength != 0.0 and self.acting.is_on(model.model_sampling, t):
            check_prediction(predicted_by(model.model_sampling), self.loaded.bridge.config)
            down, mid = self._residuals(model, x, t, rows, conditions.get("y"))
            control = add_to_control(control, down, mid)
        return executor(
            x, t, c_concat, c_crossattn, control, transformer_options or {}, **conditions
        )

    def _residuals(
        self, model: Any, x: Tensor, t: Tensor, rows: NativeRows, y: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """The branch sees what the UNet sees: scaled latents, and timesteps instead of sigmas."""
        native, branch = rows.embeddings, self.loaded.bridge.branch
        if len(native.hidden) != len(x):
            raise BridgeError(
                f"a call of the model has {len(x)} latents and native text for "
                f"{len(native.hidden)}: a node between splits latents and leaves the text whole, "
                "as some for tiles do; leave that node out"
            )
        sample = model.model_sampling.calculate_input(t, x)[:, : branch.config.in_channels]
        pooled = None if native.pooled is None else native.pooled.to(x.device, branch.dtype)
        down, mid = branch(
            sample.to(branch.dtype),
            model.model_sampling.timestep(t).float(),
            native.hidden.to(x.device, branch.dtype),
            encoder_attention_mask=None if bool(native.mask.all()) else native.mask.to(x.device),
            pooled=pooled,
            time_ids=None if pooled is None or y is None else _sizes(y, branch.config),
            scale=self.acting.strength,
        )
        if not bool(torch.isfinite(mid).all()):
            raise BridgeError(
                f"the branch gave NaN or infinity in {branch.dtype}: choose another dtype in Load "
                "Bridge, or check its weights with `bdm doctor`"
            )
        dtype = model.manual_cast_dtype or model.get_dtype()
        return [residual.to(dtype) for residual in down], mid.to(dtype)

    def _tell_once(self) -> None:
        if not self._told:
            log.warning(
                "a conditioning has no native text for the bridge %r: the checkpoint draws it "
                "alone. Encode the negative prompt with Native Prompt, too, even an empty one",
                self.loaded.name,
            )
            self._told = True


def attach(model: Any, loaded: LoadedBridge, acting: Acting) -> Any:
    """A clone of a MODEL on which the bridge acts; ComfyUI loads the branch along with it.

    Raises `BridgeError` for a model that the bridge does not fit, or that has it already.
    """
    check_model(model, loaded.bridge.branch.config, loaded.bridge.config)
    kind = WrappersMP.APPLY_MODEL
    if model.get_wrappers(kind, loaded.key):
        raise BridgeError(
            f"the model has the bridge {loaded.name!r} already: use one Apply Bridge for it"
        )
    attached = model.clone()
    attached.add_wrapper_with_key(kind, loaded.key, AttachedBridge(loaded, acting))
    attached.set_additional_models(loaded.key, [loaded.branch_patcher])
    return attached


def check_model(model: Any, branch: Any, config: BridgeConfig) -> None:
    """Raises `BridgeError` for a MODEL of another family or another prediction."""
    check_fits(model.model.model_config.unet_config, branch, config)
    check_prediction(predicted_by(model.get_model_object("model_sampling")), config)


def predicted_by(sampling: Any) -> str:
    """What a model predicts, in diffusers' words."""
    if isinstance(sampling, comfy.model_sampling.V_PREDICTION):
        return "v_prediction"
    if isinstance(sampling, comfy.model_sampling.X0):
        return "sample"
    return "epsilon" if isinstance(sampling, comfy.model_sampling.EPS) else type(sampling).__name__


def _sizes(y: Tensor, branch: Any) -> Tensor:
    """The sines and cosines of SDXL's six size numbers: what follows the pooled English in `y`."""
    return y[:, -6 * branch.addition_time_embed_dim :]

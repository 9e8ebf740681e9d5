"""What a client orders: the fields of `GenerationRequest`, with names in the place of paths."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.request import (
    LARGEST_SEED,
    GenerationRequest,
    SchedulerName,
    one_control_as_lists,
)
from bridge_diffusion.plugins.naming import take_tags
from bridge_diffusion.server.catalog import Catalog
from bridge_diffusion.server.settings import ServerSettings
from bridge_diffusion.server.uploads import UploadStore

Priority = Literal["low", "normal", "high"]
PRIORITIES: dict[Priority, int] = {"low": -1, "normal": 0, "high": 1}
Text = Annotated[str, Field(max_length=100_000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
UploadId = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_PICTURES = ("init_image", "mask", "ip_image")
_SIZED_PLUGINS = ("lora", "embedding", "control_net", "control", "control_scale")


class Order(BaseModel):
    """One order of pictures. The bridge reads `prompt`; the backbone reads `english`."""

    model_config = ConfigDict(extra="forbid")

    prompt: Text = Field(description="What to draw, in the bridge's language.")
    english: Text = Field("", description="What the backbone reads beside it, in English.")
    negative: Text = Field("", description="What to keep out, in the bridge's language.")
    negative_english: Text = Field("", description="What to keep out, in English.")
    model: Name | None = Field(None, description="Of /api/models; the emoji world if absent.")
    bridge: Name | None = Field(None, description='One of the model\'s bridges, or "none".')
    scale: float = Field(1.0, ge=-10, le=10, description="How strongly the bridge acts.")
    start: float = Field(0.0, ge=0, le=1, description="When it begins to act, in steps' fractions.")
    end: float = Field(1.0, ge=0, le=1, description="When it ceases to act, in steps' fractions.")
    seed: int | None = Field(
        None, ge=0, le=LARGEST_SEED, description="Of the first picture; drawn if absent."
    )
    n: int = Field(1, ge=1, description="How many pictures, with seeds that count up.")
    steps: int = Field(30, ge=1, description="Denoising steps of a picture.")
    guidance: float = Field(5.0, ge=0, le=1000, description="Classifier-free guidance scale.")
    scheduler: SchedulerName = Field("dpm++", description="The sampler.")
    size: tuple[int, int] | None = Field(
        None, description="Width and height in pixels; the model's own if absent."
    )
    init_image: UploadId | None = Field(None, description="An upload to start from.")
    strength: float = Field(0.8, ge=0, le=1, description="How far to leave it: 1 redraws it.")
    mask: UploadId | None = Field(None, description="An upload, white where it is redrawn.")
    lora: list[Name] = Field([], description='English LoRAs by name, as "style:0.8".')
    embedding: list[Name] = Field([], description="Textual Inversions by name.")
    control_net: list[Name] = Field(
        [], description="ControlNets, or T2I-Adapters, by name; one may stand without a list."
    )
    control: list[UploadId] = Field([], description="The upload that each of them follows.")
    control_scale: list[Annotated[float, Field(ge=0, le=10)]] = Field(
        [], description="How strongly each of them acts; 1 if absent."
    )
    ip_adapter: Name | None = Field(None, description="An IP-Adapter by name.")
    ip_image: UploadId | None = Field(None, description="The upload that it takes as a prompt.")
    ip_scale: float = Field(1.0, ge=-10, le=10, description="How strongly it acts.")
    vae: Name | None = Field(None, description="Another autoencoder by name.")

    @model_validator(mode="before")
    @classmethod
    def _read_one_control(cls, values: Any) -> Any:
        """Orders of earlier versions have one ControlNet, by itself."""
        return one_control_as_lists(values) if isinstance(values, dict) else values


def make_order(**values: Any) -> Order:
    """An order of checked fields. Raises `BridgeError` for a value that is not allowed."""
    try:
        return Order.model_validate(values)
    except ValidationError as error:
        raise validation_error(error.errors()) from error


def validation_line(errors: Any) -> str:
    """The first of pydantic's errors as one line: where, and what is allowed there."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    message = " ".join(str(first["msg"]).split())
    return f"{place}: {message}" if place else message


# Pydantic's kinds of errors, and where their context has the limit.
_LIMITS = {
    "less_than_equal": ("too_large", "most", "le"),
    "greater_than_equal": ("too_small", "least", "ge"),
    "string_too_long": ("too_long", "most", "max_length"),
}


def validation_error(errors: Any) -> BridgeError:
    """The first of pydantic's errors, told of the order's field that it is about."""
    first = errors[0]
    field = next((part for part in first["loc"] if part in Order.model_fields), "")
    code, name, limit = _LIMITS.get(first["type"], ("invalid_value", "", ""))
    values = {name: first["ctx"][limit]} if name else {}
    return BridgeError(validation_line(errors), code if field else "", field=field, **values)


class OrderDesk:
    """Turns orders into requests, and refuses what goes beyond the limits."""

    def __init__(self, settings: ServerSettings, catalog: Catalog, uploads: UploadStore) -> None:
        self._settings = settings
        self._catalog = catalog
        self._uploads = uploads

    def request(self, order: Order) -> GenerationRequest:
        """The request that an order means, with the paths of what it names.

        Raises:
            BridgeError: A name is unknown, a limit is exceeded, or fields do not go together.
        """
        self._check_limits(order)
        model = self._catalog.model(order.model)
        bridge = self._catalog.bridge(order.bridge, model)
        self._catalog.check_tags(model, order.prompt, order.english)
        entry = self._catalog.bridges.get(bridge)
        values: dict[str, Any] = order.model_dump() | {
            "model": model.source,
            "bridge": bridge if entry is None else entry.source,
        }
        for name in _PICTURES:
            if values[name] is not None:
                values[name] = self._uploads.path(values[name], field=name)
        values["control"] = [
            str(self._uploads.path(each, field="control")) for each in order.control
        ]
        for name in ("ip_adapter", "vae"):
            if values[name] is not None:
                values[name] = str(self._catalog.plugin_path(values[name], name, model))
        for name in ("control_net", "embedding"):
            values[name] = [
                str(self._catalog.plugin_path(each, name, model)) for each in values[name]
            ]
        values["lora"] = [self._catalog.lora(each, model) for each in order.lora]
        request = GenerationRequest.from_json(values)
        return replace(
            request,
            text_encoder=None if entry is None or entry.of_world else self._settings.text_encoder,
            plugins=self._settings.plugins,
            dtype=self._settings.dtype,
            offload=self._settings.offload,
            safety_checker=self._settings.safety_checker,
        )

    def _check_limits(self, order: Order) -> None:
        limits = self._settings.limits
        for name in ("prompt", "english", "negative", "negative_english"):
            if (length := len(getattr(order, name))) > limits.text:
                raise BridgeError(
                    f"{name} has {length} characters; at most {limits.text}",
                    "too_long",
                    field=name,
                    most=limits.text,
                )
        for name in _SIZED_PLUGINS:
            if (count := len(getattr(order, name))) > limits.plugins:
                raise BridgeError(
                    f"{name} names {count} plug-ins; at most {limits.plugins}",
                    "too_many",
                    field=name,
                    most=limits.plugins,
                )
        tags = len(take_tags(order.prompt)[1]) + len(take_tags(order.english)[1])
        if tags > limits.plugins:
            raise BridgeError(
                f"the prompts name {tags} LoRAs; at most {limits.plugins}",
                "too_many",
                field="lora",
                most=limits.plugins,
            )
        for field, name, value, most in (
            ("steps", "steps", order.steps, limits.steps),
            ("n", "n", order.n, limits.pictures),
            ("size", "a side of size", max(order.size or (1, 1)), limits.side),
        ):
            if value > most:
                raise BridgeError(
                    f"{name} is {value}; this server allows at most {most}",
                    "too_large",
                    field=field,
                    most=most,
                )
        # Where no size is given, the initial picture's counts.
        if order.size is None and order.init_image is not None:
            size = self._uploads.size(order.init_image, field="init_image")
            if max(size) > limits.side:
                raise BridgeError(
                    f"the initial picture is {size[0]}x{size[1]}; give a size of at most "
                    f"{limits.side} pixels a side",
                    "initial_too_large",
                    field="size",
                    size=f"{size[0]}x{size[1]}",
                    most=limits.side,
                )

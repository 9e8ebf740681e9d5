"""OpenAI's interface for pictures, under /v1, with fields of our own beside its own."""

import base64
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Path, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.request import LARGEST_SEED, SchedulerName, parse_size
from bridge_diffusion.server.errors import OPENAI_PROBLEMS
from bridge_diffusion.server.gallery import Picture
from bridge_diffusion.server.jobs import Job
from bridge_diffusion.server.orders import Name, Order, Text, make_order
from bridge_diffusion.server.pictures import in_format
from bridge_diffusion.server.service import Service

_OWNER = "bridge-diffusion"
_FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
Count = Annotated[int, Field(ge=1, le=1000)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class ImageRequest(BaseModel):
    """OpenAI's fields that have a meaning here, and ours. Without `native_prompt`, the bridge reads
    `prompt`; with it, the bridge reads that and the backbone reads `prompt`."""

    model_config = ConfigDict(extra="forbid")

    prompt: Text
    model: Name | None = None
    n: Count | None = 1
    size: Annotated[str, Field(max_length=20)] | None = Field(
        None, description='"256x256", or "auto" for the model\'s own.'
    )
    response_format: Literal["b64_json", "url"] | None = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] | None = "png"
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = Field(None, description="Has no effect.")
    user: Annotated[str, Field(max_length=1000)] | None = Field(None, description="Not kept.")
    stream: Literal[False] | None = None
    native_prompt: Text | None = None
    negative: Text = ""
    negative_english: Text = ""
    seed: Seed | None = None
    steps: Annotated[int, Field(ge=1)] = 30
    guidance: Annotated[float, Field(ge=0, le=1000)] = 5.0
    scheduler: SchedulerName = "dpm++"
    bridge: Name | None = None
    bridge_scale: Annotated[float, Field(ge=-10, le=10)] = 1.0
    lora: list[Name] = []

    def order(self, **values: Any) -> Order:
        """The order that it means."""
        native = self.native_prompt is not None
        size = None if self.size in (None, "auto") else parse_size(str(self.size))
        return make_order(
            prompt=str(self.native_prompt) if native else self.prompt,
            english=self.prompt if native else "",
            negative=self.negative,
            negative_english=self.negative_english,
            model=self.model,
            bridge=self.bridge,
            scale=self.bridge_scale,
            seed=self.seed,
            n=self.n or 1,
            steps=self.steps,
            guidance=self.guidance,
            scheduler=self.scheduler,
            size=size,
            lora=self.lora,
            **values,
        )


class EditRequest(ImageRequest):
    """As `ImageRequest`, with pictures: a form with files."""

    image: UploadFile | None = None
    images: list[UploadFile] = Field([], alias="image[]", description="One picture.")
    mask: UploadFile | None = None
    strength: Annotated[float, Field(ge=0, le=1)] = Field(
        0.8, description="How far to leave the picture: 1 redraws it."
    )

    def picture(self) -> UploadFile:
        """The one picture to start from. Raises `BridgeError` for none or several."""
        given = [*self.images, *([self.image] if self.image is not None else [])]
        if len(given) != 1:
            raise BridgeError(f"got {len(given)} pictures as image; give one to start from")
        return given[0]


class ModelObject(BaseModel):
    """A model as OpenAI's clients know it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = _OWNER
    bridges: list[str] = Field(description="Names for the field `bridge`.")


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ImageObject(BaseModel):
    """A picture."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    id: str = Field(description="Of the native interface.")
    seed: int


class ImageResponse(BaseModel):
    """Pictures."""

    created: int
    data: list[ImageObject]
    output_format: str
    size: str


def openai_router(service: Service) -> APIRouter:
    """The routes of OpenAI's interface."""
    router = APIRouter(prefix="/v1", tags=["openai"], responses=OPENAI_PROBLEMS)
    _add_models(router, service)
    _add_images(router, service)
    return router


def _add_models(router: APIRouter, service: Service) -> None:
    models = service.catalog.models

    @router.get("/models")
    def all_models() -> ModelList:
        """The backbones."""
        return ModelList(data=[one_model(name) for name in models])

    @router.get("/models/{name:path}")
    def one_model(name: Annotated[str, Path(max_length=200)]) -> ModelObject:
        """A backbone."""
        _check_model(service, name)
        return ModelObject(id=name, bridges=list(models[name].bridges))


def _add_images(router: APIRouter, service: Service) -> None:
    @router.post("/images/generations")
    async def generate(asked: ImageRequest, request: Request) -> ImageResponse:
        """Draw pictures from a prompt."""
        _check_model(service, asked.model)
        job, pictures = await service.draw(request, asked.order(), "openai")
        return await run_in_threadpool(_response, service, request, asked, job, pictures)

    @router.post("/images/edits")
    async def edit(
        request: Request,
        asked: Annotated[EditRequest, Form(media_type="multipart/form-data")],
    ) -> ImageResponse:
        """Draw anew: where the mask, else the picture itself, is transparent; else all of it."""
        _check_model(service, asked.model)
        order = await run_in_threadpool(_edit_order, service, asked)
        job, pictures = await service.draw(request, order, "openai")
        return await run_in_threadpool(_response, service, request, asked, job, pictures)


def _edit_order(service: Service, asked: EditRequest) -> Order:
    """The order of an edit, with its pictures uploaded."""
    uploads = service.uploads
    data = asked.picture().file.read()
    if asked.mask is None:
        mask = uploads.add_mask(data)
    elif (mask := uploads.add_mask(asked.mask.file.read())) is None:
        raise BridgeError("the mask has no transparent part; it is transparent where to draw anew")
    return asked.order(init_image=uploads.add(data), mask=mask, strength=asked.strength)


def _check_model(service: Service, name: str | None) -> None:
    if name is not None and name not in service.catalog.models:
        known = ", ".join(service.catalog.models)
        raise HTTPException(404, f"the model {name!r} does not exist; there are: {known}")


def _response(
    service: Service, request: Request, asked: ImageRequest, job: Job, pictures: list[Picture]
) -> ImageResponse:
    output = asked.output_format or "png"
    by_url = asked.response_format == "url"
    if by_url and output != "png":
        raise BridgeError("response_format url gives PNG; ask for b64_json, or for png")
    data = []
    for picture in pictures:
        image = ImageObject(id=picture.id, seed=picture.seed)
        if by_url:
            image.url = str(request.base_url.replace(path=f"/api/pictures/{picture.id}.png"))
        else:
            file = in_format(service.gallery.file(picture.id), _FORMATS[output])
            image.b64_json = base64.b64encode(file).decode()
        data.append(image)
    size = f"{pictures[0].width}x{pictures[0].height}"
    return ImageResponse(created=int(job.created), data=data, output_format=output, size=size)

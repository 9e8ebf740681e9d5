"""The interface of AUTOMATIC1111's web UI, under /sdapi/v1, as far as it has a meaning here."""

import base64
import binascii
import io
import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.schedulers import infotext_name
from bridge_diffusion.images.metadata import read_metadata
from bridge_diffusion.server.errors import PROBLEMS
from bridge_diffusion.server.gallery import Gallery, Picture
from bridge_diffusion.server.interfaces.a1111_lists import add_lists
from bridge_diffusion.server.interfaces.a1111_schemas import (
    ControlUnit,
    Drawing,
    DrawingFromPicture,
    Drawn,
    PngInfo,
    PngInfoRequest,
    Progress,
    ProgressState,
)
from bridge_diffusion.server.jobs import Job, now
from bridge_diffusion.server.options import Options
from bridge_diffusion.server.orders import Order, validation_line
from bridge_diffusion.server.pictures import picture_info
from bridge_diffusion.server.service import Service

CHECKPOINT = "sd_model_checkpoint"
BRIDGE = "bdm_bridge"
_PICTURES = ("init_images", "mask", "alwayson_scripts")


def a1111_router(service: Service) -> APIRouter:
    """The routes of the web UI's interface."""
    router = APIRouter(prefix="/sdapi/v1", tags=["a1111"], responses=PROBLEMS)
    options = Options(service.database)
    _add_drawing(router, service, options)
    _add_progress(router, service)
    _add_options(router, service, options)
    add_lists(router, service.catalog)
    return router


def _add_drawing(router: APIRouter, service: Service, options: Options) -> None:
    uploads = service.uploads

    def order_of(asked: Drawing, **values: Any) -> Order:
        asked.check_rest()
        overridden = {CHECKPOINT: options.get(CHECKPOINT), BRIDGE: options.get(BRIDGE)}
        for name, value in asked.override_settings.items():
            overridden[name] = check_option(service, name, value)
        model, bridge = overridden[CHECKPOINT], overridden[BRIDGE]
        if bridge is not None and bridge not in service.catalog.model(model).bridges:
            bridge = None  # the chosen bridge is of another model
        return asked.order(model=model, bridge=bridge, **values, **controls(service, asked))

    def order_from_picture(asked: DrawingFromPicture) -> Order:
        invert = bool(asked.inpainting_mask_invert)
        mask = None if asked.mask is None else decoded(asked.mask)
        return order_of(
            asked,
            init_image=uploads.add(decoded(asked.init_images[0])),
            mask=None if mask is None else uploads.add(mask, invert=invert),
            strength=asked.denoising_strength,
        )

    async def draw(request: Request, asked: Drawing, order: Order) -> Drawn:
        job, pictures = await service.draw(request, order, "a1111")
        return await run_in_threadpool(_drawn, service.gallery, asked, job, pictures)

    @router.post("/txt2img")
    async def txt2img(asked: Drawing, request: Request) -> Drawn:
        """Draw pictures from a prompt."""
        return await draw(request, asked, await run_in_threadpool(order_of, asked))

    @router.post("/img2img")
    async def img2img(asked: DrawingFromPicture, request: Request) -> Drawn:
        """Draw a picture anew, all of it or where a mask is white."""
        return await draw(request, asked, await run_in_threadpool(order_from_picture, asked))

    @router.post("/png-info")
    def png_info(asked: PngInfoRequest) -> PngInfo:
        """What a picture says about how it was made."""
        info = picture_info(decoded(asked.image), service.settings.limits.upload_pixels)
        parameters: dict[str, Any] = dict(info.parameters)
        if info.infotext is not None:
            parameters |= {"Prompt": info.prompt, "Negative prompt": info.negative_prompt}
        items = {} if info.infotext is None else {"parameters": info.infotext}
        return PngInfo(info=info.infotext or "", items=items, parameters=parameters)


def _add_progress(router: APIRouter, service: Service) -> None:
    def jobs() -> list[Job]:
        return [job for job in service.queue.live() if job.interface == "a1111"]

    @router.get("/progress")
    def progress(skip_current_image: bool = False) -> Progress:
        """How far the job is that is drawn now, and a preview."""
        waiting = jobs()
        job = next((job for job in waiting if job.state == "running"), None)
        if job is None:
            state = _state("", len(waiting), 0, 0, 0)
            return Progress(progress=0, eta_relative=0, state=state, current_image=None)
        elapsed = now() - (job.started or now())
        preview = None if skip_current_image or job.preview is None else job.preview
        return Progress(
            progress=job.fraction,
            eta_relative=elapsed * (1 - job.fraction) / job.fraction if job.fraction else 0,
            state=_state(job.id, len(waiting), job.finished, job.step, job.steps),
            current_image=preview and preview.partition(",")[2],
        )

    @router.post("/interrupt")
    def interrupt() -> dict[str, Any]:
        """Cancel the jobs of this interface that are drawn now; what is finished is given."""
        for job in jobs():
            if job.state == "running":
                service.queue.cancel(job.id)
        return {}

    @router.post("/skip")
    def skip() -> dict[str, Any]:
        """As interrupt."""
        return interrupt()


def _add_options(router: APIRouter, service: Service, options: Options) -> None:
    @router.get("/options")
    def get_options() -> dict[str, str | int]:
        """What can be set, and what does not change."""
        model = service.catalog.model(options.get(CHECKPOINT))
        bridge = options.get(BRIDGE)
        return {
            CHECKPOINT: model.name,
            BRIDGE: bridge if bridge in model.bridges and bridge else model.bridges[0],
            "sd_vae": "Automatic",
            "CLIP_stop_at_last_layers": 1,
            "samples_format": "png",
        }

    @router.post("/options")
    def set_options(values: dict[str, Any]) -> None:
        """Choose the model (sd_model_checkpoint) and the bridge (bdm_bridge) of this interface."""
        checked = {name: check_option(service, name, value) for name, value in values.items()}
        for name, value in checked.items():
            if value is not None:
                options.set(name, value)


def check_option(service: Service, name: str, value: Any) -> str | None:
    """An option's value; None where it asks for nothing. Raises `BridgeError` for any other."""
    if name == CHECKPOINT and isinstance(value, str):
        return service.catalog.model(value.partition(" [")[0]).name
    if name == BRIDGE and isinstance(value, str):
        if any(value in model.bridges for model in service.catalog.models.values()):
            return value
        raise BridgeError(f"no bridge {value[:60]!r} here; /api/bridges lists them")
    nothing = {"sd_vae": ("Automatic", None), "CLIP_stop_at_last_layers": (1,)}
    if name in nothing and value in nothing[name]:
        return None
    raise BridgeError(
        f"the option {name[:60]!r} cannot be {str(value)[:60]!r}; {CHECKPOINT} and {BRIDGE} can be "
        "set, to names"
    )


def decoded(text: str) -> bytes:
    """Base64, with or without a data URL's beginning => bytes. Raises `BridgeError`."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BridgeError(f"a picture is no base64 ({error})") from error


def controls(service: Service, asked: Drawing) -> dict[str, Any]:
    """The fields of an order for the units of the web UI's ControlNet extension.

    Raises:
        BridgeError: There are too many, or one asks for what is not here.
    """
    script = next((v for k, v in asked.alwayson_scripts.items() if k.lower() == "controlnet"), None)
    arguments = script.get("args") if isinstance(script, dict) else None
    try:
        units = [ControlUnit.model_validate(unit) for unit in arguments or []]
    except (ValidationError, TypeError) as error:
        line = validation_line(error.errors()) if isinstance(error, ValidationError) else "no list"
        raise BridgeError(f"the ControlNet's units: {line}") from error
    units = [unit for unit in units if unit.enabled and unit.model != "None"]
    if len(units) > (most := service.settings.limits.plugins):
        raise BridgeError(f"got {len(units)} ControlNets; at most {most}")
    pictures = [_followed(unit) for unit in units]
    return {
        "control_net": [unit.model.partition(" [")[0] for unit in units],
        "control": [service.uploads.add(picture) for picture in pictures],
        "control_scale": [unit.weight for unit in units],
    }


def _followed(unit: ControlUnit) -> bytes:
    """The file of the picture that a unit follows. Raises `BridgeError`."""
    if unit.module.lower() not in ("none", ""):
        raise BridgeError(f"the preprocessor {unit.module!r} is not supported; send its result")
    image = unit.image.get("image") if isinstance(unit.image, dict) else unit.image
    if not isinstance(image, str):
        raise BridgeError(f"the ControlNet {unit.model!r} has no picture to follow")
    return decoded(image)


def _drawn(gallery: Gallery, asked: Drawing, job: Job, pictures: list[Picture]) -> Drawn:
    files = [gallery.file(picture.id).read_bytes() for picture in pictures]
    infotexts = [read_metadata(io.BytesIO(file)).infotext or "" for file in files]
    seeds = [picture.seed for picture in pictures]
    first = pictures[0]
    info = {
        "prompt": asked.prompt,
        "all_prompts": [asked.prompt] * len(files),
        "negative_prompt": asked.negative_prompt,
        "all_negative_prompts": [asked.negative_prompt] * len(files),
        "seed": seeds[0],
        "all_seeds": seeds,
        "width": first.width,
        "height": first.height,
        "sampler_name": infotext_name(job.order.scheduler),
        "cfg_scale": job.order.guidance,
        "steps": job.order.steps,
        "batch_size": asked.batch_size,
        "sd_model_name": job.order.model or "emoji",
        "index_of_first_image": 0,
        "infotexts": infotexts,
        "bdm_job": job.id,
        "bdm_pictures": [picture.id for picture in pictures],
    }
    return Drawn(
        images=[base64.b64encode(file).decode() for file in files] if asked.send_images else [],
        parameters=asked.model_dump(include=type(asked).model_fields.keys() - set(_PICTURES)),
        info=json.dumps(info, ensure_ascii=False),
    )


def _state(job: str, count: int, number: int, step: int, steps: int) -> ProgressState:
    return ProgressState(
        job=job,
        job_count=count,
        job_timestamp="",
        job_no=number,
        sampling_step=step,
        sampling_steps=steps,
    )

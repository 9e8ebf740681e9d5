"""What the native interface answers, as pydantic models, and how they are made."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from bridge_diffusion.server.gallery import Gallery, Picture
from bridge_diffusion.server.jobs import ENDED, Interface, Job, State
from bridge_diffusion.server.orders import Order, Priority
from bridge_diffusion.server.queue import JobQueue


class PictureView(BaseModel):
    """A finished picture."""

    id: str
    job: str
    place: int = Field(description="Its place among the job's pictures, from 0.")
    created: float = Field(description="Seconds since 1970.")
    seed: int
    width: int
    height: int
    blacked_out: bool = Field(description="Whether the safety checker replaced it with black.")
    favourite: bool
    order: Order = Field(description="What draws this picture again, alone.")
    url: str = Field(description="Its PNG file, with its metadata.")
    thumbnail: str = Field(description="A small WebP of it.")
    next: int = Field(description="Give it as `before` to get the pictures that follow.")


class JobView(BaseModel):
    """A job."""

    id: str
    state: State
    position: int | None = Field(description="How many jobs come first, while it is queued.")
    priority: Priority
    group: str | None
    interface: Interface
    created: float = Field(description="Seconds since 1970.")
    started: float | None
    ended: float | None
    error: str | None = Field(description="Why it failed.")
    error_code: str = Field(description="As `code` of a refusal.")
    error_values: dict[str, Any] = Field(description="As `values` of a refusal.")
    notes: list[str] = Field(description="Warnings, such as that a prompt was cut.")
    fraction: float = Field(description="How much is done, 0 to 1.")
    step: int = Field(description="Denoising steps done of the pictures being drawn.")
    steps: int = Field(description="How many these have.")
    preview: str | None = Field(description="The last preview, as a data URL.")
    order: Order
    pictures: list[PictureView]
    next: int = Field(description="Give it as `before` to get the jobs that follow.")


class ModelView(BaseModel):
    """A backbone."""

    name: str
    family: str | None
    size: tuple[int, int] | None = Field(
        description="Width and height of its pictures in pixels where an order gives no size; null "
        "for a hub name, whose files are not here."
    )
    bridges: list[str] = Field(description='Names of its bridges, the default first, "none" last.')
    default: bool


class BridgeView(BaseModel):
    """A bridge."""

    name: str
    family: str | None
    models: list[str]


class PluginView(BaseModel):
    """A plug-in."""

    name: str
    kind: str
    field: str = Field(description="The field of an order that takes it.")
    family: str | None
    details: dict[str, Any]
    of_world: bool = Field(description="Whether it is shipped, and fits the emoji world alone.")


class SchedulerView(BaseModel):
    """A sampler."""

    name: str
    title: str = Field(description="AUTOMATIC1111's name of it.")


class DeviceView(BaseModel):
    """A worker."""

    name: str
    state: Literal["starting", "idle", "drawing", "stopped"]


class LimitsView(BaseModel):
    """The most that may be asked for."""

    side: int
    steps: int
    pictures: int
    text: int
    plugins: int
    body: int
    upload_pixels: int
    jobs_of_client: int
    jobs: int


class StatusView(BaseModel):
    """The server."""

    version: str
    devices: list[DeviceView]
    jobs: int = Field(description="Jobs that wait or are drawn.")
    limits: LimitsView


class UploadView(BaseModel):
    """An uploaded picture."""

    id: str = Field(description="What orders call it: the SHA-256 of what was kept.")
    width: int
    height: int
    url: str


class InfoView(BaseModel):
    """What a picture says about how it was made."""

    infotext: str | None = Field(description="AUTOMATIC1111's text.")
    prompt: str | None
    negative_prompt: str | None
    parameters: dict[str, str]
    order: Order | None = Field(description="The order that draws it again, if it is of bdm.")


def picture_view(picture: Picture) -> PictureView:
    """A picture as it is answered."""
    return PictureView(
        id=picture.id,
        job=picture.job,
        place=picture.place,
        created=picture.created,
        seed=picture.seed,
        width=picture.width,
        height=picture.height,
        blacked_out=picture.blacked_out,
        favourite=picture.favourite,
        order=Order.model_validate(picture.fields),
        url=f"/api/pictures/{picture.id}.png",
        thumbnail=f"/api/pictures/{picture.id}/thumbnail",
        next=picture.number,
    )


def job_view(job: Job, queue: JobQueue, gallery: Gallery) -> JobView:
    """A job as it is answered."""
    pictures = gallery.of_job(job.id)
    fraction = len(pictures) / job.order.n if job.state in ENDED else job.fraction
    return JobView(
        id=job.id,
        state=job.state,
        position=queue.position(job),
        priority=job.priority,
        group=job.group,
        interface=job.interface,
        created=job.created,
        started=job.started,
        ended=job.ended,
        error=job.error,
        error_code=job.error_code,
        error_values=job.error_values,
        notes=job.notes,
        fraction=1.0 if job.state == "done" else fraction,
        step=job.step,
        steps=job.steps,
        preview=job.preview,
        order=job.order,
        pictures=[picture_view(picture) for picture in pictures],
        next=job.number,
    )

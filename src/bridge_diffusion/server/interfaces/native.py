"""Our own interface, under /api: orders, their progress, pictures, and what there is."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field

from bridge_diffusion import __version__
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.generation.schedulers import SCHEDULERS, infotext_name
from bridge_diffusion.server.errors import PROBLEMS, Missing
from bridge_diffusion.server.jobs import ENDED, Job
from bridge_diffusion.server.orders import Order, Priority
from bridge_diffusion.server.pictures import picture_info, thumbnail
from bridge_diffusion.server.service import Service
from bridge_diffusion.server.views import (
    BridgeView,
    DeviceView,
    InfoView,
    JobView,
    LimitsView,
    ModelView,
    PictureView,
    PluginView,
    SchedulerView,
    StatusView,
    UploadView,
    job_view,
    picture_view,
)

JobId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
PictureId = Annotated[str, Path(pattern="^[0-9a-f]{16}-[0-9]{3}$")]
UploadName = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
Before = Annotated[int | None, Query(ge=0, le=2**62)]
Count = Annotated[int, Query(ge=1, le=200)]
GroupName = Annotated[str, Field(min_length=1, max_length=100)]

_PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}, "description": "The picture"}
}


class Submission(BaseModel):
    """An order, and how it is to be queued."""

    model_config = ConfigDict(extra="forbid")

    order: Order
    priority: Priority = "normal"
    group: GroupName | None = Field(None, description="Jobs that belong together, as in a grid.")


class JobChange(BaseModel):
    """What may be changed in a job that has not ended."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority


class PictureChange(BaseModel):
    """What may be changed in a picture."""

    model_config = ConfigDict(extra="forbid")

    favourite: bool


def native_router(service: Service) -> APIRouter:
    """The routes of the native interface."""
    router = APIRouter(prefix="/api", responses=PROBLEMS)
    _add_lists(router, service)
    _add_jobs(router, service)
    _add_streams(router, service)
    _add_pictures(router, service)
    _add_uploads(router, service)
    return router


def _add_lists(router: APIRouter, service: Service) -> None:
    catalog, limits = service.catalog, service.settings.limits

    @router.get("/status", tags=["lists"])
    def status() -> StatusView:
        """The version, the workers, the queue's length and the limits."""
        return StatusView(
            version=__version__,
            devices=[DeviceView(name=d.name, state=d.state) for d in service.devices],
            jobs=len(service.queue.live()),
            limits=LimitsView(**{name: getattr(limits, name) for name in LimitsView.model_fields}),
        )

    @router.get("/models", tags=["lists"])
    def models() -> list[ModelView]:
        """The backbones."""
        default = catalog.model(None)
        return [
            ModelView(
                name=model.name,
                family=model.family,
                size=model.size,
                bridges=list(model.bridges),
                default=model is default,
            )
            for model in catalog.models.values()
        ]

    @router.get("/bridges", tags=["lists"])
    def bridges() -> list[BridgeView]:
        """The bridges."""
        return [
            BridgeView(
                name=bridge.name,
                family=bridge.family,
                models=[m.name for m in catalog.models.values() if bridge.name in m.bridges],
            )
            for bridge in catalog.bridges.values()
        ]

    @router.get("/plugins", tags=["lists"])
    def plugins() -> list[PluginView]:
        """LoRAs, embeddings, ControlNets, IP-Adapters and autoencoders."""
        return [
            PluginView(
                name=plugin.name,
                kind=plugin.kind,
                field=plugin.field,
                family=plugin.family,
                details=dict(plugin.details),
                of_world=plugin.of_world,
            )
            for plugin in catalog.plugins()
        ]

    @router.get("/schedulers", tags=["lists"])
    def schedulers() -> list[SchedulerView]:
        """The samplers."""
        return [SchedulerView(name=name, title=infotext_name(name)) for name in SCHEDULERS]


def _add_jobs(router: APIRouter, service: Service) -> None:
    queue, gallery = service.queue, service.gallery

    def view(job: Job) -> JobView:
        return job_view(job, queue, gallery)

    def known(id: str) -> Job:
        job = queue.get(id)
        if job is None:
            raise Missing(f"no job {id}", "no_job")
        return job

    @router.post("/jobs", status_code=202, tags=["jobs"])
    def submit(submission: Submission, request: Request) -> JobView:
        """Accept an order. Once this is answered, the job outlives the server."""
        job = service.submit(
            request,
            submission.order,
            "native",
            priority=submission.priority,
            group=submission.group,
        )
        return view(job)

    @router.get("/jobs", tags=["jobs"])
    def jobs(
        before: Before = None,
        group: Annotated[str | None, Query(min_length=1, max_length=100)] = None,
        limit: Count = 50,
    ) -> list[JobView]:
        """Jobs, newest first, ended ones too."""
        found = service.jobs.recent(before=before, group=group, limit=limit)
        return [view(queue.get(job.id) or job) for job in found]

    @router.get("/queue", tags=["jobs"])
    def waiting() -> list[JobView]:
        """Jobs that have not ended, in the order in which they are drawn."""
        return [view(job) for job in queue.live()]

    @router.get("/jobs/{id}", tags=["jobs"])
    def job(id: JobId) -> JobView:
        """A job's state."""
        return view(known(id))

    @router.patch("/jobs/{id}", tags=["jobs"])
    def change(id: JobId, change: JobChange) -> JobView:
        """Change the priority of a job that has not ended."""
        job = known(id)
        if not queue.prioritise(id, change.priority):
            raise BridgeError(f"the job has ended ({job.state})", "job_ended")
        return view(known(id))

    @router.delete("/jobs/{id}", tags=["jobs"])
    def cancel(id: JobId) -> JobView:
        """Cancel a job; its finished pictures stay. One that has ended stays as it is."""
        known(id)
        queue.cancel(id)
        return view(known(id))


def _add_streams(router: APIRouter, service: Service) -> None:
    queue = service.queue

    # Dependencies, because a stream that has begun cannot be refused any more.
    def check_room() -> None:
        if service.events.full:
            raise HTTPException(429, "too many streams of events are open; close one first")

    def check_job(id: JobId) -> None:
        if queue.get(id) is None:
            raise Missing(f"no job {id}", "no_job")

    @router.get(
        "/jobs/{id}/events",
        response_class=EventSourceResponse,
        dependencies=[Depends(check_room), Depends(check_job)],
        tags=["jobs"],
    )
    async def events_of_job(id: JobId) -> AsyncIterator[ServerSentEvent]:
        """What happens to a job: first its state, then `progress`, `picture`, at last `ended`."""
        async with service.events.listen(id) as events:
            job = queue.get(id)
            assert job is not None
            has_ended = job.state in ENDED
            view = job_view(job, queue, service.gallery)
            yield ServerSentEvent(event="ended" if has_ended else "job", data=view)
            if has_ended:
                return
            async for event in events:
                if event.kind == "ended":
                    view = job_view(queue.get(id) or job, queue, service.gallery)
                    yield ServerSentEvent(event="ended", data=view)
                    return
                yield ServerSentEvent(event=event.kind, data={"job": event.job, **event.data})

    @router.get(
        "/events",
        response_class=EventSourceResponse,
        dependencies=[Depends(check_room)],
        tags=["jobs"],
    )
    async def events() -> AsyncIterator[ServerSentEvent]:
        """What happens to all jobs, from now on."""
        async with service.events.listen() as events:
            yield ServerSentEvent(event="open", data={"jobs": len(queue.live())})
            async for event in events:
                yield ServerSentEvent(event=event.kind, data={"job": event.job, **event.data})


def _add_pictures(router: APIRouter, service: Service) -> None:
    gallery = service.gallery

    def missing(id: str) -> Missing:
        return Missing(f"no picture {id}", "no_picture")

    @router.get("/pictures", tags=["pictures"])
    def pictures(
        search: Annotated[str, Query(max_length=200)] = "",
        favourite: bool | None = None,
        before: Before = None,
        limit: Count = 50,
    ) -> list[PictureView]:
        """Pictures, newest first, whose prompts hold all words of the search, in any script."""
        found = gallery.find(words=search, favourite=favourite, before=before, limit=limit)
        return [picture_view(picture) for picture in found]

    @router.get(
        "/pictures/{id}.png", response_class=FileResponse, responses=_PNG, tags=["pictures"]
    )
    def file(id: PictureId) -> FileResponse:
        """A picture's file, which says how it was made."""
        if gallery.get(id) is None or not gallery.file(id).is_file():
            raise missing(id)
        return FileResponse(
            gallery.file(id),
            media_type="image/png",
            headers={"Cache-Control": "private, max-age=31536000, immutable"},
        )

    @router.get("/pictures/{id}/thumbnail", response_class=Response, tags=["pictures"])
    def small(id: PictureId) -> Response:
        """A picture of at most 256 pixels a side, as WebP."""
        if gallery.get(id) is None or not gallery.file(id).is_file():
            raise missing(id)
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Response(thumbnail(gallery.file(id)), media_type="image/webp", headers=headers)

    @router.get("/pictures/{id}", tags=["pictures"])
    def picture(id: PictureId) -> PictureView:
        """What is known of a picture."""
        found = gallery.get(id)
        if found is None:
            raise missing(id)
        return picture_view(found)

    @router.patch("/pictures/{id}", tags=["pictures"])
    def change(id: PictureId, change: PictureChange) -> PictureView:
        """Mark a picture as a favourite, or take the mark."""
        gallery.mark(id, change.favourite)
        return picture(id)

    @router.delete("/pictures/{id}", status_code=204, tags=["pictures"])
    def delete(id: PictureId) -> None:
        """Delete a picture and its file."""
        if not gallery.delete(id):
            raise missing(id)


def _add_uploads(router: APIRouter, service: Service) -> None:
    uploads = service.uploads

    def view(id: str) -> UploadView:
        width, height = uploads.size(id)
        return UploadView(id=id, width=width, height=height, url=f"/api/uploads/{id}.png")

    @router.post("/uploads", status_code=201, tags=["uploads"])
    def upload(file: UploadFile) -> UploadView:
        """Send a PNG, JPEG or WebP; only its pixels are kept. The same pixels have one id."""
        return view(uploads.add(file.file.read()))

    @router.get("/uploads/{id}.png", response_class=FileResponse, responses=_PNG, tags=["uploads"])
    def uploaded(id: UploadName) -> FileResponse:
        """An uploaded picture as it was kept."""
        return FileResponse(uploads.path(id), media_type="image/png")

    @router.post("/uploads/{id}/edges", status_code=201, tags=["uploads"])
    def edges(id: UploadName) -> UploadView:
        """Make the picture of an upload's edges, for a ControlNet: an upload of its own."""
        return view(uploads.add_edges(id))

    @router.post("/info", tags=["pictures"])
    def info(file: UploadFile) -> InfoView:
        """What a picture says about how it was made: of bdm, or of AUTOMATIC1111's web UI."""
        return picture_info(file.file.read(), service.settings.limits.upload_pixels)

"""All parts of the server together, as the interfaces use them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.server.catalog import Catalog
from bridge_diffusion.server.database import Database
from bridge_diffusion.server.devices import Device, Worker, start_devices
from bridge_diffusion.server.events import EventHub
from bridge_diffusion.server.gallery import Gallery, Picture
from bridge_diffusion.server.jobs import ENDED, Interface, Job, JobTable
from bridge_diffusion.server.local_worker import LocalWorker
from bridge_diffusion.server.orders import Order, OrderDesk, Priority
from bridge_diffusion.server.queue import JobQueue
from bridge_diffusion.server.settings import ServerSettings
from bridge_diffusion.server.uploads import UploadStore
from bridge_diffusion.writing import clear_write_errors

_log = logging.getLogger(__name__)

_SECONDS_A_DAY = 86_400.0
_BETWEEN_PRUNINGS = 3600.0  # seconds, or a quarter of the time that uploads are kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """What an interface may use."""

    settings: ServerSettings
    catalog: Catalog
    database: Database
    uploads: UploadStore
    gallery: Gallery
    jobs: JobTable
    events: EventHub
    queue: JobQueue
    workers: list[Worker]
    """What draws; those of another engine than the local one are put in before the server runs."""
    devices: list[Device]
    """Filled while the server runs."""

    def submit(
        self,
        request: Request,
        order: Order,
        interface: Interface,
        *,
        priority: Priority = "normal",
        group: str | None = None,
    ) -> Job:
        """Accept a client's order. Raises as `JobQueue.submit`."""
        client = request.client.host if request.client is not None else ""
        return self.queue.submit(
            order, client=client, interface=interface, priority=priority, group=group
        )

    async def draw(
        self, request: Request, order: Order, interface: Interface
    ) -> tuple[Job, list[Picture]]:
        """Accept an order and wait for its pictures; a client that goes away cancels it.

        Raises:
            BridgeError: As `JobQueue.submit`, or the job failed or was cancelled.
        """
        accepted = await run_in_threadpool(self.submit, request, order, interface)
        job = await self.wait(accepted.id, request)
        if job.state == "failed":
            raise BridgeError(str(job.error), job.error_code, **job.error_values)
        pictures = await run_in_threadpool(self.gallery.of_job, job.id)
        if not pictures:
            raise BridgeError("the job was cancelled before a picture was finished")
        return job, pictures

    async def wait(self, id: str, request: Request | None = None) -> Job:
        """Wait until a job has ended; with a client that goes away, it is cancelled."""
        async with self.events.listen(id, is_stream=False) as events:
            job = self.queue.get(id)
            assert job is not None
            if job.state in ENDED:
                return job
            async for event in events:
                if event.kind == "ended":
                    break
                if request is not None and await request.is_disconnected():
                    self.queue.cancel(id)
                    break
        ended = self.queue.get(id)
        assert ended is not None
        return ended

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Draw as long as the block lasts; what is not finished then waits for the next server."""
        self.events.start()
        self.queue.load()
        self.devices.extend(
            start_devices(
                self.workers,
                queue=self.queue,
                gallery=self.gallery,
                batch=self.settings.batch,
                stall=self.settings.stall,
            )
        )
        pruning = asyncio.create_task(self._prune_uploads())
        with closing(self.database):
            try:
                yield
            finally:
                pruning.cancel()
                with suppress(asyncio.CancelledError):
                    await pruning
                self.events.stop()
                self.queue.close()
                for device in self.devices:
                    device.stop()

    async def _prune_uploads(self) -> None:
        """Remove uploads that nobody needs, now and now and then."""
        keep = self.settings.keep_uploads * _SECONDS_A_DAY
        while True:
            try:
                await run_in_threadpool(self.uploads.prune)
            except Exception:  # a full disk, say; the server goes on
                _log.exception("uploads could not be pruned")
            await asyncio.sleep(min(_BETWEEN_PRUNINGS, keep / 4))


def open_service(settings: ServerSettings) -> Service:
    """Open the data folder and look up what is listed.

    Raises:
        BridgeError: The folder cannot be written, or a model or bridge is not as named.
    """
    catalog = Catalog(settings)
    folder = settings.data.expanduser().resolve()
    with clear_write_errors(folder):
        for part in ("pictures", "uploads"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    database = Database(folder / "bdm.sqlite")
    uploads = UploadStore(
        folder / "uploads",
        database,
        most_pixels=settings.limits.upload_pixels,
        keep=settings.keep_uploads * _SECONDS_A_DAY,
    )
    gallery = Gallery(folder / "pictures", database)
    events = EventHub(settings.limits.listeners)
    jobs = JobTable(database)
    queue = JobQueue(
        table=jobs,
        gallery=gallery,
        desk=OrderDesk(settings, catalog, uploads),
        events=events,
        limits=settings.limits,
    )
    local = settings.devices if settings.engine == "local" else ()
    return Service(
        settings=settings,
        catalog=catalog,
        database=database,
        uploads=uploads,
        gallery=gallery,
        jobs=jobs,
        events=events,
        queue=queue,
        workers=[LocalWorker(name) for name in local],
        devices=[],
    )

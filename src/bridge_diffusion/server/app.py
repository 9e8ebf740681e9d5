"""The application: the interfaces and the page over one service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from bridge_diffusion import __version__
from bridge_diffusion.server.access import Gate
from bridge_diffusion.server.errors import add_handlers
from bridge_diffusion.server.interfaces.a1111 import a1111_router
from bridge_diffusion.server.interfaces.native import native_router
from bridge_diffusion.server.interfaces.openai import openai_router
from bridge_diffusion.server.page_files import PageFiles
from bridge_diffusion.server.service import Service

_TAGS = [
    {"name": "jobs", "description": "Orders, their progress and their end."},
    {"name": "pictures", "description": "What was drawn."},
    {"name": "uploads", "description": "Pictures that orders start from or follow."},
    {"name": "lists", "description": "What orders may name."},
    {"name": "openai", "description": "As OpenAI's clients expect."},
    {"name": "a1111", "description": "As clients of AUTOMATIC1111's web UI expect."},
]


def create_app(service: Service) -> FastAPI:
    """The application that serves a service; it draws while the application's lifespan lasts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    # FastAPI's own pages of documentation load scripts from elsewhere, so there are none.
    app = FastAPI(
        title="Bridge Diffusion",
        version=__version__,
        description="Pictures from prompts in your own language.",
        docs_url=None,
        redoc_url=None,
        openapi_tags=_TAGS,
        lifespan=lifespan,
    )
    app.add_middleware(Gate, token=service.settings.token, most_body=service.settings.limits.body)
    add_handlers(app)
    for router in (native_router, openai_router, a1111_router):
        app.include_router(router(service))
    app.mount("/", PageFiles())
    return app

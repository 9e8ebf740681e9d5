"""`bdm serve`: the server with its page and its HTTP interfaces."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from bridge_diffusion.errors import BridgeError

DEFAULT_FOLDER = Path("bdm-data")
TOKEN_VARIABLE = "BDM_TOKEN"
_EXTRA = ("fastapi", "uvicorn", "python_multipart", "starlette")


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model beside the emoji world: a pipeline folder, a single file or a hub "
            "name; may be given several times."
        ),
    ] = None,
    bridge: Annotated[
        list[str] | None,
        typer.Option(
            help="A bridge for these models: a folder or a hub name; may be given several times."
        ),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option(help="The native text encoder, for bridges saved without one."),
    ] = None,
    plugins: Annotated[
        Path | None,
        typer.Option(help="The folder of plug-ins that orders may name; safetensors alone."),
    ] = None,
    data: Annotated[
        Path, typer.Option(help="The folder of the database, the pictures and the uploads.")
    ] = DEFAULT_FOLDER,
    host: Annotated[
        str,
        typer.Option(help="The address to listen on. Any but loopback needs a token (BDM_TOKEN)."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.")] = 7860,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="Where to compute: auto, cpu, cuda, cuda:1 ...; given several times, there is "
            "one worker for each."
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Who draws: processes of this machine, or replicas on a Ray cluster."),
    ] = "local",
    replicas: Annotated[
        int | None,
        typer.Option(
            help="With --engine ray, how many replicas: one for each GPU of the cluster if not "
            "given, and one where it has none."
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="With --engine ray, the cluster: auto or HOST:PORT; if not given, Ray is started "
            "on this machine, and ends with the server."
        ),
    ] = None,
    dtype: Annotated[
        Literal["auto", "fp32", "fp16", "bf16"], typer.Option(help="The number format.")
    ] = "auto",
    batch: Annotated[
        int, typer.Option(help="The most pictures of compatible jobs that are drawn together.")
    ] = 8,
    keep_uploads: Annotated[
        float,
        typer.Option(
            help="Days after which an uploaded picture that no job and no drawn picture needs is "
            "removed."
        ),
    ] = 7.0,
    offload: Annotated[
        bool, typer.Option("--offload/--no-offload", help="Keep on the GPU only what is at work.")
    ] = False,
    safety_checker: Annotated[
        bool, typer.Option(help="Whether to keep a model's safety checker, where it has one.")
    ] = True,
) -> None:
    """Serve pictures over HTTP: a page, our own interface, and those of OpenAI and AUTOMATIC1111.

    With a token in the environment variable BDM_TOKEN, each client must show it.
    """
    try:
        from bridge_diffusion.server.running import serve as run
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        raise BridgeError(
            f"bdm serve needs {error.name}: pip install 'bridge-diffusion[serve]'"
        ) from error
    from bridge_diffusion.server.settings import ServerSettings

    run(
        ServerSettings(
            data=data,
            host=host,
            port=port,
            token=os.environ.get(TOKEN_VARIABLE, ""),
            models=tuple(model or ()),
            bridges=tuple(bridge or ()),
            text_encoder=text_encoder,
            plugins=plugins,
            engine=engine,
            devices=tuple(device or ("auto",)),
            replicas=replicas,
            ray_address=ray_address,
            dtype=dtype,
            offload=offload,
            safety_checker=safety_checker,
            batch=batch,
            keep_uploads=keep_uploads,
        )
    )

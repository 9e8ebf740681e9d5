"""A real ComfyUI server for the tests, driven through its HTTP interface as its page drives it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

MODELS = ("bridges", "checkpoints", "controlnet", "diffusion_models", "loras", "text_encoders")
STARTS_WITHIN = 240  # seconds, on a busy machine
DRAWS_WITHIN = 400

Graph = dict[str, Any]


class GraphError(Exception):
    """What ComfyUI says of a graph that it could not run."""


class ComfyUI:
    """One server with its own folder for models, nodes, inputs and outputs."""

    def __init__(self, source: Path, base: Path, node_packs: dict[str, Path]) -> None:
        """`source` is a checkout of ComfyUI; COMFYUI_PYTHON, if set, the Python that runs it."""
        self.base, self.source = base, source
        self.python = os.environ.get("COMFYUI_PYTHON", sys.executable)
        for name in MODELS:
            (base / "models" / name).mkdir(parents=True)
        for name in ("custom_nodes", "input", "output", "temp", "user", "page"):
            (base / name).mkdir()
        (base / "page" / "index.html").write_text("no page in tests")
        for name, folder in node_packs.items():
            (base / "custom_nodes" / name).symlink_to(folder, target_is_directory=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.log = base / "log.txt"
        options = {
            "--port": port,
            "--base-directory": base,
            "--front-end-root": base / "page",
            "--database-url": f"sqlite:///{base / 'user' / 'comfyui.db'}",
        }
        command = [self.python, str(source / "main.py"), "--cpu", "--disable-auto-launch"]
        command += ["--disable-api-nodes", "--force-fp32"]
        command += [str(part) for pair in options.items() for part in pair]
        library = Path(__file__).parents[2] / "src"
        paths = [str(library), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, cwd=source, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def wait(self) -> None:
        """Until it answers. Raises `GraphError` with its log if it does not."""
        end = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self.get("/system_stats")
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
            else:
                return
        raise GraphError(f"ComfyUI did not start:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def models(self, kind: str) -> Path:
        """The folder for models of a kind."""
        return self.base / "models" / kind

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            return json.load(answer)

    def run(self, graph: Graph) -> dict[str, Any]:
        """Run a graph in the format of ComfyUI's API; gives the outputs of its nodes.

        Raises `GraphError` with ComfyUI's words where it is refused or fails.
        """
        body = json.dumps({"prompt": graph}).encode()
        request = urllib.request.Request(
            self.address + "/prompt", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                number = json.load(answer)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise GraphError(error.read().decode()) from error
        end = time.monotonic() + DRAWS_WITHIN
        while time.monotonic() < end:
            history = self.get(f"/history/{number}")
            if number in history and history[number]["status"]["completed"]:
                return history[number]["outputs"]
            if number in history and history[number]["status"]["status_str"] == "error":
                raise GraphError(json.dumps(history[number]["status"]["messages"]))
            time.sleep(0.2)
        raise GraphError(f"ComfyUI did not finish:\n{self.log.read_text()[-4000:]}")

    def latents(self, graph: Graph) -> Tensor:
        """Run a graph with one Save Latent; gives what it saved."""
        (output,) = self.run(graph).values()
        (saved,) = output["latents"]
        path = self.base / "output" / saved["subfolder"] / saved["filename"]
        return load_file(path)["latent_tensor"]

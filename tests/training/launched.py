"""Forks the processes of a training run, as often as its standard input asks.

A launcher starts each process anew, which takes seconds of imports. This one has imported all and
forks, so that a test may start hundreds. A line of JSON asks, a line of JSON answers:

    {"processes": 2, "config": {...}, "task": {...}}        the loop on a small net
    {"processes": 2, "config": null, "request": {...}}      `bdm train`
    {"codes": [0, 0], "errors": ["", ""], "results": [{...}, {...}]}

Codes are those of the system, negative for a signal. Run by the fixture `launch`.
"""

import contextlib
import json
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.branch_run import train_branch
from bridge_diffusion.training.config import LoopConfig
from bridge_diffusion.training.loop import train
from bridge_diffusion.training.order import ShuffledOrder
from bridge_diffusion.training.processes import Processes, joined
from bridge_diffusion.training.request import TrainRequest
from bridge_diffusion.training.seeds import draw_each, stream_generator
from bridge_diffusion.training.text_encoder import ContrastiveObjective

PAIRS = 24
WIDTH = 64  # so that a checkpoint's files are larger than the log


class Match:
    """Matches numbers with others that are read by position, contrastively."""

    def __init__(self, batch_size: int, processes: Processes) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            text = nn.Linear(8, 6)
        self.module = nn.ModuleDict({"text": text, "aim": ContrastiveObjective(None, processes)})
        self.order = ShuffledOrder(PAIRS, batch_size=batch_size, caption_dropout=0.0, seed=0)
        self.seen: list[int] = []

    def batch(self, index: int) -> dict[str, Any]:
        chosen = [pick.index for pick in self.order.batch(index)]
        draw = [torch.randn(14, generator=stream_generator(7, i)) for i in chosen]
        rows = torch.stack(draw)
        groups = torch.tensor([i // 2 for i in chosen])  # two of a kind are no negatives
        return {"text": rows[:, :8], "image": rows[:, 8:], "groups": groups}

    def loss(
        self, batch: dict[str, Any], generators: list[torch.Generator]
    ) -> dict[str, torch.Tensor]:
        features = self.module["text"](batch["text"])
        return self.module["aim"](features, batch["image"], batch["groups"])

    def samples(self) -> None:
        return None

    def export(self, folder: Path) -> None:
        save_file(self.module.state_dict(), folder / "weights.safetensors")


class Denoise:
    """Predicts the noise in small pictures that are read by position, with noise of its own."""

    def __init__(self, batch_size: int, rank: int, asked: dict[str, Any]) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = nn.Sequential(
                nn.Conv2d(3, WIDTH, 3, padding=1),
                nn.SiLU(),
                nn.Dropout(asked.get("dropout", 0.0)),
                nn.Conv2d(WIDTH, 3, 1),
            )
        self.order = ShuffledOrder(PAIRS, batch_size=batch_size, caption_dropout=0.0, seed=0)
        self.rank, self.asked = rank, asked
        self.losses = 0
        self.seen: list[int] = []

    def batch(self, index: int) -> dict[str, Any]:
        chosen = [pick.index for pick in self.order.batch(index)]
        x = torch.stack([torch.randn(3, 8, 8, generator=stream_generator(7, i)) for i in chosen])
        return {"x": x, "chosen": chosen}

    def loss(
        self, batch: dict[str, Any], generators: list[torch.Generator]
    ) -> dict[str, torch.Tensor]:
        noise = draw_each(generators, lambda g: torch.randn(3, 8, 8, generator=g))
        loss = (self.module(batch["x"] + noise) - noise).square().mean()
        self.losses += 1
        self.seen += batch["chosen"]
        if "trace" in self.asked and self.rank == 0:
            with open(self.asked["trace"], "ab", buffering=0) as trace:
                trace.write(b".")
        self._have_an_accident()
        if self.rank == 0 and self.losses in self.asked.get("nan_at", []):
            loss = loss * float("nan")
        return {"loss": loss}

    def samples(self) -> Image.Image:
        return Image.new("RGB", (8, 8))

    def export(self, folder: Path) -> None:
        save_file(self.module.state_dict(), folder / "weights.safetensors")

    def export_of(self, module: nn.Module, folder: Path) -> None:
        save_file(module.state_dict(), folder / "weights.safetensors")

    def _have_an_accident(self) -> None:
        """What the test asked to happen to this process at this loss."""
        for rank, loss, number in self.asked.get("signals", []):
            if (rank, loss) == (self.rank, self.losses):
                os.kill(os.getpid(), number)
        if [self.rank, self.losses] == self.asked.get("raise_at"):
            raise BridgeError("an accident")
        if self.rank == 0 and self.losses == self.asked.get("disk_full_at"):
            # A file can grow no further and the system says so, as on a full disk.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.asked["largest_file"],) * 2)


def run(rank: int, asked: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    if "kill_within" in asked:
        # Every other time all processes at once, else each at its own moment.
        seed = asked["kill_seed"] if asked["kill_seed"] % 2 else f"{asked['kill_seed']} {rank}"
        delay = random.Random(seed).uniform(0, asked["kill_within"])
        # In another thread: it strikes in a step, in a collective, while a file is written.
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    if "request" in asked:
        paths = {name: Path(asked["request"][name]) for name in ("out", "cache")}
        result = train_branch(TrainRequest(**{**asked["request"], **paths})).result
        return {"images": result.images, "seconds": time.monotonic() - started}
    with joined("cpu", asked.get("stall_minutes", 1.0)) as processes:
        options = {**asked["config"], "run_dir": Path(asked["config"]["run_dir"])}
        config = LoopConfig(**options, processes=processes.count, progress=False)
        task: Any
        if asked.get("task") == "match":
            task = Match(config.batch_size, processes)
        else:
            task = Denoise(config.batch_size, rank, asked.get("task", {}))
        details = asked.get("details_of_others" if rank else "details", asked.get("details"))
        result = train(task, config, details, processes)
        return {
            "images": result.images,
            "finished": result.finished,
            "loss": result.loss,
            "seen": task.seen,
            "seconds": time.monotonic() - started,
        }


def child(rank: int, asked: dict[str, Any], answer: int) -> None:
    """The life of a forked process; writes its answer and never returns."""
    code, said = 1, {}
    try:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        said = {"result": run(rank, asked)}
        code = 0
    except BridgeError as error:
        code, said = 2, {"error": str(error)}
    except BaseException:
        said = {"error": traceback.format_exc()}
    finally:
        os.write(answer, json.dumps(said).encode())
        os._exit(code)


def launch(asked: dict[str, Any]) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(
        WORLD_SIZE=str(asked["processes"]), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    pipes, children = [], []
    for rank in range(asked["processes"]):
        reading, writing = os.pipe()
        pipes.append(reading)
        children.append(os.fork())
        if children[-1] == 0:
            child(rank, asked, writing)
        os.close(writing)
    said = []
    for reading in pipes:
        with os.fdopen(reading) as file:
            said.append(json.loads(file.read() or "{}"))
        if asked.get("kill_after_first"):  # the others are stopped and would never end
            for pid in children[1:]:
                os.kill(pid, signal.SIGKILL)
    return {
        "codes": [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children],
        "errors": [each.get("error", "") for each in said],
        "results": [each.get("result") for each in said],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            print(json.dumps(launch(json.loads(line))), flush=True)

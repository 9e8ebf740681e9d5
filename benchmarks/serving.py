"""The server under load: many clients at once on the embedded world, and a kill in the middle.

    python benchmarks/serving.py --clients 50 --seconds 180
    python benchmarks/serving.py --clients 50 --seconds 60 --batch 1     # one at a time
    python benchmarks/serving.py --clients 10 --seconds 60 --kill        # kill -9 in the middle

It starts its own `bdm serve` on loopback over a temporary folder. Each client sends an order, waits
for its end, and sends the next. Afterwards every accepted job must have ended, and well.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

WORDS = ("红包", "月饼", "麻将", "饺子", "灯笼", "熊猫", "茶壶", "毛笔")
BACKGROUNDS = ("", "a blue background", "a red background")
_BETWEEN_LOOKS = 1.0  # seconds; the clients share the machine with the server


@dataclass(kw_only=True, slots=True)
class Load:
    """What the clients did and saw."""

    accepted: list[str] = field(default_factory=list)
    """Ids of the jobs that the server took."""
    seconds: list[float] = field(default_factory=list)
    """From order to end, of each job that a client saw end."""
    memory: list[float] = field(default_factory=list)
    """MiB of server and worker together, every few seconds."""


class Server:
    """`bdm serve` in a process of its own."""

    def __init__(self, folder: Path, batch: int) -> None:
        self._command = [sys.executable, "-m", "bridge_diffusion.cli", "serve", "--port", "0"]
        self._command += ["--data", str(folder), "--batch", str(batch)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[-1].rstrip("/")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def memory(self) -> float:
        """MiB of the server and its worker; Linux alone tells."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")  # each has its own
        children = " ".join(thread.read_text() for thread in threads)
        return sum(map(_resident, [self.process.pid, *map(int, children.split())]))


def _resident(process: int) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


async def client(server: Server, load: Load, until: float, steps: int, seed: int) -> None:
    """Send an order, wait for its end, and so on; a server that is away is asked again."""
    chance = random.Random(seed)
    async with httpx.AsyncClient(timeout=600) as http:
        while time.monotonic() < until:
            order = {
                "prompt": chance.choice(WORDS),
                "english": chance.choice(BACKGROUNDS),
                "steps": steps,
                "seed": chance.randrange(2**32),
            }
            began = time.monotonic()
            try:
                answer = await http.post(f"{server.address}/api/jobs", json={"order": order})
                answer.raise_for_status()
                id = answer.json()["id"]
                load.accepted.append(id)
                while True:
                    job = (await http.get(f"{server.address}/api/jobs/{id}")).json()
                    if job["ended"]:
                        break
                    await asyncio.sleep(_BETWEEN_LOOKS)
            except httpx.TransportError:  # it was killed
                await asyncio.sleep(_BETWEEN_LOOKS)
                continue
            load.seconds.append(time.monotonic() - began)


async def watch(server: Server, load: Load, until: float) -> None:
    while time.monotonic() < until:
        await asyncio.sleep(5)
        load.memory.append(server.memory())


async def run(arguments: argparse.Namespace, server: Server, load: Load) -> None:
    async with httpx.AsyncClient(timeout=600) as http:  # the model is open before the clock runs
        order = {"order": {"prompt": WORDS[0], "steps": 1}}
        first = (await http.post(f"{server.address}/api/jobs", json=order)).json()["id"]
        while not (await http.get(f"{server.address}/api/jobs/{first}")).json()["ended"]:
            await asyncio.sleep(_BETWEEN_LOOKS)
    until = time.monotonic() + arguments.seconds
    clients = [
        client(server, load, until, arguments.steps, seed) for seed in range(arguments.clients)
    ]
    if arguments.kill:
        await asyncio.gather(kill_in_the_middle(server, arguments.seconds / 2), *clients)
    else:
        await asyncio.gather(watch(server, load, until), *clients)


async def kill_in_the_middle(server: Server, after: float) -> None:
    await asyncio.sleep(after)
    server.kill()
    server.start()


def states(server: Server, ids: list[str]) -> dict[str, int]:
    """How many of the jobs are in which state, once none is queued or drawn."""
    counts: dict[str, int] = {}
    with httpx.Client(base_url=server.address, timeout=600) as http:
        while http.get("/api/queue").json():
            time.sleep(_BETWEEN_LOOKS)
        for id in ids:
            job = http.get(f"/api/jobs/{id}").json()
            whole = job["state"] == "done" and len(job["pictures"]) == 1
            state = job["state"] if whole or job["state"] != "done" else "done without a picture"
            counts[state] = counts.get(state, 0) + 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--kill", action="store_true")
    arguments = parser.parse_args()
    load = Load()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), arguments.batch)
        try:
            began = time.monotonic()
            asyncio.run(run(arguments, server, load))
            counts = states(server, load.accepted)
            seconds = time.monotonic() - began
        finally:
            server.kill()
    times = sorted(load.seconds)
    shown = {
        "clients": arguments.clients,
        "batch": arguments.batch,
        "steps": arguments.steps,
        "accepted": len(load.accepted),
        "ended": counts,
        "pictures_a_second": round(len(load.accepted) / seconds, 3),
        "p50_seconds": round(statistics.median(times), 2),
        "p95_seconds": round(times[int(0.95 * (len(times) - 1))], 2),
        "memory_mib": [round(value) for value in load.memory],
    }
    print(json.dumps(shown))
    if counts != {"done": len(load.accepted)}:
        sys.exit("not every accepted job was drawn")


if __name__ == "__main__":
    main()

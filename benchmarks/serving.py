"""The server under load: many clients at once on the embedded world, and a kill in the middle.

    python benchmarks/serving.py --clients 50 --minutes 3
    python benchmarks/serving.py --clients 10 --minutes 1 --kill         # kill -9 in the middle
    python benchmarks/serving.py --clients 24 --compare 5                # batches of 8 against of 1

It starts its own `bdm serve` on loopback over a temporary folder. Each client sends an order, waits
for its end, and sends the next. Afterwards every accepted job must have ended, and well.

The comparison has two servers, which draw the same orders in turns, so that what else the machine
does meets both. It counts processor time too, which does not depend on that.
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

WORDS = ("红包", "月饼", "麻将", "饺子", "灯笼", "熊猫", "茶壶", "毛笔")
BACKGROUNDS = ("", "a blue background", "a red background")
_BETWEEN_LOOKS = 1.0  # seconds; the clients share the machine with the server
_BETWEEN_MEASURES = 5.0  # seconds


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
        """MiB of the server and its worker."""
        return sum(process.memory_info().rss for process in self._processes()) / 2**20

    def processor_seconds(self) -> float:
        """What the server and its worker have computed so far."""
        times = [process.cpu_times() for process in self._processes()]
        return sum(each.user + each.system for each in times)

    def _processes(self) -> list[psutil.Process]:
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]


def orders(count: int, steps: int, seed: int) -> list[dict[str, object]]:
    chance = random.Random(seed)
    return [
        {
            "prompt": chance.choice(WORDS),
            "english": chance.choice(BACKGROUNDS),
            "steps": steps,
            "seed": chance.randrange(2**32),
        }
        for _ in range(count)
    ]


async def send(http: httpx.AsyncClient, server: Server, order: dict[str, object]) -> str:
    answer = await http.post(f"{server.address}/api/jobs", json={"order": order})
    answer.raise_for_status()
    return answer.json()["id"]


async def ended(http: httpx.AsyncClient, server: Server, id: str) -> None:
    """Wait for a job's end; a server that was killed is asked again once it is back."""
    while True:
        with contextlib.suppress(httpx.TransportError):
            if (await http.get(f"{server.address}/api/jobs/{id}")).json()["ended"]:
                return
        await asyncio.sleep(_BETWEEN_LOOKS)


async def client(server: Server, load: Load, until: float, steps: int, seed: int) -> None:
    """Send an order, wait for its end, and so on."""
    number = 0
    async with httpx.AsyncClient(timeout=600) as http:
        while time.monotonic() < until:
            began = time.monotonic()
            (order,) = orders(1, steps, seed=1000 * seed + number)
            try:
                id = await send(http, server, order)
            except httpx.TransportError:  # it was killed, and has not accepted this one
                await asyncio.sleep(_BETWEEN_LOOKS)
                continue
            number += 1
            load.accepted.append(id)
            await ended(http, server, id)
            load.seconds.append(time.monotonic() - began)


async def watch(server: Server, load: Load, until: float) -> None:
    while time.monotonic() < until:
        await asyncio.sleep(_BETWEEN_MEASURES)
        load.memory.append(server.memory())


async def open_model(server: Server) -> None:
    """Draw something, so that the model is open before the clock runs."""
    async with httpx.AsyncClient(timeout=600) as http:
        await ended(http, server, await send(http, server, {"prompt": WORDS[0], "steps": 1}))


async def run(arguments: argparse.Namespace, server: Server, load: Load) -> float:
    """Put the server under load; seconds until every client had its last picture."""
    await open_model(server)
    began, seconds = time.monotonic(), 60 * arguments.minutes
    until = began + seconds
    clients = [
        client(server, load, until, arguments.steps, seed) for seed in range(arguments.clients)
    ]
    if arguments.kill:
        await asyncio.gather(kill_in_the_middle(server, seconds / 2), *clients)
    else:
        await asyncio.gather(watch(server, load, until), *clients)
    return time.monotonic() - began


async def kill_in_the_middle(server: Server, after: float) -> None:
    await asyncio.sleep(after)
    server.kill()
    server.start()


async def draw_all(server: Server, made: Sequence[dict[str, object]]) -> tuple[float, float]:
    """Seconds, and processor seconds, until all orders are drawn."""
    began, computed = time.monotonic(), server.processor_seconds()
    async with httpx.AsyncClient(timeout=600) as http:
        ids = [await send(http, server, order) for order in made]
        await asyncio.gather(*(ended(http, server, id) for id in ids))
    return time.monotonic() - began, server.processor_seconds() - computed


async def compare(servers: dict[int, Server], rounds: int, count: int, steps: int) -> dict:
    """Pictures a second of each batch size, round by round, and the gain over batches of 1."""
    for server in servers.values():
        await draw_all(server, orders(max(servers), 1, seed=0))
    taken: dict[int, list[tuple[float, float]]] = {batch: [] for batch in servers}
    for number in range(rounds):
        made = orders(count, steps, seed=number)
        for batch in sorted(servers, reverse=number % 2 == 0):
            taken[batch].append(await draw_all(servers[batch], made))
    large, small = max(servers), min(servers)
    shown: dict[str, object] = {"rounds": rounds, "pictures_a_round": count, "steps": steps}
    for place, unit in enumerate(("second", "processor_second")):
        for batch in servers:
            rates = [count / each[place] for each in taken[batch]]
            shown[f"pictures_a_{unit}_batch_{batch}"] = [round(rate, 3) for rate in rates]
        gains = [
            slow[place] / fast[place] for slow, fast in zip(taken[small], taken[large], strict=True)
        ]
        shown[f"gain_a_{unit}"] = {
            "median": round(statistics.median(gains), 2),
            "least": round(min(gains), 2),
            "most": round(max(gains), 2),
        }
    return shown


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


def thirds(memory: Sequence[float]) -> list[int]:
    """MiB at the median of the run's first, second and last third: what is flat and what is not."""
    size = max(1, len(memory) // 3)
    parts = (memory[:size], memory[size:-size], memory[-size:])
    return [round(statistics.median(part)) for part in parts if part]


def load_test(arguments: argparse.Namespace) -> None:
    load = Load()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), arguments.batch)
        try:
            seconds = asyncio.run(run(arguments, server, load))
            counts = states(server, load.accepted)
        finally:
            server.kill()
    times = sorted(load.seconds)
    shown = {
        "clients": arguments.clients,
        "batch": arguments.batch,
        "steps": arguments.steps,
        "killed": arguments.kill,
        "accepted": len(load.accepted),
        "ended": counts,
        "pictures_a_second": round(len(load.accepted) / seconds, 3),
        "p50_seconds": round(statistics.median(times), 2),
        "p95_seconds": round(times[int(0.95 * (len(times) - 1))], 2),
        "memory_mib_by_thirds": thirds(load.memory),
        "memory_mib_most": round(max(load.memory, default=0)),
    }
    print(json.dumps(shown))
    if counts != {"done": len(load.accepted)}:
        sys.exit("not every accepted job was drawn")


def comparison(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        servers: dict[int, Server] = {}
        try:
            for batch in (arguments.batch, 1):
                servers[batch] = Server(Path(folder) / str(batch), batch)
            compared = compare(servers, arguments.compare, arguments.clients, arguments.steps)
            print(json.dumps(asyncio.run(compared)))
        finally:
            for server in servers.values():
                server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50, help="orders a round with --compare")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--kill", action="store_true", help="kill -9 in the middle, start again")
    parser.add_argument("--compare", type=int, default=0, metavar="ROUNDS")
    arguments = parser.parse_args()
    if arguments.compare:
        comparison(arguments)
    else:
        load_test(arguments)


if __name__ == "__main__":
    main()

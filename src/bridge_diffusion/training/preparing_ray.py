"""`bdm data prepare --engine ray`: the same work by the workers of a Ray cluster, with Ray Data.

Workers read the data and write the shards by the paths of the request, so both must lie where every
machine of the cluster finds them.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from bridge_diffusion.data.filters import Measures
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.data_request import PrepareRequest
from bridge_diffusion.training.preparing import Preparation, measures_from

_PAIRS_AT_ONCE = 256


class RayEngine:
    """Connects to the running cluster, or starts one on this machine."""

    def __init__(self, workers: int) -> None:
        """BridgeError if Ray is not installed."""
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise BridgeError(
                "--engine ray needs the extra `ray`: pip install 'bridge-diffusion[ray]'"
            ) from error
        self._ray, self._workers = ray, workers
        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level="error", include_dashboard=False)
        ray.data.DataContext.get_current().enable_progress_bars = False

    def measure(self, request: PrepareRequest, count: int) -> Iterator[Measures]:
        rows = [
            {"first": first, "last": min(first + _PAIRS_AT_ONCE, count)}
            for first in range(0, count, _PAIRS_AT_ONCE)
        ]
        for row in self._map(_Measuring, request, rows):
            for one in json.loads(row["measures"]):
                yield measures_from(one)

    def write_shards(self, request: PrepareRequest, numbers: Sequence[int]) -> Iterator[int]:
        for row in self._map(_Writing, request, [{"shard": number} for number in numbers]):
            yield row["shard"]

    def _map(
        self, worker: type, request: PrepareRequest, rows: list[dict[str, int]]
    ) -> Iterator[dict[str, Any]]:
        """What workers, which load their models once, make of each row."""
        if not rows:
            return
        data = self._ray.data.from_items(rows, override_num_blocks=len(rows))
        devices = {"num_gpus": 1} if request.device.startswith("cuda") else {}
        made = data.map(
            worker,
            fn_constructor_kwargs={"request": request},
            concurrency=min(self._workers, len(rows)),
            **devices,
        )
        try:
            yield from made.iter_rows()
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, BridgeError):
                raise cause from error
            raise


class _Measuring:
    def __init__(self, request: PrepareRequest) -> None:
        self._work = Preparation(request)

    def __call__(self, row: dict[str, int]) -> dict[str, Any]:
        found = self._work.measure(range(row["first"], row["last"]))
        return {"measures": json.dumps([dataclasses.asdict(one) for one in found])}


class _Writing:
    def __init__(self, request: PrepareRequest) -> None:
        self._work = Preparation(request)

    def __call__(self, row: dict[str, int]) -> dict[str, Any]:
        self._work.write_shard(row["shard"])
        return {"shard": row["shard"]}

"""`bdm data inspect`: a look at data, and at what filters would leave of it."""

import json
from pathlib import Path

from bridge_diffusion.data.filters import Filters, judge
from bridge_diffusion.data.measuring import Measurer
from bridge_diffusion.data.pairs import PairDataset
from bridge_diffusion.data.report import Report, report
from bridge_diffusion.generation.loading import choose_device
from bridge_diffusion.images.writing import write_file
from bridge_diffusion.training.counting import counting
from bridge_diffusion.training.data_request import InspectRequest
from bridge_diffusion.training.opening import open_data

_SCENE_SIDE = 128  # pixels, of the emoji world's scenes


def inspect_data(request: InspectRequest) -> Report:
    """Read every pair once; with request.out, write report.html and report.json into it.

    BridgeError for data or filters that do not fit.
    """
    filters = Filters.of(request)
    dataset = open_data(request.data, _SCENE_SIDE, 0, request.limit)
    measurer = Measurer(filters, device=choose_device(request.device))
    found = []
    with counting("looking at pairs", len(dataset)) as count:
        for measures in measurer.measure(dataset, range(len(dataset))):
            found.append(measures)
            count(len(found))
    result = report(" and ".join(request.data), dataset, list(judge(found, filters)))
    if request.out is not None:
        write_report(result, dataset, request.out)
    return result


def write_report(result: Report, dataset: PairDataset, folder: Path) -> None:
    """Write report.html and report.json into a folder."""
    text = json.dumps(result.to_json(), ensure_ascii=False, indent=1)
    write_file(f"{text}\n".encode(), folder / "report.json")
    write_file(result.page(dataset).encode(), folder / "report.html")

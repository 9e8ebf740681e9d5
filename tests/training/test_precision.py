"""Which number format a recipe's "auto" means."""

from pathlib import Path
from platform import machine

import pytest

from bridge_diffusion.training.branch_run import loop_config
from bridge_diffusion.training.precision import fast_precision
from bridge_diffusion.training.request import TrainRequest


def flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next(line for line in lines if line.startswith("flags")).split())


@pytest.mark.skipif(
    not Path("/proc/cpuinfo").exists() or machine() != "x86_64", reason="needs an x86 Linux"
)
def test_bf16_is_for_processors_that_compute_in_it() -> None:
    assert fast_precision("cpu") == ("bf16" if flags() & {"avx512bw", "avx_ne_convert"} else "fp32")


def test_a_run_records_what_auto_meant(tmp_path: Path) -> None:
    request = TrainRequest(data="emoji:zh", out=tmp_path, bridge="zh", recipe="cpu")
    assert request.resolved().precision == "auto"
    config = loop_config(request, request.resolved(), "cpu")
    assert config.precision == fast_precision("cpu")


def test_what_is_asked_for_is_done_all_the_same(tmp_path: Path) -> None:
    asked = "fp32" if fast_precision("cpu") == "bf16" else "bf16"
    request = TrainRequest(
        data="emoji:zh", out=tmp_path, bridge="zh", recipe="cpu", precision=asked
    )
    assert loop_config(request, request.resolved(), "cpu").precision == asked

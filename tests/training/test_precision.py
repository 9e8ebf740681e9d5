"""Which number format a recipe's "auto" means."""

from dataclasses import replace
from pathlib import Path
from platform import machine

import pytest

from bridge_diffusion.errors import BridgeError
from bridge_diffusion.training.precision import Precision, fast_precision
from bridge_diffusion.training.recipes import RECIPES


def flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next(line for line in lines if line.startswith("flags")).split())


@pytest.mark.skipif(
    not Path("/proc/cpuinfo").exists() or machine() != "x86_64", reason="needs an x86 Linux"
)
def test_bf16_is_for_processors_that_compute_in_it() -> None:
    assert fast_precision("cpu") == ("bf16" if flags() & {"avx512bw", "avx_ne_convert"} else "fp32")


def test_a_recipe_says_what_auto_means_on_a_device() -> None:
    assert RECIPES["cpu"].precision == "auto"
    assert RECIPES["cpu"].on("cpu").precision == fast_precision("cpu")
    assert RECIPES["cpu"].on("cpu").frozen_precision == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_asked_for_is_done_all_the_same(precision: Precision) -> None:
    asked = replace(RECIPES["sd15"], precision=precision).on("cpu")
    assert (asked.precision, asked.frozen_precision) == (precision, precision)


def test_frozen_weights_are_in_no_other_format_than_the_arithmetic() -> None:
    odd = replace(RECIPES["debug"], precision="fp32", frozen_precision="bf16")
    with pytest.raises(BridgeError, match="give both or neither"):
        odd.on("cpu")

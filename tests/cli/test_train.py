"""`bdm train`: what it asks for, what it prints, what it leaves alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bridge_diffusion.cli.train import train
from bridge_diffusion.errors import BridgeError

TEXT = ["--text-encoder", "chinese-clip"]
WHOLE = ["--data", "pairs", "--out", "runs/zh", *TEXT]


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(train)
    return app


def test_the_dry_run_prints_the_whole_recipe_and_writes_nothing(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--recipe", "full", "--images", "123", "--lr", "0.5", "--no-cached", "--dry-run"]
    result = CliRunner().invoke(app, [*WHOLE, *options])
    assert result.exit_code == 0
    recipe = json.loads(result.stdout)
    assert (recipe["images"], recipe["learning_rate"], recipe["cached"]) == (123, 0.5, False)
    assert recipe["precision"] == "auto"
    assert not list(tmp_path.iterdir())


def test_each_choice_is_an_option_of_the_recipe(app: typer.Typer) -> None:
    options = {
        "--min-snr-gamma": "5", "--noise-offset": "0.05", "--caption-dropout": "0.2",
        "--english-dropout": "0.3", "--schedule": "linear", "--warmup-images": "100",
        "--lora-rank": "8", "--freeze": "down_blocks.0,conv_in", "--frozen-precision": "bf16",
        "--log": "wandb,trackio",
    }  # fmt: skip
    words = [word for pair in options.items() for word in pair]
    recipe = json.loads(CliRunner().invoke(app, [*WHOLE, *words, "--dry-run"]).stdout)
    wanted = {
        "min_snr_gamma": 5, "noise_offset": 0.05, "caption_dropout": 0.2, "english_dropout": 0.3,
        "schedule": "linear", "warmup_images": 100, "lora_rank": 8,
        "freeze": ["down_blocks.0", "conv_in"], "frozen_precision": "bf16",
        "trackers": ["wandb", "trackio"],
    }  # fmt: skip
    assert {name: recipe[name] for name in wanted} == wanted


def test_what_a_trainer_does_not_choose_is_off(app: typer.Typer) -> None:
    for name in ("cpu", "full", "sd15", "sdxl"):
        arguments = [*WHOLE, "--recipe", name, "--dry-run"]
        recipe = json.loads(CliRunner().invoke(app, arguments).stdout)
        assert not any(
            recipe[choice]
            for choice in (
                "min_snr_gamma", "noise_offset", "english_dropout", "lora_rank", "freeze",
                "probe_pictures",
            )
        )  # fmt: skip
        assert recipe["trackers"] == ["tensorboard"]


def test_text_encoders_side_by_side_are_named_one_by_one(app: typer.Typer) -> None:
    arguments = [*WHOLE, "--text-encoder", "another", "--recipe", "sdxl", "--dry-run"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["recipe"] == "sdxl"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "runs/zh", *TEXT], "--data is missing"),
        (["--data", "pairs", *TEXT], "--out is missing"),
        (["--data", "pairs", "--out", "runs/zh"], "either --text-encoder"),
        ([*WHOLE, "--recipe", "fast"], "no recipe 'fast'"),
        ([*WHOLE, "--model", "nowhere"], "nothing at nowhere"),
        ([*WHOLE, "--dry-run", "--batch-size", "0"], "--batch-size is 0, it must be 1 or more"),
        ([*WHOLE, "--dry-run", "--lr", "nan"], "--lr is nan, it must be above 0"),
        ([*WHOLE, "--dry-run", "--minutes", "0"], "--minutes is 0, it must be above 0"),
    ],
)
def test_a_mistake_is_one_error(app: typer.Typer, arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, BridgeError)
    assert words in str(result.exception)


def test_the_command_is_defined_without_torch() -> None:
    code = "import sys, bridge_diffusion.cli.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

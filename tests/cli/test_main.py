"""The command itself: quick to start, and clear about mistakes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge_diffusion import __version__

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "numpy", "PIL")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["generate", "--help"],
        ["plugins", "--help"],
        ["world", "--help"],
        ["serve", "--help"],
        ["info", "none"],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom bridge_diffusion.cli.main import main\n"
        f"sys.argv = ['bdm', *{arguments!r}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stderr


def test_help_names_every_command(bdm: Callable) -> None:
    outcome = bdm("--help")
    assert outcome.code == 0
    for command in (
        "generate",
        "train",
        "train-text",
        "info",
        "plugins",
        "serve",
        "doctor",
        "convert",
        "world",
        "evaluate",
    ):
        assert f"\n  {command} " in outcome.out


def test_every_option_of_generate_is_explained(bdm: Callable) -> None:
    outcome = bdm("generate", "--help")
    for flag in ("--negative-english ", "--size WxH", "--no-safety-checker", "--lora <str>"):
        assert flag in outcome.out
    assert "[default: dpm++]" in outcome.out
    assert "None" not in outcome.out


def test_version(bdm: Callable) -> None:
    assert bdm("--version").out.strip() == f"bdm {__version__}"


@pytest.mark.parametrize("arguments", [["nonsense"], ["generate", "x", "--steps", "many"]])
def test_usage_errors_exit_with_2(bdm: Callable, arguments: list[str]) -> None:
    outcome = bdm(*arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bridge_diffusion.cli", "--debug", "info", tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" in done.stderr
    done = subprocess.run([*command[:3], *command[4:]], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"bdm: error: nothing at {tmp_path / 'none'}; check the path"
    ]


def test_ctrl_c_says_that_it_was() -> None:
    program = (
        "import sys\nfrom bridge_diffusion.cli import main\n"
        "@main.app.command()\ndef wait() -> None: raise KeyboardInterrupt\n"
        "sys.argv = ['bdm', 'wait']\nmain.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "bdm: interrupted\n")

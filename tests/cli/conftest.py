"""A Stable Diffusion pipeline of a few thousand parameters, a bridge to it, and the command."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_models import save_bridge, tiny_pipeline

from bridge_diffusion.cli.main import main


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary pipeline folder; 16x16 pixels. Tests must not change it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def json(self) -> dict:
        return json.loads(self.out)


@pytest.fixture
def bdm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Run the command line in this process, as the installed script does."""

    def run(*arguments: object) -> Outcome:
        words: Sequence[str] = ["bdm", *map(str, arguments)]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        code = exit_.value.code
        return Outcome(
            code=code if isinstance(code, int) else 1, out=captured.out, err=captured.err
        )

    return run


@pytest.fixture(scope="session")
def bridge(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A bridge to the tiny pipeline, with residuals that are not zero. Tests must not change it."""
    folder = tmp_path_factory.mktemp("bridges")
    save_bridge(model, folder / "bridge")
    return folder / "bridge"

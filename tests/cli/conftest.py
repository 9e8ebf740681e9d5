"""A Stable Diffusion pipeline of a few thousand parameters, a bridge to it, and the command."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import save_bridge, tiny_pipeline
from tiny_plugins import save_plugins

from bridge_diffusion.cli.main import main
from bridge_diffusion.images.metadata import read_metadata


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


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def pixels(path: Path | str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def draw(bdm: Callable, model: Path, bridge: Path, tmp_path: Path) -> Callable:
    """Run `bdm generate` with the tiny model and bridge; gives the one picture's path."""

    def run(*arguments: object, bridge: object = bridge) -> Path:
        which = ("--model", model, "--bridge", bridge, "--seed", 1, "--steps", 2)
        outcome = bdm("generate", *which, "--out", tmp_path / "out", *arguments)
        assert outcome.code == 0, outcome.err
        (line,) = outcome.lines
        return Path(line)

    return run


@pytest.fixture
def refused(bdm: Callable, model: Path, bridge: Path, tmp_path: Path) -> Callable:
    """Run `bdm generate` and give its one line of error."""

    def run(*arguments: object) -> str:
        which = ("--model", model, "--bridge", bridge) if "--from" not in arguments else ()
        outcome = bdm("generate", *arguments, *which, "--out", tmp_path / "out")
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith("bdm: error: ")
        assert outcome.err.count("\n") == 1
        return outcome.err

    return run


def again(bdm: Callable, path: Path, *arguments: object) -> Path:
    """Draw a picture again from its file, which must give the same pixels and metadata."""
    outcome = bdm("generate", "--from", path, "--out", path.parent / "again", *arguments)
    assert outcome.code == 0, outcome.err
    np.testing.assert_array_equal(pixels(outcome.lines[0]), pixels(path))
    assert read_metadata(Path(outcome.lines[0])) == read_metadata(path)
    return path


@pytest.fixture(scope="session")
def collection(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of plug-ins for the tiny model. Tests must not change it."""
    folder = tmp_path_factory.mktemp("plugins")
    save_plugins(model, folder)
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    ramp = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    left = np.zeros((16, 16), np.uint8)
    left[:, :8] = 255
    Image.fromarray(left).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"

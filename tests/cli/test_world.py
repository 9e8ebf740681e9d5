import json
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from bridge_diffusion.cli.world import app
from bridge_diffusion.errors import BridgeError
from bridge_diffusion.worlds.emoji.concepts import small_world


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_list_counts() -> None:
    assert len(run("list").stdout.splitlines()) == 852
    assert len(run("list", "--native", "zh").stdout.splitlines()) == 58
    probes = run("list", "--probes", "--language", "zh").stdout
    assert len(probes.splitlines()) == 6
    assert "🧧\t1F9E7\t红包\teast_asia:china" in probes


def test_list_as_json_lines() -> None:
    rows = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    assert sum(row["held_out"] for row in rows) == 91
    assert sum(row["literal_probe"] for row in rows) == 6


def test_show() -> None:
    shown = run("show", "红包").stdout
    assert "red envelope" in shown
    assert "held out from the English world: east_asia:china" in shown
    assert json.loads(run("show", "🦊", "--json").stdout)["held_out"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "no such thing"), "has no concept 'no such thing'"),
        (("list", "--language", "fr"), "no language 'fr' here; there are en, zh"),
        (("list", "--native", "fr"), "no language 'fr' here"),
        (("data", "--out", "x", "--vendors", "apple"), "unknown vendor 'apple'"),
        (("data", "--out", "x", "--vendors", ","), "no vendor given"),
        (("data", "--out", "x", "--size", "4"), "a size of 4 pixels"),
        (("data", "--out", "x", "--fluent", "nowhere"), "cannot read nowhere/chars.json"),
        (
            ("train", "--recipe", "debug", "--out", "x", "--minutes", "0"),
            "--minutes is 0, it must be above 0",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    error = run(*arguments).exception
    assert isinstance(error, BridgeError)
    assert message in str(error)
    assert "\n" not in str(error)
    assert not list(tmp_path.iterdir())


def test_data_into_a_folder_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    error = run("data", "--out", tmp_path).exception
    assert isinstance(error, BridgeError)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_data_builds_the_whole_world(tmp_path: Path) -> None:
    pytest.importorskip("uharfbuzz")
    result = run("data", "--out", tmp_path, "--vendors", "noto", "--size", "16", "--json")
    assert json.loads(result.stdout) == {
        "folder": str(tmp_path),
        "pictures": {"noto": 852},
        "missing": {},
    }
    assert len(list((tmp_path / "noto").glob("*.png"))) == 852


def test_captions_say_the_same_in_two_languages(tmp_path: Path) -> None:
    out = tmp_path / "parallel.tsv"
    words = ("captions", "--language", "ja", "--teacher", "zh", "--count", "400", "--out", out)
    assert run(*words).stdout.strip() == str(out)
    pairs = [tuple(line.split("\t")) for line in out.read_text("utf-8").splitlines()]
    assert len(pairs) == 400
    names = {c.names["zh"]: c.names["ja"] for c in small_world("ja")}
    bare = [pair for pair in pairs if pair[0] in names]
    assert 60 < len(bare) < 140
    assert all(names[zh] == ja for zh, ja in bare)
    written = out.read_bytes()
    run(*words)
    assert out.read_bytes() == written
    error = run("captions", "--language", "fr", "--out", tmp_path / "x").exception
    assert "no language 'fr' here" in str(error)


def test_listing_needs_no_torch() -> None:
    import subprocess

    code = (
        "import sys; from typer.testing import CliRunner; from bridge_diffusion.cli.world import "
        "app; CliRunner().invoke(app, ['list']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

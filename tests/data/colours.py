"""The same captioned pictures in each of the forms that data comes in."""

import io
import json
import tarfile
from pathlib import Path

from PIL import Image

COLOURS = {"红色": "red", "绿色": "green", "蓝色": "blue", "黄色": "yellow"}


def png(colour: str, size: tuple[int, int] = (40, 32)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def write_tar(file: Path, members: dict[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def colour_folder(folder: Path, colours: dict[str, str] = COLOURS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for caption, colour in colours.items():
        (folder / f"{colour}.png").write_bytes(png(colour))
        (folder / f"{colour}.txt").write_text(caption, encoding="utf-8")
    return folder


def colour_tars(folder: Path, colours: dict[str, str] = COLOURS) -> Path:
    """Two to a tar, as img2dataset writes them."""
    rows = list(colours.items())
    for number in range(0, len(rows), 2):
        members = {}
        for caption, colour in rows[number : number + 2]:
            record = {"caption": caption, "url": "https://example.org", "width": 40, "key": "0"}
            members[f"{colour}.json"] = json.dumps(record).encode()
            members[f"{colour}.png"] = png(colour)
            members[f"{colour}.txt"] = caption.encode()
        write_tar(folder / f"{number // 2:05d}.tar", members)
    return folder


def colour_table(colours: dict[str, str] = COLOURS):
    import datasets

    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = [{"image": {"bytes": png(c), "path": None}, "text": t} for t, c in colours.items()]
    return datasets.Dataset.from_list(rows, features=features)

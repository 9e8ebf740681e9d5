"""Make `worlds/emoji/concepts.json` from the Unicode CLDR annotations (needs npm; run by hand).

    npm pack cldr-annotations-full@48.2.0 cldr-annotations-derived-full@48.2.0 emojibase-data@17.0.0
    (unpack each into a folder of its package name)
    python tools/extract_concepts.py --npm FOLDER --native native_concepts.csv

The result is committed, so nobody needs npm to use the emoji world. CLDR: Unicode-3.0 licence.
"""

import argparse
import csv
import json
import re
from collections import Counter
from pathlib import Path

LANGUAGES = ("en", "zh", "ja", "ar", "hi", "es")
EXCLUDED_GROUPS = {0, 1, 2, 8, 9}  # smileys, people, components, symbols, flags
OUTPUT = Path(__file__).parents[1] / "src/bridge_diffusion/worlds/emoji/concepts.json"

# CLDR names that are wrong, or that describe another thing than the picture shows.
OVERRIDES = {
    ("1F999", "zh"): "羊驼",  # 美洲鸵 is a bird
    ("1F9DE", "zh"): "灯神",  # 妖怪 is any monster
    ("1F38F", "ar"): "رايات سمك الكارب",  # "coloured scraps"
    ("1F004", "ar"): "ماجونغ",  # "Japanese card game"
    ("1F362", "ar"): "أودن",  # "assorted food"
    ("1F95F", "ja"): "餃子",  # 点心 is any dim sum
    ("1F38E", "ja"): "ひな人形",  # ひな祭り is the festival
    ("1F95F", "hi"): "मोमो",  # a whole description
    ("1FA8A", "hi"): "ट्रॉम्बोन",  # not named in Hindi yet
}


def strip_variation(text: str) -> str:
    return text.replace("\ufe0f", "")


def characters(codepoints: str) -> str:
    return "".join(chr(int(point, 16)) for point in codepoints.split("-"))


def read_annotations(npm: Path, language: str) -> dict[str, dict[str, list[str]]]:
    full = npm / f"cldr-annotations-full/package/annotations/{language}/annotations.json"
    derived = npm / (
        f"cldr-annotations-derived-full/package/annotationsDerived/{language}/annotations.json"
    )
    merged = dict(json.loads(derived.read_text())["annotationsDerived"]["annotations"])
    merged.update(json.loads(full.read_text())["annotations"]["annotations"])
    return {strip_variation(key): value for key, value in merged.items()}


def short_name(name: str, taken: set[str]) -> str:
    """The name up to its first comma and without a bracketed part, where that stays distinct."""
    short = re.sub(r"\s*[(（].*?[)）]", "", re.split(r"[,،、，]", name)[0]).strip()
    return short if short and short not in taken else name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--npm", type=Path, required=True)
    parser.add_argument("--native", type=Path, required=True)
    arguments = parser.parse_args()

    with arguments.native.open(newline="") as file:
        native = {row["codepoints"]: row["region"] for row in csv.DictReader(file)}
    meta = arguments.npm / "emojibase-data/package"
    subgroups = json.loads((meta / "meta/groups.json").read_text())["subgroups"]
    rows = []
    for entry in json.loads((meta / "en/data.json").read_text()):
        code = "-".join(part for part in entry["hexcode"].split("-") if part != "FE0F")
        clock = entry["label"].endswith("o’clock") or "thirty" in entry["label"]
        ordinary = entry.get("group") not in EXCLUDED_GROUPS | {None} and not clock
        if ordinary or code in native:
            rows.append((code, entry["order"], subgroups[str(entry["subgroup"])]))
    rows.sort(key=lambda row: row[1])

    concepts = [
        {"codepoints": code, "subgroup": subgroup, "region": native.get(code), "names": {}}
        for code, _, subgroup in rows
    ]
    for concept in concepts:
        concept["synonyms"] = {}
    for language in LANGUAGES:
        annotations = read_annotations(arguments.npm, language)
        unnamed = {"tts": [""], "default": []}
        cldr = {
            c["codepoints"]: annotations.get(characters(c["codepoints"]), unnamed) for c in concepts
        }
        clashes = Counter(short_name(cldr[c["codepoints"]]["tts"][0], set()) for c in concepts)
        doubled = {name for name, count in clashes.items() if count > 1}
        names = {}
        for concept in concepts:
            code = concept["codepoints"]
            names[code] = OVERRIDES.get((code, language), short_name(cldr[code]["tts"][0], doubled))
            if not names[code]:
                raise SystemExit(f"{code} has no name in {language}: add an override")
            concept["names"][language] = names[code]
        # A keyword is a synonym where it belongs to one concept alone and is nobody's name.
        keywords = Counter(word for c in concepts for word in set(cldr[c["codepoints"]]["default"]))
        everyones = {name.lower() for name in names.values()}
        for concept in concepts:
            words = cldr[concept["codepoints"]]["default"]
            concept["synonyms"][language] = [
                word for word in words if keywords[word] == 1 and word.lower() not in everyones
            ]
    document = {
        "source": "Unicode CLDR annotations 48.2.0, Unicode-3.0 licence; groups: emojibase-data 17",
        "languages": LANGUAGES,
        "concepts": concepts,
    }
    lines = json.dumps(document, ensure_ascii=False, indent=None, separators=(",", ":"))
    OUTPUT.write_text(lines.replace('{"codepoints"', '\n{"codepoints"') + "\n")


if __name__ == "__main__":
    main()

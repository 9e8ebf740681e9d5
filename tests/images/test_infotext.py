from hypothesis import example, given
from hypothesis import strategies as st

from bridge_diffusion.images.infotext import Infotext, format_infotext, parse_infotext

# Text as people write prompts: any Unicode but surrogates, with the marks of the format likely.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('",:\\\n （：'))


def _is_kept(text: str) -> bool:
    """Lines end without spaces and none begins as the format's own second part."""
    lines = text.split("\n")
    return (
        text == text.strip()
        and all(line == line.strip() for line in lines)
        and not any(line.startswith("Negative prompt:") for line in lines)
    )


PROMPTS = ANY_TEXT.map(lambda text: "\n".join(map(str.strip, text.split("\n"))).strip()).filter(
    _is_kept
)
KEYS = st.from_regex(r"[A-Za-z][A-Za-z0-9 /\-]*[A-Za-z]", fullmatch=True)
PARAMETERS = st.dictionaries(KEYS, ANY_TEXT, min_size=3, max_size=6)


@given(prompt=PROMPTS, negative=PROMPTS, parameters=PARAMETERS)
@example(prompt="", negative="", parameters={"Steps": "", "Seed": '"', "Native prompt": "红包\n，"})
@example(prompt="p", negative="n", parameters={"One": '"a"', "Two": " b", "Three": "c: d"})
def test_what_is_written_is_read(prompt: str, negative: str, parameters: dict[str, str]) -> None:
    info = Infotext(prompt=prompt, negative_prompt=negative, parameters=parameters)
    assert parse_infotext(format_infotext(info)) == info


@given(ANY_TEXT)
def test_any_text_is_accepted(text: str) -> None:
    parse_infotext(text)


def test_a_file_of_the_web_ui() -> None:
    info = parse_infotext(
        "masterpiece, (red fox:1.3), <lora:snow:0.8>\nsecond line\n"
        "Negative prompt: blurry, low quality\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 965400086, Size: 512x768, "
        'Model hash: 6ce0161689, Model: v1-5, Lora hashes: "snow: 0a1b, ice: 2c3d", '
        "Hires resize-1: 2, Version: v1.7.0"
    )
    assert info.prompt == "masterpiece, (red fox:1.3), <lora:snow:0.8>\nsecond line"
    assert info.negative_prompt == "blurry, low quality"
    assert info.parameters["Sampler"] == "DPM++ 2M Karras"
    assert info.parameters["Lora hashes"] == "snow: 0a1b, ice: 2c3d"
    assert info.parameters["Size"] == "512x768"
    assert list(info.parameters)[-1] == "Version"


def test_a_prompt_alone() -> None:
    info = parse_infotext("a clock at 12:30, in the snow")
    assert info == Infotext(prompt="a clock at 12:30, in the snow")


def test_plain_values_stay_unquoted() -> None:
    parameters = {"Steps": "30", "Sampler": "DPM++ 2M", "Native prompt": "红包, 月饼"}
    text = format_infotext(Infotext(prompt="p", parameters=parameters))
    assert text == 'p\nSteps: 30, Sampler: DPM++ 2M, Native prompt: "红包, 月饼"'

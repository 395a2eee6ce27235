"""Our STAR parser and writer against gemmi's, an independent reader of the same grammar."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verglas.io._base import FormatOptions
from verglas.io.picks import read_picks, write_picks
from verglas.io.star import Block, format_star, read_star
from verglas.types import Picks, PickSet

cif = pytest.importorskip("gemmi").cif


def seen_by_gemmi(path: Path) -> dict[str, tuple[dict[str, str], dict[str, list[str]]]]:
    """Return the pairs and the columns of each block; gemmi prefers the first of equal names."""
    blocks = {}
    for block in cif.read(str(path)):
        pairs, columns = {}, {}
        for item in block:
            if item.pair is not None:
                pairs[item.pair[0]] = cif.as_string(item.pair[1])
            elif item.loop is not None:
                width = item.loop.width()
                values = [cif.as_string(value) for value in item.loop.values]
                columns |= {tag: values[at::width] for at, tag in enumerate(item.loop.tags)}
        blocks[block.name.strip()] = (pairs, columns)
    return blocks


def seen_by_us(path: Path) -> dict[str, tuple[dict[str, str], dict[str, list[str]]]]:
    return {
        name: (dict(block.pairs), {label: list(values) for label, values in block.columns.items()})
        for name, block in read_star(path).items()
    }


@pytest.mark.parametrize(
    "name",
    [
        "mrc_samples/Ucsf_stack_1142_DW_autopick.star",
        "bgal_10017/bgal_10017.star",
        "klh/klh.star",
        "cryoppp_10059/cryoppp_10059.star",
    ],
)
def test_real_files_read_alike(real_data: Path, name: str) -> None:
    assert seen_by_us(real_data / name) == seen_by_gemmi(real_data / name)


def picks() -> PickSet:
    generator = np.random.default_rng(11)
    parts = [Picks(name, generator.uniform(0, 900, (7, 2)), generator.random(7)) for name in ("a", "b c", "_d")]
    return PickSet(tuple(parts), 0.5, 'chosen on "validation"', 31.5, 1.77, {"a": (900, 900)})


def test_gemmi_reads_our_pick_file(tmp_path: Path) -> None:
    path = tmp_path / "picks.star"
    write_picks(path, picks(), counted_only=False)
    blocks = seen_by_gemmi(path)
    assert list(blocks) == ["particles", "verglas", "verglas_micrographs"]
    assert blocks == seen_by_us(path)
    _, columns = blocks["particles"]
    assert columns["_rlnMicrographName"] == ["a"] * 7 + ["b c"] * 7 + ["_d"] * 7
    x = np.array(columns["_rlnCoordinateX"], float)
    np.testing.assert_allclose(x, np.concatenate([part.xy[:, 0] for part in picks()]), atol=0.0005)


def test_gemmi_reads_our_cbox(tmp_path: Path) -> None:
    path = tmp_path / "a.cbox"
    alone = PickSet(picks().picks[:1])
    write_picks(path, alone, FormatOptions(box_px=40), counted_only=False)
    text = path.read_text()
    path.with_suffix(".star").write_text(text[: text.index("data_cryolo_include")])  # gemmi wants rows in a loop
    pairs, _ = seen_by_gemmi(path.with_suffix(".star"))["global"]
    _, columns = seen_by_gemmi(path.with_suffix(".star"))["cryolo"]
    assert pairs == {"_cbox_format_version": "1.0"}
    corner = np.array([columns["_CoordinateX"], columns["_CoordinateY"]], float).T
    np.testing.assert_allclose(corner + 20, alone.picks[0].xy, atol=0.0005)


def test_we_read_what_gemmi_writes(tmp_path: Path) -> None:
    document = cif.Document()
    block = document.add_new_block("particles")
    block.set_pair("_verglasNote", cif.quote("two words"))
    loop = block.init_loop("_rln", ["MicrographName", "CoordinateX", "CoordinateY"])
    given_ = [("mic one.mrc", "1.5", "2"), ("it's.mrc", "3", "4e1"), ("#5.mrc", "-6", "0.25")]
    for name, x, y in given_:
        loop.add_row([cif.quote(name), x, y])
    path = tmp_path / "gemmi.star"
    document.write_file(str(path))
    found = read_picks(path)
    assert [(p.micrograph, *p.xy[0].tolist()) for p in found] == [
        ("mic one", 1.5, 2),
        ("it's", 3, 40),
        ("#5", -6, 0.25),
    ]


printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(printable, printable), min_size=1, max_size=4))
def test_any_value_that_we_write_is_read_alike(
    rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def one_quote(text: str) -> str:
        return text.replace("'", '"').replace('"', "") if "'" in text and '"' in text else text

    # gemmi takes a lone . or ? for a missing value, and refuses a bare $ or [ in front, which RELION knows not
    safe = [
        tuple("x" if c.strip()[:1] in tuple("$[].?") or c.lower() in RESERVED else one_quote(c) for c in r)
        for r in rows
    ]
    columns = {f"_rln{at}": list(column) for at, column in enumerate(zip(*safe, strict=True))}
    path = tmp_path_factory.mktemp("star") / "a.star"
    path.write_text(format_star([Block("particles", columns=columns)]))
    assert seen_by_us(path)["particles"][1] == columns
    assert seen_by_gemmi(path)["particles"][1] == columns


RESERVED = ("loop_", "stop_", "global_", "save_", "data_")

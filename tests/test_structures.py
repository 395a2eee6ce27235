"""Atoms read by us equal atoms read by gemmi; damage is named, never guessed at."""

import gzip
from pathlib import Path

import gemmi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verglas.errors import InputError
from verglas.io.structures import read_structure

ELEMENTS = ("C", "N", "O", "S", "P", "ZN", "H")


def model(generator: np.random.Generator, residues: int = 12) -> gemmi.Model:
    """Residues of atoms at random, one with two places, one zinc, one water."""
    chain = gemmi.Chain("A")
    for number in range(residues):
        residue = gemmi.Residue()
        residue.name = {residues - 1: "HOH", residues - 2: "ZN"}.get(number, "LYS")
        residue.het_flag = "H" if number >= residues - 2 else "A"
        residue.seqid = gemmi.SeqId(number + 1, " ")
        for element in ("ZN",) if residue.name == "ZN" else ("O",) if residue.name == "HOH" else ELEMENTS:
            atom = gemmi.Atom()
            atom.name, atom.element = f"{element}1", gemmi.Element(element)
            atom.pos = gemmi.Position(*np.round(generator.normal(0, 40, 3), 3))
            if number == 0 and element == "C":
                atom.altloc, atom.occ = "A", 0.3
                residue.add_atom(atom)
                atom.altloc, atom.occ = "B", 0.7
            residue.add_atom(atom)
        chain.add_residue(residue)
    made = gemmi.Model(1)
    made.add_chain(chain)
    return made


@pytest.fixture
def structure() -> gemmi.Structure:
    made = gemmi.Structure()
    made.name = "test"
    for seed in (0, 1):
        made.add_model(model(np.random.default_rng(seed)))
    made.renumber_models()
    made.setup_entities()
    return made


def write(structure: gemmi.Structure, path: Path) -> None:
    plain = path.name.removesuffix(".gz")
    text = (
        structure.make_pdb_string() if plain.endswith(("pdb", "ent")) else structure.make_mmcif_document().as_string()
    )
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("name", ["a.pdb", "a.ent", "a.cif", "a.mmcif", "a.pdb.gz", "A.CIF.gz"])
def test_atoms_are_those_of_gemmi(name: str, structure: gemmi.Structure, tmp_path: Path) -> None:
    write(structure, tmp_path / name)
    ours = read_structure(tmp_path / name)
    theirs = [(r, a) for chain in structure[0] for r in chain for a in r if r.name != "HOH"]
    np.testing.assert_allclose(ours.xyz, [a.pos.tolist() for _, a in theirs], atol=6e-4)
    np.testing.assert_allclose(ours.occupancy, [a.occ for _, a in theirs], atol=1e-6)
    assert list(ours.element) == [a.element.name.upper() for _, a in theirs]
    assert {0.3, 0.7} < set(np.round(ours.occupancy, 3))


def pdb_line(name: str = " CA ", xyz: str = "   1.000   2.000   3.000", tail: str = "  1.00  0.00           C") -> str:
    return f"ATOM      1 {name} LYS A   1    {xyz}{tail}\n"


def test_elements_are_told_from_names_where_the_column_is_missing(tmp_path: Path) -> None:
    names = {" CA ": "C", "CA  ": "CA", " OXT": "O", "HD21": "H", "1HB ": "H", " HG ": "H", "FE  ": "FE"}
    (tmp_path / "a.pdb").write_text("".join(pdb_line(name, tail="") for name in names))
    read = read_structure(tmp_path / "a.pdb")
    assert read.element == tuple(names.values())
    assert read.occupancy.tolist() == [1.0] * len(names)


CIF = """data_x
_struct.title
;
loop_
_atom_site.Cartn_x
1
;
loop_
_atom_site_anisotrop.id
1
loop_
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
C 'C A' 1 2 3
# a comment
N "O5'" 4
5 6
O 'a'b' 7 8 9
_after.x 1
"""


def test_mmcif_quotes_text_fields_comments_and_broken_rows(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(CIF)
    read = read_structure(tmp_path / "a.cif")
    np.testing.assert_array_equal(read.xyz, np.arange(1.0, 10).reshape(3, 3))
    assert read.element == ("C", "N", "O")
    block = gemmi.cif.read(str(tmp_path / "a.cif")).sole_block()
    assert [float(x) for x in block.find_values("_atom_site.Cartn_x")] == read.xyz[:, 0].tolist()


@pytest.mark.parametrize(
    ("name", "text", "where", "field"),
    [
        ("a.pdb", pdb_line(xyz="   1.000   x.000   3.000"), "a.pdb:1", "y"),
        ("a.pdb", pdb_line() + pdb_line(xyz="   1.000   2.000     nan"), "a.pdb:2", "z"),
        ("a.pdb", pdb_line(xyz="   1.000   2.000")[:40] + "\n", "a.pdb:1", "y"),
        ("a.pdb", pdb_line(tail="  7.00  0.00           C"), "a.pdb:1", "occupancy"),
        ("a.pdb", "REMARK nothing\n", "a.pdb", "number of atoms"),
        ("a.pdb", "A" * 70_000, "a.pdb:1", "size"),
        ("a.cif", CIF.replace("7 8 9", "7 8"), "a.cif", "number of values"),
        ("a.cif", CIF.replace("7 8 9", "7 8 9 10 11 12"), "a.cif", "number of values"),
        ("a.cif", CIF.replace("7 8 9", "7 8 ?"), "a.cif", "z"),
        ("a.cif", CIF.replace("_atom_site.Cartn_y", "_atom_site.other"), "a.cif", "atom_site columns"),
        ("a.xyz", "C 0 0 0", "a.xyz", "file type"),
        ("a", "", "a", "file type"),
    ],
)
def test_damage_is_named(name: str, text: str, where: str, field: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        read_structure(tmp_path / name)
    assert error.value.where.startswith(str(tmp_path / where))
    assert error.value.field == field


def test_missing_and_truncated_files_are_input_errors(structure: gemmi.Structure, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unreadable"):
        read_structure(tmp_path / "absent.pdb")
    write(structure, tmp_path / "a.pdb.gz")
    whole = (tmp_path / "a.pdb.gz").read_bytes()
    (tmp_path / "a.pdb.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="unreadable"):
        read_structure(tmp_path / "a.pdb.gz")


def test_gzip_bomb_is_refused_at_its_first_line(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_bytes(gzip.compress(bytes(50_000_000)))
    with pytest.raises(InputError, match="too large"):
        read_structure(tmp_path / "a.pdb")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mangled_files_are_read_or_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    name, text = data.draw(st.sampled_from([("m.cif", CIF), ("m.pdb", pdb_line() * 3)]))
    raw = bytearray(text.encode())
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=8)):
        raw[at] = byte
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(raw)
    try:
        read = read_structure(path)
    except InputError:
        return
    assert np.isfinite(read.xyz).all()
    assert len(read.xyz) == len(read.element) == len(read.occupancy) > 0

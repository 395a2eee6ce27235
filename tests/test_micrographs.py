"""Readers against mrcfile, tifffile and Pillow as oracles; what headers say; the one writer."""

import gzip
import tracemalloc
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from verglas.errors import InputError
from verglas.io.micrographs import Header, ReadOptions, differ, read_header, read_image, read_micrograph, write_mrc

SIDES = st.integers(16, 70)
AS_STORED = ReadOptions(tiff_flip="none")


def noise(shape: tuple[int, int] = (48, 64), dtype: str = "f4", seed: int = 0) -> np.ndarray:
    """Noise that uses the range of its type: values that any wrong reading would change."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(100, 20, shape).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(kind)


def save_mrc(path: Path, data: np.ndarray, compression: str | None = None, **header: object) -> Path:
    """Write with mrcfile, then set header fields as a careless program would."""
    with mrcfile.new(path, compression=compression, overwrite=True) as mrc:
        mrc.set_data(data)
        for name, value in header.items():
            setattr(mrc.header, name, value)
    return path


def header_like(path: Path, *, mx: int = 64, my: int = 48, cell: tuple[float, float] = (64.0, 48.0)) -> Header:
    save_mrc(path, noise(), mx=mx, my=my, cella=(*cell, 1.0))
    return read_header(path)


# --- MRC ---


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i1", "i2", "f4", "u2", "f2"])
@settings(max_examples=6)
@given(h=SIDES, w=SIDES, seed=st.integers(0, 9))
def test_every_mode_byte_order_and_compression_is_read_as_mrcfile_wrote_it(
    tmp_path_factory, compression, order, kind, h, w, seed
):
    data = noise((h, w), kind, seed).astype(np.dtype(kind).newbyteorder(order))
    path = save_mrc(tmp_path_factory.mktemp("mrc") / "a.mrc", data, compression)
    image = read_image(path)
    assert read_header(path).shape == image.shape == (h, w)
    assert image.dtype == np.float32
    assert image.dtype.isnative
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, data.astype("f4"))


def test_mode_0_is_signed_unless_told_otherwise(tmp_path):
    data = noise(dtype="i1")
    path = save_mrc(tmp_path / "a.mrc", data)
    np.testing.assert_array_equal(read_image(path), data)
    np.testing.assert_array_equal(read_image(path, ReadOptions(mrc_mode0="unsigned")), data.view("u1"))


def test_a_stack_of_one_is_a_picture(tmp_path):
    data = noise()
    np.testing.assert_array_equal(read_image(save_mrc(tmp_path / "a.mrc", data[None])), data)


def test_extended_header_is_skipped(tmp_path):
    data = noise()
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(data)
        mrc.set_extended_header(np.frombuffer(b"FEI1" * 300, "V1200"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.mrc"), data)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_padding_after_the_pixels_is_accepted(tmp_path, pack):
    data = noise()
    whole = save_mrc(tmp_path / "a.mrc", data).read_bytes()
    (tmp_path / "b.mrc").write_bytes(pack(whole + bytes(512)))
    np.testing.assert_array_equal(read_image(tmp_path / "b.mrc"), data)


@pytest.mark.parametrize("stamp", [b"\0\0\0\0", b"DD\0\0", b"DA\0\0"])
def test_machine_stamps_of_small_endian_programs(tmp_path, stamp):
    whole = bytearray(save_mrc(tmp_path / "a.mrc", noise()).read_bytes())
    whole[208:216] = b"MAP\0" + stamp
    (tmp_path / "a.mrc").write_bytes(whole)
    np.testing.assert_array_equal(read_image(tmp_path / "a.mrc"), noise())


@pytest.mark.parametrize("shape", [(16, 16), (16, 4000), (33, 1025)])
def test_shapes_at_and_off_the_size_of_a_block(tmp_path, shape):
    write_mrc(tmp_path / "a.mrc", noise(shape))
    np.testing.assert_array_equal(read_image(tmp_path / "a.mrc"), noise(shape))


def test_large_finite_values_are_not_taken_for_infinite(tmp_path):
    data = np.full((20, 20), 3e38, np.float32)  # whose sum overflows float32
    data[0, 0] = -3e38
    write_mrc(tmp_path / "a.mrc", data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.mrc"), data)


def test_contrast_anywhere_makes_a_picture(tmp_path):
    data = np.zeros((20, 20), np.float32)
    data[19, 19] = 1
    write_mrc(tmp_path / "a.mrc", data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.mrc"), data)


def test_a_plain_file_costs_no_more_memory_than_its_pixels(tmp_path):
    data = noise((1024, 1024))
    write_mrc(tmp_path / "a.mrc", data)
    read_image(tmp_path / "a.mrc")
    tracemalloc.start()
    read_image(tmp_path / "a.mrc")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.1 * data.nbytes


def test_headers_are_read_without_the_pixels(tmp_path):
    write_mrc(tmp_path / "a.mrc", noise((1024, 1024)))
    read_micrograph(tmp_path / "a.mrc")
    tracemalloc.start()
    read_micrograph(tmp_path / "a.mrc")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.05 * 4 * 2**20


def test_a_file_that_changed_its_size_since_it_was_found_is_refused(tmp_path):
    write_mrc(tmp_path / "a.mrc", noise())
    found = read_micrograph(tmp_path / "a.mrc")
    np.testing.assert_array_equal(read_image(found), noise())
    write_mrc(tmp_path / "a.mrc", noise((64, 48)))
    with pytest.raises(InputError, match=r"a\.mrc: size is 48 x 64 pixels; expected 64 x 48 pixels"):
        read_image(found)


# --- pixel size ---


@settings(max_examples=40)
@given(size=st.floats(0.05, 20.0).filter(lambda x: x != 1.0))
def test_pixel_size_survives_the_header(tmp_path_factory, size):
    path = tmp_path_factory.mktemp("mrc") / "a.mrc"
    write_mrc(path, noise((17, 31)), size)
    assert read_micrograph(path).pixel_size_angstrom == pytest.approx(size, rel=6e-6)
    assert read_header(path).pixel_size_warning() == ""


def test_pixel_sizes_come_back_as_they_were_written(tmp_path):
    write_mrc(tmp_path / "a.mrc", noise((4096, 16)), 1.06)  # float32 alone gives 1.0599999
    assert read_micrograph(tmp_path / "a.mrc").pixel_size_angstrom == 1.06


@pytest.mark.parametrize("cell", [(0.0, 0.0), (-64.0, -48.0), (np.nan, np.nan), (np.inf, np.inf), (1e-9, 1e-9)])
def test_a_header_without_a_believable_size_gives_none(tmp_path, cell):
    header = header_like(tmp_path / "a.mrc", cell=cell)
    assert header.pixel_size_angstrom() is None
    assert "none is used; give pixel_size_angstrom" in header.pixel_size_warning()
    assert header.pixel_size_angstrom(option=1.5) == 1.5
    assert header.pixel_size_warning(option=1.5) == ""


def test_no_samples_along_an_axis_is_no_size(tmp_path):
    assert header_like(tmp_path / "a.mrc", mx=0, my=0).pixel_size_angstrom() is None


def test_exactly_one_is_used_but_doubted(tmp_path):
    header = header_like(tmp_path / "a.mrc")
    assert header.pixel_size_angstrom() == 1.0
    assert "exactly 1 Å" in header.pixel_size_warning()
    assert header.pixel_size_warning(option=1.0) == ""
    assert header.pixel_size_warning(option=2.0) == "pixel sizes disagree: option 2 Å, header 1 Å " \
        "(it is exactly 1 Å, as written where it is not known); 2 Å is used."  # fmt: skip


def test_a_stale_header_contradicts_itself(tmp_path):
    header = header_like(tmp_path / "a.mrc", mx=512, my=384, cell=(512 * 0.79, 384 * 0.79))
    assert header.readings_angstrom == (0.79, 6.32)
    assert header.pixel_size_angstrom() is None
    warning = header.pixel_size_warning()
    assert "header 0.79 Å, header 6.32 Å (mx is 512 but nx 64)" in warning
    assert header.pixel_size_warning(option=6.32, star=6.3).startswith(
        "pixel sizes disagree: option 6.32 Å, STAR 6.3 Å, header 0.79 Å, header 6.32 Å"
    )


def test_pixels_that_are_not_square_are_doubted(tmp_path):
    header = header_like(tmp_path / "a.mrc", cell=(64 * 1.5, 48 * 1.6))
    assert header.pixel_size_angstrom() is None
    assert "not square" in header.pixel_size_warning()
    assert header_like(tmp_path / "b.mrc", my=24).doubt == "my is 24 but ny 48"


@pytest.mark.parametrize(
    ("option", "star", "used"), [(None, None, 1.5), (None, 1.6, 1.6), (1.7, 1.6, 1.7), (1.7, None, 1.7)]
)
def test_option_comes_before_star_before_header(option, star, used):
    header = Header((48, 64), (1.5,))
    assert header.pixel_size_angstrom(option, star) == used
    told = [f"{name} {size:g} Å" for name, size in (("option", option), ("STAR", star), ("header", 1.5)) if size]
    warning = header.pixel_size_warning(option, star)
    if used == 1.5:
        assert warning == ""
    else:
        assert warning == f"pixel sizes disagree: {', '.join(told)}; {used:g} Å is used."


@given(st.floats(0.1, 10), st.floats(0.98, 1.02))
def test_one_per_cent_is_the_border_of_disagreement(size, factor):
    if abs(abs(np.log(factor)) - np.log(1.01)) > 1e-9:
        assert (Header((48, 64), (size,)).pixel_size_warning(option=size * factor) != "") == (
            max(factor, 1 / factor) > 1.01
        )


def test_differ_needs_two_values():
    assert not differ([])
    assert not differ([3.0])
    assert differ([3.0, 1.0])


def test_option_overrules_the_header(tmp_path):
    write_mrc(tmp_path / "mic_DW.mrc", noise(), 1.5)
    found = read_micrograph(tmp_path / "mic_DW.mrc", pixel_size_angstrom=3.0)
    assert (found.name, found.path, found.shape) == ("mic_DW", tmp_path / "mic_DW.mrc", (48, 64))
    assert found.pixel_size_angstrom == 3.0


# --- TIFF ---


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("layout", [{}, {"bigtiff": True, "byteorder": ">"}, {"tile": (16, 32)}, {"rowsperstrip": 7},
                                    {"compression": "zlib", "rowsperstrip": 5}])  # fmt: skip
def test_tiff_of_every_kind_is_read_upside_down_as_relion_does(tmp_path, kind, layout):
    data = noise(dtype=kind)
    tifffile.imwrite(tmp_path / "a.tif", data, **layout)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), data[::-1].astype("f4"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", AS_STORED), data.astype("f4"))
    assert read_image(tmp_path / "a.tif").flags.c_contiguous
    assert read_micrograph(tmp_path / "a.tif").shape == data.shape
    assert read_micrograph(tmp_path / "a.tif").pixel_size_angstrom is None


@pytest.mark.parametrize("kind", ["u1", "u2", "i4", "f4"])
@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_compression_as_other_programs_write_it(tmp_path, kind, compression):
    data = noise(dtype=kind)
    Image.fromarray(data).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), data[::-1].astype("f4"))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_whose_colours_are_equal_is_grey(tmp_path, planar):
    data = noise(dtype="u1")
    colours = np.stack([data] * 3, axis=2 if planar == "contig" else 0)
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", AS_STORED), data)


def test_a_thumbnail_does_not_make_a_movie(tmp_path):
    data = noise()
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(data)
        tiff.write(data[::4, ::4], subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", AS_STORED), data)


# --- PNG and JPEG ---


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_grey_png_is_read_as_stored_and_has_no_pixel_size(tmp_path, kind):
    data = noise(dtype=kind)
    Image.fromarray(data).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), data)
    assert read_header(tmp_path / "a.png") == Header(data.shape)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_png_of_other_kinds_that_is_grey_all_the_same(tmp_path, mode):
    data = noise(dtype="u1")
    Image.fromarray(data).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), data)


def test_a_palette_is_looked_up(tmp_path):
    index = noise(dtype="u1")
    image = Image.fromarray(index).convert("P")
    image.putpalette([255 - i for i in range(256) for _ in "rgb"])
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), 255 - index.astype("f4"))


def test_black_and_white_png(tmp_path):
    data = noise(dtype="u1") > 127
    Image.fromarray(data).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), data)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_read_as_pillow_decodes_it(tmp_path, mode):
    smooth = np.add.outer(np.arange(48.0), 2 * np.arange(64.0))
    Image.fromarray(smooth.astype("u1")).convert(mode).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg") - smooth).max() <= 4


# --- content, names, real files ---


@pytest.mark.parametrize("kind", ["mrc", "gz", "tif", "png", "jpg"])
@pytest.mark.parametrize("suffix", [".mrc", ".tif", ".png", ".jpg", ".dat", ""])
def test_content_wins_over_suffix(tmp_path, kind, suffix):
    data = noise(dtype="u1")
    path = tmp_path / f"mic{suffix}"
    if kind in ("mrc", "gz"):
        save_mrc(path, data, "gzip" if kind == "gz" else None)
    elif kind == "tif":
        tifffile.imwrite(path, data[::-1])
    else:
        Image.fromarray(data).save(path, {"png": "PNG", "jpg": "JPEG"}[kind], quality=100)
    assert np.abs(read_image(path) - data).max() <= (0 if kind != "jpg" else 40)
    assert read_micrograph(path).name == ("mic.dat" if suffix == ".dat" else "mic")


def test_strings_and_paths_do_alike(tmp_path):
    write_mrc(str(tmp_path / "a.mrc"), noise())
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.mrc")), read_image(tmp_path / "a.mrc"))
    assert read_micrograph(str(tmp_path / "a.mrc")) == read_micrograph(tmp_path / "a.mrc")


@pytest.mark.data
def test_the_stale_header_of_a_real_micrograph_is_noticed(real_data):
    path = real_data / "mrc_samples" / "apoferritin_24dec03a_ds8.mrc"
    header = read_header(path)
    assert header.readings_angstrom == (0.79, 6.32)
    assert read_micrograph(path).pixel_size_angstrom is None
    assert "option 6.32 Å, header 0.79 Å" in header.pixel_size_warning(option=6.32)
    np.testing.assert_array_equal(read_image(path), mrcfile.read(path))


@pytest.mark.data
def test_a_real_header_of_one_angstrom_is_doubted(real_data):
    header = read_header(real_data / "mrc_samples" / "Ucsf_stack_1142_DW.mrc")
    assert (header.shape, header.readings_angstrom) == ((927, 959), (1.0,))
    assert "exactly 1 Å" in header.pixel_size_warning()


@pytest.mark.data
def test_real_pngs_are_read_as_pillow_reads_them(real_data):
    for path in sorted(real_data.glob("*/images/*.png"))[::9]:
        with Image.open(path) as image:
            np.testing.assert_array_equal(read_image(path), np.asarray(image))


# --- writing ---


def test_written_files_are_valid_mrc2014(tmp_path, capsys):
    write_mrc(tmp_path / "a.mrc", noise(), 1.7)
    assert mrcfile.validate(tmp_path / "a.mrc"), capsys.readouterr().out
    assert mrcfile.read(tmp_path / "a.mrc").dtype == np.float32
    with mrcfile.open(tmp_path / "a.mrc") as mrc:
        assert [float(mrc.voxel_size[axis]) for axis in "xy"] == pytest.approx([1.7, 1.7])


def test_same_data_same_bytes_at_any_time(tmp_path, monkeypatch):
    write_mrc(tmp_path / "a.mrc", noise())
    monkeypatch.setattr("mrcfile.mrcobject.datetime", SimpleNamespace(now=lambda: datetime(1999, 9, 9)))
    write_mrc(tmp_path / "b.mrc", noise().astype("f8"))
    first = (tmp_path / "a.mrc").read_bytes()
    assert first == (tmp_path / "b.mrc").read_bytes()
    assert b"verglas" in first[224:304]


def test_writing_makes_folders_and_replaces_whole_files(tmp_path):
    path = tmp_path / "deep" / "a.mrc"
    write_mrc(path, noise())
    write_mrc(path, noise(seed=1), 2.0)
    np.testing.assert_array_equal(read_image(path), noise(seed=1))
    assert [p.name for p in path.parent.iterdir()] == ["a.mrc"]
    assert read_micrograph(path).pixel_size_angstrom == 2.0


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_mrc(tmp_path / "a.mrc", noise())
    monkeypatch.setattr("mrcfile.mrcobject.MrcObject.set_data", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_mrc(tmp_path / "a.mrc", noise(seed=1))
    np.testing.assert_array_equal(read_image(tmp_path / "a.mrc"), noise())
    assert len(list(tmp_path.iterdir())) == 1

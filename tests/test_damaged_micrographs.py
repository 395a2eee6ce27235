"""Damaged, hostile and foreign files: each gives an ``InputError`` that names it, in bounded memory, or true pixels."""

import bz2
import gzip
import io
import logging
import resource
import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from verglas.errors import InputError
from verglas.io.micrographs import ReadOptions, read_header, read_image, read_micrograph, write_mrc

SHAPE = (48, 64)


def noise(kind: str = "f4") -> np.ndarray:
    return np.random.default_rng(0).normal(120, 20, SHAPE).clip(0, 255).astype(kind)


def mrc_bytes(data: np.ndarray | None = None, **fields: int) -> bytes:
    """Return a float32 MRC file, with header fields set to what they should not be."""
    data = noise() if data is None else data
    with tempfile.TemporaryDirectory() as folder:
        with mrcfile.new(f"{folder}/a.mrc") as mrc:
            mrc.set_data(np.zeros_like(data))  # mrcfile warns of what the tests need
            for name, value in fields.items():
                setattr(mrc.header, name, value)
        return Path(folder, "a.mrc").read_bytes()[:1024] + data.tobytes()


def tiff_bytes(data: np.ndarray | None = None, **layout: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, noise() if data is None else data, **layout)
    return file.getvalue()


def photo_bytes(kind: str, data: np.ndarray | None = None, mode: str = "", **options: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(noise("u1") if data is None else data)
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def with_nan(count: int) -> np.ndarray:
    data = noise()
    data.reshape(-1)[:: data.size // count][:count] = np.nan
    return data


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG file, checksum and all."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bomb(w: int, h: int) -> bytes:
    """Return a small and valid PNG whose pixels are huge."""
    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(w + 1)) for _ in range(h)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", w, h, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def mrc_bomb(pack: Callable[[], "zlib._Compress | bz2.BZ2Compressor"], side: int = 8192) -> bytes:
    """Return a small compressed MRC file of zeros that is true to its header."""
    head = mrc_bytes(nx=side, ny=side, mx=side, my=side)[:1024]
    squeeze, row = pack(), bytes(2**20)
    body = [squeeze.compress(head), *(squeeze.compress(row) for _ in range(side * side * 4 // 2**20)), squeeze.flush()]
    return b"".join(body)


MRC, TIFF, PNG, JPEG = mrc_bytes(), tiff_bytes(), photo_bytes("PNG"), photo_bytes("JPEG")
SOUND = {
    "mrc": MRC,
    "big-endian mrc": mrc_bytes(noise(">f4")),
    "mrc.gz": gzip.compress(MRC, mtime=0),
    "mrc.bz2": bz2.compress(MRC),
    "tif": TIFF,
    "tiled tif": tiff_bytes(noise("u1"), tile=(16, 16)),
    "deflated tif": tiff_bytes(compression="zlib", rowsperstrip=7),
    "lzw tif": photo_bytes("TIFF", compression="tiff_lzw"),
    "png": PNG,
    "jpg": JPEG,
    "progressive jpg": photo_bytes("JPEG", progressive=True),
}
COLOURS = np.random.default_rng(1).integers(0, 255, (*SHAPE, 3), dtype="u1")
HALF_CLEAR = np.dstack([noise("u1")] * 3 + [(noise("u1") > 120).astype("u1") * 255])

# name: (bytes, what the message must say)
DAMAGED = {
    "empty": (b"", "0 bytes"),
    "one byte": (b"x", "1 bytes"),
    "zeros": (bytes(20000), "beginning 00 00"),
    "garbage": (np.random.default_rng(2).bytes(20000), "expected an MRC .* TIFF, PNG or JPEG file"),
    "text": (b"x,y\n1,2\n" * 500, "expected an MRC"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(4000), "expected an MRC"),
    # MRC
    "mrc header only": (MRC[:1024], "length is 1024 bytes; expected 13312. It is cut short"),
    "mrc half a header": (MRC[:600], "600 bytes"),
    "mrc without its last byte": (MRC[:-1], "length is 13311 bytes; expected 13312"),
    "mrc twice as long": (MRC + MRC[1024:], "Its header is wrong"),
    "mrc without MAP": (replaced(MRC, 208, b"PAM "), "MAP at byte 208"),
    "mrc with a bad stamp": (replaced(MRC, 212, b"\x42\x42"), "machine stamp is 42 42"),
    "mrc of the other byte order": (replaced(MRC, 212, b"\x11\x11"), "mode is 33554432"),
    "mrc complex": (mrc_bytes(mode=4), r"mode is 4 \(complex float32, a Fourier transform\)"),
    "mrc complex int": (mrc_bytes(mode=3), r"mode is 3 \(complex int16\)"),
    "mrc 4 bit": (mrc_bytes(mode=101), r"mode is 101 \(4 bits per pixel\)"),
    "mrc unknown mode": (mrc_bytes(mode=77), r"mode is 77 \(unknown\); expected one of 0, 1, 2, 6, 12"),
    "mrc movie": (mrc_bytes(np.stack([noise()] * 7)), r"number of pictures is 7 \(a movie or a stack\).*sum it first"),
    "mrc without planes": (mrc_bytes(nz=0), "number of pictures is 0"),
    "mrc huge": (mrc_bytes(nx=2**30, ny=2**30), "size is 1073741824 x 1073741824 pixels; expected 16 to 32768"),
    "mrc negative": (mrc_bytes(nx=-64), "size is -64 x 48"),
    "mrc too small": (mrc_bytes(noise()[:8]), "size is 64 x 8 pixels"),
    "mrc as large as may be": (mrc_bytes(nx=32768, ny=32768), "length is 13312 bytes; expected 4294968320"),
    "mrc negative nsymbt": (mrc_bytes(nsymbt=-4), "nsymbt is -4"),
    "mrc huge nsymbt": (mrc_bytes(nsymbt=2**31 - 1), "nsymbt is 2147483647"),
    "mrc nsymbt past the end": (mrc_bytes(nsymbt=4096), "length is 13312 bytes; expected 17408"),
    "mrc nan": (mrc_bytes(with_nan(5)), "pixels is 5 of 3072 NaN or infinite"),
    "mrc infinite": (mrc_bytes(np.where(noise() > 170, np.inf, noise()).astype("f4")), "NaN or infinite"),
    "mrc half infinite": (mrc_bytes(np.full(SHAPE, -np.inf, "f2")), "3072 of 3072 NaN or infinite"),
    "mrc constant": (mrc_bytes(np.full(SHAPE, 7, "f4")), "7 everywhere"),
    # compressed
    "gz cut short": (SOUND["mrc.gz"][:-2000], "unreadable"),
    "gz without its checksum": (SOUND["mrc.gz"][:-8], "unreadable"),
    "gz with a wrong checksum": (replaced(SOUND["mrc.gz"], -8, b"\1\2\3\4"), "CRC check failed"),
    "gz of half a file": (gzip.compress(MRC[:5000]), "length is 5000 bytes; expected 13312"),
    "gz twice as long": (gzip.compress(MRC + MRC), "Its header is wrong"),
    "gz of a png": (gzip.compress(PNG * 9), "expected an MRC"),
    "gz of nothing": (gzip.compress(b""), "0 bytes"),
    "gz header only": (b"\x1f\x8b\x08\0", "unreadable"),
    "gz bomb": (mrc_bomb(lambda: zlib.compressobj(9, wbits=31)), "inflated size is 268436480 bytes"),
    "bz2 bomb": (mrc_bomb(bz2.BZ2Compressor), "inflated size is 268436480 bytes"),
    "bz2 cut short": (SOUND["mrc.bz2"][:-500], "unreadable"),
    # TIFF
    "tif header only": (TIFF[:8], "unreadable"),
    "tif cut short": (TIFF[:-100], "expected a file that holds all rows"),
    "tif in strips cut short": (tiff_bytes(rowsperstrip=4)[:-3000], "expected a file that holds all rows"),
    "tif movie": (tiff_bytes(np.stack([noise()] * 5)), r"number of pictures is 5 \(a movie"),
    "tif stack of ImageJ": (tiff_bytes(np.stack([noise()] * 4), imagej=True), "number of pictures is 4"),
    "tif colour": (tiff_bytes(COLOURS, photometric="rgb"), "colour is channels that differ; expected grey"),
    "tif complex": (tiff_bytes(noise("c8")), "kind of pixel is complex64"),
    "tif nan": (tiff_bytes(with_nan(3)), "3 of 3072 NaN or infinite"),
    "tif beyond float32": (tiff_bytes(noise("f8") * 1e300), "NaN or infinite"),
    "tif constant": (tiff_bytes(np.zeros(SHAPE, "u2")), "0 everywhere"),
    "tif too small": (tiff_bytes(noise()[:, :15]), "size is 15 x 48"),
    "tif packed without a mark": (tiff_bytes(np.zeros((7676, 3710), "u1"), compression="zlib"), "4, packed"),
    "tif bomb": (tiff_bytes(np.zeros((16384, 16384), "u1"), compression="zlib"), "inflated size"),
    "tif palette": (photo_bytes("TIFF", mode="P"), "kind of pixel"),
    # PNG and JPEG
    "png cut short": (PNG[: len(PNG) // 2], "unreadable"),
    "png header only": (PNG[:33], "unreadable"),
    "png colour": (photo_bytes("PNG", COLOURS), "colour is channels that differ"),
    "png with a mask": (photo_bytes("PNG", HALF_CLEAR), "transparency is a mask"),
    "png constant": (photo_bytes("PNG", np.full(SHAPE, 9, "u1")), "9 everywhere"),
    "png too small": (photo_bytes("PNG", noise("u1")[:8]), "size is 64 x 8"),
    "png movie": (
        photo_bytes("PNG", save_all=True, append_images=[Image.fromarray(noise("u1").T.reshape(SHAPE))]),
        "number of pictures is 2",
    ),
    "png bomb": (png_bomb(20000, 20000), "inflated size is 400000000 bytes"),
    "png beyond all": (png_bomb(40000, 20), "size is 40000 x 20"),
    "jpg cut short": (JPEG[: len(JPEG) // 2], "unreadable"),
    "jpg header only": (JPEG[:20], "unreadable"),
    "jpg colour": (photo_bytes("JPEG", COLOURS), "channels that differ"),
    "jpg of a press": (photo_bytes("JPEG", mode="CMYK"), "colour is CMYK"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_told_with_the_name_of_the_file(tmp_path, damage):
    content, message = DAMAGED[damage]
    path = tmp_path / "mic_012.mrc"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"(?s){path}: .*{message}") as caught:
        read_image(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("damage", [name for name in DAMAGED if "bomb" in name or "huge" in name])
def test_hostile_files_are_refused_before_they_take_memory(tmp_path, damage):
    path = tmp_path / "mic.mrc"
    path.write_bytes(DAMAGED[damage][0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    with pytest.raises(InputError):
        read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # KiB; also what C code takes


@pytest.mark.parametrize(
    "damage", ["empty", "mrc header only", "mrc movie", "mrc huge", "tif movie", "tif cut short", "png header only"]
)
def test_what_a_header_can_tell_is_told_without_the_pixels(tmp_path, damage):
    path = tmp_path / "mic.mrc"
    path.write_bytes(DAMAGED[damage][0])
    with pytest.raises(InputError, match=DAMAGED[damage][1]):
        read_micrograph(path)


@pytest.mark.parametrize("compression", [65000, 65001, 65002])
def test_eer_movies_are_named(tmp_path, compression):
    whole = bytearray(TIFF)
    at = whole.index(struct.pack("<HHI", 259, 3, 1))  # the tag of compression, one short
    whole[at + 8 : at + 10] = struct.pack("<H", compression)
    (tmp_path / "a.eer").write_bytes(whole)
    with pytest.raises(InputError, match=r"an EER movie; expected a micrograph\. Correct the movie for motion"):
        read_image(tmp_path / "a.eer")


def test_four_bits_to_a_pixel_are_named(tmp_path):
    whole = bytearray(tiff_bytes(noise("u1")))
    at = whole.index(struct.pack("<HHI", 258, 3, 1))  # bits per sample
    whole[at + 8 : at + 10] = struct.pack("<H", 4)
    (tmp_path / "a.tif").write_bytes(whole)
    with pytest.raises(InputError, match="bits per pixel is 4, packed"):
        read_image(tmp_path / "a.tif")


def test_missing_files_folders_and_devices(tmp_path):
    with pytest.raises(InputError, match=r"b\.mrc: file is not there"):
        read_header(tmp_path / "b.mrc")
    with pytest.raises(InputError, match="file is a folder"):
        read_header(tmp_path)
    with pytest.raises(InputError, match="/dev/zero: file is not there"):
        read_header("/dev/zero")
    with pytest.raises(InputError, match=r"content is unreadable .*too long"):
        read_header(tmp_path / ("n" * 300))


def test_a_link_that_leads_nowhere(tmp_path):
    (tmp_path / "a.mrc").symlink_to(tmp_path / "gone.mrc")
    with pytest.raises(InputError, match="not there"):
        read_image(tmp_path / "a.mrc")


def test_out_of_memory_is_not_called_damage(tmp_path, monkeypatch):
    write_mrc(tmp_path / "a.mrc", noise())

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("verglas.io.micrographs._filled", full)
    with pytest.raises(MemoryError):
        read_image(tmp_path / "a.mrc")


@pytest.fixture(autouse=True)
def _quiet_tifffile():
    """Tifffile logs what is wrong with a file; here that is all of them."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def read_or_refuse(path: Path) -> str:
    """Read a file that may be damaged; anything but true pixels and an ``InputError`` that names it is a fault."""
    try:
        image = read_image(path, ReadOptions())
    except InputError as error:
        return "refused" if error.where == str(path) else f"refused in the name of {error.where}"
    assert image.shape == read_header(path).shape
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert np.ptp(image) > 0
    return "read"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SOUND)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255))), max_size=5
    ),
    whole=st.booleans(),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
)
@example(edits=[], whole=True, cut=1.0)
def test_mutated_files_are_read_or_refused(tmp_path, kind, edits, whole, cut):
    content = bytearray(SOUND[kind])
    reach = len(content) if whole else min(len(content), 300)
    for where, value in edits:
        content[int(where * (reach - 1))] = value
    path = tmp_path / "mic.mrc"
    path.write_bytes(content[: int(cut * len(content))])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = read_or_refuse(path)
    assert outcome == "read" or (outcome == "refused" and (content != SOUND[kind] or cut < 1))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


@pytest.mark.parametrize("at", [0, 4, 8, 12, 92])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-2, 200), st.sampled_from([96, 128, 24, 32])))
def test_a_wrong_number_in_a_header_never_gives_wrong_pixels(tmp_path, at, value):
    path = tmp_path / "mic.mrc"
    path.write_bytes(replaced(MRC, at, struct.pack("<i", value)))
    if read_or_refuse(path) == "read":
        # what no length can tell: fewer rows or columns, fewer bits, as long as more than half of the file is used
        assert read_image(path).size * {0: 1, 1: 2, 2: 4, 6: 2, 12: 2}[value if at == 12 else 2] > 4 * noise().size / 2

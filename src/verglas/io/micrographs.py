"""Micrographs in: header and pixels of MRC, TIFF, PNG and JPEG files; and MRC out.

What a file is, its content says, not its suffix. Whatever is wrong with it becomes an ``InputError`` that names it.
"""

import bz2
import gzip
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import Literal

import mrcfile
import numpy as np
import tifffile
from jaxtyping import Float, Float32, Shaped, UInt8
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from verglas.errors import InputError
from verglas.io._base import micrograph_name, whole_file
from verglas.types import Micrograph

SUFFIXES = (".mrc", ".mrc.gz", ".mrc.bz2", ".tif", ".tiff", ".png", ".jpg", ".jpeg")
"""What a folder is searched for. A file that is named may have any suffix."""

_KINDS = "an MRC (with MAP at byte 208), TIFF, PNG or JPEG file"
_SUM_FIRST = "Correct the movie for motion and sum it first; particles are picked on the sum."
_SHORTEST_SIDE, _LONGEST_SIDE = 16, 32768
_CHUNK = 2**22
# Noise shrinks tenfold at most. A compressed file may claim this many times its size, or this many bytes.
_INFLATION, _INFLATED_FREELY = 200, 64 * 2**20


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the files leave open.

    Parameters
    ----------
    mrc_mode0
        Whether the bytes of an MRC file of mode 0 are signed, as the standard says.
    tiff_flip
        Whether the rows of a TIFF run upwards, as RELION, IMOD and MotionCor2 have it, or are taken as stored.
    """

    mrc_mode0: Literal["signed", "unsigned"] = "signed"
    tiff_flip: Literal["relion", "none"] = "relion"


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of its picture before a pixel is read.

    ``readings_angstrom`` holds each pixel size that the header can be read to state: none, one, or two that
    contradict each other. ``doubt`` says why they may be wrong.
    """

    shape: tuple[int, int]
    readings_angstrom: tuple[float, ...] = ()
    doubt: str = ""

    def pixel_size_angstrom(self, option: float | None = None, star: float | None = None) -> float | None:
        """Choose the pixel size: option over STAR optics over a header that does not contradict itself."""
        own = self.readings_angstrom[0] if len(self.readings_angstrom) == 1 else None
        return next((size for size in (option, star, own) if size is not None), None)

    def pixel_size_warning(self, option: float | None = None, star: float | None = None) -> str:
        """Say which sources disagree by more than 1 %, or why the header is doubtful; else return ``""``."""
        sources = [("option", option), ("STAR", star), *(("header", size) for size in self.readings_angstrom)]
        told = [(source, size) for source, size in sources if size is not None]
        used = self.pixel_size_angstrom(option, star)
        verdict = "none is used; give pixel_size_angstrom" if used is None else f"{used:g} Å is used"
        if differ(size for _, size in told):
            reason = f" ({self.doubt})" if self.doubt else ""
            return f"pixel sizes disagree: {', '.join(f'{s} {v:g} Å' for s, v in told)}{reason}; {verdict}."
        if self.doubt and option is None and star is None:
            return f"pixel size in the header is doubtful: {self.doubt}; {verdict}."
        return ""


def differ(values: Iterable[float]) -> bool:
    """Tell whether positive values differ by more than 1 %."""
    ordered = sorted(values)
    return bool(ordered) and ordered[-1] > 1.01 * ordered[0]


def read_header(path: str | Path) -> Header:
    """Read what a file says of its picture and check all that can be checked without the pixels."""
    with _opened(Path(path)) as picture:
        return picture.header


def read_micrograph(path: str | Path, *, pixel_size_angstrom: float | None = None) -> Micrograph:
    """Read the header of a micrograph; ``pixel_size_angstrom`` overrules what it says."""
    header = read_header(path)
    size = header.pixel_size_angstrom(pixel_size_angstrom)
    return Micrograph(micrograph_name(path), Path(path), header.shape, size)


def read_image(micrograph: Micrograph | str | Path, options: ReadOptions = ReadOptions()) -> Float32[np.ndarray, "h w"]:
    """Read the pixels as stored; refuse any that are not finite, and a picture without contrast."""
    path = micrograph.path if isinstance(micrograph, Micrograph) else Path(micrograph)
    with _opened(path) as picture:
        shape = picture.header.shape
        if isinstance(micrograph, Micrograph) and micrograph.shape != shape:
            expected = f"{_size(micrograph.shape)}, as when it was found"
            raise InputError(path, "size", found=_size(shape), expected=expected, remedy="Collect the data again.")
        with np.errstate(over="ignore", invalid="ignore"):
            data = np.ascontiguousarray(picture.load(options), np.float32)
    _refuse_bad_pixels(path, data)
    return data


def write_mrc(path: str | Path, data: Float[np.ndarray, "h w"], pixel_size_angstrom: float | None = None) -> None:
    """Write a float32 MRC file, whole or not at all; the same data give the same bytes."""
    with whole_file(path) as temporary, mrcfile.new(temporary, overwrite=True) as mrc:
        with np.errstate(over="ignore", invalid="ignore"):  # in the statistics of the header
            mrc.set_data(np.ascontiguousarray(data, np.float32))
        mrc.voxel_size = pixel_size_angstrom or 0.0
        mrc.header.label[0] = "verglas"  # in place of a label that holds the time of day


# --- what all formats share ---


@dataclass(frozen=True, slots=True)
class _Picture:
    header: Header
    load: Callable[[ReadOptions], Shaped[np.ndarray, "h w"]]


@contextmanager
def _opened(path: Path) -> Iterator[_Picture]:
    try:
        if not path.is_file():
            raise InputError(path, "file", found="a folder" if path.is_dir() else "not there", expected="a micrograph")
        with path.open("rb") as file:
            magic = file.read(8)
            file.seek(0)
            yield next(start for beginning, start in _OPENERS.items() if magic.startswith(beginning))(path, file)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders answer damage with almost any exception
        found = f"unreadable ({str(error) or type(error).__name__})"
        raise InputError(path, "content", found=found, expected=_KINDS, remedy="Copy or export it again.") from error


def _bytes_on_disk(file: BufferedReader) -> int:
    return os.fstat(file.fileno()).st_size


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"


def _refuse_sides(path: Path, shape: tuple[int, int]) -> None:
    if not all(_SHORTEST_SIDE <= side <= _LONGEST_SIDE for side in shape):
        raise InputError(path, "size", found=_size(shape), expected=f"{_SHORTEST_SIDE} to {_LONGEST_SIDE} on a side")


def _refuse_bomb(path: Path, inflated: int, compressed: int) -> None:
    if inflated > max(_INFLATED_FREELY, _INFLATION * compressed):
        found, expected = f"{inflated} bytes from {compressed}", f"at most {_INFLATION} times as many"
        raise InputError(path, "inflated size", found=found, expected=expected, remedy="Write it uncompressed.")


def _refuse_movie(path: Path, pictures: int) -> None:
    if pictures != 1:
        found = f"{pictures} (a movie or a stack)" if pictures > 1 else pictures
        raise InputError(path, "number of pictures", found=found, expected="1", remedy=_SUM_FIRST)


def _refuse_bad_pixels(path: Path, data: Float32[np.ndarray, "h w"]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        proven = np.isfinite(data.sum())  # a finite sum has finite terms; an infinite one may be mere overflow
    bad = 0 if proven else sum(int(np.count_nonzero(~np.isfinite(row))) for row in data)
    if bad:
        raise InputError(path, "pixels", found=f"{bad} of {data.size} NaN or infinite", expected="finite numbers")
    if not any((row != data[0, 0]).any() for row in data):
        raise InputError(path, "pixels", found=f"{data[0, 0]:g} everywhere", expected="a picture")


def _grey(path: Path, data: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "h w"]:
    """Return the one channel of a picture whose colours are all grey and whose alpha says nothing."""
    if data.ndim == 2:
        return data
    colours = 3 if data.shape[2] >= 3 else 1
    grey, alpha = data[..., 0], data[..., colours:]
    if any((data[..., channel] != grey).any() for channel in range(1, colours)):
        raise InputError(path, "colour", found="channels that differ", expected="grey", remedy="Export it as grey.")
    if alpha.size and (alpha != alpha[0, 0]).any():
        raise InputError(path, "transparency", found="a mask", expected="none", remedy="Export it without alpha.")
    return grey


# --- MRC2014 (Cheng et al., J. Struct. Biol. 192, 2015) ---

_MRC_HEADER = np.dtype(
    {
        "names": ["nx", "ny", "nz", "mode", "samples", "cell", "nsymbt"],
        "formats": ["i4", "i4", "i4", "i4", "(2,)i4", "(2,)f4", "i4"],
        "offsets": [0, 4, 8, 12, 28, 40, 92],
        "itemsize": 1024,
    }
)
_MRC_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_MRC_REFUSED = {3: "complex int16", 4: "complex float32, a Fourier transform", 101: "4 bits per pixel"}
# Byte order by machine stamp. Programs that leave it empty have only run on little-endian machines.
_MRC_ORDER: dict[bytes, Literal["<", ">"]] = {b"DD": "<", b"DA": "<", b"\0\0": "<", b"\x11\x11": ">"}
_LONGEST_EXTENDED_HEADER = 64 * 2**20


def _open_mrc(
    path: Path, file: BufferedReader, inflate: Callable[[BufferedReader], BufferedIOBase] | None = None
) -> _Picture:
    stream: BufferedIOBase = inflate(file) if inflate else file
    order, head = _mrc_head(path, stream.read(1024))
    shape, mode, extended = (int(head["ny"]), int(head["nx"])), int(head["mode"]), int(head["nsymbt"])
    if mode not in _MRC_TYPES:
        found = f"{mode} ({_MRC_REFUSED.get(mode, 'unknown')})"
        raise InputError(path, "mode", found=found, expected=f"one of {', '.join(map(str, _MRC_TYPES))}")
    _refuse_sides(path, shape)
    _refuse_movie(path, int(head["nz"]))
    if not 0 <= extended <= _LONGEST_EXTENDED_HEADER:
        raise InputError(path, "nsymbt", found=extended, expected=f"0 to {_LONGEST_EXTENDED_HEADER} bytes")
    start, length = 1024 + extended, math.prod(shape) * np.dtype(_MRC_TYPES[mode]).itemsize
    if inflate:
        _refuse_bomb(path, start + length, _bytes_on_disk(file))
    else:
        _refuse_length(path, _bytes_on_disk(file), start, length)

    def load(options: ReadOptions) -> Shaped[np.ndarray, "h w"]:
        kind = "u1" if (mode, options.mrc_mode0) == (0, "unsigned") else _MRC_TYPES[mode]
        return _filled(path, stream, start, length).view(np.dtype(kind).newbyteorder(order)).reshape(shape)

    return _Picture(Header(shape, *_mrc_pixel_size(head)), load)


def _mrc_head(path: Path, head: bytes) -> tuple[Literal["<", ">"], np.void]:
    if len(head) < 1024 or head[208:212] not in (b"MAP ", b"MAP\0"):
        found = f"{len(head)} bytes" if len(head) < 1024 else f"unknown, beginning {head[:8].hex(' ')}"
        raise InputError(path, "content", found=found, expected=_KINDS)
    stamp = head[212:214]
    if stamp not in _MRC_ORDER:
        expected = "44 44 or 44 41 (little-endian), 11 11 (big-endian)"
        raise InputError(path, "machine stamp", found=stamp.hex(" "), expected=expected)
    return _MRC_ORDER[stamp], np.frombuffer(head, _MRC_HEADER.newbyteorder(_MRC_ORDER[stamp]))[0]


def _mrc_pixel_size(head: np.void) -> tuple[tuple[float, ...], str]:
    sides, samples, cell = np.array([head["nx"], head["ny"]]), head["samples"], head["cell"].astype(float)
    with np.errstate(all="ignore"):
        # float32 in the file: 1.06 Å, not 1.0599999
        readings = [tuple(float(f"{size:.6g}") for size in cell / by) for by in (samples, sides)]
    x, y = readings[0]
    if not (0.01 < x < 1000 and 0.01 < y < 1000):
        return (), f"it is {x:g} Å"
    for axis, letter in enumerate("xy"):
        if samples[axis] != sides[axis]:
            return tuple(r[axis] for r in readings), f"m{letter} is {samples[axis]} but n{letter} {sides[axis]}"
    if differ((x, y)):
        return (x, y), "pixels are not square"
    return (x,), "it is exactly 1 Å, as written where it is not known" if x == 1.0 else ""


def _refuse_length(path: Path, found: int, start: int, length: int) -> None:
    """Refuse a file that is cut short, and one so long that its header must be wrong; padding is accepted."""
    if not start + length <= found < start + 2 * length:
        fault = "It is cut short" if found < start + length else "Its header is wrong"
        remedy = f"{fault}: copy or write it again."
        raise InputError(path, "length", found=f"{found} bytes", expected=f"{start + length}", remedy=remedy)


def _filled(path: Path, stream: BufferedIOBase, start: int, length: int) -> UInt8[np.ndarray, " n"]:
    stream.seek(start)
    data = np.empty(length, np.uint8)
    done = surplus = 0
    while done < length and (got := stream.readinto(data.data[done : done + _CHUNK])):
        done += got
    while surplus < length and (got := len(stream.read(2**16))):  # at its end a compressed file is verified
        surplus += got
    _refuse_length(path, start + done + surplus, start, length)
    return data


def _inflate_gzip(file: BufferedReader) -> BufferedIOBase:
    return gzip.GzipFile(fileobj=file)


def _inflate_bzip2(file: BufferedReader) -> BufferedIOBase:
    return bz2.BZ2File(file)


# --- TIFF ---

_EER = (65000, 65001, 65002)
_LZW_PACKBITS = (5, 32773)
# Detectors whose frames IMOD packs, two pixels of 4 bits to a byte, without a mark in the file: half as wide.
_PACKED = [(5760, 8184), (4092, 11520), (3838, 7420), (3710, 7676)]


def _open_tiff(path: Path, file: BufferedReader) -> _Picture:
    tiff = tifffile.TiffFile(file)
    page = tiff.pages.first
    if page.compression in _EER:
        raise InputError(path, "content", found="an EER movie", expected="a micrograph", remedy=_SUM_FIRST)
    shape = (page.imagelength, page.imagewidth)
    _refuse_sides(path, shape)
    _refuse_tiff_type(path, page)
    _refuse_movie(path, tiff.series[0].size // page.size)
    _refuse_missing_segments(path, page, _bytes_on_disk(file))

    def load(options: ReadOptions) -> Shaped[np.ndarray, "h w"]:
        if page.compression in _LZW_PACKBITS:  # tifffile decodes these only with a further package
            file.seek(0)
            data = np.asarray(TiffImageFile(file))
        else:
            data = page.asarray()
        grey = _grey(path, np.moveaxis(data, 0, -1) if page.axes == "SYX" else data)
        return grey[::-1] if options.tiff_flip == "relion" else grey

    return _Picture(Header(shape), load)


def _refuse_tiff_type(path: Path, page: tifffile.TiffPage) -> None:
    sides = tuple(sorted((page.imagelength, page.imagewidth)))
    if page.bitspersample == 4 or (page.bitspersample == 8 and sides in _PACKED):
        remedy = "Unpack it, for example with IMOD: newstack -mode 1."
        raise InputError(path, "bits per pixel", found="4, packed", expected="8, 16 or 32", remedy=remedy)
    if page.dtype is None or page.dtype.kind not in "buif" or page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        found = f"{page.dtype} of photometric kind {page.photometric:d}"
        raise InputError(path, "kind of pixel", found=found, expected="grey integers or floats")
    if page.axes not in ("YX", "YXS", "SYX"):
        raise InputError(path, "axes", found=page.axes, expected="YX, one plane")


def _refuse_missing_segments(path: Path, page: tifffile.TiffPage, on_disk: int) -> None:
    ends = [offset + length for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if len(ends) != math.prod(page.chunked) or min(page.databytecounts) < 1 or max(ends) > on_disk:
        found, expected = f"{on_disk} bytes", "a file that holds all rows"
        raise InputError(path, "length", found=found, expected=expected, remedy="Copy or write it again.")
    _refuse_bomb(path, page.nbytes, sum(page.databytecounts))


# --- PNG and JPEG ---

_PHOTO_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "F", "RGB", "RGBA", "P", "PA")


def _open_photo(path: Path, file: BufferedReader, decoder: type[ImageFile]) -> _Picture:
    image = decoder(file)
    shape = (image.height, image.width)
    _refuse_sides(path, shape)
    _refuse_movie(path, getattr(image, "n_frames", 1))
    _refuse_bomb(path, math.prod(shape) * len(image.getbands()), _bytes_on_disk(file))
    if image.mode not in _PHOTO_MODES:
        raise InputError(path, "colour", found=image.mode, expected="grey", remedy="Export it as grey.")

    def load(options: ReadOptions) -> Shaped[np.ndarray, "h w"]:
        return _grey(path, np.asarray(image.convert("RGBA") if image.mode in ("P", "PA") else image))

    return _Picture(Header(shape), load)


_OPENERS: dict[bytes, Callable[[Path, BufferedReader], _Picture]] = {
    b"\x89PNG\r\n\x1a\n": partial(_open_photo, decoder=PngImageFile),
    b"\xff\xd8\xff": partial(_open_photo, decoder=JpegImageFile),
    b"II*\0": _open_tiff,
    b"MM\0*": _open_tiff,
    b"II+\0": _open_tiff,
    b"MM\0+": _open_tiff,
    b"\x1f\x8b": partial(_open_mrc, inflate=_inflate_gzip),
    b"BZh": partial(_open_mrc, inflate=_inflate_bzip2),
    b"": _open_mrc,
}

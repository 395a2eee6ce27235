"""One recipe from stored pixels to the picture a network sees; training, validation and picking share it.

The resize is a Fourier crop of the mirrored picture (a truncated cosine transform): a plain Fourier crop takes a
micrograph for a torus, so its opposite borders ring into each other. The mirrored one has no seam, and its
pixels sit where averaging would put them (``Grid.area_resized``).
"""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import scipy.fft
from jaxtyping import Bool, Float
from scipy import ndimage

from verglas.errors import InputError
from verglas.types import Grid, Image

VERSION = 1
"""Raised whenever the same settings give other pixels; part of the hash."""

_MAD_TO_SD = 1.4826

_LINES = 64
"""Rows or columns that are transformed at a time: their spectrum stays in the cache."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Bring a micrograph to the working scale: particle of fixed size, flat background, median 0, MAD of 1 SD.

    Parameters
    ----------
    diameter_px
        Diameter of the particle on disk, in micrograph pixels.
    working_diameter_px
        Its diameter after resizing.
    flatten
        Standard deviation of the Gaussian that defines background, in diameters; 0 leaves it.
    clip
        Grey values beyond this many standard deviations are cut.
    mask_outliers
        Areas (gold, thick ice) that stay this many standard deviations of a pixel from the median when blurred by
        an eighth of a particle are marked invalid; 0 for none. Particles of denoised micrographs reach 5.
    """

    diameter_px: float
    working_diameter_px: float = 24.0
    flatten: float = 1.5
    clip: float = 5.0
    mask_outliers: float = 7.0

    def __post_init__(self) -> None:
        if not 1 <= self.diameter_px <= 8192:
            raise InputError(
                "preprocess", "diameter_px", found=self.diameter_px, expected="1 to 8192 micrograph pixels",
                remedy="Give --diameter-px, or --diameter-angstrom with the right pixel size.",
            )  # fmt: skip

    @property
    def hash(self) -> str:
        """Identify the recipe: equal hashes give equal pixels."""
        text = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def working_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the size (rows, columns) after resizing: the next one up without large prime factors."""
        scale = self.working_diameter_px / self.diameter_px
        m, n = (max(16, scipy.fft.next_fast_len(round(side * scale))) for side in shape)
        return m, n

    def prepare(self, data: Float[np.ndarray, "h w"], *, workers: int = 1) -> Image:
        """Return the picture at the working scale, with the pixels that cannot be trusted marked.

        Raises
        ------
        InputError
            If the micrograph has no contrast.
        """
        frame = _frame(data)
        inner = data[frame]
        if min(inner.shape) < 16:
            raise InputError("micrograph", "contrast", found="none", expected="grey values that differ")
        new = self.working_shape(inner.shape)
        grid = Grid().cropped(frame[0].start, frame[1].start).area_resized(inner.shape, new)
        dead = _dead(inner)
        filled = np.where(dead, np.median(inner[~dead]), inner) if dead.any() else inner
        small = resize(filled, new, workers=workers)
        valid = ~_touched(dead, new) if dead.any() else np.ones(new, bool)
        spectrum = _spectrum(small)
        valid &= ~self._outliers(small, spectrum, valid)
        small = self._flattened(small, spectrum, valid)
        return Image(_normalised(small, valid, self.clip), grid, valid)

    def _flattened(
        self, small: Float[np.ndarray, "m n"], spectrum: Float[np.ndarray, "m n"], valid: Bool[np.ndarray, "m n"]
    ) -> np.ndarray:
        if not self.flatten:
            return small
        sigma = self.flatten * self.working_diameter_px
        if valid.all():
            return small - _smooth(spectrum, sigma)
        weight = np.maximum(_smooth(_spectrum(valid.astype(np.float32)), sigma), 1e-3)
        return small - _smooth(_spectrum(np.where(valid, small, 0)), sigma) / weight

    def _outliers(
        self, small: Float[np.ndarray, "m n"], spectrum: Float[np.ndarray, "m n"], valid: Bool[np.ndarray, "m n"]
    ) -> np.ndarray:
        if not self.mask_outliers:
            return np.zeros(small.shape, bool)
        centre, spread = _centre_and_spread(small[valid])
        far = np.abs(_smooth(spectrum, self.working_diameter_px / 8) - centre) > self.mask_outliers * spread
        steps = max(1, round(self.working_diameter_px / 8))  # with 0, scipy dilates without end
        return ndimage.binary_dilation(far, iterations=steps) if far.any() else far


def _spectrum(image: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m n"]:
    return scipy.fft.dctn(image, norm="ortho")


def resize(data: Float[np.ndarray, "h w"], new: tuple[int, int], *, workers: int = 1) -> Float[np.ndarray, "m n"]:
    """Crop or pad the cosine spectrum of ``data`` to ``new``; the mean stays, and no border rings.

    Pixels of the result sit where ``Grid.area_resized`` says.
    """
    for axis in (1, 0):
        old, size = data.shape[axis], new[axis]
        if old != size:
            shape = (new[0], data.shape[1]) if axis == 0 else (data.shape[0], new[1])
            made, factor = np.empty(shape, data.dtype), np.float32(np.sqrt(size / old))
            for start in range(0, data.shape[1 - axis], _LINES):
                lines = (slice(None),) * (1 - axis) + (slice(start, start + _LINES),)
                spectrum = scipy.fft.dct(data[lines], axis=axis, norm="ortho", workers=workers)
                spectrum = spectrum[:, :size] if axis else spectrum[:size]
                made[lines] = scipy.fft.idct(spectrum, n=size, axis=axis, norm="ortho", workers=workers) * factor
            data = made
    return data


def _smooth(spectrum: Float[np.ndarray, "m n"], sigma: float) -> Float[np.ndarray, "m n"]:
    """Return the image of this cosine spectrum, blurred by a Gaussian with mirrored borders."""
    spectrum = spectrum.copy()
    for axis, size in enumerate(spectrum.shape):
        frequency = np.arange(size, dtype=np.float32) * (np.pi / size)
        gain = np.exp(-0.5 * (frequency * sigma) ** 2)
        spectrum *= gain[:, None] if axis == 0 else gain
    return scipy.fft.idctn(spectrum, norm="ortho", overwrite_x=True)


def _frame(data: Float[np.ndarray, "h w"]) -> tuple[slice, slice]:
    """Return the part inside a constant or replicated border: outer lines that repeat their neighbour."""
    slices = []
    for lines in (data, data.T):
        first, last = 0, len(lines)
        while first < last - 1 and np.array_equal(lines[first], lines[first + 1]):
            first += 1
        while last - 1 > first and np.array_equal(lines[last - 1], lines[last - 2]):
            last -= 1
        slices.append(slice(first, last))
    return slices[0], slices[1]


def _dead(data: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Mark squares of 8 × 8 pixels that hold a single value, as padding, masks and dead areas do.

    Three pixels of each square are compared first: in a picture with noise hardly a square passes.
    """
    h, w = (side - side % 8 for side in data.shape)
    corner = data[0:h:8, 0:w:8]
    rows, columns = np.nonzero((corner == data[3:h:8, 5:w:8]) & (corner == data[7:h:8, 2:w:8]))
    dead = np.zeros(data.shape, bool)
    for row, column in zip(8 * rows, 8 * columns, strict=True):
        square = slice(row, row + 8), slice(column, column + 8)
        dead[square] = (data[square] == data[row, column]).all()
    return dead


def _touched(mask: Bool[np.ndarray, "h w"], new: tuple[int, int]) -> Bool[np.ndarray, "m n"]:
    """Shrink a mask: a pixel of the result is set where half of what it covers is."""
    zoomed = resize(mask.astype(np.float32), new)
    return np.asarray(zoomed > 0.5)


def _centre_and_spread(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Return median and MAD (as a standard deviation) of at most 2^16 values evenly spread over the array."""
    if len(values) < 16:
        raise InputError("micrograph", "usable area", found="none", expected="some pixels outside gold and carbon")
    sample = values[:: max(1, len(values) >> 16)]
    centre = float(np.median(sample))
    return centre, float(np.median(np.abs(sample - centre))) * _MAD_TO_SD


def _normalised(small: Float[np.ndarray, "m n"], valid: Bool[np.ndarray, "m n"], clip: float) -> np.ndarray:
    centre, spread = _centre_and_spread(small[valid])
    if spread == 0:
        raise InputError(
            "micrograph", "contrast (MAD)", found=0, expected="above 0",
            remedy="The micrograph is constant over most of its area; leave it out.",
        )  # fmt: skip
    scaled = np.clip((small - centre) / spread, -clip, clip)
    return np.where(valid, scaled, 0).astype(np.float32)

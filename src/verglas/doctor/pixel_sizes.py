"""Whether all micrographs have one pixel size, the one that is used."""

from verglas.doctor._base import DataCheck, Finding, Value
from verglas.doctor.subject import Data
from verglas.errors import InputError
from verglas.io.micrographs import Header, differ, read_header

MOST_HEADERS = 50


class PixelSizes(DataCheck):
    """Compare the pixel sizes in use with each other and with the headers, and the sizes of the pictures.

    One diameter in pixels is right for one pixel size only. As everywhere, more than 1 % is a difference.
    """

    name = "pixel_sizes"
    question = "Do all micrographs have the pixel size that is used?"

    def check(self, data: Data) -> Finding:
        """Return the first of: mixed pixel sizes, headers that disagree, sizes that are missing."""
        micrographs = data.collection.micrographs
        used = [m.pixel_size_angstrom for m in micrographs if m.pixel_size_angstrom is not None]
        headers = [found for m in micrographs[:MOST_HEADERS] if (found := _header(m.path)) is not None]
        read = [header.readings_angstrom[0] for header in headers if len(header.readings_angstrom) == 1]
        sides = {m.name: sorted(m.shape) for m in micrographs}
        mixed = any(differ(side[i] for side in sides.values()) for i in (0, 1))
        evidence: dict[str, Value] = {
            "micrographs": len(micrographs),
            "without_pixel_size": len(micrographs) - len(used),
        }
        for what, sizes in (("used", used), ("header", read)):
            evidence |= {f"least_{what}_angstrom": min(sizes), f"largest_{what}_angstrom": max(sizes)} if sizes else {}
        split = "Train one collection per pixel size; --pixel-size-angstrom overrules headers that are wrong."
        if differ(used) or (mixed and differ(read)):
            sizes = used if differ(used) else read
            told = f"Micrographs of {min(sizes):.4g} and of {max(sizes):.4g} Å per pixel are mixed: one diameter in " \
                "pixels cannot fit both."  # fmt: skip
            return Finding("fail", told, evidence, "PIXEL_SIZES", split)
        if differ([*read, *used]):
            told = f"Headers say {_span(read)} Å per pixel, and {_span(used)} Å is used." if used else \
                f"Headers say {_span(read)} Å per pixel: none is used."  # fmt: skip
            return Finding("warn", told, evidence, "PIXEL_SIZES", split)
        if len(used) < len(micrographs) and data.config.data.diameter_angstrom is not None:
            told = f"{evidence['without_pixel_size']} micrographs do not tell their pixel size: that of others is used."
            return Finding("info", told, evidence, remedy="Give --pixel-size-angstrom.")
        told = f"Pixel size {_span(used)} Å." if used else "No pixel size is known, and none is needed: D is in pixels."
        return Finding("ok", told, evidence)


def _header(path: str | object) -> Header | None:
    """Return the header of a file, or None where it cannot be read, which training tells."""
    try:
        return read_header(str(path))
    except InputError:
        return None


def _span(sizes: list[float]) -> str:
    low, high = (f"{size:.4g}" for size in (min(sizes), max(sizes)))
    return low if low == high else f"{low} to {high}"

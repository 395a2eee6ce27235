"""The settings of a run: TOML and ``--set`` in, resolved TOML out. An unknown key is an error."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tomli_w
from pydantic import Field

from verglas.augment import Geometry, Photometry
from verglas.errors import InputError
from verglas.gates import GuardSettings
from verglas.io._base import write_text
from verglas.io.micrographs import ReadOptions
from verglas.losses import Loss
from verglas.model import Shape
from verglas.preprocess import Preprocess
from verglas.targets import Disc

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

STARTS = ("auto", "scratch")
"""What a training may start from that is no run: the general network where it fits, and drawn weights."""


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Where micrographs and labels are, and how large the particle is: exactly one of the two diameters."""

    micrographs: tuple[str, ...] = ()
    labels: str | None = None
    labels_are: Literal["complete", "partial"] = "complete"
    diameter_px: Positive | None = None
    diameter_angstrom: Positive | None = None
    pixel_size_angstrom: Positive | None = None
    tiff_flip: Literal["relion", "none"] = "relion"
    mrc_mode0: Literal["signed", "unsigned"] = "signed"
    cs_y: Literal["asis", "flip"] | None = None

    def reading(self) -> ReadOptions:
        """Return what micrograph files leave open."""
        return ReadOptions(self.mrc_mode0, self.tiff_flip)


@dataclass(frozen=True, slots=True)
class PreprocessSettings:
    """How stored pixels become the picture that is learned from; see ``Preprocess``."""

    working_diameter_px: Annotated[float, Field(ge=4, le=256)] = 24.0
    flatten: Annotated[float, Field(ge=0)] = 1.5
    clip: Positive = 5.0
    mask_outliers: Annotated[float, Field(ge=0)] = 7.0


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The budget in steps, the optimiser, and the seed.

    ``steps`` is the length of a training on labels; a student that begins anew takes as many again.
    ``rate`` is AdamW's after ``warmup`` (share of the steps); it falls to ``last_rate`` times itself along a
    cosine. ``clip_norm`` bounds the norm of the gradient, 0 for none. ``average`` is the span of the running
    average of the weights as a share of the steps. ``holdout`` is the share of the labels kept for validation.
    ``centred`` is the share of labelled crops cut around a label, for balanced sampling: by default none where
    labels are complete, half of them while partial ones teach. ``start_from`` is the run whose weights are the start,
    for training in two stages; ``auto`` is the general network where it fits (``train.start``), ``scratch`` none.
    """

    steps: Annotated[int, Field(ge=1)] = 400
    batch: Annotated[int, Field(ge=1)] = 4
    crop: Annotated[int, Field(ge=32, le=1024)] = 192
    rate: Positive = 1e-3
    last_rate: Share = 0.01
    warmup: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    average: Share = 0.02
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.25
    centred: Share | None = None
    start_from: str = "auto"
    validate_every: Annotated[int, Field(ge=1)] = 50
    save_every: Annotated[int, Field(ge=1)] = 100
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=0)] = 0
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


@dataclass(frozen=True, slots=True)
class AlgorithmSettings:
    """Which algorithm learns, and its options (the keywords of its constructor); ``auto`` suits itself to the data."""

    name: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How peaks are found in the probability map; see ``pick.find``. Radii are shares of the diameter.

    ``edge_px`` is the margin along the border of a micrograph where nothing is learned and nothing picked; ``auto`` is
    the one that labels keep (``labels.margin_px``). Where the grain is more than ``grain`` times the coarsest that
    teaches by labels nothing is picked, and nothing is learned without labels; 0 searches everything.
    """

    least_score: Share = 0.01
    score_radius: Annotated[float, Field(ge=0, le=1)] = 0.1
    separation: Annotated[float, Field(ge=0, le=2)] = 0.45
    edge_px: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    grain: Annotated[float, Field(ge=1)] | Literal[0] = 1.2
    exhaustive: bool = False

    def peaks(self) -> dict[str, Any]:
        """Return the keywords of ``pick.find``."""
        return {key: value for key, value in asdict(self).items() if key != "grain"}


@dataclass(frozen=True, slots=True)
class RunConfig:
    """All settings of a run; immutable."""

    data: DataSettings = DataSettings()
    preprocess: PreprocessSettings = PreprocessSettings()
    target: Disc = Disc()
    geometry: Geometry = Geometry()
    photometry: Photometry = Photometry()
    model: Shape = Shape()
    loss: Loss = Loss()
    train: TrainSettings = TrainSettings()
    algorithm: AlgorithmSettings = field(default_factory=AlgorithmSettings)
    guard: GuardSettings = GuardSettings()
    search: SearchSettings = SearchSettings()

    def __post_init__(self) -> None:
        if self.train.crop % self.model.multiple:
            raise InputError(
                "train", "crop", found=self.train.crop, expected=f"a multiple of {self.model.multiple} pixels",
                remedy=f"A network of depth {self.model.depth} and stem {self.model.stem} takes no other sides.",
            )  # fmt: skip

    @classmethod
    def load(cls, path: str | Path) -> "RunConfig":
        """Read a TOML file; every key must be known and of the right kind."""
        try:
            tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(path, "configuration", found=str(error), expected="a readable TOML file") from error
        return cls().merged(tree, where=str(path))

    def merged(self, tree: Mapping[str, Any], *, where: str) -> "RunConfig":
        """Return the configuration with the values of ``tree`` in place; ``where`` names their origin in errors."""
        _check_keys(type(self), tree, where, "")
        merged = _merge(asdict(self), tree)
        try:
            return _adapter().validate_python(merged)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            cause = first.get("ctx", {}).get("error")
            if isinstance(cause, InputError):
                raise cause from error
            key = _key(first)
            expected = " or ".join(sentence(one["msg"]) for one in error.errors() if _key(one) == key)
            raise InputError(where, key, found=repr(first["input"]), expected=expected) from error

    def with_settings(self, settings: Iterable[str]) -> "RunConfig":
        """Apply ``section.key=value`` texts, as ``--set`` takes them; a value is read as TOML, else as text."""
        tree: dict[str, Any] = {}
        for text in settings:
            key, equals, value = text.partition("=")
            if not equals or not key.strip():
                raise InputError("--set", "setting", found=repr(text), expected="section.key=value")
            branch: Any = _value(value)
            for part in reversed(key.strip().split(".")):
                branch = {part: branch}
            tree = _merge(tree, branch)
        return self.merged(tree, where="--set")

    def recipe(self, diameter_px: float) -> Preprocess:
        """Return the one recipe that every path of a run prepares micrographs by."""
        return Preprocess(diameter_px=diameter_px, **asdict(self.preprocess))

    def save(self, path: str | Path) -> None:
        """Write the whole configuration as TOML; settings that are None are left out."""
        write_text(path, tomli_w.dumps(_without_none(asdict(self))))

    def with_train(self, **changes: Any) -> "RunConfig":
        """Return the configuration with some training settings changed."""
        return replace(self, train=replace(self.train, **changes))


@cache
def _adapter() -> Any:
    """Return what reads a configuration; making it takes longer than using it."""
    return pydantic.TypeAdapter(RunConfig)


def _check_keys(kind: type, tree: Mapping[str, Any], where: str, prefix: str) -> None:
    known = {f.name: f.type for f in fields(kind)}
    for key, value in tree.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise InputError(
                where, "setting", found=f"{prefix}{key}", expected=f"one of {', '.join(known)}",
                remedy=f"Did you mean {prefix}{close[0]}?" if close else "",
            )  # fmt: skip
        section = known[key]
        if is_dataclass(section) and isinstance(section, type):
            if not isinstance(value, Mapping):
                raise InputError(where, f"{prefix}{key}", found=repr(value), expected="a section with keys")
            _check_keys(section, value, where, f"{prefix}{key}.")


def _key(error: Mapping[str, Any]) -> str:
    """Return the setting that an error of pydantic is about, without which kind of several its value was tried as."""
    return ".".join(str(part) for part in error["loc"] if isinstance(part, int) or part.isidentifier())


def _merge(old: dict[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(old.get(key), dict) and isinstance(value, Mapping)
        merged[key] = _merge(old[key], value) if both else value
    return merged


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if value is not None
    }


def sentence(message: str) -> str:
    """Return what pydantic expected, as the end of a sentence."""
    return message.removeprefix("Input should be ").removeprefix("Value error, ")

"""The doctor on settings that do nothing, on roles of micrographs, and on pixel sizes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from toy import DIAMETER, SIDE, blobs, configured, write_toy
from verglas.config import AlgorithmSettings, DataSettings, RunConfig
from verglas.doctor.noop_config import NoopConfig, best_constant
from verglas.doctor.pixel_sizes import PixelSizes
from verglas.doctor.split import Split
from verglas.doctor.subject import Data
from verglas.io.collections import collect
from verglas.io.micrographs import write_mrc
from verglas.losses import Loss
from verglas.types import Collection, Micrograph, Picks
from verglas.types import Split as Roles


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy"), micrographs=5, labelled=4)


def examined(folder: Path, scratch: Path, *settings: str) -> Data:
    config = configured(folder, *settings)
    collection = collect([str(folder / "mics")], folder / "labels", diameter_px=DIAMETER).collection
    return Data(collection, config, scratch)


ALGORITHMS = ("supervised", "mean_teacher", "fixmatch", "unimatch", "self_training", "soft_teacher")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_default_is_in_use(toy: Path, tmp_path: Path, name: str) -> None:
    found = NoopConfig().check(examined(toy, tmp_path, f"algorithm.name={name}"))
    assert (found.verdict, found.code) == ("ok", "")
    prior = found.evidence["prior"]
    assert found.evidence["trivial_f1"] == pytest.approx(2 * prior / (1 + prior))


def test_partial_labels_have_no_prior_to_tell(toy: Path, tmp_path: Path) -> None:
    data = examined(toy, tmp_path)
    found = NoopConfig().check(Data(replace(data.collection, complete=False), data.config, tmp_path))
    assert (found.verdict, found.code) == ("ok", "")
    assert "best_constant" not in found.evidence


def test_clicks_too_few_to_hold_any_out_never_lead_to_a_student(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=2, labelled=2)
    for path in (folder / "labels").iterdir():
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    data = examined(folder, tmp_path / "scratch", "algorithm.name=self_training")
    found = NoopConfig().check(Data(replace(data.collection, complete=False), data.config, tmp_path / "partial"))
    assert (found.verdict, found.code) == ("warn", "UNSUP_INACTIVE")
    assert "self_training wants to pick what was clicked on, but too few labels are held out" in found.sentence
    unasked = replace(data.config, algorithm=AlgorithmSettings())
    assert (
        NoopConfig().check(Data(replace(data.collection, complete=False), unasked, tmp_path / "auto")).verdict == "ok"
    )


@pytest.mark.parametrize("option", ["weight", "ramp_until", "cutmix"])
def test_of_clicks_a_student_learns_completed_labels_alone(toy: Path, tmp_path: Path, option: str) -> None:
    data = examined(toy, tmp_path, "algorithm.name=self_training", f"{OPTION}{option}=0")
    found = NoopConfig().check(Data(replace(data.collection, complete=False), data.config, tmp_path / "partial"))
    assert (found.verdict, found.code, found.evidence["unused"]) == ("warn", "OPTION_UNUSED", OPTION + option)


FIXMATCH, SOFT = "algorithm.name=fixmatch", "algorithm.name=soft_teacher"
OPTION = "algorithm.options."
NOOPS: dict[str, tuple[str, Sequence[str]]] = {
    "threshold below .5": ("THRESHOLD_NOOP", (FIXMATCH, OPTION + "mask=fixed", OPTION + "threshold=0.3")),
    "threshold of .5": ("THRESHOLD_NOOP", (FIXMATCH, OPTION + "mask=fixed", OPTION + "threshold=0.5")),
    "bounds that meet": ("THRESHOLD_NOOP", (FIXMATCH, OPTION + "mask=class", OPTION + "positive=0.4",
                                            OPTION + "negative=0.4")),
    "bounds that mirror": ("THRESHOLD_NOOP", (FIXMATCH, OPTION + "mask=class", OPTION + "positive=0.95",
                                              OPTION + "negative=0.05")),
    "share of all": ("THRESHOLD_NOOP", ("algorithm.name=unimatch", OPTION + "share=1.0")),
    "weight of 0": ("UNSUP_INACTIVE", (SOFT, OPTION + "weight=0")),
    "no validation in time": ("UNSUP_INACTIVE", (SOFT, "train.steps=100", "train.validate_every=70")),
    "threshold not read": ("OPTION_UNUSED", (FIXMATCH, OPTION + "threshold=0.9")),
    "share not read": ("OPTION_UNUSED", (FIXMATCH, OPTION + "mask=fixed", OPTION + "share=0.5")),
    "alpha without focal": ("OPTION_UNUSED", ("loss.focal_alpha=0.9",)),
    "weights of Dice": ("OPTION_UNUSED", ("loss.bce=0", "loss.pos_weight=3")),
}  # fmt: skip


@pytest.mark.parametrize("how", NOOPS)
def test_settings_that_do_nothing_are_named(toy: Path, tmp_path: Path, how: str) -> None:
    code, settings = NOOPS[how]
    found = NoopConfig().check(examined(toy, tmp_path, *settings))
    assert (found.verdict, found.code) == ("warn", code)


@pytest.mark.parametrize(
    "settings",
    [(OPTION + "mask=fixed", OPTION + "threshold=0.51"), (OPTION + "mask=class", OPTION + "positive=0.6"),
     (OPTION + "mask=none",)],
)  # fmt: skip
def test_filters_that_filter_or_say_that_they_do_not_are_fine(
    toy: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    assert NoopConfig().check(examined(toy, tmp_path, FIXMATCH, *settings)).verdict == "ok"


def test_the_identity_and_the_threshold_it_amounts_to_are_told(toy: Path, tmp_path: Path) -> None:
    found = NoopConfig().check(examined(toy, tmp_path, *NOOPS["bounds that mirror"][1]))
    assert found.evidence["effective_threshold"] == 0.95
    assert "max(p, 1 - p) >= t" in str(found.evidence["identity"])


def test_without_unlabelled_micrographs_they_are_missed(tmp_path: Path) -> None:
    folder = write_toy(tmp_path, micrographs=2, labelled=2)
    found = NoopConfig().check(examined(folder, tmp_path / "scratch", SOFT))
    assert (found.verdict, found.code) == ("warn", "UNSUP_INACTIVE")


@pytest.mark.parametrize(("weight", "prior"), [(1.0, 0.25), (5.0, 0.326), (1.0, 0.03)])
def test_the_best_constant_of_weighted_cross_entropy(weight: float, prior: float) -> None:
    best = weight * prior / (weight * prior + 1 - prior)
    assert best_constant(Loss(dice=0, pos_weight=weight), prior) == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_the_best_constant_of_the_focal_loss(alpha: float) -> None:
    """Where the slopes of both classes balance, the share of positives is what the output means (gamma 2)."""
    p = best_constant(Loss(bce=0, focal=1, dice=0, focal_alpha=alpha), 0.326)
    of_positive = 2 * (1 - p) * np.log(p) - (1 - p) ** 2 / p
    of_negative = -2 * p * np.log(1 - p) + p**2 / (1 - p)
    means = (1 - alpha) * of_negative / (-alpha * of_positive + (1 - alpha) * of_negative)
    assert means == pytest.approx(0.326, abs=0.015)


@pytest.mark.parametrize(
    ("alpha", "pos_weight", "best"), [(0.5, 2.33, 0.538), (0.7, 1, 0.554), (0.9, 1, 0.682)]
)  # fmt: skip
def test_the_best_constants_of_the_first_failure_report(alpha: float, pos_weight: float, best: float) -> None:
    """Its configurations A1, A2 and A4: seven parts focal loss, three parts Dice, .326 of the pixels positive."""
    loss = Loss(bce=0, focal=0.7, dice=0.3, focal_alpha=alpha, pos_weight=pos_weight)
    assert best_constant(loss, 0.326) == pytest.approx(best, abs=0.01)


def test_odds_are_those_of_the_loss(toy: Path, tmp_path: Path) -> None:
    settings = ("loss.focal=1", "loss.focal_alpha=0.9")
    assert NoopConfig().check(examined(toy, tmp_path, *settings)).evidence["odds_of_positives"] == pytest.approx(9)


# --- roles


def test_distinct_micrographs_are_no_leak(toy: Path, tmp_path: Path) -> None:
    found = Split().check(examined(toy, tmp_path))
    assert (found.verdict, found.code) == ("info", "VAL_TOO_SMALL")
    assert found.evidence["compared"] == 4
    assert abs(found.evidence["highest_correlation"]) < 0.05


def _copied(folder: Path, noise: float) -> Path:
    """Show a labelled micrograph a second time under another name."""
    from verglas.io.micrographs import read_image

    pixels = read_image(folder / "mics" / "m0.mrc")
    twin = pixels + noise * np.random.default_rng(1).normal(size=pixels.shape).astype(np.float32)
    write_mrc(folder / "mics" / "twin.mrc", twin if noise else pixels, 2.0)
    (folder / "labels" / "twin.csv").write_bytes((folder / "labels" / "m0.csv").read_bytes())
    return folder


@pytest.mark.parametrize("noise", [0, 0.5, 1.5])
@pytest.mark.parametrize("labelled", [1, 4])
def test_a_micrograph_in_two_roles_is_a_leak(tmp_path: Path, noise: float, labelled: int) -> None:
    folder = _copied(write_toy(tmp_path, micrographs=5, labelled=labelled), noise)
    found = Split().check(examined(folder, tmp_path / "scratch"))
    assert (found.verdict, found.code) == ("fail", "SPLIT_LEAK")
    assert "m0" in found.sentence
    assert "twin" in found.sentence


def test_a_copy_among_many_is_found_by_its_bytes(tmp_path: Path) -> None:
    folder = _copied(write_toy(tmp_path, micrographs=5, labelled=4), 0)
    assert Split(most=1).check(examined(folder, tmp_path / "scratch")).code == "SPLIT_LEAK"


def test_stripes_of_the_detector_are_no_leak(tmp_path: Path) -> None:
    gain = 1 + 0.3 * np.random.default_rng(0).normal(size=SIDE)
    folder = write_toy(tmp_path, micrographs=4, labelled=4)
    for number in range(4):
        pixels = 10 + blobs(np.random.default_rng(number), np.zeros((0, 2)))
        write_mrc(folder / "mics" / f"m{number}.mrc", (pixels * gain).astype(np.float32), 2.0)
    assert Split().check(examined(folder, tmp_path / "scratch")).code != "SPLIT_LEAK"


def divided(tmp_path: Path, teach: int, judge: int, counts: Sequence[int] = (30,), bright: float = 1.0) -> Data:
    """Return noise with labels, some of it for validation, ``bright`` times as bright."""
    names = [f"{role}{k}" for role, n in (("t", teach), ("v", judge)) for k in range(n)]
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).normal(5, 1, (SIDE, SIDE)) * (bright if name[0] == "v" else 1)
        write_mrc(tmp_path / f"{name}.mrc", pixels.astype(np.float32), 2.0)
    picks = {}
    for number, name in enumerate(names):
        n = counts[(name[0] == "v") % len(counts)] + number % 3
        picks[name] = Picks(name, np.random.default_rng(number).random((n, 2)) * SIDE, np.ones(n))
    micrographs = tuple(Micrograph(name, tmp_path / f"{name}.mrc", (SIDE, SIDE), 2.0) for name in names)
    split = Roles(labelled=tuple(names[:teach]), validation=tuple(names[teach:]))
    return Data(Collection(micrographs, picks, DIAMETER, split=split), RunConfig(), tmp_path / "scratch")


@pytest.mark.parametrize(
    ("case", "verdict", "code"),
    [({}, "ok", ""), ({"counts": (30, 60)}, "warn", "SPLIT_UNLIKE"), ({"counts": (30, 38)}, "ok", ""),
     ({"bright": 1.5}, "warn", "SPLIT_UNLIKE")],
)  # fmt: skip
def test_roles_of_different_kind_are_named(tmp_path: Path, case: dict[str, object], verdict: str, code: str) -> None:
    found = Split().check(divided(tmp_path, 8, 8, **case))  # type: ignore[arg-type]
    assert (found.verdict, found.code) == (verdict, code)


def test_two_micrographs_are_few_to_judge_by(tmp_path: Path) -> None:
    found = Split().check(divided(tmp_path, 4, 2, counts=(30, 60), bright=1.5))
    assert (found.verdict, found.code) == ("info", "VAL_TOO_SMALL")


def test_without_labels_there_are_no_roles(toy: Path, tmp_path: Path) -> None:
    data = examined(toy, tmp_path)
    assert Split().check(Data(replace(data.collection, picks={}), data.config, tmp_path)).verdict == "skipped"


# --- pixel sizes


def sized(tmp_path: Path, headers: Sequence[float | None], used: Sequence[float | None], **more: object) -> Data:
    """Return micrographs whose headers state some pixel sizes, while others are used."""
    micrographs = []
    for number, (header, size) in enumerate(zip(headers, used, strict=True)):
        path = tmp_path / f"m{number}.mrc"
        shape = more.get("shapes", [(32, 32)] * len(used))[number]  # type: ignore[index]
        write_mrc(path, np.random.default_rng(number).normal(size=shape).astype(np.float32), header)
        micrographs.append(Micrograph(path.stem, path, shape, size))
    config = replace(RunConfig(), data=DataSettings(diameter_angstrom=more.get("diameter_angstrom")))  # type: ignore[arg-type]
    return Data(Collection(tuple(micrographs), {}, 8.0), config, tmp_path)


def test_one_pixel_size_is_fine(tmp_path: Path) -> None:
    found = PixelSizes().check(sized(tmp_path, (2.0, 2.01), (2.0, 2.01)))
    assert found.verdict == "ok"
    assert found.evidence["largest_header_angstrom"] == pytest.approx(2.01)


@pytest.mark.parametrize(
    ("headers", "used", "verdict"),
    [((2.0, 2.0), (1.0, 1.0), "warn"), ((2.0, 1.0), (2.0, 2.0), "warn"), ((2.0, 1.0), (2.0, 1.0), "fail")],
)
def test_pixel_sizes_that_disagree_are_named(
    tmp_path: Path, headers: tuple[float, ...], used: tuple[float, ...], verdict: str
) -> None:
    found = PixelSizes().check(sized(tmp_path, headers, used))
    assert (found.verdict, found.code) == (verdict, "PIXEL_SIZES")


def test_two_detectors_overruled_by_one_option_are_a_fault(tmp_path: Path) -> None:
    found = PixelSizes().check(sized(tmp_path, (2.0, 1.0), (2.0, 2.0), shapes=[(32, 32), (64, 64)]))
    assert (found.verdict, found.code) == ("fail", "PIXEL_SIZES")


def test_a_missing_pixel_size_matters_only_for_angstrom(tmp_path: Path) -> None:
    assert PixelSizes().check(sized(tmp_path, (None, 2.0), (None, 2.0))).verdict == "ok"
    assert PixelSizes().check(sized(tmp_path, (None, 2.0), (None, 2.0), diameter_angstrom=16.0)).verdict == "info"
    assert PixelSizes().check(sized(tmp_path, (None,), (None,))).verdict == "ok"


def test_a_file_that_is_gone_is_told_by_others(tmp_path: Path) -> None:
    data = sized(tmp_path, (2.0, 2.0), (2.0, 2.0))
    (tmp_path / "m0.mrc").unlink()
    assert PixelSizes().check(data).verdict == "ok"

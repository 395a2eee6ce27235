"""The command line as a user meets it: processes, exit codes, JSON on standard output and nothing else there."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from toy import SETTINGS
from verglas.io.picks import read_picks
from verglas.records import Note

COMMAND = [sys.executable, "-c", "from verglas.cli import main; main()"]


def verglas(*arguments: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command and hold it to its exit code."""
    command = [*COMMAND, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def given(*settings: str) -> list[str]:
    return [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]


TRAIN = ["train", "--micrographs", "mics", "--labels", "labels", "--diameter-angstrom", "32", *given()]


def test_help_loads_no_torch() -> None:
    code = "import sys; from verglas import cli, api; assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_from_micrographs_to_evaluated_and_exported_picks(trained: Path) -> None:
    facts = json.loads(verglas(*TRAIN, "--out", "new", "--steps", "8", "--seed", "3", "--json", cwd=trained).stdout)
    assert {"steps", "seconds", "threshold", "threshold_how", "validation", "report"} <= facts.keys()
    assert facts["steps"] == 8
    assert (trained / "new" / "report.html").is_file()
    assert "seed = 3" in (trained / "new" / "config.toml").read_text()

    pick = ["pick", "run", "--micrographs", "mics/m[234].mrc", "--out", "picks.star", "--maps", "maps"]
    facts = json.loads(verglas(*pick, "--json", cwd=trained).stdout)
    assert facts["micrographs"] == 3
    assert facts["micrographs_per_second"] > 0
    assert facts["threshold"] == json.loads((trained / "run" / "operating_point.json").read_text())["threshold"]

    for name in ("m0", "m1"):
        (trained / "truth" / f"{name}.csv").unlink()
    evaluate = ["evaluate", "picks.star", "--labels", "truth", "--diameter-px", "16"]
    figures = json.loads(verglas(*evaluate, "--maps", "maps", "--json", cwd=trained).stdout)
    asked = {"ap", "f1", "threshold", "precision", "recall", "best_f1", "n_labels", "n_picks", "radius_px", "ci"}
    assert asked <= figures.keys()
    assert set(figures["at_radius"]) == {"0.2", "0.3", "0.5"}
    assert {"ap", "f1", "precision", "recall", "best_f1"} <= figures["at_radius"]["0.3"].keys()
    assert len(figures["per_micrograph"]) == 3
    assert {"f1_at_0.5", "best_f1"} <= figures["pixel"].keys()
    assert figures["ap"] > 0.8
    table = verglas(*evaluate, cwd=trained).stdout
    assert "0.3 D" in table
    assert "random F1" in table

    verglas("export", "picks.star", "picks.csv", cwd=trained)
    rows = (trained / "picks.csv").read_text().splitlines()
    assert len(rows) == 1 + figures["n_picks"]
    verglas("export", "picks.star", "all.csv", "--all", cwd=trained)
    assert len((trained / "all.csv").read_text().splitlines()) > len(rows)
    verglas("export", "picks.star", "relion", "--format", "relion-folder", cwd=trained)
    assert (trained / "relion" / "autopick.star").is_file()


def test_a_threshold_says_which_candidates_count_and_loses_none(trained: Path) -> None:
    few = ["pick", "run", "--micrographs", "mics/m2.mrc", "--json"]
    strict, lax, precise = (
        json.loads(verglas(*few, "--out", f"{n}.star", *option, cwd=trained).stdout)
        for n, option in enumerate([("--threshold", "0.9"), ("--threshold", "0.0002"), ("--expected-precision", "0.5")])
    )
    assert strict["candidates"] == lax["candidates"] == precise["candidates"]
    assert "precision" in precise["threshold_how"]
    counted = [
        json.loads(verglas("export", f"{n}.star", f"{n}.csv", "--json", cwd=trained).stdout)["picks"] for n in (0, 1)
    ]
    assert counted[0] < counted[1]


def test_a_number_of_particles_finds_the_threshold_that_keeps_so_many(trained: Path) -> None:
    pick = ["pick", "run", "--micrographs", "mics", "--json", "--particles-per-micrograph"]
    some = json.loads(verglas(*pick, "25", "--out", "some.star", cwd=trained).stdout)
    assert "keeps 25 picks a micrograph on average" in some["threshold_how"]
    picks = read_picks(trained / "some.star")
    assert sum(len(part.above(some["threshold"])) for part in picks) == 25 * 5
    assert len({len(part.above(some["threshold"])) for part in picks}) > 1
    every = json.loads(verglas(*pick, "1e6", "--out", "all.star", cwd=trained).stdout)
    assert every["threshold"] == 0


def test_a_number_of_particles_is_of_all_micrographs_also_those_picked_before_an_interruption(trained: Path) -> None:
    from verglas import api

    stop, out = threading.Event(), trained / "p.star"
    stop.set()  # after the first micrograph
    some = [trained / "mics" / f"m{n}.mrc" for n in (2, 3)]
    list(api.pick(trained / "run", some, out, particles_per_micrograph=25, stop=stop))
    *_, end = api.pick(trained / "run", some, out, particles_per_micrograph=25)
    *_, whole = api.pick(trained / "run", some, trained / "q.star", particles_per_micrograph=25)
    assert end.facts["threshold"] == whole.facts["threshold"]
    assert out.read_bytes() == (trained / "q.star").read_bytes()


def test_a_thorough_look_scores_otherwise_and_does_not_go_on_from_a_plain_one(trained: Path) -> None:
    from verglas import api

    stop = threading.Event()
    stop.set()  # after the first micrograph
    some, out = [trained / "mics" / f"m{n}.mrc" for n in (2, 3)], trained / "p.star"
    list(api.pick(trained / "run", some, out, stop=stop))
    records = list(api.pick(trained / "run", some, out, thorough=True))
    assert not [record for record in records if isinstance(record, Note) and "goes on" in record.text]
    done = verglas(
        "pick", "run", "--micrographs", "mics/m[23].mrc", "--thorough", "--out", "q.star", "--json", cwd=trained
    )
    facts = json.loads(done.stdout)
    assert (facts["micrographs"], facts["thorough"]) == (2, True)
    thorough, again = (read_picks(trained / name).by_name()["m2"] for name in ("p.star", "q.star"))
    list(api.pick(trained / "run", some, trained / "plain.star"))
    plain = read_picks(trained / "plain.star").by_name()["m2"]
    assert np.array_equal(thorough.score, again.score)
    assert not np.array_equal(thorough.score[:20], plain.score[:20])


def test_some_bad_micrographs_end_in_partial(trained: Path) -> None:
    (trained / "mics" / "m3.mrc").write_bytes(b"not an image")
    bad = trained / "mics" / "m4.mrc"
    bad.write_bytes(bad.read_bytes()[:3000])
    done = verglas("pick", "run", "--micrographs", "mics", "--out", "p.star", "--json", cwd=trained, code=4)
    facts = json.loads(done.stdout)
    assert (facts["micrographs"], facts["failed"]) == (3, 2)
    failed = [json.loads(line) for line in (trained / "p.failed.jsonl").read_text().splitlines()]
    for name, line in zip(("m3.mrc", "m4.mrc"), failed, strict=True):
        assert name in done.stderr
        assert line["path"].endswith(name)
        assert line["reason"]


BOTH_WEIGHTS = ["--set", "loss.focal=1", "--set", "loss.focal_alpha=0.25", "--set", "loss.pos_weight=5"]
UNLABELLED = ["train", "--micrographs", "mics", "--labels", "labels", "--out", "x"]
BOTH_THRESHOLDS = ["--threshold", "0.5", "--expected-precision", "0.5"]
PICK = ["pick", "run", "--micrographs", "mics", "--out"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "--out", "x"], 3, "Give --micrographs"),
        (UNLABELLED, 3, "diameter"),
        ([*UNLABELLED, "--diameter-px", "16", "--micrographs", "nowhere/*.mrc"], 3, "nowhere"),
        ([*TRAIN, "--out", "x", "--set", "train.steeps=3"], 3, "Did you mean train.steps?"),
        ([*TRAIN, "--out", "x", *BOTH_WEIGHTS], 3, "multiply into one ratio"),
        ([*TRAIN, "--out", "x", "--algorithm", "magic"], 3, "supervised"),
        ([*TRAIN, "--out", "x", "--algorithm", "supervised", "--labels-are", "partial"], 3, "Give --algorithm auto"),
        ([*TRAIN, "--out", "run"], 3, "Choose another --out"),
        (["pick", "mics", "--micrographs", "mics", "--out", "p.star"], 3, "finished training"),
        ([*PICK, "p.csv"], 3, "verglas export"),
        ([*PICK, "p.star", *BOTH_THRESHOLDS], 3, "one of them"),
        ([*PICK, "p.star", "--threshold", "0.5", "--particles-per-micrograph", "9"], 3, "one of them"),
        ([*PICK, "p.star", "--particles-per-micrograph", "0"], 3, "a number above 0"),
        ([*PICK, "p.star", "--particles-per-micrograph", "inf"], 3, "a number above 0"),
        (["evaluate", "labels/m0.csv", "--labels", "truth"], 3, "--diameter-px"),
        (["fly"], 2, "No such command"),
    ],
)
def test_errors_are_a_sentence_and_a_code(trained: Path, arguments: list[str], code: int, said: str) -> None:
    done = verglas(*arguments, cwd=trained, code=code)
    assert said in " ".join(done.stderr.split())
    assert done.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_cleanly_and_it_goes_on(trained: Path, number: int) -> None:
    command = [*TRAIN, "--out", "new", "--set", "train.steps=400", "--set", "train.validate_every=400"]
    process = subprocess.Popen([*COMMAND, *command], cwd=trained, stderr=subprocess.DEVNULL)
    records = trained / "new" / "records.jsonl"
    while not (records.exists() and '"progress"' in records.read_text()):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    assert (trained / "new" / "resume.pt").is_file()
    done = verglas(*command, cwd=trained)
    assert "goes on at step" in done.stderr
    assert (trained / "new" / "model.safetensors").is_file()


def test_a_killed_pick_goes_on(trained: Path) -> None:
    for number in range(5, 60):
        os.link(trained / "mics" / "m2.mrc", trained / "mics" / f"m{number}.mrc")
    command = ["pick", "run", "--micrographs", "mics", "--out", "p.star"]
    process = subprocess.Popen([*COMMAND, *command], cwd=trained, stderr=subprocess.DEVNULL)
    log = trained / "p.star.done"
    while not (log.exists() and log.read_text().count("\n") > 4):
        time.sleep(0.02)
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not (trained / "p.star").exists()
    assert "goes on after" in verglas(*command, cwd=trained).stderr
    verglas("pick", "run", "--micrographs", "mics", "--out", "q.star", cwd=trained)
    assert (trained / "p.star").read_bytes() == (trained / "q.star").read_bytes()


def test_inspect_warns_of_flipped_labels(trained: Path) -> None:
    command = ["inspect", "--micrographs", "mics", "--labels", "truth", "--diameter-px", "16", "--json"]
    good = json.loads(verglas(*command, "--out", "good.html", cwd=trained).stdout)
    for path in (trained / "truth").glob("*.csv"):
        head, *rows = path.read_text().splitlines()
        flipped = [f"{x},{159 - float(y):.3f}" for x, y in (row.split(",") for row in rows)]
        path.write_text("\n".join([head, *flipped, ""]))
    done = verglas(*command, "--out", "bad.html", cwd=trained)
    assert "y flipped" in done.stderr
    assert abs(good["contrast_as_given"]) > 2 * abs(json.loads(done.stdout)["contrast_as_given"])
    assert (trained / "bad.html").is_file()


def test_simulate_writes_truth(tmp_path: Path) -> None:
    small = ["--set", "shape_px=[256, 256]", "--set", "particles=12"]
    verglas("simulate", "out", "--micrographs", "2", "--seed", "1", *small, cwd=tmp_path)
    assert len(list((tmp_path / "out" / "micrographs").glob("*.mrc"))) == 2
    assert len(list((tmp_path / "out" / "truth").glob("*.csv"))) == 2


@pytest.mark.slow
def test_the_demo_ends_in_under_three_minutes_and_finds_the_particles(tmp_path: Path) -> None:
    began = time.monotonic()
    facts = json.loads(verglas("demo", "--json", cwd=tmp_path).stdout)
    assert time.monotonic() - began < 180
    assert facts["f1"] > 0.8
    assert Path(tmp_path / facts["report"]).is_file()
    assert Path(tmp_path / facts["picture"]).is_file()


def test_a_pixel_size_that_overruled_the_files_need_not_be_repeated(trained: Path) -> None:
    train = ["train", "--micrographs", "mics", "--labels", "labels", "--diameter-angstrom", "160", *given()]
    verglas(*train, "--pixel-size-angstrom", "10", "--out", "new", cwd=trained)
    verglas("pick", "new", "--micrographs", "mics", "--out", "p.star", cwd=trained)


def test_a_report_that_was_lost_is_written_again(trained: Path) -> None:
    by_default = ("--set", "search.edge_px=auto")  # measured, so not what the run's settings say
    verglas(*TRAIN, *by_default, "--out", "new", cwd=trained)
    before = (trained / "new" / "model.safetensors").read_bytes()
    (trained / "new" / "report.html").unlink()
    verglas(*TRAIN, *by_default, "--out", "new", cwd=trained)
    assert (trained / "new" / "report.html").is_file()
    assert (trained / "new" / "model.safetensors").read_bytes() == before


def test_when_nothing_can_be_picked_an_earlier_file_stays(trained: Path) -> None:
    (trained / "p.star").write_text("mine")
    for path in (trained / "mics").glob("*.mrc"):
        path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")
    verglas("pick", "run", "--micrographs", "mics", "--out", "p.star", cwd=trained, code=3)
    assert (trained / "p.star").read_text() == "mine"


def test_relion_gets_the_names_it_knows(trained: Path) -> None:
    verglas("pick", "run", "--micrographs", "mics/m2.mrc", "--out", "p.star", cwd=trained)
    names = "data_micrographs\n\nloop_\n_rlnMicrographName #1\nMotionCorr/job002/mics/m2.mrc\n"
    (trained / "mics.star").write_text(names)
    export = ["export", "p.star", "relion", "--format", "relion-folder", "--micrographs-star", "mics.star"]
    verglas(*export, cwd=trained)
    assert "MotionCorr/job002/mics/m2.mrc " in (trained / "relion" / "autopick.star").read_text()
    assert (trained / "relion" / "coords_suffix_verglas.star").read_text() == "mics.star\n"


def test_a_place_that_cannot_be_written_is_a_sentence(trained: Path) -> None:
    verglas("simulate", "mics/m0.mrc/x", "--micrographs", "1", cwd=trained, code=3)

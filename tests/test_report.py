"""A report stands alone, escapes what it is given, says the figures it was given, and shows the right micrographs."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from verglas import pages as choice
from verglas import report
from verglas.config import DataSettings, RunConfig
from verglas.evaluate import evaluate
from verglas.holdout import Area
from verglas.matching import match
from verglas.operating import choose_threshold
from verglas.pages import Page, Rule, at_threshold, choose_pages, judged, marks
from verglas.records import Failed, Note, Progress, Ruled, Validated
from verglas.report import overlay_file, write_inspection, write_report
from verglas.runs import Run
from verglas.types import Evaluation, Grid, Image, Picks, PickSet, nothing

DIAMETER = 20.0
SHAPE = (200, 300)
HOSTILE = "<script>alert('x')</script>\"&$\\frac{"
RULE = Rule(0.5, DIAMETER, (0.4, 0.6))

VOID = {"meta", "input", "img", "br", "link", "image", "circle", "path"}


class Parsed(HTMLParser):
    """The tags and text of a page; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID or (tag == "circle" and not self.get_starttag_text().endswith("/>")):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def parsed(path: Path) -> Parsed:
    return Parsed(path.read_text(encoding="utf-8"))


def picks(name: str, xy: np.ndarray, score: np.ndarray | None = None) -> Picks:
    xy = np.reshape(np.asarray(xy, float), (-1, 2))
    return Picks(name, xy, np.ones(len(xy)) if score is None else np.asarray(score, float))


def image(seed: int = 0, shape: tuple[int, int] = SHAPE) -> Image:
    data = np.random.default_rng(seed).normal(size=(shape[0] // 2, shape[1] // 2)).astype(np.float32)
    return Image(data, Grid().area_resized(shape, data.shape), np.ones(data.shape, bool))


def places(rng: np.random.Generator, n: int, high: tuple[float, float] = (299, 199)) -> np.ndarray:
    """Positions no two of which are within a diameter."""
    kept: list[np.ndarray] = []
    while len(kept) < n:
        place = rng.uniform((0, 0), high)
        if all(np.hypot(*(place - other)) > DIAMETER for other in kept):
            kept.append(place)
    return np.array(kept)


def page(name: str, *, seed: int = 0, found: float = 0.8, wrong: int = 5, labelled: bool = True) -> Page:
    """A micrograph of 25 labels, a share of which is found, and some wrong candidates."""
    rng = np.random.default_rng(seed)
    xy = places(rng, 25 + wrong)
    n = round(25 * found)
    candidates = np.concatenate([xy[:n] + rng.normal(0, 1, (n, 2)), xy[25:]])
    score = np.concatenate([rng.uniform(0.55, 0.95, n), rng.uniform(0.05, 0.65, wrong)])
    probability = Image(rng.random((50, 75)).astype(np.float32), Grid(1.5, 1.5, 4, 4), np.ones((50, 75), bool))
    return Page(
        name, image(seed), picks(name, candidates, score), picks(name, xy[:25]) if labelled else None, probability
    )


def material(shown: list[Page]) -> tuple[PickSet, dict[str, Picks]]:
    shapes = {p.name: SHAPE for p in shown}
    return PickSet(tuple(p.picks for p in shown), shapes=shapes), {p.name: p.labels for p in shown if p.labels}


def make_run(folder: Path, shown: list[Page], *, area: Area | None = None, curves: bool = False, **data: Any) -> Run:
    """Write a run folder as training leaves it, without the network; curves take time to draw."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    settings_ = DataSettings(micrographs=("mics/*.mrc",), labels="labels", diameter_px=DIAMETER, **data)
    replace(RunConfig(), data=settings_).with_train(steps=200).save(folder / "config.toml")
    area = area or Area()
    run.write_json("split.json", {
        "labelled": ["train1", "train2"], "unlabelled": [], "how": "2 of 4 labelled micrographs",
        "validation": {p.name: {"axis": area.axis, "low": area.low, "high": area.high} for p in shown},
    })  # fmt: skip
    run.write_json("model.json", {
        "format": 1, "version": "0.1.0", "preprocess_hash": "0123456789abcdef", "diameter_px": DIAMETER,
        "pixel_size_angstrom": 5.0, "steps": 200, "best_step": 150, "validation_ap": 0.8, "seconds": 61.0,
        "precision": "float32", "device": "cpu", "threads": 1, "prior": 0.05, "algorithm": "soft_teacher",
    })  # fmt: skip
    candidates, truth = material(shown)
    if any(map(len, truth.values())):
        point = choose_threshold(candidates, truth, diameter_px=DIAMETER, bootstraps=50)
        run.write_json("operating_point.json", point.to_dict())
    run.append(Note("validation: 2 of 4 labelled micrographs"))
    for step in range(10, 201, 10) if curves else ():
        run.append(Progress(step, 200, step / 3, 1 / step, 1e-3, {"gradient_norm": 1.0}))
        if step % 50 == 0:
            run.append(Validated(step, step / 400, step / 300, 0.5, step == 150))
    return run


@pytest.fixture(scope="module")
def shown() -> list[Page]:
    return [page("good", seed=1, found=0.95, wrong=2), page("middle", seed=2), page("bad", seed=3, found=0.5, wrong=12)]


@pytest.fixture(scope="module")
def evaluation(shown) -> Evaluation:
    candidates, truth = material(shown)
    renamed = [replace(p, micrograph=f"test_{p.micrograph}") for p in candidates]
    labels = {f"test_{name}": replace(p, micrograph=f"test_{name}") for name, p in truth.items()}
    found = PickSet(tuple(renamed), 0.5, shapes=dict.fromkeys(labels, SHAPE))
    return evaluate(found, labels, diameter_px=DIAMETER, bootstraps=100)


@pytest.fixture
def run(tmp_path, shown) -> Run:
    return make_run(tmp_path / "run", shown)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shown, evaluation) -> Path:
    """A report with everything in it."""
    run = make_run(tmp_path_factory.mktemp("whole") / "run", shown, curves=True)
    return write_report(run, shown, evaluation=evaluation, validation=material(shown))


# --- the page as a document


def test_report_stands_alone(whole):
    assert whole.name == "report.html"
    page_, text = parsed(whole), whole.read_text(encoding="utf-8")
    assert text.count("data:image/svg+xml;base64,") == 5
    assert not re.search(r"https?://|@import|url\(", text)
    assert not {"script", "iframe", "object", "link", "form", "base"} & {tag for tag, _ in page_.tags}
    for _, attributes in page_.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "action", "data", "poster"):
                assert value.startswith("data:image/"), value[:60]


def test_policy_allows_inline_style_and_data_images_only(whole):
    page_ = parsed(whole)
    policies = [m["content"] for m in page_.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["style-src"] == "'unsafe-inline'"
    assert "script-src" not in rules
    order = [tag for tag, _ in page_.tags]
    assert order.index("meta") < order.index("style")


def test_ids_are_unique_and_every_switch_has_its_legend(whole):
    page_ = parsed(whole)
    ids = [attributes["id"] for _, attributes in page_.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    switches = {attributes["id"] for attributes in page_.all("input")}
    assert switches == {attributes["for"] for attributes in page_.all("label")}
    assert len(switches) == sum(a.get("class") == "marks" for a in page_.all("g"))


def test_every_picture_says_what_it_is(whole):
    page_ = parsed(whole)
    assert all(img["alt"] for img in page_.all("img"))
    assert page_.all("html")[0]["lang"] == "en"


def test_same_input_same_bytes(whole, shown, evaluation, tmp_path):
    run = Run(whole.parent)
    again = write_report(run, shown, evaluation=evaluation, validation=material(shown), path=tmp_path / "again.html")
    assert again == tmp_path / "again.html"
    assert again.read_bytes() == whole.read_bytes()


def test_what_comes_from_outside_is_escaped(tmp_path):
    shown = [page(HOSTILE, seed=1), page("b", seed=2)]
    run = make_run(tmp_path / HOSTILE.replace("/", ""), shown, pixel_size_angstrom=2.0)
    run.append(Note(HOSTILE, warning=True))
    run.append(Failed(HOSTILE, HOSTILE))
    candidates, truth = material(shown)
    evaluation = evaluate(replace(candidates, threshold=0.5), truth, diameter_px=DIAMETER, bootstraps=10)
    path = write_report(run, shown, validation=(candidates, truth), evaluation=evaluation)
    page_ = parsed(path)
    assert "<script" not in path.read_text(encoding="utf-8")
    assert page_.text.count("<script>alert") >= 4


def test_names_that_are_no_text_can_be_written(tmp_path):
    name = "mic\udc80\x07"
    shown = [page(name)]
    page_ = parsed(write_report(make_run(tmp_path / "run", shown), shown))
    assert "mic?" in page_.text


def test_report_is_small_enough_to_mail(tmp_path):
    rng = np.random.default_rng(0)
    shape, grid = (1400, 1400), Grid(0, 0, 2, 2)
    shown = []
    for name in "abc":
        noise = Image(rng.normal(size=shape).astype(np.float32), grid, np.ones(shape, bool))
        xy = rng.uniform(0, 2800, (2000, 2))
        chart = Image(rng.random((700, 700)).astype(np.float32), Grid(1, 1, 4, 4), np.ones((700, 700), bool))
        shown.append(Page(name, noise, picks(name, xy, rng.random(2000)), picks(name, xy[:900] + 3), chart))
    run = make_run(tmp_path / "run", shown)
    path = write_report(run, shown, validation=material(shown))
    assert path.stat().st_size < 6_000_000


# --- what it says


def test_summary_gives_threshold_interval_and_expectation(run, shown):
    point = run.operating_point()
    text = parsed(write_report(run, shown, validation=material(shown))).text
    assert f"from a score of {point.threshold:.2f}" in text
    assert f"between {point.interval[0]:.2f} and {point.interval[1]:.2f}" in text
    assert f"{round(100 * point.precision)} of 100 picks" in text
    assert f"{round(100 * point.recall)} of 100 labelled particles" in text
    assert "2 of 4 labelled micrographs were held out" in text
    assert "particle 20 px = 100 Å at 5 Å per pixel" in text
    assert "so they are a little too good" in text


def test_figures_of_an_evaluation_are_given_at_both_radii_beside_chance(whole, evaluation):
    page_ = parsed(whole)
    for radius in ("0.5", "0.3"):
        at, chance = evaluation.pooled["at_radius"][radius], evaluation.pooled["baselines"]
        low, high = at["ci"]["f1"]
        row = f"{at['f1']:.2f} ({low:.2f}–{high:.2f})"
        assert re.search(rf"{radius} D .{{,60}}{re.escape(row)}", page_.text)
        assert f"{chance['grid'][radius]['f1']:.2f} {chance['random'][radius]['f1']:.2f}" in page_.text
    assert "evaluated: 75 on 3 micrographs" in page_.text
    assert "held out: 75 on 3 micrographs" in page_.text
    assert "range over micrographs" in page_.text
    assert "too good" not in page_.text


def test_labels_are_counted_where_the_run_says_how_many(run, shown):
    assert "labels on 2 micrographs" not in parsed(write_report(run, shown)).text
    run.write_json("model.json", run.facts() | {"training_labels": 123})
    assert "learned from 123 labels on 2 micrographs" in parsed(write_report(run, shown)).text


def test_partial_labels_make_precision_a_lower_bound(tmp_path, shown):
    run = make_run(tmp_path / "run", shown, labels_are="partial")
    assert "lower bound" in parsed(write_report(run, shown)).text
    assert "lower bound" not in parsed(write_report(make_run(tmp_path / "other", shown), shown)).text
    (run.folder / "completed.star").touch()
    text = parsed(write_report(run, shown)).text
    assert "lower bound" not in text
    assert "how far this run agrees with both" in text
    assert "before it picked" not in parsed(write_report(run, shown)).text


def test_a_student_of_clicks_is_said_to_have_learned_from_picks(tmp_path, shown):
    run = make_run(tmp_path / "run", shown, labels_are="partial")
    run.write_json("model.json", run.facts() | {"students": 1})
    assert "from what a network before it picked beside them" in parsed(write_report(run, shown)).text


def test_commands_name_this_run(tmp_path, shown):
    run = make_run(tmp_path / "a run's folder", shown)
    text = parsed(write_report(run, shown)).text
    quoted = str(run.folder).replace("'", "'\"'\"'")
    assert f"verglas pick '{quoted}' --micrographs" in text
    assert "verglas evaluate" in text
    assert "verglas export" in text


def test_all_settings_are_listed_and_the_changed_ones_marked(run, shown):
    path = write_report(run, shown)
    text = path.read_text(encoding="utf-8")
    keys = re.findall(r'<tr( class="changed")?><th scope="row"><code>([\w.]+)</code></th><td>([^<]*)</td>', text)
    listed = {key: (bool(changed), value) for changed, key, value in keys}
    assert listed["train.steps"] == (True, "200")
    assert listed["train.batch"] == (False, "4")
    assert listed["data.diameter_px"] == (True, "20")
    assert listed["data.diameter_angstrom"] == (False, "–")
    assert len(listed) > 40


def test_warnings_and_failures_come_first(run, shown):
    calm = parsed(write_report(run, shown, validation=material(shown))).text
    assert "Look at this first" not in calm
    assert "2 of 4 labelled micrographs Look" not in calm
    run.append(Note("pixel sizes differ", warning=True))
    for k in range(12):
        run.append(Failed(f"mic{k}.mrc", "damaged"))
    text = parsed(write_report(run, shown)).text
    assert text.index("pixel sizes differ") < text.index("learned")
    assert "12 micrographs could not be used" in text
    assert "and 2 more" in text


def test_the_last_word_on_a_step_counts(tmp_path, shown):
    run = make_run(tmp_path / "run", shown, curves=True)
    run.append(Progress(100, 200, 1, 77.0, 1e-3, {}))
    run.append(Failed("x.mrc", "first"))
    run.append(Failed("x.mrc", "again"))
    history = report._history(run)
    steps = [record["step"] for record in history["progress"]]
    assert steps == sorted(set(steps))
    assert next(record["loss"] for record in history["progress"] if record["step"] == 100) == 77.0
    assert [record["reason"] for record in history["failed"]] == ["again"]


def test_a_training_that_went_back_is_drawn_as_it_went_on(tmp_path, shown):
    """Steps come twice, and a ruling between them; what was undone is not drawn."""
    run = make_run(tmp_path / "run", shown, curves=True)
    run.append(Ruled(200, "R7", "SSL_HARM", "go back", "AP fell."))
    for step in (150, 200):
        run.append(Validated(step, 0.9, 0.9, 0.5, True, {"average_skill": 0.5}))
    history = report._history(run)
    assert [(r["step"], r["ap"]) for r in history["validated"]] == [(50, 0.125), (100, 0.25), (150, 0.9), (200, 0.9)]
    write_report(run, shown, validation=material(shown))


def test_a_report_names_the_algorithm_that_learned(run, shown):
    """Settings may only say ``auto``."""
    assert run.config.algorithm.name == "auto"
    text = parsed(write_report(run, shown, validation=material(shown))).text
    assert re.search(r"soft teacher, 200 steps", text)


def test_evaluation_on_training_micrographs_is_called_flattering(run, shown):
    candidates, truth = material(shown)
    own = evaluate(replace(candidates, threshold=0.5), truth, diameter_px=DIAMETER, bootstraps=10)
    assert "3 of 3 evaluated micrographs had a part" in parsed(write_report(run, shown, evaluation=own)).text


def test_an_honest_evaluation_raises_no_warning(whole):
    text = parsed(whole).text
    assert "had a part" not in text
    assert "No skill" not in text


def test_no_skill_is_said_plainly(tmp_path):
    rng = np.random.default_rng(0)
    blind = Page("a", image(), picks("a", rng.uniform(0, 190, (20, 2)), rng.random(20)), picks("a", places(rng, 25)))
    run = make_run(tmp_path / "run", [blind])
    assert "No skill" in parsed(write_report(run, [blind], validation=material([blind]))).text


def test_another_threshold_than_the_chosen_one_is_said_and_used(run, shown):
    candidates, truth = material(shown)
    own = evaluate(replace(candidates, threshold=0.9), truth, diameter_px=DIAMETER, bootstraps=10)
    text = parsed(write_report(run, shown, evaluation=own)).text
    assert "count from another score: 0.90" in text
    counted = {p.name: len(p.picks.above(0.9)) for p in shown}
    assert any(f"{counted['good']} {noun}, 25 labels" in text for noun in ("picks", "pick"))


# --- edge cases


def test_one_micrograph_without_candidates(tmp_path):
    empty = Page("a", image(), nothing("a"), picks("a", [[50, 50]]))
    other = page("a")
    run = make_run(tmp_path / "run", [other])
    text = parsed(write_report(run, [empty], validation=material([empty]))).text
    assert "0 picks, 1 label." in text
    assert "The only micrograph shown" in text
    assert "At the threshold" not in text


def test_no_labels_no_operating_point_no_validation_no_records(tmp_path):
    unlabelled = page("a", labelled=False)
    run = make_run(tmp_path / "run", [unlabelled])
    (run.folder / "records.jsonl").unlink()
    text = parsed(write_report(run, [unlabelled])).text
    assert "no threshold was chosen" in text
    assert "What to expect" not in text
    assert "F1 0" not in text


def test_labels_that_are_all_empty(tmp_path):
    empty = replace(page("a"), labels=nothing("a"))
    run = make_run(tmp_path / "run", [empty])
    text = parsed(write_report(run, [empty], validation=(PickSet((empty.picks,)), {"a": nothing("a")}))).text
    assert "0 labels" in text


def test_no_pages_at_all(run, shown, evaluation):
    text = parsed(write_report(run, [], evaluation=evaluation, validation=material(shown))).text
    assert "No micrograph was given" in text


def test_no_candidates_at_all(tmp_path, shown):
    run = make_run(tmp_path / "run", shown)
    _, truth = material(shown)
    bare = [replace(p, picks=nothing(p.name)) for p in shown]
    assert parsed(write_report(run, bare, validation=(PickSet(()), truth)))
    assert parsed(write_report(run, bare, validation=(PickSet(tuple(p.picks for p in bare)), truth)))


def test_losses_that_are_not_finite(run, shown):
    (run.folder / "records.jsonl").write_text(
        "".join(
            json.dumps({"kind": "progress", "step": k, "loss": None, "rate": 1, "watch": {}}) + "\n" for k in range(5)
        )
    )
    assert parsed(write_report(run, shown))


# --- held-out strips


def test_held_out_strips_are_judged_alone_and_chance_is_their_own():
    rng = np.random.default_rng(0)
    xy = places(rng, 60)
    strip = Area(0, 200.0, np.inf)
    inside = xy[strip.holds(xy)]
    validation = (
        PickSet((picks("a", inside + 1, rng.random(len(inside))),), shapes={"a": SHAPE}),
        {"a": picks("a", inside)},
    )
    held = report._held_out(validation, {"a": strip}, [], Rule(0.0, DIAMETER))
    moved = inside - (200.0, 0.0)
    alone = evaluate(
        PickSet((picks("a", moved + 1, validation[0].picks[0].score),), 0.0, shapes={"a": (200, 100)}),
        {"a": picks("a", moved)}, diameter_px=DIAMETER,
    )  # fmt: skip
    assert held.pooled["baselines"] == alone.pooled["baselines"]
    assert held.pooled["f1"] == alone.pooled["f1"] == 1
    whole = report._held_out(validation, {"a": Area()}, [], Rule(0.0, DIAMETER))
    assert whole.pooled["baselines"]["random"]["0.5"]["f1"] < 0.7 * held.pooled["baselines"]["random"]["0.5"]["f1"]


def test_the_extent_of_a_micrograph_is_known_from_its_image():
    for shape in ((200, 300), (1024, 990), (81, 64)):
        assert report._extent(image(shape=(shape[0] // 2 * 2, shape[1] // 2 * 2))) == (
            shape[0] // 2 * 2,
            shape[1] // 2 * 2,
        )


@pytest.mark.parametrize(("area", "window"), [
    (Area(0, 200.0, np.inf), (200, 0, 300, 200)),
    (Area(0, -np.inf, 75.0), (0, 0, 75, 200)),
    (Area(1, 150.0, np.inf), (0, 150, 300, 200)),
    (Area(), (0, 0, 300, 200)),
])  # fmt: skip
def test_windows(area, window):
    assert report._window(area, SHAPE) == window
    stored = json.loads(json.dumps({"axis": area.axis, "low": None if np.isinf(area.low) else area.low,
                                    "high": None if np.isinf(area.high) else area.high}))  # fmt: skip
    assert report._area(stored) == area


def test_the_trained_part_of_a_strip_is_dimmed(tmp_path):
    strip, whole = Area(0, 150.0, np.inf), page("a", seed=4)
    part = replace(whole, picks=whole.picks.where(strip.holds(whole.picks.xy)),
                   labels=whole.labels.where(strip.holds(whole.labels.xy)))  # fmt: skip
    run = make_run(tmp_path / "run", [part], area=strip)
    page_ = parsed(write_report(run, [part], validation=material([part])))
    assert [p["d"].endswith("M150 0H300V200H150z") for p in page_.all("path")] == [True]
    assert "dimmed part was seen in training" in page_.text
    assert not parsed(write_report(run, [whole], validation=material([part]))).all("path"), (
        "picks lie in the other part"
    )


@pytest.mark.parametrize(("name", "role"), [
    ("good", "Held out from training"), ("train1", "Used for training"), ("new", "Not used for training"),
])  # fmt: skip
def test_each_micrograph_says_what_part_it_had(run, name, role):
    assert role in parsed(write_report(run, [page(name)])).text


# --- which micrographs


def numbered(name: str, f1: float | None, uncertainty: float) -> Page:
    return Page(name, image(), nothing(name), None, None, f1, uncertainty)


def test_best_worst_and_most_uncertain_are_chosen():
    known = [numbered("a", 0.5, 1), numbered("b", 0.9, 9), numbered("c", 0.2, 3), numbered("d", 0.6, 7)]
    assert [(why, p.name) for why, p in choose_pages(known)] == [("best", "b"), ("worst", "c"), ("most uncertain", "d")]


def test_without_truth_the_most_uncertain_and_the_most_certain_are_chosen():
    unknown = [numbered("a", None, 1), numbered("b", None, 9), numbered("c", None, 3)]
    assert [(why, p.name) for why, p in choose_pages(unknown)] == [("most uncertain", "b"), ("most certain", "a")]


def test_a_single_micrograph_with_labels_is_shown():
    mixed = [numbered("a", None, 5), numbered("b", 0.4, 0), numbered("c", None, 1)]
    reasons = {p.name: why for why, p in choose_pages(mixed)}
    assert reasons == {"b": "the only one with labels", "a": "most uncertain", "c": "most certain"}


@given(st.lists(st.tuples(st.none() | st.floats(0, 1), st.floats(0, 50)), max_size=8))
@settings(max_examples=100, deadline=None)
def test_no_micrograph_is_chosen_twice(numbers):
    given_ = [numbered(str(k), f1, uncertainty) for k, (f1, uncertainty) in enumerate(numbers)]
    chosen = choose_pages(given_)
    names = [p.name for _, p in chosen]
    assert len(names) == len(set(names)) <= 3
    assert len(names) >= min(len(given_), 2)
    reasons = dict(chosen)
    if "best" in reasons:
        values = [p.f1 for p in given_ if p.f1 is not None]
        assert reasons["best"].f1 == max(values)
        assert reasons["worst"].f1 == min(values)


def test_f1_and_uncertainty_are_counted():
    labels, xy = picks("a", [[20, 20], [60, 60], [100, 100], [140, 20]]), [[21, 20], [60, 62], [200, 150], [100, 101]]
    given_ = Page("a", image(), picks("a", xy, [0.9, 0.55, 0.8, 0.45]), labels)
    page_ = judged(given_, RULE)
    assert page_.f1 == pytest.approx(2 * 2 / (3 + 4))
    assert page_.uncertainty == 2
    assert given_.f1 is None, "arguments stay as they are"
    without = judged(given_, Rule(0.5, DIAMETER))
    sure = judged(replace(given_, picks=picks("a", xy, [1, 1, 0, 0])), Rule(0.5, DIAMETER))
    assert 0.5 < without.uncertainty < 1
    assert sure.uncertainty == pytest.approx(0, abs=1e-6)
    assert judged(replace(given_, labels=nothing("a")), RULE).f1 is None


@given(st.integers(0, 10**6), st.floats(0, 1), st.integers(0, 30), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_every_pick_and_every_label_is_marked_once(seed, threshold, n, m):
    rng = np.random.default_rng(seed)
    found = picks("a", rng.uniform(0, 100, (n, 2)), rng.random(n))
    labels = picks("a", rng.uniform(0, 100, (m, 2)))
    right, wrong, missed, *almost = marks(Page("a", image(), found, labels), Rule(threshold, DIAMETER, (0.0, 1.0)))
    assert len(right.xy) + len(wrong.xy) == len(found.above(threshold))
    assert len(right.xy) + len(missed.xy) == m
    assert sum(len(kind.xy) for kind in almost) == n - len(found.above(threshold))
    together = {tuple(xy) for kind in (right, wrong) for xy in kind.xy}
    assert together == {tuple(xy) for xy in found.above(threshold).xy}
    counted = found.above(threshold)
    assert len(right.xy) == match(counted.xy, counted.score, labels.xy, DIAMETER / 2)[0].sum()
    for kind in (right, wrong):
        assert (kind.score >= threshold).all()


def test_kinds_differ_in_more_than_colour():
    kinds = marks(page("a"), RULE)
    assert len({kind.colour for kind in kinds}) == len(kinds)
    assert len({(kind.dashes, kind.weight) for kind in kinds}) == len(kinds)


def test_without_labels_picks_are_neither_right_nor_wrong():
    kinds = marks(page("a", labelled=False), RULE)
    assert kinds[0].name == "picked"
    assert not any("label" in kind.name for kind in kinds)


def test_candidates_nearest_to_the_threshold_are_cut_out():
    xy, score = np.full((40, 2), 100.0), np.linspace(0.02, 0.98, 40)
    two = [Page(name, image(), picks(name, xy, score + shift)) for name, shift in (("a", 0.0), ("b", 0.001))]
    above, below = at_threshold(two, RULE, most=5)
    every = np.concatenate([score, score + 0.001])
    assert [s for s, _ in above] == pytest.approx(sorted(every[every >= 0.5])[:5])
    assert [s for s, _ in below] == pytest.approx(sorted(every[every < 0.5])[::-1][:5])
    assert at_threshold(two, Rule(None, DIAMETER)) == ([], [])
    assert at_threshold([], RULE) == ([], [])
    assert at_threshold([Page("c", image(), nothing("c"))], RULE) == ([], [])


# --- pictures and inspection


def coordinates(page_: Parsed) -> Iterator[tuple[float, float]]:
    yield from ((float(c["cx"]), float(c["cy"])) for c in page_.all("circle") if "cx" in c)


def test_circles_in_the_report_are_at_the_picks(run, shown):
    page_ = parsed(write_report(run, shown[:1], validation=material(shown)))
    drawn = set(coordinates(page_))
    threshold = run.operating_point().threshold
    for x, y in shown[0].picks.above(threshold).xy:
        assert (round(x, 2), round(y, 2)) in drawn
    assert len(drawn) < len(shown[0].picks) + len(shown[0].labels) + 1


def test_picture_file_is_a_png_with_the_picks(tmp_path):
    given_ = Page("a", image(), picks("a", [[100, 100]], [0.9]), None)
    path = overlay_file(tmp_path / "new" / "picture.png", given_, threshold=0.5, diameter_px=60.0)
    assert path.is_file()
    with_pick, without = (
        np.asarray(Pillow.open(io.BytesIO(f.read_bytes())).convert("RGB")).astype(int)
        for f in (path, overlay_file(tmp_path / "none.png", given_, threshold=0.95, diameter_px=60.0))
    )
    assert with_pick.shape == (666, 1000, 3)
    blue = [pixels[..., 2] - pixels[..., 0] > 60 for pixels in (with_pick, without)]
    assert not blue[1].any()
    rows, columns = np.nonzero(blue[0])
    scale = 1000 / 300
    assert (rows.mean(), columns.mean()) == pytest.approx((100.5 * scale, 100.5 * scale), abs=4)
    assert np.ptp(columns) == pytest.approx(60 * scale, abs=6)


def test_inspection_shows_labels_facts_and_warnings(tmp_path):
    shown = [page("mic1"), replace(page(HOSTILE), labels=None), replace(page("mic3"), labels=nothing("mic3"))]
    facts = {
        "labels": 25,
        "diameter_px": DIAMETER,
        "median_distance": 1.23456,
        "contrast": {"as_given": -9.0, "flipped": None},
    }
    path = write_inspection(tmp_path / "inspect.html", shown, facts, ["y may be flipped", HOSTILE])
    page_ = parsed(path)
    assert "<script" not in path.read_text(encoding="utf-8")
    assert not re.search(r"https?://", path.read_text(encoding="utf-8"))
    assert page_.text.index("y may be flipped") < page_.text.index("What was measured")
    for words in (
        "median distance 1.235",
        "contrast.as given -9",
        "contrast.flipped –",
        "25 labels",
        "0 labels",
        "No labels",
    ):
        assert words in page_.text, words
    assert sorted(coordinates(page_)) == sorted((round(x, 2), round(y, 2)) for x, y in shown[0].labels.xy.tolist())


def test_inspection_of_nothing(tmp_path):
    assert (
        "No micrograph could be read" in parsed(write_inspection(tmp_path / "a.html", [], {"diameter_px": 9}, [])).text
    )


def test_a_real_micrograph(real_data, tmp_path):
    from verglas.preprocess import Preprocess

    file = min((real_data / "klh" / "images").glob("*.png"))
    data = np.asarray(Pillow.open(file).convert("L"), np.float32)
    xy = np.loadtxt(real_data / "klh" / "coords" / f"{file.stem}.csv", delimiter=",", skiprows=1, usecols=(0, 1))
    prepared = Preprocess(diameter_px=84.0).prepare(data)
    assert report._extent(prepared) == data.shape
    labels = picks(file.stem, xy)
    shown = [Page(file.stem, prepared, picks(file.stem, xy + 5, np.linspace(0.3, 0.9, len(xy))), labels)]
    path = write_inspection(tmp_path / "inspect.html", shown, {"diameter_px": 84.0}, [])
    assert path.stat().st_size < 200_000
    assert len(list(coordinates(parsed(path)))) == len(xy)


def test_public_names():
    assert report.__all__ == sorted(report.__all__)
    assert all(hasattr(report, name) for name in report.__all__)
    assert choice.RADIUS == 0.5

"""The differential diagnosis: which faults would explain what the checks found, best first. The rules are data."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from verglas.records import Checked, Diagnosed

DIRECT, STRONG, SOME, WEAK = 4.0, 2.0, 1.0, 0.5
"""How much a sign speaks for a cause: it measures it · points to it · goes with it · is a mere symptom of it."""

LEAST = 1.0
"""Score from which a cause is worth naming."""

SYMPTOMS: Mapping[str, float] = {
    "NO_SKILL": WEAK, "INPUT_INDEPENDENT": WEAK, "MISCALIBRATED": WEAK, "BELOW_BLOBS": WEAK, "SSL_HARM": WEAK,
    "IMPURE": WEAK, "OVERFIT_FAILS": WEAK, "PICKS_MISPLACED": WEAK, "KEEP_ASYMMETRY": WEAK,
}  # fmt: skip
"""What many faults lead to. It counts for a cause only where something else points to it."""

AFTERMATH = ("PU_CEILING", "BN_STATS", "INVERTED", "DIVERGED", "MISCALIBRATED", "SSL_HARM", "IMPURE", "PRIOR_DRIFT")
"""What a broken way from micrograph to output may look like further on."""


@dataclass(frozen=True, slots=True, eq=False)
class Cause:
    """A fault, in a sentence, with what to do about it and the signs it is known by.

    ``signs`` are codes of findings, or ``check=ok`` for a check that found nothing; a positive number speaks for
    the cause, a negative one against it. Of what ``leads_to`` lists, nothing counts as a cause of its own beside it.
    """

    code: str
    sentence: str
    remedy: str
    signs: Mapping[str, float]
    leads_to: tuple[str, ...] = ()


def _turned(code: str, how: str) -> Cause:
    remedy = "Export the labels anew with the right axes (--cs-y for cryoSPARC); look with verglas inspect."
    signs, leads_to = {code: DIRECT, "UNRELATED": WEAK}, ("UNRELATED", "LABEL_SHIFT", *AFTERMATH)
    return Cause(code, f"The labels are {how} against the micrographs.", remedy, signs, leads_to)


CAUSES: tuple[Cause, ...] = (
    Cause("LABELS_EMPTY", "There are no labels on the micrographs that are to teach.",
          "Check that the label files have the names of their micrographs and hold positions.",
          {"LABELS_EMPTY": DIRECT}),
    Cause("LABEL_SCALE", "Diameter or coordinates are in other pixels than those of the micrographs on disk.",
          "Give --diameter-px, and the coordinates, in pixels of the micrographs on disk.",
          {"LABEL_SCALE": DIRECT, "DIAMETER_DOUBTFUL": STRONG, "LABELS_OUTSIDE": STRONG, "LABELS_DENSE": SOME,
           "PIXEL_SIZES": SOME, "UNRELATED": WEAK},
          ("UNRELATED", "LABEL_SHIFT", "LABELS_DENSE", "LABELS_OUTSIDE", *AFTERMATH)),
    _turned("FLIP_Y", "upside down"),
    _turned("FLIP_X", "mirrored left to right"),
    _turned("ROT180", "turned by half a turn"),
    _turned("SWAP_XY", "given with x and y swapped"),
    Cause("LABEL_SHIFT", "The labels are shifted against the particles.",
          "Corner instead of centre, or a crop offset: shift them by the vector found, or export centres.",
          {"LABEL_SHIFT": DIRECT, "UNRELATED": WEAK}, ("UNRELATED", *AFTERMATH)),
    Cause("UNRELATED", "The labels do not lie on anything that differs from the rest of the micrographs.",
          "Are they labels of these micrographs? If the particles are faint, denoise or label more.",
          {"UNRELATED": STRONG, "registration=ok": -STRONG}),
    Cause("LABELS_DUPLICATED", "Particles are labelled more than once.", "Remove labels nearer than a tenth of D.",
          {"LABELS_DUPLICATED": DIRECT}),
    Cause("PIXEL_SIZES", "Micrographs of different pixel sizes are mixed, or headers are wrong.",
          "Train one collection per pixel size, or give --pixel-size-angstrom.", {"PIXEL_SIZES": STRONG}),
    Cause("SPLIT_LEAK", "The same picture is used for learning and for judging.",
          "Remove the copy; halves of one movie belong on one side.", {"SPLIT_LEAK": DIRECT}),
    Cause("SPLIT_UNLIKE", "Micrographs that teach and those that judge differ in kind.",
          "Label micrographs of each grid or session, or hold out others (train.seed).", {"SPLIT_UNLIKE": STRONG}),
    Cause("PU_CEILING", "Many particles on the labelled micrographs are not labelled, yet taken for background.",
          "Give --labels-are partial, or label these micrographs completely.",
          {"PU_CEILING": DIRECT}, ("MISCALIBRATED", "BELOW_BLOBS")),
    Cause("NORM_MISMATCH", "Training and prediction see differently scaled pictures.",
          "One recipe must prepare every path: use the recipe of the run, and no scaling of your own.",
          {"NORM_MISMATCH": DIRECT, "INPUT_INDEPENDENT": SOME, "BN_STATS": SOME, "norm_parity=ok": -STRONG},
          AFTERMATH),
    Cause("BN_STATS", "The running statistics of batch normalisation do not fit the weights.",
          "Measure them anew (train again), or use --set model.norm=group.",
          {"BN_STATS": DIRECT, "TEACHER_STALE": SOME, "INPUT_INDEPENDENT": WEAK, "norm_parity=ok": WEAK},
          tuple(code for code in AFTERMATH if code != "BN_STATS")),
    Cause("DEAD_OUTPUT", "The output begins where no gradient reaches it.",
          "Start the bias of the last layer at the logit of the share of positives.",
          {"DEAD_OUTPUT": DIRECT, "INIT_OFF": STRONG}, AFTERMATH),
    Cause("LR_TOO_HIGH", "The rate is too high for this network: weights jump instead of settling.",
          "--set train.rate=0.001, or lower.",
          {"LR_TOO_HIGH": DIRECT, "DIVERGED": STRONG, "init=ok": WEAK}, (*AFTERMATH, "NORM_MISMATCH")),
    Cause("INVERTED", "Particles are learned as background: targets are the wrong way round.",
          "Check the class of the targets; particles are 1.", {"INVERTED": DIRECT},
          ("PU_CEILING", "SSL_HARM", "IMPURE", "PRIOR_DRIFT")),
    Cause("DUPLICATE_CROPS", "The loader repeats itself: batches show the same crops.",
          "Give each consumer a random stream of its own, and advance it.", {"DUPLICATE_CROPS": DIRECT}, AFTERMATH),
    Cause("VIEWS_MISALIGNED", "A view and its labels or masks show different places.",
          "Transform picture, target, known and valid masks by one and the same geometry.",
          {"VIEWS_MISALIGNED": DIRECT}, (*AFTERMATH, "PL_PATH_MISALIGNED")),
    Cause("PL_PATH_MISALIGNED", "Pseudo-labels are made from altered pictures instead of the plain ones.",
          "Let the teacher label the weak view.", {"PL_PATH_MISALIGNED": DIRECT}, AFTERMATH),
    Cause("TEACHER_GRADIENT", "The teacher learns from the student's loss: a short cut to agreeing on nothing.",
          "Take pseudo-labels without a gradient.", {"TEACHER_GRADIENT": DIRECT}, AFTERMATH),
    Cause("TEACHER_DEAD", "The averaged model fades to nothing.", "Average in place: a * old + (1 - a) * new.",
          {"TEACHER_DEAD": DIRECT, "TEACHER_STALE": SOME}, (*AFTERMATH, "TEACHER_STALE", "TEACHER_BUFFERS")),
    Cause("TEACHER_STALE", "The averaged model still remembers its beginning, or never moves.",
          "Let the average warm up (--set train.average=0.02), and take the student's weights before it teaches.",
          {"TEACHER_STALE": DIRECT, "ema=ok": -STRONG}, AFTERMATH),
    Cause("TEACHER_BUFFERS", "The averaged model has the student's weights but not its batch statistics.",
          "Average floating-point buffers with the weights.", {"TEACHER_BUFFERS": DIRECT, "BN_STATS": WEAK}, AFTERMATH),
    Cause("NOOP_UNSUP", "The unlabelled term teaches nothing: its views are one, or no gradient passes.",
          "Compare the student on the strong view with the teacher on the weak one.",
          {"NOOP_UNSUP": DIRECT, "consistency=ok": -STRONG}),
    Cause("UNSUP_INACTIVE", "What is not labelled is to teach and never does.",
          "Give unlabelled micrographs (or more clicks), a weight above 0, and a guard that opens.",
          {"UNSUP_INACTIVE": STRONG}),
    Cause("THRESHOLD_INERT", "The confidence filter keeps next to nothing, or one class only.",
          "--set algorithm.options.mask=quantile, or soft_teacher, which needs no filter.",
          {"THRESHOLD_INERT": DIRECT, "KEEP_ASYMMETRY": SOME}, ("NOOP_UNSUP", "KEEP_ASYMMETRY", "PRIOR_DRIFT")),
    Cause("THRESHOLD_NOOP", "A threshold is set that changes nothing.",
          "max(p, 1 - p) is at least .5 everywhere: choose a threshold above, or mask=quantile.",
          {"THRESHOLD_NOOP": STRONG}),
    Cause("OPTION_UNUSED", "An option is set that the chosen mask does not read.", "Remove it, or choose its mask.",
          {"OPTION_UNUSED": STRONG}),
    Cause("PRIOR_DRIFT", "Pseudo-labels or the prior hold another share of particles than there is.",
          "Give the right prior (--set algorithm.options.prior), or mask=quantile.", {"PRIOR_DRIFT": STRONG}),
    Cause("KEEP_ASYMMETRY", "The confidence filter keeps one class and drops the other.",
          "--set algorithm.options.mask=quantile.", {"KEEP_ASYMMETRY": SOME}),
    Cause("IMPURE", "Pseudo-labels are wrong too often to teach.",
          "More labels first, a later guard.earliest, or --algorithm supervised.", {"IMPURE": SOME}),
    Cause("SSL_HARM", "Unlabelled micrographs make the result worse.", "--algorithm supervised.", {"SSL_HARM": SOME}),
    Cause("MISCALIBRATED", "Particles are ranked well and cut at the wrong score. This is no collapse.",
          "Use the threshold that validation chose, or verglas pick --threshold.",
          {"MISCALIBRATED": SOME, "NO_SKILL": -DIRECT, "INPUT_INDEPENDENT": -DIRECT}),
    Cause("PICKS_DUPLICATED", "Particles are picked more than once.", "--set search.separation=0.45, or more.",
          {"PICKS_DUPLICATED": DIRECT}),
    Cause("TOO_LITTLE_LEARNED", "The network has not learned to tell particles, and no fault of the pipeline shows.",
          "More steps (--steps), a look at the labels, or more of them.",
          {"NO_SKILL": STRONG, "BELOW_BLOBS": SOME, "OVERFIT_FAILS": SOME, "overfit=ok": WEAK}),
)  # fmt: skip
"""Every fault the doctor can name."""

CODES = (
    frozenset(SYMPTOMS)
    | {"TOO_EARLY", "VAL_TOO_SMALL"}
    | {sign for cause in CAUSES for sign in cause.signs if "=" not in sign}
)
"""Every code that a finding may carry."""


def diagnose(checked: Iterable[Checked]) -> Iterator[Diagnosed]:
    """Yield the causes that would explain what was found, best first; none where nothing was.

    What a cause that was measured leads to comes after it, whatever its score.
    """
    checked = list(checked)
    faults = {one.code: one for one in checked if one.verdict in ("warn", "fail")}
    seen = faults | {f"{one.check}=ok": one for one in checked if one.verdict == "ok"}
    scores = {cause: _score(cause, seen) for cause in CAUSES if faults.keys() & cause.signs.keys()}
    led_to = {code for cause, score in scores.items() if score >= DIRECT for code in cause.leads_to}
    named = [cause for cause, score in scores.items() if score >= LEAST]
    named.sort(key=lambda cause: (cause.code in led_to, -scores[cause]))
    for rank, cause in enumerate(named, 1):
        signs = [(value, f"{sign}: {seen[sign].sentence}") for sign, value in cause.signs.items() if sign in seen]
        speaks_for = tuple(text for value, text in signs if value > 0)
        speaks_against = tuple(text for value, text in signs if value < 0)
        score = scores[cause]
        yield Diagnosed(rank, cause.code, score, cause.sentence, speaks_for, speaks_against, cause.remedy)


def _score(cause: Cause, seen: Mapping[str, Checked]) -> float:
    """Return the sum of the signs, and of the symptoms that are none of its signs."""
    signs = {**SYMPTOMS, **cause.signs}
    return sum(value for sign, value in signs.items() if sign in seen)

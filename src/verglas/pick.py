"""Turn a probability map into picks: score each place, keep the peaks, let the better of two close ones stand.

A place scores the mean probability over a small disc around it. Distances are taken in micrograph pixels, so a
working grid with unequal steps shortens no circle.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int, UInt32
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from verglas.errors import InputError
from verglas.targets import distance_to_border
from verglas.types import Grid, Image, Micrograph, Picks


def find(
    probability: Image,
    micrograph: Micrograph,
    *,
    diameter_px: float,
    least_score: float = 0.01,
    score_radius: float = 0.25,
    separation: float = 0.5,
    edge_px: float = 0.0,
    exhaustive: bool = False,
    refine: bool = True,
) -> Picks:
    """Find the peaks of a probability map, best first.

    Parameters
    ----------
    probability
        Values in [0, 1] on the working grid. Pixels that are not valid count nowhere and hold no peak.
    least_score
        Candidates that score less are dropped. Low on purpose: which picks count is decided later.
    score_radius, separation
        Radius of the disc that is averaged, and least distance between two picks, as shares of the diameter.
    edge_px
        Picks nearer to the border of the micrograph are dropped, after they have suppressed their neighbours.
    exhaustive
        Go on between the peaks until no place is left that scores ``least_score`` and is ``separation`` away from all
        picks. The list then leaves no place out, as do those of pickers that take the best pixel left again and again.
    refine
        Move each peak to the top of a parabola through it and its neighbours, by half a working pixel at most.
    """
    _check(probability, micrograph.name, diameter_px)
    grid = probability.grid
    score = disc_mean(probability, score_radius * diameter_px)
    framed = np.pad(score, 1, constant_values=-1.0)  # outside, as in bad areas, nothing is a neighbour
    row, column = _peaks(framed, max(least_score, 0.0))
    at = np.stack((column, row), axis=1).astype(float)
    xy = grid.to_micrograph(at + _offset(framed, row, column) if refine else at)
    picks = Picks(micrograph.name, xy, score[row, column].astype(float), "peaks of the probability")
    picks = picks.where(suppress(picks.xy, picks.score, separation * diameter_px))
    if exhaustive:
        picks = _and_between(picks, score, grid, max(least_score, 0.0), separation * diameter_px)
    picks = picks.where(_inside(picks.xy, micrograph.shape, edge_px))
    best_first = _ranking(picks.xy, picks.score)
    return Picks(picks.micrograph, picks.xy[best_first], picks.score[best_first], picks.source)


def _and_between(picks: Picks, score: Float[np.ndarray, "h w"], grid: Grid, least: float, radius: float) -> Picks:
    """Add the best pixel that is ``radius`` away from all picks, again and again."""
    row, column = np.nonzero(score >= least)
    xy, scores = grid.to_micrograph(np.stack((column, row), axis=1).astype(float)), score[row, column].astype(float)
    if len(picks):
        free = cKDTree(picks.xy).query(xy, distance_upper_bound=radius)[0] >= radius
        xy, scores = xy[free], scores[free]
    order = _ranking(xy, scores)
    xy, scores = xy[order], scores[order]
    tree, left, added = cKDTree(xy), np.ones(len(xy), bool), []
    for index in range(len(xy)):
        if left[index]:
            added.append(index)
            near = np.array(tree.query_ball_point(xy[index], radius), int)
            left[near[np.sum((xy[near] - xy[index]) ** 2, axis=1) < radius**2]] = False
    return replace(picks, xy=np.concatenate([picks.xy, xy[added]]), score=np.concatenate([picks.score, scores[added]]))


def suppress(xy: Float[np.ndarray, "n 2"], score: Float[np.ndarray, " n"], radius: float) -> Bool[np.ndarray, " n"]:
    """Tell which candidates stand when each, best first, removes those nearer than ``radius`` to it.

    Equal scores go from top to bottom, then from left to right, so the order of the candidates does not matter.
    """
    order = _ranking(xy, score)
    ranked = xy[order]
    better, worse = cKDTree(ranked).query_pairs(radius * (1 + 1e-9), output_type="ndarray").T
    near = np.sum((ranked[better] - ranked[worse]) ** 2, axis=1) < radius**2
    better, worse = better[near], worse[near]
    stands = np.ones(len(xy), bool)
    while better.size:  # each round settles those that have no better neighbour left, and their neighbours
        contested, falls = np.zeros(len(xy), bool), np.zeros(len(xy), bool)
        contested[worse] = True
        falls[worse[~contested[better]]] = True
        stands &= ~falls
        unsettled = contested[better] & ~falls[better] & ~falls[worse]
        better, worse = better[unsettled], worse[unsettled]
    keep = np.empty(len(xy), bool)
    keep[order] = stands
    return keep


def disc_mean(image: Image, radius_px: float) -> Float[np.ndarray, "h w"]:
    """Average values in [0, 1] over the valid pixels within ``radius_px`` micrograph pixels; -1 where not valid.

    Sums are taken in fixed point, 2⁻²⁴ or finer for discs of up to 255 pixels: they are exact in any order, and
    equal neighbourhoods get equal means. A disc is as many runs of pixels, each the difference of two running
    sums, which may wrap around: modulo 2³² the difference is still right.
    """
    reach = _half_widths(image.grid, radius_px)
    scale = 2.0 ** (32 - int(np.sum(2 * reach + 1)).bit_length())
    known = image.data if image.valid.all() else np.where(image.valid, image.data, 0)
    total = _run_sums((known * np.float32(scale)).astype(np.uint32), reach)
    mean = np.full(total.shape, -scale, np.float32)
    np.divide(total, _pixels_in_disc(image.valid, reach), out=mean, where=image.valid, dtype=np.float32)
    mean /= np.float32(scale)
    return mean


def _check(probability: Image, name: str, diameter_px: float) -> None:
    if not diameter_px > 0:
        raise InputError(name, "particle diameter", found=f"{diameter_px} px", expected="> 0 px")
    values = probability.data if probability.valid.all() else probability.data[probability.valid]
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # NaN fails as well
        found = f"{values.min():.3g} to {values.max():.3g}"
        raise InputError(name, "probability", found=found, expected="values in [0, 1]")


def _half_widths(grid: Grid, radius_px: float) -> Int[np.ndarray, " rows"]:
    """Return how many columns the disc reaches to either side of its centre, for each of its rows."""
    rows = np.arange(-int(radius_px / grid.dy), int(radius_px / grid.dy) + 1)
    columns = np.arange(1, int(radius_px / grid.dx) + 1)
    within = (rows[:, None] * grid.dy) ** 2 + (columns * grid.dx) ** 2 <= radius_px**2
    return within.sum(axis=1)


def _run_sums(values: UInt32[np.ndarray, "h w"], reach: Int[np.ndarray, " rows"]) -> UInt32[np.ndarray, "h w"]:
    (h, w), half, widest = values.shape, len(reach) // 2, int(reach.max())
    before = np.zeros((h, w + 2 * widest + 1), np.uint32)  # sum of all pixels to the left
    np.cumsum(values, axis=1, out=before[:, widest + 1 : widest + 1 + w])
    before[:, widest + 1 + w :] = before[:, widest + w : widest + w + 1]
    total = np.zeros((h + 2 * half, w), np.uint32)
    for width in np.unique(reach).tolist():
        run = before[:, widest + width + 1 :][:, :w] - before[:, widest - width :][:, :w]
        for row in np.flatnonzero(reach == width).tolist():
            total[row : row + h] += run
    return total[half : half + h]


def _pixels_in_disc(
    valid: Bool[np.ndarray, "h w"], reach: Int[np.ndarray, " rows"]
) -> UInt32[np.ndarray, "h w"] | Float[np.ndarray, "h w"]:
    if not valid.all():
        return _run_sums(valid.astype(np.uint32), reach)
    (h, w), half = valid.shape, len(reach) // 2  # only the border counts: rows inside, times their clipped runs
    row, column = np.arange(h)[:, None] + np.arange(-half, half + 1), np.arange(w)
    runs = np.minimum(column + reach[:, None], w - 1) - np.maximum(column - reach[:, None], 0) + 1
    return ((row >= 0) & (row < h)).astype(np.float32) @ runs.astype(np.float32)


def _peaks(framed: Float[np.ndarray, "h w"], least: float) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return row and column of every pixel that reaches ``least`` and is not lower than its eight neighbours.

    Touching ones, which are equal, count once: the one nearest to their mean. ``framed`` has a frame of one pixel;
    rows and columns are counted without it.
    """
    inner, columns = framed[1:-1, 1:-1], framed.shape[1]
    tallest = np.maximum(np.maximum(framed[:-2], framed[1:-1]), framed[2:])
    tallest = np.maximum(np.maximum(tallest[:, :-2], tallest[:, 1:-1]), tallest[:, 2:])
    row, column = np.divmod(np.flatnonzero((inner == tallest) & (inner >= least)), max(columns - 2, 1))
    number = row * columns + column  # with a frame's gap between rows, so that ends do not touch the next start
    touching = []
    for step in (1, columns - 1, columns, columns + 1):
        partner = np.minimum(np.searchsorted(number, number + step), max(len(number) - 1, 0))
        first = np.flatnonzero(number[partner] == number + step)
        touching.append(np.stack((first, partner[first])))
    edges = np.concatenate(touching, axis=1)
    if not edges.size:
        return row, column
    graph = coo_array((np.ones(edges.shape[1]), (edges[0], edges[1])), shape=(len(row), len(row)))
    _, group = connected_components(graph, directed=False)
    size = np.bincount(group)[group]
    off_row = row * size - np.bincount(group, row)[group]  # times the size, so that whole numbers tell equal ones
    off_column = column * size - np.bincount(group, column)[group]
    order = np.lexsort((column, row, off_row**2 + off_column**2, group))
    chosen = np.sort(order[np.unique(group[order], return_index=True)[1]])
    return row[chosen], column[chosen]


def _offset(
    framed: Float[np.ndarray, "h w"], row: Int[np.ndarray, " n"], column: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n 2"]:
    """Return how far, in columns and rows, the top of a parabola along each axis lies from the peak."""
    here = framed[row + 1, column + 1]
    offset = np.zeros((len(row), 2), np.float32)
    for axis, (down, right) in enumerate(((0, 1), (1, 0))):
        before, after = framed[row + 1 - down, column + 1 - right], framed[row + 1 + down, column + 1 + right]
        bend = (here - before) + (here - after)
        known = (before >= 0) & (after >= 0) & (bend > 0)
        np.divide(after - before, 2 * bend, out=offset[:, axis], where=known)
    return offset


def _inside(xy: Float[np.ndarray, "n 2"], shape: tuple[int, int], edge_px: float) -> Bool[np.ndarray, " n"]:
    """Tell which positions keep ``edge_px`` from the outline; one that keeps it but for rounding does."""
    return distance_to_border(xy, shape) >= max(edge_px, 0.0) - 1e-6


def _ranking(xy: Float[np.ndarray, "n 2"], score: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Order by falling score, then from top to bottom, then from left to right."""
    return np.lexsort((xy[:, 0], xy[:, 1], -score))

"""What every learning algorithm promises. A new one is covered by its entry in ``ALGORITHMS``."""

import copy
import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from verglas.batch import Labelled, Unlabelled
from verglas.errors import InputError
from verglas.losses import Loss
from verglas.ssl import ALGORITHMS, Algorithm, Step, make_algorithm

Kind = type[Algorithm]

every_algorithm = pytest.mark.parametrize("kind", ALGORITHMS, ids=lambda kind: kind.name)
every_algorithm_with_views = pytest.mark.parametrize(
    "kind", [kind for kind in ALGORITHMS if kind.strong_views], ids=lambda kind: kind.name
)

SIDE = 16


class Pixelwise(nn.Module):
    """A network that sees one pixel at a time: dark is a particle."""

    def __init__(self, slope: float = -3.0, bias: float = -3.0) -> None:
        super().__init__()
        self.slope, self.bias = nn.Parameter(torch.tensor(slope)), nn.Parameter(torch.tensor(bias))

    def forward(self, image: Tensor) -> Tensor:
        return self.slope * image + self.bias


def convolutional() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 1, 1))


def scene(seed: int, b: int = 4) -> tuple[Tensor, Tensor]:
    """Dark squares in noise, and where they are."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(b, 1, SIDE, SIDE, generator=generator)
    target = torch.zeros(b, 1, SIDE, SIDE)
    for tile in target:
        for row, column in torch.randint(0, SIDE - 4, (2, 2), generator=generator).tolist():
            tile[0, row : row + 4, column : column + 4] = 1
    return 0.5 * image - 2 * target, target


def labelled(seed: int = 0) -> Labelled:
    image, target = scene(seed)
    known = torch.rand(image.shape, generator=torch.Generator().manual_seed(seed)) < 0.8
    return Labelled(image, target, known)


def unlabelled(kind: Kind, seed: int = 50) -> Unlabelled | None:
    if not kind.strong_views:
        return None
    weak, _ = scene(seed)
    generator = torch.Generator().manual_seed(seed)
    strong = torch.stack([weak + 0.3 * torch.randn(weak.shape, generator=generator) for _ in range(kind.strong_views)])
    return Unlabelled(weak, strong, torch.rand(weak.shape, generator=generator) < 0.8)


def teacher_of(kind: Kind) -> nn.Module | None:
    return None if kind.teacher == "none" else Pixelwise(-2.5, -2.5)


def step(
    kind: Kind, student: nn.Module, first: Labelled, second: Unlabelled | None, teacher: nn.Module | None = None
) -> Step:
    return kind(Loss()).step(student, teacher or teacher_of(kind), first, second, 1.0)


def gradients(loss: Tensor, student: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
    return [torch.zeros(()) if g is None else g for g in found]


# --- the class ---


@every_algorithm
def test_its_name_is_that_of_its_file(kind: Kind) -> None:
    assert kind.__module__ == f"verglas.ssl.{kind.name}"


def test_names_differ() -> None:
    assert len({kind.name for kind in ALGORITHMS}) == len(ALGORITHMS)


@every_algorithm
def test_it_has_no_parameters_and_works_without_options(kind: Kind) -> None:
    assert list(kind(Loss()).parameters()) == []
    for name, option in inspect.signature(kind).parameters.items():
        assert name == "loss" or option.default is not inspect.Parameter.empty


@every_algorithm
def test_it_is_made_by_name_and_takes_no_unknown_option(kind: Kind) -> None:
    assert type(make_algorithm(kind.name, {}, Loss())) is kind
    with pytest.raises(InputError, match=f"option is no_such_option.*{kind.name} takes"):
        make_algorithm(kind.name, {"no_such_option": 1}, Loss())


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="algorithm: name is 'magic'; expected one of supervised"):
        make_algorithm("magic", {}, Loss())


# --- a step ---


@every_algorithm
def test_the_loss_is_a_finite_scalar_and_so_is_all_that_is_watched(kind: Kind) -> None:
    result = step(kind, Pixelwise(), labelled(), unlabelled(kind))
    for value in (result.loss, *result.watch.values()):
        assert value.shape == ()
        assert value.isfinite()
    assert result.watch
    assert not any(value.requires_grad for value in result.watch.values()), "watched numbers keep no graph"


@every_algorithm
def test_gradients_reach_the_student_only(kind: Kind) -> None:
    student, teacher = Pixelwise(), teacher_of(kind)
    step(kind, student, labelled(), unlabelled(kind), teacher).loss.backward()
    assert all(parameter.grad is not None and parameter.grad != 0 for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in (teacher.parameters() if teacher else ()))


@every_algorithm
def test_teacher_inputs_and_student_stay_as_they_are(kind: Kind) -> None:
    student, teacher = Pixelwise(), teacher_of(kind)
    first, second = labelled(), unlabelled(kind)
    given = [student, teacher, first, second]
    before = copy.deepcopy([everything(part) for part in given])
    step(kind, student, first, second, teacher).loss.backward()
    for one, other in zip(before, map(everything, given), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def everything(part: nn.Module | Labelled | Unlabelled | None) -> list[Tensor]:
    if part is None:
        return []
    if isinstance(part, nn.Module):
        return [tensor.detach() for tensor in part.state_dict().values()]
    return [getattr(part, name) for name in type(part).__slots__]


@every_algorithm
def test_unknown_pixels_do_not_matter(kind: Kind) -> None:
    """A network that sees single pixels cannot tell what lies at unknown ones."""
    first, second = labelled(), unlabelled(kind)
    changed = Labelled(
        torch.where(first.known, first.image, 7.0),
        torch.where(first.known, first.target, 1 - first.target),
        first.known,
    )
    other = second and Unlabelled(
        torch.where(second.valid, second.weak, 7.0), torch.where(second.valid, second.strong, -7.0), second.valid
    )
    one, two = (step(kind, Pixelwise(), *batches).loss for batches in ((first, second), (changed, other)))
    torch.testing.assert_close(one, two)


@every_algorithm
def test_an_empty_mask_is_no_error(kind: Kind) -> None:
    student, first, second = Pixelwise(), labelled(), unlabelled(kind)
    none = torch.zeros_like(first.known)
    loss = step(
        kind,
        student,
        Labelled(first.image, first.target, none),
        second and Unlabelled(second.weak, second.strong, none),
    ).loss
    assert loss.isfinite()
    assert all(gradient == 0 for gradient in gradients(loss, student))


@every_algorithm_with_views
def test_every_strong_view_asked_for_reaches_the_loss(kind: Kind) -> None:
    second = unlabelled(kind)
    assert second is not None
    strong = second.strong.clone().requires_grad_()
    step(kind, Pixelwise(), labelled(), Unlabelled(second.weak, strong, second.valid)).loss.backward()
    assert all((view != 0).any() for view in strong.grad)


@every_algorithm
def test_labels_reach_the_loss(kind: Kind) -> None:
    first, student = labelled(), Pixelwise()
    turned = Labelled(first.image, 1 - first.target, first.known)
    assert step(kind, student, turned, unlabelled(kind)).loss > step(kind, student, first, unlabelled(kind)).loss


@every_algorithm
def test_the_loss_given_is_the_loss_used(kind: Kind) -> None:
    one, two = (
        kind(loss).step(Pixelwise(), teacher_of(kind), labelled(), unlabelled(kind), 1.0).loss
        for loss in (Loss(), Loss(bce=3.0, dice=0.0))
    )
    assert one != two


# --- over a training ---


def train(kind: Kind, algorithm: Algorithm, student: nn.Module, steps: range, total: int = 60) -> list[float]:
    """Train with the teacher the algorithm asks for, here the student of the step before."""
    optimiser, losses = torch.optim.Adam(student.parameters(), lr=0.02), []
    for k in steps:
        teacher = None if kind.teacher == "none" else copy.deepcopy(student)
        result = algorithm.step(student, teacher, labelled(k), unlabelled(kind, 1000 + k), k / total)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        losses.append(result.loss.item())
    return losses


@every_algorithm
def test_it_learns_the_toy_problem(kind: Kind) -> None:
    student = convolutional()
    train(kind, kind(Loss()), student, range(60))
    image, target = scene(9999, b=16)
    with torch.no_grad():
        logits = student(image)
    particle, background = logits[target == 1], logits[target == 0]
    assert (particle[:, None] > background[None, ::7]).float().mean() > 0.95
    assert torch.sigmoid(particle).mean() > 0.5 > 0.2 > torch.sigmoid(background).mean()


@every_algorithm
def test_what_it_remembers_is_in_its_state(kind: Kind) -> None:
    """An algorithm restored from its state goes on like one that was not stopped."""

    def run(stop: Callable[[Algorithm], Algorithm]) -> list[float]:
        student, algorithm = Pixelwise(), kind(Loss())
        return train(kind, algorithm, student, range(5)) + train(kind, stop(algorithm), student, range(5, 9))

    def restored(algorithm: Algorithm) -> Algorithm:
        fresh = kind(Loss())
        fresh.load_state_dict(algorithm.state_dict())
        return fresh

    assert run(lambda algorithm: algorithm) == run(restored)


@every_algorithm
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_it_works_from_the_first_step_to_the_last(kind: Kind, progress: float) -> None:
    result = kind(Loss()).step(Pixelwise(), teacher_of(kind), labelled(), unlabelled(kind), progress)
    assert result.loss.isfinite()
    assert result.loss > 0

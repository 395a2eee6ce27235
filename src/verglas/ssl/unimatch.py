"""Two strong views and a view with features dropped, all held to one pseudo-label (Yang et al., arXiv 2208.09910)."""

import torch
from jaxtyping import Float
from torch import Tensor

from verglas.batch import Labelled, Unlabelled
from verglas.errors import check_range
from verglas.losses import Loss
from verglas.ssl._base import Network
from verglas.ssl.fixmatch import Agreement, PseudoLabelling, disagreement
from verglas.ssl.thresholds import Quantile


class UniMatch(PseudoLabelling):
    """Half the term comes from two strong views, half from the weak view with half of all channels dropped."""

    name, teacher, strong_views = "unimatch", "average", 2
    random: Tensor

    def __init__(
        self,
        loss: Loss,
        *,
        share: float = 0.8,
        dropout: float = 0.5,
        weight: float = 1.0,
        ramp_until: float = 0.3,
        cutmix: float = 0.5,
    ) -> None:
        super().__init__(loss, Quantile(share, min(share, 0.2)), weight=weight, ramp_until=ramp_until, cutmix=cutmix)
        check_range("algorithm.options", 0, 0.95, dropout=dropout)
        self.dropout = dropout
        self.register_buffer("random", torch.Generator().manual_seed(0).get_state())

    def agreement(
        self,
        student: Network,
        labelled: Labelled,
        unlabelled: Unlabelled,
        target: Float[Tensor, "b 1 p q"],
        weight: Float[Tensor, "b 1 p q"],
    ) -> Agreement:
        """Return the term of all three views."""
        valid, b = unlabelled.valid, len(unlabelled.weak)
        features = student.encode(torch.cat([labelled.image, *unlabelled.strong, unlabelled.weak]))
        logits = student.decode(self._dropped(features, b)).float()
        views = logits[-3 * b : -b].unflatten(0, (2, b))
        strong = disagreement(views, unlabelled.seen(target), unlabelled.seen(weight), unlabelled.seen(valid))
        dropped = disagreement(logits[-b:], target, weight, valid)
        return logits[: -3 * b], 0.5 * (strong + dropped)

    def _dropped(self, features: list[Tensor], b: int) -> list[Tensor]:
        """Drop channels of the last ``b`` tiles at every level; what stays is scaled up for it."""
        generator = torch.Generator()
        generator.set_state(self.random.cpu())
        out = []
        for level in features:
            stays = torch.rand(b, level.shape[1], 1, 1, generator=generator) >= self.dropout
            factor = stays.to(level) / (1 - self.dropout)
            out.append(torch.cat([level[:-b], level[-b:] * factor]))
        self.random.copy_(generator.get_state())
        return out

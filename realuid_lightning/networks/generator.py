"""One-step generators."""

from jaxtyping import Float, Int64
from torch import Tensor, nn

from realuid_lightning.paths import MatchingPath


class OneStepGenerator(nn.Module):
    """Makes a sample from a latent by one call of a teacher-shaped network: ``x1 = G(z, y)``.

    What that call is (``z + f(0, z)`` on the linear flow path) is the path's to say: ``MatchingPath.one_step``.

    Args:
        network: Teacher-shaped network, usually started from the teacher's weights.
        path: The framework.
    """

    def __init__(self, network: nn.Module, path: MatchingPath) -> None:
        super().__init__()
        self.network = network
        self.path = path

    def forward(
        self,
        z: Float[Tensor, "b *d"],
        y: Int64[Tensor, " b"] | None = None,
        x0: Float[Tensor, "b *d"] | None = None,
    ) -> Float[Tensor, "b *d"]:
        """Return generated samples, ``(B, *D)``.

        Args:
            z: Latent.
            y: Labels of a class-conditional network, else None.
            x0: Source-domain sample of a translating framework, else None.
        """
        return self.path.one_step(self.network, z, y, x0)

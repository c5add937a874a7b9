"""An objective of your own: RealUID that cares more for early times, where the sample's layout is decided."""

from realuid_lightning import RealUIDModule
from realuid_lightning.losses import generator_loss


class EarlyRealUID(RealUIDModule):
    """RealUID whose generator weighs times by ``2 (1 - t)``."""

    def generator_loss(self, batch):
        """Return what the generator minimises on a filled batch."""
        sample = self.sample(batch, self.generated(batch))
        teacher, fake = self.predict(self.teacher, sample, batch), self.predict(self.fake, sample, batch)
        weight = 2 * (1 - sample.t)
        return generator_loss(teacher, fake, sample.target, alpha=self.alpha, beta=self.beta, weight=weight)

"""Closed forms that say what the objective does."""

from realuid_lightning.analysis.gaussian import Gaussian, best_fake, realuid_value

__all__ = ["Gaussian", "best_fake", "realuid_value"]

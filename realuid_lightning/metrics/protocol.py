"""How a figure was taken: figures of different protocols cannot be compared."""

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """What a figure depends on beside the model; it is stored with every figure.

    Attributes:
        metrics: Hash of the metrics and their options.
        features: Name of the features.
        weights: Hash of what they compute.
        rounding: What becomes of samples before: ``nearest`` (byte), ``truncate`` (to a byte), or ``none``.
        resize: How images are resized before; ``none`` if they are not.
        labels: Conditions of generated samples: ``none``, ``balanced``, ``sampled``, or those of real ``data``.
        samples: Number of generated samples.
        seed: Which set of latents they are made from.
        reference: Hash of the real data.
        reference_samples: Number of real samples.
        held_out: Hash of the real data behind the floor, or ``halves``: one half of the reference against the other.
        floor_samples: Number of those.
    """

    metrics: str
    features: str
    weights: str
    rounding: str
    resize: str
    labels: str
    samples: int
    seed: int
    reference: str
    reference_samples: int
    held_out: str
    floor_samples: int

    @property
    def record(self) -> dict[str, Any]:
        """The protocol as plain values, for files and logs.

        Example:
            >>> Protocol("", "raw values (2)", "", "none", "none", "none", 10, 0, "", 20, "halves", 9).record["seed"]
            0
        """
        return asdict(self)

    def same(self, other: "Protocol") -> bool:
        """Tell whether figures of the two can be compared: whether they differ in the seed at most."""
        return replace(self, seed=0) == replace(other, seed=0)

"""What an evaluation costs beyond the network calls that it needs: the generator's, and those of the features.

A validation through the Trainer, with Fréchet distance and diagnostics, is timed at two numbers of samples, which tell
what a sample costs and what comes on top, whatever the number: the square roots of the distance above all. The same
number of bare calls of generator and features, in the same process and the same batches, is what it could not do
without. Statistics of real data are cached, as they are in all validations but the first. Images are compared by
Inception features with random weights, the digits of the demo by their values. Nothing is downloaded.

Usage: python benchmarks/evaluation.py [--device cpu|cuda] [--sizes demo cifar celeba] [--batch N] [--batches FEW MANY]
       [--rounds N] [--samples 50000] [--json FILE] [--tiny]
"""

import statistics
import time
from tempfile import TemporaryDirectory
from typing import Any

import torch
from parts.lean import Noise, module_of, trainer_of
from parts.measure import Stopwatch, apart, exact
from parts.options import device_name, parsed, parser_of, show, write
from parts.sizes import Workload
from torch import Tensor
from torch.nn import functional
from torchvision.models import inception_v3

from realuid_lightning.data import Batch, MatchingDataModule
from realuid_lightning.evaluation import Diagnostics, FIDCallback
from realuid_lightning.metrics import Features, RawFeatures


class RandomInception(Features):
    """The 2048 features of an Inception network whose weights are random: it costs what the trained one does."""

    label = "random Inception (2048)"
    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = inception_v3(weights=None, init_weights=False, aux_logits=False)
        self.network.fc = torch.nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return features of images in [-1, 1], grey or in colour."""
        large = functional.interpolate(x.float().expand(-1, 3, -1, -1), size=299, mode="bilinear")
        features: Tensor = self.network(large)
        return features.double()


def main() -> None:
    parser = parser_of(__doc__, "samples at a time; 256 on CUDA, 8 on the CPU")
    parser.add_argument("--batches", type=int, nargs=2, default=[2, 6], help="batches of the two validations")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is timed; the median counts")
    parser.add_argument("--samples", type=int, default=50_000, help="number of samples that the table is about")
    options = parsed(parser)
    kind, batch = options.device, options.batch or (8 if options.device == "cpu" else 256)
    told = {}
    for name in options.sizes:
        seconds = apart(measure, Workload(name, options.tiny, kind, batch, 0, 0), *options.batches, options.rounds)
        told[name] = costs(seconds, batch, *options.batches, options.samples)
    write(told, options)
    columns = (
        "size",
        "calls ms/sample",
        "validation ms/sample",
        "fixed s",
        f"{options.samples:,} samples s",
        "over calls",
    )
    figures = "{calls:.4g}", "{validation:.4g}", "{fixed:.3g}", "{total:.4g}", "{overhead:+.1%}"
    milliseconds = {
        name: {**row, **{each: 1e3 * row[each] for each in ("calls", "validation")}} for name, row in told.items()
    }
    rows = [(name, *(figure.format_map(row) for figure in figures)) for name, row in milliseconds.items()]
    show(f"evaluation of one sampler, batch {batch}, {device_name(kind)}", columns, rows)


def measure(work: Workload, few: int, many: int, rounds: int) -> dict[str, list[float]]:
    """Return the median seconds of ``few`` and of ``many`` batches, of validations and of bare calls."""
    exact(work.device)
    network = work.network()
    features = RandomInception() if work.size != "demo" else RawFeatures(list(network.shape))
    module = module_of(network, Stopwatch(work.device), {})
    module.evaluate, module.eval_batch_size = ["raw"], work.batch
    module.start()
    source = Noise(network.shape)
    with TemporaryDirectory() as cache:

        def validate(batches: int) -> None:
            data = MatchingDataModule(source, work.batch, eval_samples=batches * work.batch)
            callbacks = [FIDCallback(features, cache), Diagnostics()]
            folder = {"default_root_dir": cache, "limit_val_batches": 1.0, "callbacks": callbacks}
            trainer_of(work.kind, 1, **folder).validate(module, data, verbose=False)

        @torch.inference_mode()
        def call(batches: int) -> None:
            module.to(work.device), features.to(work.device)
            z = torch.randn(work.batch, *network.shape, device=work.device)
            for _ in range(batches):
                features(module.generate(module.samplers()["raw"], Batch(z=z)))
            if work.kind == "cuda":
                torch.cuda.synchronize()

        validate(2)  # computes the statistics of real data, and warms up
        found: dict[str, list[list[float]]] = {"validation": [], "calls": []}
        for _ in range(rounds):
            for name, function in (("validation", validate), ("calls", call)):
                found[name].append([timed(function, batches) for batches in (few, many)])
    return {name: [statistics.median(times) for times in zip(*rows, strict=True)] for name, rows in found.items()}


def timed(function: Any, *args: Any) -> float:
    """Return the seconds that a call takes."""
    begun = time.perf_counter()
    function(*args)
    return time.perf_counter() - begun


def costs(seconds: dict[str, list[float]], batch: int, few: int, many: int, samples: int) -> dict[str, float]:
    """Return what a sample costs, what comes on top, and the overhead of ``samples``."""
    each = {name: (late - early) / (batch * (many - few)) for name, (early, late) in seconds.items()}
    fixed = max(seconds["validation"][0] - each["validation"] * batch * few, 0.0)
    total = fixed + samples * each["validation"]
    return {**each, "fixed": fixed, "total": total, "overhead": total / (samples * each["calls"]) - 1}


if __name__ == "__main__":
    main()

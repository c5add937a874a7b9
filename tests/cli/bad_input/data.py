"""Mistakes in data sets and in features, the user's own above all."""

from bad_input.words import FINE, LAST, OTHER_DATA, PREDICT, TEACHER

FILES = {
    "sources.py": (
        "import torch\n"
        "from realuid_lightning.data import MemorySource, Source\n"
        "class Held(MemorySource):\n"
        "    shape, num_classes, count = (1, 8, 8), 3, 40\n"
        "    def load(self):\n"
        "        return torch.zeros(self.count, 1, 8, 8, dtype=torch.uint8), torch.arange(self.count) % 3\n"
        "class Empty(Held):\n"
        "    count = 0\n"
        "class One(Held):\n"
        "    count = 1\n"
        "class Raises(Held):\n"
        "    def load(self):\n"
        "        raise KeyError('pixels')\n"
        "class Later(Held):\n"
        "    in_memory = False\n"
        "    def get(self, index):\n"
        "        if index.tolist() != [0]:\n"
        "            raise OSError('the disk is gone')\n"
        "        return super().get(index)\n"
        "class NaN(Held):\n"
        "    def load(self):\n"
        "        return torch.full((40, 1, 8, 8), torch.nan), None\n"
        "class Wide(Held):\n"
        "    def load(self):\n"
        "        return torch.zeros(40, 1, 8, 9, dtype=torch.uint8), None\n"
        "class Doubles(Held):\n"
        "    def load(self):\n"
        "        return torch.zeros(40, 1, 8, 8).double(), None\n"
        "class Numpy(Held):\n"
        "    def load(self):\n"
        "        return super().load()[0].numpy(), None\n"
        "class Four(Held):\n"
        "    def load(self):\n"
        "        return super().load()[0], torch.arange(40) % 4\n"
        "class Vague(Held):\n"
        "    def load(self):\n"
        "        return super().load()[0], torch.full((40,), torch.nan)\n"
        "class Shapeless(Held):\n"
        "    shape = None\n"
    ),
    "measures.py": (
        "import torch\n"
        "from torch import nn\n"
        "class Wide(nn.Module):\n"
        "    num_features = 63\n"
        "    def forward(self, x):\n"
        "        return x.flatten(1)\n"
        "class Deep(Wide):\n"
        "    num_features = 64\n"
        "    def forward(self, x):\n"
        "        return x.flatten(1)[..., None]\n"
        "class NaN(Deep):\n"
        "    def forward(self, x):\n"
        "        return x.flatten(1) * torch.nan\n"
        "class Boom(Deep):\n"
        "    def forward(self, x):\n"
        "        raise KeyError('weights')\n"
        "class Numberless(nn.Module):\n"
        "    pass\n"
    ),
}


def source(name, *words, options=()):
    return (*FINE, f"--data.source=sources.{name}", *options), [*words]


def features(name, *words):
    return (*FINE, f"--features=measures.{name}"), ["metrics: features", *words]


LABELS = ("--data.labels=true", "--model.network.num_classes=3")
FOLDER = ("--data.source=ImageFolder", "--data.source.root=hollow", "--data.source.channels=1")

# Under test a run-time type checker comes before the messages of the last few sources; tests/unit/data has these.
CASES = {
    "a source that is empty": source("Empty", "Empty: expected samples, but it is empty"),
    "a source of one sample": source("One", "at least 2 real samples, but the reference has 1", options=OTHER_DATA),
    "a source that raises": source("Raises", "Raises.", "raised KeyError: 'pixels'", "sources.py, line 13"),
    "a source that raises in training": source(
        "Later", "Later.get raised OSError: the disk is gone", options=("--data.num_workers=1",)
    ),
    "a source of NaN": source("NaN", "NaN: samples must be finite numbers", "the first of them sample 0"),
    "a source of another shape": source("Wide", "of shape (1, 1, 8, 8), got torch.uint8 of shape (1, 1, 8, 9)"),
    "a source of another type": source("Doubles", "Doubles."),
    "a source of arrays": source("Numpy", "Numpy."),
    "a source without a shape": source("Shapeless", "Shapeless.shape must be a tuple of positive integers, got None"),
    "labels out of range": (
        (*TEACHER, "--trainer.max_steps=1", *LABELS, "--data.source=sources.Four"),
        ["Four.labels must give labels from 0 to 2, for num_classes is 3, got 3"],
    ),
    "labels of NaN": ((*TEACHER, "--trainer.max_steps=1", *LABELS, "--data.source=sources.Vague"), ["Vague."]),
    "features of another width": features("Wide", "of shape (2, 63)", "returned torch.float32 of shape (2, 64)"),
    "features of another rank": features("Deep", "of shape (2, 64)", "returned torch.float32 of shape (2, 64, 1)"),
    "features of NaN": features("NaN", "of the real samples must be finite numbers"),
    "features that raise": features("Boom", "(2, 1, 8, 8)", "they raised KeyError: 'weights'"),
    "features without their number": (
        (*FINE, "--features=measures.Numberless"),
        ["integer attribute num_features, but Numberless has none"],
    ),
    "a batch that no memory holds": ((*FINE, "--data.batch_size=100000000000"), ["batch_size is 100000000000", "GiB"]),
    "two batch sizes": (
        (*FINE, "--data.batch_size=16", "--data.global_batch_size=32"),
        ["batch_size (16, of one process) and global_batch_size (32, of all)", "set one of them to null"],
    ),
    "a batch size of evaluation by its old name": (
        (*FINE, "--data.eval_batch_size=8"),
        ["Option 'eval_batch_size' is not accepted"],
    ),
    "a batch of evaluation that no memory holds": (
        (*FINE, "--model.eval_batch_size=100000000000"),
        ["eval_batch_size is 100000000000", "GiB"],
    ),
    "images that no memory holds": (
        (*FINE, *FOLDER, "--data.source.size=10000000", "--model.network.shape=[1,8,8]"),
        ["batch_size is", "GiB"],
    ),
    "more samples than memory": (
        (*FINE, "--data.source=Toy2D", "--data.source.name=rings", "--data.source.size=1000000000000000"),
        ["Toy2D: size is 1000000000000000", "GiB"],
    ),
    "a mean of NaN": (
        (*FINE, "--data.source=Gaussian", "--data.source.mean=[.nan]", "--data.source.std=[.inf]"),
        ["mean: ", "nan"],
    ),
    "more evaluation samples than indices": (
        (*FINE, "--data.eval_samples=1000000000000"),
        ["eval_samples must be 1 to 100000000, got 1000000000000"],
    ),
    "more samples than can be asked for": (
        (*PREDICT, LAST, "--data.predict_seeds=0-999999999999"),
        ["predict_seeds: at most 100000000 samples", "names 1000000000000"],
    ),
    "a sample beyond 64 bits": (
        (*PREDICT, LAST, "--data.predict_seeds=9223372036854775808"),
        ["predict_seeds: indices may have at most 18 digits"],
    ),
    "an image folder that is gone from home": (
        (*FINE, "--data.source=ImageFolder", "--data.source.root=~/gone", *FOLDER[2:], "--data.source.size=8"),
        ["no folder", "home/gone"],
    ),
    "a data set that is gone from home": (
        (*FINE, "--data.source=FashionMNIST", "--data.source.root=~/gone", *OTHER_DATA),
        ["home/gone"],
    ),
    "PostScript for an image": (
        (*FINE, *FOLDER[:1], "--data.source.root=drawn", *FOLDER[2:], "--data.source.size=8"),
        ["drawn/figure.png cannot be read", "none of the formats BMP, GIF, JPEG"],
    ),
}

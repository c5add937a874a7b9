import gzip
import hashlib
import pickle
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from torchvision import datasets

from realuid_lightning.data import CIFAR10, CelebA, Digits, FashionMNIST, Gaussian, Shards, Source, Toy2D
from realuid_lightning.errors import UserError

TOYS = {"moons": 2, "checkerboard": None, "rings": 4, "eight_gaussians": 8, "spiral": None}


def bytes_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_cifar(root, monkeypatch):
    """Write tiny batches in the official layout and teach torchvision their checksums."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images, labels = bytes_of(6, 3, 32, 32), [3, 1, 4, 1, 5, 9]

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    batches = [
        write(f"data_batch_{i + 1}", {"data": images[i : i + 1].reshape(1, -1), "labels": labels[i : i + 1]})
        for i in range(5)
    ]
    test = write("test_batch", {"data": images[5:].reshape(1, -1), "labels": labels[5:]})
    name, md5 = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", batches)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [test])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return torch.from_numpy(images), torch.tensor(labels)


def write_fashion(root):
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    written = {}
    for part, count in (("train", 5), ("t10k", 3)):
        images, labels = bytes_of(count, 28, 28, seed=count), bytes_of(count, seed=count) % 10
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
        written[part] = torch.from_numpy(images), torch.from_numpy(labels).long()
    return written


def write_celeba(root):
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    parts = [0, 0, 1, 2, 0]
    for i in range(5):
        Image.fromarray(bytes_of(218, 178, 3, seed=i)).save(folder / f"{i:06}.jpg", quality=95)
    table = "".join(f"{i:06}.jpg {part}\n" for i, part in enumerate(parts))
    (root / "celeba" / "list_eval_partition.txt").write_text(table)
    return folder


def test_digits_are_bytes_on_the_full_scale():
    source = Digits()
    x, y = source.get(torch.arange(len(source)))
    assert (x.shape, x.dtype, y.dtype) == ((1797, 1, 8, 8), torch.uint8, torch.int64)
    assert (x.min(), x.max()) == (0, 255)
    assert source.num_classes == len(y.unique()) == 10
    assert source.labels() is not None
    assert source.shape == x.shape[1:]
    for part, which in (("even", slice(0, None, 2)), ("odd", slice(1, None, 2))):
        half = Digits(part)
        assert torch.equal(half.get(torch.arange(len(half)))[0], x[which])
        assert torch.equal(half.labels(), y[which])


@pytest.mark.parametrize("train", [True, False])
def test_cifar_reads_torchvisions_layout(tmp_path, monkeypatch, train):
    images, labels = write_cifar(tmp_path, monkeypatch)
    source = CIFAR10(str(tmp_path), train=train)
    source.prepare()
    source.setup()
    expected = slice(0, 5) if train else slice(5, 6)
    x, y = source.get(torch.arange(len(source)))
    assert torch.equal(x, images[expected])
    assert torch.equal(y, labels[expected])
    assert x.is_contiguous()


def test_cifar_halves_to_means_of_four_pixels(tmp_path, monkeypatch):
    images, _ = write_cifar(tmp_path, monkeypatch)
    source = CIFAR10(str(tmp_path), size=16)
    source.setup()
    x, _ = source.get(torch.arange(len(source)))
    assert x.shape[1:] == source.shape == (3, 16, 16)
    means = torch.nn.functional.avg_pool2d(images[:5].double(), 2)
    assert torch.equal(x, (means + 0.5).floor().to(torch.uint8))


@pytest.mark.parametrize(("train", "part"), [(True, "train"), (False, "t10k")])
@pytest.mark.parametrize("size", [28, 32])
def test_fashion_mnist_reads_torchvisions_layout(tmp_path, train, part, size):
    images, labels = write_fashion(tmp_path)[part]
    source = FashionMNIST(str(tmp_path), train=train, size=size)
    x, y = source.get(torch.arange(len(source)))
    assert x.shape[1:] == source.shape == (1, size, size)
    margin = (size - 28) // 2
    assert torch.equal(x[:, 0, margin : size - margin, margin : size - margin], images)
    assert x.sum() == images.sum()
    assert torch.equal(y, labels)


def test_celeba_crops_and_resizes(tmp_path):
    write_celeba(tmp_path)
    source = CelebA(str(tmp_path), size=140)
    x, y = source.get(torch.tensor([2, 0]))
    assert (len(source), y, source.labels(), source.num_classes) == (3, None, None, None)
    original = np.array(Image.open(tmp_path / "celeba/img_align_celeba/000004.jpg"))
    assert torch.equal(x[0], torch.from_numpy(original[39:179, 19:159]).permute(2, 0, 1))
    small = CelebA(str(tmp_path), size=32, crop=100, in_memory=True)
    assert small.in_memory
    assert small.get(torch.tensor([0]))[0].shape == (1, *small.shape) == (1, 3, 32, 32)
    assert not torch.equal(small.get(torch.tensor([0]))[0], CelebA(str(tmp_path), size=32).get(torch.tensor([0]))[0])
    sizes = {split: len(CelebA(str(tmp_path), split=split)) for split in ("train", "valid", "test", "all")}
    assert sizes == {"train": 3, "valid": 1, "test": 1, "all": 5}


def test_celeba_names_a_missing_file(tmp_path):
    (write_celeba(tmp_path) / "000001.jpg").unlink()
    source = CelebA(str(tmp_path))
    with pytest.raises(UserError, match=r"000001\.jpg"):
        source.get(torch.tensor([1]))
    with pytest.raises(UserError, match=r"000001\.jpg"):
        source.fingerprint()


@pytest.mark.parametrize("kind", [CIFAR10, FashionMNIST, CelebA])
def test_missing_data_say_how_to_get_them(tmp_path, kind):
    source = kind(str(tmp_path / "nowhere"))
    source.prepare()
    with pytest.raises(UserError, match="download: true") as caught:
        source.setup()
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "set root" in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("fault", ["celeba/list_eval_partition.txt", "celeba/img_align_celeba"])
def test_incomplete_celeba(tmp_path, fault):
    write_celeba(tmp_path)
    (tmp_path / fault).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no complete data"):
        CelebA(str(tmp_path)).setup()
    if fault.endswith("txt"):
        (tmp_path / fault).write_text("garbage\n")
        with pytest.raises(UserError, match="no complete data"):
            CelebA(str(tmp_path)).setup()
        (tmp_path / fault).write_text("\n")
        with pytest.raises(UserError, match="no images of split train"):
            CelebA(str(tmp_path)).setup()


@pytest.mark.parametrize("kind", [CIFAR10, FashionMNIST, CelebA])
def test_failing_download_is_one_clear_error(tmp_path, monkeypatch, kind):
    def fail(*_args, **_kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", fail)
    monkeypatch.setattr(datasets.mnist, "download_and_extract_archive", fail)
    monkeypatch.setattr(datasets.celeba, "download_file_from_google_drive", fail)
    with pytest.raises(UserError, match="no route to host") as caught:
        kind(str(tmp_path), download=True).prepare()
    assert "download: false" in str(caught.value)
    assert caught.value.__suppress_context__


def test_download_fetches_what_is_missing(tmp_path, monkeypatch):
    images, _ = write_cifar(tmp_path / "mirror", monkeypatch)
    home = tmp_path / "home"

    def fetch(_url, root, **_kwargs):
        (tmp_path / "mirror").rename(root)

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", fetch)
    source = CIFAR10(str(home), download=True)
    source.prepare()
    source.setup()
    assert torch.equal(source.get(torch.arange(5))[0], images[:5])


def test_download_unpacks_fashion_archives_that_lie_there(tmp_path, monkeypatch):
    images, _ = write_fashion(tmp_path)["train"]
    resources = []
    for file in sorted((tmp_path / "FashionMNIST" / "raw").iterdir()):
        packed = Path(f"{file}.gz")
        packed.write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
        resources.append((packed.name, hashlib.md5(packed.read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    source = FashionMNIST(str(tmp_path), download=True, size=28)
    source.prepare()
    assert torch.equal(source.get(torch.arange(5))[0][:, 0], images)


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_centred_and_of_unit_scale(name):
    source = Toy2D(name, size=20_000)
    x, y = source.get(torch.arange(len(source)))
    assert (x.dtype, x.shape) == (torch.float32, (20_000, 2))
    assert x.mean(0).abs().max() < 0.03
    assert abs(x.var(0).mean().sqrt() - 1) < 0.02
    assert source.num_classes == TOYS[name]
    assert y is None if TOYS[name] is None else y.unique().tolist() == list(range(TOYS[name]))
    assert torch.equal(x, Toy2D(name, size=20_000).get(torch.arange(20_000))[0])


@pytest.mark.parametrize("name", TOYS)
def test_another_draw_has_other_samples_of_the_same_density(name):
    first, other = (Toy2D(name, 4000, draw=draw).get(torch.arange(4000))[0] for draw in (0, 1))
    assert torch.equal(first, Toy2D(name, 4000).get(torch.arange(4000))[0])
    assert not torch.isin(first, other).all(1).any()
    assert (first.mean(0) - other.mean(0)).abs().max() < 0.1
    assert (first.std(0) - other.std(0)).abs().max() < 0.05


def test_toy_classes_are_their_shapes():
    x, y = Toy2D("rings").get(torch.arange(10_000))
    radii = torch.stack([x[y == label].norm(dim=1).mean() for label in range(4)]) * 1.94
    assert torch.allclose(radii, torch.arange(1.0, 5.0), atol=0.02)
    x, _ = Toy2D("checkerboard").get(torch.arange(10_000))
    assert ((x * 1.155 + 2).floor().sum(1) % 2 == 0).all()


def test_gaussian_has_the_moments_asked_for():
    source = Gaussian([1.0, -2.0, 0.0], [0.5, 2.0, 1.0], size=50_000)
    x, y = source.get(torch.arange(50_000))
    assert y is None
    assert source.shape == (3,)
    assert torch.allclose(x.mean(0), torch.tensor(source.mean), atol=0.03)
    assert torch.allclose(x.std(0), torch.tensor(source.std), atol=0.02)


def test_fingerprints_tell_data_apart_and_are_stable(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    folder = write_celeba(tmp_path)
    root = str(tmp_path)

    def sources():
        return [
            Digits(),
            Gaussian([0.0], [1.0]),
            Gaussian([0.0], [1.5]),
            Gaussian([0.0], [1.0], size=10),
            Toy2D("moons"),
            Toy2D("rings"),
            CIFAR10(root),
            CIFAR10(root, train=False),
            CelebA(root),
            CelebA(root, split="all"),
            CelebA(root, crop=100),
            CelebA(root, size=32),
            Digits("even"),
            Digits("odd"),
            Toy2D("moons", draw=1),
        ]

    names = [source.fingerprint() for source in sources()]
    assert len(set(names)) == len(names)
    assert names == [source.fingerprint() for source in sources()]
    assert all(name.replace("-", "").replace(".", "").isalnum() for name in names)
    (folder / "000000.jpg").write_bytes(b"other bytes")
    assert CelebA(root).fingerprint() != names[8]


@pytest.mark.parametrize(
    ("make", "faults"),
    [
        (lambda: Gaussian([], [1.0], size=0), ["mean", "std must have as many", "size"]),
        (lambda: Gaussian([0.0], [0.0]), ["std must be positive"]),
        (lambda: Toy2D("moon", size=0, draw=-1), ["eight_gaussians", "size", "draw"]),
        (lambda: Digits("half"), ["all, even, odd"]),
        (lambda: FashionMNIST(size=30), ["28 or 32"]),
        (lambda: CIFAR10(size=8), ["16 or 32"]),
        (lambda: CelebA(split="training", crop=200, size=0), ["split", "crop", "size"]),
        (lambda: Shards("x.tar", size=8, tensors=["a.pt"], num_classes=0), ["tensors", "num_classes"]),
    ],
)
def test_all_faults_at_once(make, faults, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # a run-time type checker would come first
    with pytest.raises(UserError) as caught:
        make()
    assert len(str(caught.value).splitlines()) == len(faults)
    assert all(fault in str(caught.value) for fault in faults)


@pytest.mark.parametrize(
    "config",
    [
        {"class_path": "Digits", "init_args": {"part": "odd"}},
        {"class_path": "Toy2D", "init_args": {"name": "rings", "size": 7}},
        {"class_path": "Gaussian", "init_args": {"mean": [0, 1], "std": [1, 1]}},
        {"class_path": "CIFAR10", "init_args": {"root": "x", "train": False}},
        {"class_path": "FashionMNIST", "init_args": {"size": 28}},
        {"class_path": "CelebA", "init_args": {"split": "test"}},
        {"class_path": "ImageFolder", "init_args": {"root": "x", "size": 8, "unreadable": "skip"}},
        {"class_path": "Shards", "init_args": {"pattern": "x-*.tar", "size": 8, "tensors": ["text.npy"]}},
        {"class_path": "DatasetsFolder", "init_args": {"root": "x", "size": 8, "label": None}},
        {
            "class_path": "Latents",
            "init_args": {
                "source": {"class_path": "Digits"},
                "encoder": {"class_path": "DiffusersEncoder", "init_args": {"folder": "x"}},
            },
        },
    ],
)
def test_usable_by_class_name(config):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Source, "source")
    made = parser.instantiate(parser.parse_object({"source": config})).source
    assert type(made).__name__ == config["class_path"]
    assert isinstance(made, Source)


def test_packed_fashion_files_are_unpacked_without_a_download(tmp_path):
    write_fashion(tmp_path)
    raw = tmp_path / "FashionMNIST" / "raw"
    expected = FashionMNIST(str(tmp_path)).fingerprint()
    for file in list(raw.iterdir()):
        raw.joinpath(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    source = FashionMNIST(str(tmp_path))
    source.prepare()
    source.setup()
    assert source.fingerprint() == expected
    (raw / "train-labels-idx1-ubyte").unlink()
    packed = raw / "train-labels-idx1-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz cannot be unpacked"):
        FashionMNIST(str(tmp_path)).prepare()
    assert not (raw / "train-labels-idx1-ubyte").exists()

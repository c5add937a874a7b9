"""Tar archives of WebDataset for tests."""

import io
import tarfile

import numpy as np
from PIL import Image


def pixels(i, size=8):
    return np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)


def png(i, size=8):
    file = io.BytesIO()
    Image.fromarray(pixels(i, size)).save(file, "png")
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_tar(file, members):
    """Write members, pairs of name and content, in this order."""
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def sample(i):
    """Members of a sample: image, class, text and tensors."""
    yield f"{i:04d}.png", png(i)
    yield f"{i:04d}.cls", b"%d\n" % (i % 3)
    yield f"{i:04d}.txt", f"number {i}".encode()
    yield f"{i:04d}.text.npy", npy(np.full((2, 3), i, np.float32))
    yield f"{i:04d}.mask.npy", npy(np.array([True, i % 2 == 0]))


def shards(folder, sizes=(3, 2)):
    """Write archives ``train-0.tar``, ... of so many samples."""
    first = 0
    for number, size in enumerate(sizes):
        members = [member for i in range(first, first + size) for member in sample(i)]
        write_tar(folder / f"train-{number}.tar", members)
        first += size
    return str(folder / "train-*.tar")

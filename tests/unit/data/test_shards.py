"""Samples in archives and tables: read by index, in the order of memory, and nothing of a stranger's run."""

import gzip
import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from small_shards import npy, pixels, png, sample, shards, write_tar
from torch.utils.data import DataLoader

from realuid_lightning.data import DatasetsFolder, MatchingDataModule, MemorySource, RealStream, Shards
from realuid_lightning.data.archives import archives
from realuid_lightning.errors import UserError


def everything(source):
    source.setup()
    return source.get(torch.arange(len(source)))


def images(count):
    return torch.stack([torch.from_numpy(pixels(i)).permute(2, 0, 1) for i in range(count)])


@pytest.mark.parametrize("in_memory", [False, True])
def test_archives_are_read_in_order(tmp_path, in_memory):
    source = Shards(shards(tmp_path), size=8, in_memory=in_memory)
    x, y = everything(source)
    assert torch.equal(x, images(5))
    assert y.tolist() == source.labels().tolist() == [0, 1, 2, 0, 1]
    assert (len(source), source.num_classes, source.shape) == (5, 3, (3, 8, 8))
    assert torch.equal(source.get(torch.tensor([4, 0, 4]))[0], x[[4, 0, 4]])
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again.get(torch.tensor([3]))[0], x[[3]])


def test_tensors_and_captions_belong_to_their_samples(tmp_path):
    source = Shards(shards(tmp_path), size=8, tensors=["text.npy", "mask.npy"], texts="txt")
    _, y = everything(source)
    assert y["text"].shape == (5, 2, 3)
    assert y["text"][:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert y["mask"][:, 1].tolist() == [True, False, True, False, True]
    assert source.num_classes is None
    order = torch.tensor([3, 1])
    assert torch.equal(source.conditions(order)["text"], y["text"][order])
    assert source.texts(order) == ["number 3", "number 1"]


class Held(MemorySource):
    """The same samples in memory."""

    shape, num_classes = (3, 8, 8), 3

    def load(self):
        return images(5), torch.arange(5) % 3


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_is_that_of_memory_from_any_position(tmp_path, workers):
    source = Shards(shards(tmp_path), size=8)
    source.setup()
    memory = RealStream(Held(), 7, flip=True, labels=True)
    stream = RealStream(source, 7, flip=True, labels=True)
    positions = [list(range(start, start + 4)) for start in range(30, 50, 4)]
    loader = DataLoader(stream, batch_size=None, sampler=positions, num_workers=workers)
    for batch, some in zip(loader, positions, strict=True):
        expected = memory.__getitems__(some)
        assert torch.equal(batch.x1, expected.x1)
        assert torch.equal(batch.y, expected.y)


def test_a_range_names_each_of_its_archives(tmp_path):
    shards(tmp_path, sizes=(1, 1, 1))
    assert [path.name for path in archives(tmp_path / "train-{0..2}.tar")] == [f"train-{i}.tar" for i in range(3)]
    with pytest.raises(UserError, match=r"there is no .*train-3.tar"):
        list(archives(tmp_path / "train-{0..3}.tar"))
    with pytest.raises(UserError, match=r"there is no .*none-\*.tar"):
        list(archives(tmp_path / "none-*.tar"))


def test_contents_make_the_fingerprint(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    one, same, other = (Shards(shards(tmp_path / name), size=8) for name in "abc")
    write_tar(tmp_path / "c" / "train-1.tar", [*sample(3), *sample(5)])
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert Shards(str(one.pattern), size=8, tensors=["text.npy"]).fingerprint() != one.fingerprint()


def link(tar):
    about = tarfile.TarInfo("0000.png")
    about.type, about.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tar.addfile(about)


def written(members=(), then=None):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
        if then is not None:
            then(tar)
    return file.getvalue()


GOOD = written(sample(0))
HOSTILE = {
    "empty": (b"", "cannot be read as an uncompressed tar archive"),
    "no archive": (b"text" * 500, "cannot be read as an uncompressed tar archive"),
    "packed": (gzip.compress(GOOD), "cannot be read as an uncompressed tar archive"),
    "without samples": (written(), "there are no samples"),
    "cut in a member": (GOOD[:700], "cut off|unexpected end"),
    "cut after a member": (written([("0.png", png(0))])[: 512 + 512], "cut off|unexpected end"),
    "damaged header": (GOOD[:1024] + b"\xff" * 512 + GOOD[1536:], "is cut off or damaged at byte 1024"),
    "pickle": (written([("0.png", png(0)), ("0.pyd", b"x")]), "holds '0.pyd', a pickle, and nothing is unpickled"),
    "pickle of a longer name": (written([("0.a.pkl", b"x")]), "holds '0.a.pkl', a pickle"),
    "no image": (written([("0.cls", b"1")]), r"sample '0': expected one image, got \['cls'\]"),
    "two images": (written([("0.png", png(0)), ("0.jpg", png(0))]), "expected one image, got .*png.*jpg"),
    "no class": (written([*sample(0), ("1.png", png(1))]), "sample '1' has no cls, but other samples have"),
    "class of letters": (written([("0.cls", b"cat")]), "must hold a class, a number from 0, got b'cat'"),
    "huge class": (written([("0.png", png(0)), ("0.cls", b"9" * 4000)]), "must hold a class"),
    "twice": (written([("0.png", png(0)), ("0.png", png(1))]), "names '0.png' twice"),
    "link": (written([], link), "there are no samples"),
    "two lines": (written([("a\nb.png", png(0))]), "a name of several lines"),
    "text for an image": (written([("0.png", b"text")]), "sample '0' cannot be read .*its content is of none"),
    "half an image": (written([("0.png", png(0)[:60])]), "sample '0' cannot be read"),
}


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.replace(" ", "-"))
def test_a_bad_archive_is_told_in_one_line(tmp_path, case):
    content, told = HOSTILE[case]
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        everything(Shards(str(tmp_path / "*.tar"), size=8))
    assert "\n" not in str(caught.value)


def test_names_that_lead_out_of_the_archive_lead_nowhere(tmp_path):
    members = [("../../up.png", png(0)), ("/etc/root.png", png(1)), ("a:b,c=1.png", png(2)), (".hidden.png", b"")]
    write_tar(tmp_path / "a.tar", members)
    x, _ = everything(Shards(str(tmp_path / "a.tar"), size=8))
    assert torch.equal(x, images(3))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.tar"]


TENSORS = {
    "missing": ([("0.png", png(0))], r"expected members \['t.npy'\], got \['png'\]"),
    "objects": ([("0.png", png(0)), ("0.t.npy", npy(np.array([{}])))], "t.npy must hold numbers, as numpy.save writes"),
    "text": ([("0.png", png(0)), ("0.t.npy", b"text")], "t.npy must hold numbers"),
    "other shapes": (
        [("0.png", png(0)), ("0.t.npy", npy(np.zeros(2))), ("1.png", png(0)), ("1.t.npy", npy(np.zeros(3)))],
        "t.npy must have one type and shape in all samples",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_bad_tensors_are_told_in_one_line(tmp_path, case):
    members, told = TENSORS[case]
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(UserError, match=told) as caught:
        everything(Shards(str(tmp_path / "a.tar"), size=8, tensors=["t.npy"]))
    assert "\n" not in str(caught.value)


def test_unreadable_images_are_skipped_with_what_belongs_to_them(tmp_path):
    members = [*sample(0), ("0001.png", b"text"), *list(sample(1))[1:], *sample(2)]
    write_tar(tmp_path / "a.tar", members)
    source = Shards(str(tmp_path / "a.tar"), size=8, tensors=["text.npy"], texts="txt", unreadable="skip")
    with pytest.warns(UserWarning, match="1 of 3 images"):
        x, y = everything(source)
    assert torch.equal(x, images(3)[[0, 2]])
    assert y["text"][:, 0, 0].tolist() == [0, 2]
    assert source.texts(torch.tensor([1])) == ["number 2"]


def test_an_archive_that_has_shrunk_is_told(tmp_path):
    source = Shards(shards(tmp_path), size=8)
    source.setup()
    (tmp_path / "train-0.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"train-0.tar, sample '0001' cannot be read .*shorter than it was"):
        source.get(torch.tensor([1]))


@pytest.mark.parametrize("options", [{"size": 0}, {"num_classes": 0}, {"tensors": ["a.pkl"]}])
def test_arguments_out_of_range_are_refused_at_once(options):
    with pytest.raises(UserError):
        Shards("gone/*.tar", **{"size": 8, **options})


# --------------------------------------------------------------------------------------------- folders of datasets


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    columns = {"image": [{"bytes": png(i), "path": None} for i in range(5)], "label": [0, 1, 0, 1, 0]}
    columns["caption"] = [f"number {i}" for i in range(5)]
    return datasets.Dataset.from_dict(
        columns, features=datasets.Features({**features, "caption": datasets.Value("string")})
    )


@pytest.mark.parametrize("form", ["arrow", "splits", "parquet"])
def test_folders_of_datasets_are_read_by_index(tmp_path, table, form):
    datasets = pytest.importorskip("datasets")
    root = tmp_path / "data"
    if form == "parquet":
        root.mkdir()
        table.select(range(3)).to_parquet(root / "train-00000-of-00002.parquet")
        table.select(range(3, 5)).to_parquet(root / "train-00001-of-00002.parquet")
        table.select([0]).to_parquet(root / "test-00000-of-00001.parquet")
    else:
        whole = table if form == "arrow" else datasets.DatasetDict({"train": table, "test": table.select([0])})
        whole.save_to_disk(root)
    source = DatasetsFolder(str(root), size=8, texts="caption")
    x, y = everything(source)
    assert torch.equal(x, images(5))
    assert (y.tolist(), source.num_classes) == ([0, 1, 0, 1, 0], 3)
    assert source.texts(torch.tensor([4, 0])) == ["number 4", "number 0"]
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again.get(torch.tensor([3, 1]))[0], x[[3, 1]])
    bare = DatasetsFolder(str(root), size=8, label=None)
    assert (bare.num_classes, everything(bare)[1]) == (None, None)
    assert bare.fingerprint() != source.fingerprint() == DatasetsFolder(str(root), 8, texts="caption").fingerprint()


def test_a_folder_without_such_data_is_refused(tmp_path, table):
    with pytest.raises(UserError, match="there is no folder"):
        DatasetsFolder(str(tmp_path / "gone"), size=8).setup()
    with pytest.raises(UserError, match="holds neither Parquet files nor"):
        DatasetsFolder(str(tmp_path), size=8).setup()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"PAR1 text")
    with pytest.raises(UserError, match="broken cannot be read") as caught:
        DatasetsFolder(str(tmp_path / "broken"), size=8).setup()
    assert "\n" not in str(caught.value)
    table.save_to_disk(tmp_path / "data")
    with pytest.raises(UserError, match=r"has no column pixels: it has \['image', 'label', 'caption'\]"):
        DatasetsFolder(str(tmp_path / "data"), size=8, image="pixels").setup()
    with pytest.raises(UserError, match=r"row 0 cannot be read .*must hold the bytes of images"):
        everything(DatasetsFolder(str(tmp_path / "data"), size=8, image="caption"))
    with pytest.raises(UserError, match="column caption must hold classes from 0"):
        DatasetsFolder(str(tmp_path / "data"), size=8, label="caption").setup()


def test_an_archive_is_a_source_of_the_data_module(tmp_path):
    data = MatchingDataModule(Shards(shards(tmp_path), size=8), batch_size=4, labels=True, num_workers=0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert (batch.x1.dtype, batch.x1.shape, batch.y.shape) == (torch.uint8, (4, 3, 8, 8), (4,))

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from realuid_lightning.data import ImageFolder, RealSequence
from realuid_lightning.errors import UserError


def picture(height=10, width=10, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def everything(source):
    return source.get(torch.arange(len(source)))


@pytest.fixture
def classes(tmp_path):
    """Two classes, one with a nested folder; in the order of sorted names."""
    for i, name in enumerate(["cat/a.png", "cat/deep/b.png", "dog/a.PNG", "dog/c.png"]):
        save(picture(seed=i), tmp_path / name)
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "dog" / "._a.png").write_bytes(b"left by a file manager")
    return tmp_path


@pytest.fixture
def damaged(classes):
    """The same with a truncated JPEG and a PNG of no image at all."""
    save(picture(64, 64), classes / "cat" / "z.jpg")
    whole = (classes / "cat" / "z.jpg").read_bytes()
    (classes / "cat" / "z.jpg").write_bytes(whole[: len(whole) // 2])
    (classes / "dog" / "b.png").write_bytes(b"not an image")
    return classes


@pytest.mark.parametrize("in_memory", [False, True])
def test_class_folders_become_labels(classes, in_memory):
    source = ImageFolder(str(classes), size=10, in_memory=in_memory)
    source.setup()
    x, y = everything(source)
    assert (source.num_classes, source.classes) == (2, ["cat", "dog"])
    assert y.tolist() == source.labels().tolist() == [0, 0, 1, 1]
    assert (x.dtype, source.in_memory) == (torch.uint8, in_memory)
    for i in range(4):
        assert torch.equal(x[i], torch.from_numpy(np.array(picture(seed=i))).permute(2, 0, 1))


@pytest.mark.parametrize("names", [["a.png", "b.png"], ["a.png", "x/b.png"], ["only/a.png", "only/b.png"]])
def test_no_labels_without_two_class_folders(tmp_path, names):
    for name in names:
        save(picture(), tmp_path / name)
    source = ImageFolder(str(tmp_path), size=10)
    assert (source.num_classes, source.classes, source.labels(), source.get(torch.tensor([0]))[1]) == (
        None,
        [],
        None,
        None,
    )


def test_crops_the_middle_and_resizes(tmp_path):
    image = picture(20, 30)
    save(image, tmp_path / "a.png")
    whole, _ = everything(ImageFolder(str(tmp_path), size=20))
    assert torch.equal(whole[0], torch.from_numpy(np.array(image)[:, 5:25]).permute(2, 0, 1))
    small, _ = everything(ImageFolder(str(tmp_path), size=5))
    assert small.shape == (1, 3, 5, 5)
    assert small.float().std() < 0.5 * whole.float().std()  # antialiased: noise averages out


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_any_mode_becomes_the_channels_asked_for(tmp_path, mode, channels):
    ramp = np.linspace(0, 255, 100, dtype=np.uint8).reshape(10, 10)
    if mode == "I;16":
        image = Image.fromarray(ramp.astype(np.uint16) * 256)
    else:
        image = Image.fromarray(ramp).convert("RGB").convert(mode)
    save(image, tmp_path / "a.png", **({"transparency": b"\x00\x80"} if mode == "P" else {}))
    x, _ = everything(ImageFolder(str(tmp_path), size=10, channels=channels))
    assert x.shape == (1, channels, 10, 10)
    tolerance = {"1": 255, "P": 40}.get(mode, 0)
    assert (x[0].int() - torch.from_numpy(ramp)).abs().max() <= tolerance


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    image = picture(8, 8)
    save(image, tmp_path / "a.png", exif=exif)
    x, _ = everything(ImageFolder(str(tmp_path), size=8))
    assert torch.equal(x[0], torch.from_numpy(np.rot90(np.array(image), -1).copy()).permute(2, 0, 1))


def test_images_without_a_range_are_refused(tmp_path):
    save(Image.fromarray(np.zeros((4, 4), np.float32)), tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif.*mode F"):
        everything(ImageFolder(str(tmp_path), size=4))


def test_unreadable_image_is_named(damaged):
    source = ImageFolder(str(damaged), size=10)
    with pytest.raises(UserError, match=r"z\.jpg can not be read \(.*truncated.*unreadable: skip"):
        source.get(torch.tensor([2]))
    held = ImageFolder(str(damaged), size=10, in_memory=True)
    with pytest.raises(UserError, match=r"2 of 6 images .*cat/z\.jpg, dog/b\.png.*unreadable: skip"):
        held.setup()


def test_unreadable_image_is_named_from_a_worker(damaged):
    dataset = RealSequence(ImageFolder(str(damaged), size=10))
    loader = DataLoader(dataset, batch_size=6, num_workers=2, collate_fn=lambda batch: batch)
    with pytest.raises(UserError, match=r"z\.jpg can not be read \(.*truncated.*unreadable: skip\n*$"):
        list(loader)


@pytest.mark.parametrize("in_memory", [False, True])
def test_unreadable_images_are_skipped_and_counted(damaged, in_memory):
    source = ImageFolder(str(damaged), size=10, unreadable="skip", in_memory=in_memory)
    with pytest.warns(UserWarning, match=r"2 of 6 images .*cat/z\.jpg, dog/b\.png.*skipped"):
        source.setup()
    x, y = everything(source)
    assert (len(x), y.tolist(), source.num_classes) == (4, [0, 0, 1, 1], 2)
    assert torch.equal(x[3], torch.from_numpy(np.array(picture(seed=3))).permute(2, 0, 1))


def test_nothing_readable_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        ImageFolder(str(tmp_path / "nowhere"), size=8).setup()
    with pytest.raises(UserError, match=r"no images in .*\.jpeg"):
        ImageFolder(str(tmp_path), size=8).setup()
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="none is left"):
        ImageFolder(str(tmp_path), size=8, unreadable="skip").setup()


def test_all_faults_at_once_and_nothing_read(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # a run-time type checker would come first
    ImageFolder("nowhere", size=8)
    with pytest.raises(UserError) as caught:
        ImageFolder("nowhere", size=0, channels=4, unreadable="ignore")
    assert [line.split()[1] for line in str(caught.value).splitlines()] == ["size", "channels", "unreadable"]


def test_fingerprint_follows_files_and_preparation_but_not_place(classes, tmp_path_factory):
    def name(root=classes, **options):
        return ImageFolder(str(root), **{"size": 10, **options}).fingerprint()

    before = name()
    assert before == name(in_memory=True)
    assert len({before, name(size=8), name(channels=1)}) == 3
    moved = tmp_path_factory.mktemp("moved") / "data"
    classes.rename(moved)
    assert name(moved) == before
    save(picture(seed=9), moved / "cat" / "new.png")
    assert name(moved) != before

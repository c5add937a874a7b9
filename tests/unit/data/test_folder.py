import hashlib
import io
import logging
import os
import pickle
import struct
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from realuid_lightning.data import ImageFolder, RealSequence
from realuid_lightning.data.files import FORMATS, Names, _read_table
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
    with pytest.raises(UserError, match=r"z\.jpg cannot be read \(.*truncated.*unreadable: skip"):
        source.get(torch.tensor([2]))
    held = ImageFolder(str(damaged), size=10, in_memory=True)
    with pytest.raises(UserError, match=r"2 of 6 images .*cat/z\.jpg, dog/b\.png.*unreadable: skip"):
        held.setup()


def test_unreadable_image_is_named_from_a_worker(damaged):
    dataset = RealSequence(ImageFolder(str(damaged), size=10))
    loader = DataLoader(dataset, batch_size=6, num_workers=2, collate_fn=lambda batch: batch)
    with pytest.raises(UserError, match=r"z\.jpg cannot be read \(.*truncated.*unreadable: skip\n*$"):
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


@pytest.mark.parametrize("settled", [2.0, -10.0])  # seconds; the latter takes files as new as these for old ones
def test_fingerprint_follows_contents_of_the_same_size_and_time(tmp_path, monkeypatch, settled):
    monkeypatch.setattr("realuid_lightning.data.files.SETTLED", settled)
    file = tmp_path / "a.bmp"
    save(picture(seed=0), file)
    times = file.stat()
    before = ImageFolder(str(tmp_path), size=10).fingerprint()
    if settled < 0:
        time.sleep(0.05)  # a tick of the file system's clock
    with file.open("r+b") as stream:
        stream.seek(60)
        stream.write(b"other")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    assert ImageFolder(str(tmp_path), size=10).fingerprint() != before


class Upside(ImageFolder):
    def crop(self, image):
        return super().crop(image).rotate(180)


def test_fingerprint_follows_what_a_users_class_makes_of_the_files(classes, monkeypatch):
    before = Upside(str(classes), size=10).fingerprint()
    assert Upside(str(classes), size=10).fingerprint() == before
    monkeypatch.setattr(Upside, "crop", lambda self, image: image.rotate(90))
    assert Upside(str(classes), size=10).fingerprint() != before


@pytest.fixture
def read(monkeypatch):
    """How many files were read to be hashed, since the last look."""
    monkeypatch.setattr("realuid_lightning.data.files.SETTLED", -10.0)
    calls = []

    def counting(file, kind):
        calls.append(file)
        return hashlib.file_digest(file, kind)

    monkeypatch.setattr("realuid_lightning.data.files.file_digest", counting)

    def look():
        count = len(calls)
        calls.clear()
        return count

    return look


def test_contents_are_read_once(classes, cache_home, read):
    before = ImageFolder(str(classes), size=10).fingerprint()
    assert read() == 4
    assert ImageFolder(str(classes), size=10).fingerprint() == before
    assert read() == 0
    save(picture(seed=9), classes / "cat" / "a.png")
    assert ImageFolder(str(classes), size=10).fingerprint() != before
    assert read() == 1
    (table,) = (cache_home / "realuid_lightning" / "contents").iterdir()
    for broken in (b"", b"no table", table.read_bytes()[:-5]):
        table.write_bytes(broken)
        ImageFolder(str(classes), size=10).fingerprint()
        assert read() == 4


def test_what_was_read_before_a_broken_file_is_not_read_again(classes, read):
    source = ImageFolder(str(classes), size=10)
    source.setup()
    whole = (classes / "dog" / "c.png").read_bytes()
    (classes / "dog" / "c.png").unlink()
    with pytest.raises(UserError, match=r"dog/c\.png cannot be read \(No such file or directory\)"):
        source.fingerprint()
    assert read() == 3
    (classes / "dog" / "c.png").write_bytes(whole)
    source.fingerprint()
    assert read() == 1


def test_hashes_that_cannot_be_kept_cost_a_warning(classes, tmp_path, monkeypatch, read):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"hashes of files are not kept .*XDG_CACHE_HOME"):
        ImageFolder(str(classes), size=10).fingerprint()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_image_starts_ghostscript(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *words: started.append(words))
    (tmp_path / "a.png").write_bytes(POSTSCRIPT)
    with pytest.raises(UserError, match=r"a\.png cannot be read \(its content is of none of the formats BMP, GIF"):
        everything(ImageFolder(str(tmp_path), size=4))
    assert not started


@pytest.mark.parametrize("kind", ["PCX", "TGA", "SGI", "ICO", "JPEG2000", "DDS"])
def test_formats_that_are_not_documented_are_refused(tmp_path, kind):
    picture().save(tmp_path / "a.png", kind)
    with pytest.raises(UserError, match="of none of the formats"):
        everything(ImageFolder(str(tmp_path), size=4))


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_told_by_content(tmp_path, kind):
    picture().save(tmp_path / "a.png", kind)
    assert everything(ImageFolder(str(tmp_path), size=4))[0].shape == (1, 3, 4, 4)


def test_hidden_folders_are_no_classes(classes):
    for name in (".ipynb_checkpoints/a-checkpoint.png", "cat/.thumbnails/a.png", ".hidden.png"):
        save(picture(), classes / name)
    source = ImageFolder(str(classes), size=10)
    assert (source.classes, len(source)) == (["cat", "dog"], 4)


def test_hidden_folders_may_hold_the_root(tmp_path):
    save(picture(), tmp_path / ".data" / "a.png")
    assert len(ImageFolder(str(tmp_path / ".data"), size=10)) == 1


def test_links_are_followed_but_not_in_circles(classes, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(picture(seed=7), elsewhere / "e.png")
    (elsewhere / "back").symlink_to(classes)
    (classes / "linked").symlink_to(elsewhere)
    (classes / "cat" / "up").symlink_to(classes)
    (classes / "dog" / "same").symlink_to(".")
    (classes / "dog" / "link.png").symlink_to(elsewhere / "e.png")
    source = ImageFolder(str(classes), size=10)
    names = ["cat/a.png", "cat/deep/b.png", "dog/a.PNG", "dog/c.png", "dog/link.png", "linked/e.png"]
    assert (source.listing()[0], source.classes) == (names, ["cat", "dog", "linked"])


def test_what_is_no_file_is_passed_over_and_never_read(classes):
    os.mkfifo(classes / "cat" / "pipe.png")
    (classes / "cat" / "zero.png").symlink_to("/dev/zero")
    (classes / "cat" / "linked_pipe.png").symlink_to("pipe.png")
    (classes / "cat" / "folder.png").mkdir()
    source = ImageFolder(str(classes), size=10)
    assert len(source) == 4
    (classes / "cat" / "a.png").unlink()
    os.mkfifo(classes / "cat" / "a.png")  # after it was listed
    for use in (lambda: source.get(torch.tensor([0])), source.fingerprint):
        with pytest.raises(UserError, match=r"cat/a\.png cannot be read \(it is a pipe, a socket or a device"):
            use()


def test_links_to_nothing_are_told(classes):
    (classes / "cat" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"gone\.png cannot be read \(No such file"):
        everything(ImageFolder(str(classes), size=10))
    with pytest.warns(UserWarning, match=r"1 of 5 images .*cat/gone\.png"):
        ImageFolder(str(classes), size=10, unreadable="skip").setup()


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("in_memory", [False, True])
def test_corrupt_exif_is_unreadable(classes, suffix, in_memory):
    save(picture(), classes / "cat" / f"z.{suffix}", exif=b"Exif\0\0II*\0")  # it ends too early
    with pytest.raises(UserError, match=rf"z\.{suffix}"):
        everything(ImageFolder(str(classes), size=10, in_memory=in_memory))
    source = ImageFolder(str(classes), size=10, unreadable="skip", in_memory=in_memory)
    with pytest.warns(UserWarning, match=rf"1 of 5 images .*z\.{suffix}"):
        source.setup()
    assert len(everything(source)[0]) == 4


@pytest.mark.parametrize("error", [KeyError(274), ZeroDivisionError(), struct.error("4 bytes"), MemoryError()])
def test_whatever_pillow_raises_is_told(classes, monkeypatch, error):
    def broken(image):
        raise error

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", broken)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(picture(), classes / "cat" / "a.png", exif=exif)
    with pytest.raises(UserError, match=rf"cat/a\.png cannot be read \({type(error).__name__}"):
        ImageFolder(str(classes), size=10).get(torch.tensor([0]))


def test_many_names_take_little_memory():
    names = [f"class_{i % 1000:04}/image_{i:07}.png" for i in range(100_000)]
    held = Names(names)
    assert (len(held), held[0], held[-1], held[7:9]) == (100_000, names[0], names[-1], names[7:9])
    assert len(pickle.dumps(held)) < sum(map(len, names)) + 8 * len(names) + 1000
    strange = ["\udcff.png", "ü/é.png"]
    assert list(Names(strange)) == strange
    with pytest.raises(IndexError):
        held[100_000]


def test_it_says_how_far_it_has_come(classes, caplog, monkeypatch):
    monkeypatch.setattr("realuid_lightning.data.files.PATIENCE", -1.0)
    monkeypatch.setattr("realuid_lightning.data.files.PART", 2)
    monkeypatch.setattr("realuid_lightning.data.folder.PART", 2)
    with caplog.at_level(logging.INFO):
        ImageFolder(str(classes), size=10, unreadable="skip").fingerprint()
    for told in ("3 images in", "2 of 4 images in", "2 of 4 files in"):
        assert told in caplog.text


def test_home_is_where_a_shell_finds_it(classes, monkeypatch):
    monkeypatch.setenv("HOME", str(classes.parent))
    source = ImageFolder(f"~/{classes.name}", size=10)
    assert len(source) == 4
    with pytest.raises(UserError, match="no folder ~nobody-of-that-name"):
        ImageFolder("~nobody-of-that-name", size=10).setup()


def test_images_that_do_not_fit_in_memory_are_told(classes):
    with pytest.raises(UserError, match=r"4 images of shape .* take 111758.7 GiB, .*set in_memory: false"):
        ImageFolder(str(classes), size=3_162_278, in_memory=True).setup()


def test_links_that_multiply_are_told(tmp_path):
    """Each of 30 folders holds the next one twice: 2^30 folders to go through."""
    for i in range(30):
        (tmp_path / str(i)).mkdir()
        for name in "ab":
            (tmp_path / str(i) / name).symlink_to(f"../{i + 1}")
    save(picture(), tmp_path / "30" / "x.png")
    with pytest.raises(UserError, match=r"is found by more than 100 ways: remove links"):
        ImageFolder(str(tmp_path), 8).setup()


@pytest.mark.parametrize(
    "content",
    [b"PK\x03\x04" + bytes(50), b"\x93NUMPY\x01\x00v\x00" + b"\xff" * 118, "huge"],
    ids=["zip", "junk", "huge"],
)
def test_a_broken_table_of_contents_is_made_anew(tmp_path, content):
    table = io.BytesIO()
    np.lib.format.write_array_header_1_0(table, {"descr": "<u8", "fortran_order": False, "shape": (10**14, 3)})
    (tmp_path / "table.npy").write_bytes(table.getvalue() if content == "huge" else content)
    assert _read_table(tmp_path / "table.npy").shape == (0, 3)

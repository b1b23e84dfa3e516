"Depth files, encodings, holes and the camera: every bad file by name, every camera law by hypothesis."

import json
import os
import struct
import zlib
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dogdepth.atomic import atomic_write, temporary_beside
from dogdepth.depth import DEPTH_CAP, NYU_CAMERA, Camera, read_depth, show_depth, valid_mask, write_depth
from dogdepth.files import ENCODINGS, MAX_PIXELS, MM16_MAX_M, NYU_MAX_M, check_levels, data_root, mm16, read_image


def save(path, array, **kw):
    Image.fromarray(array).save(path, **kw)
    return path


@pytest.fixture
def photo(tmp_path):
    "A photo whose four corners differ, 8x12."
    a = np.zeros((8, 12, 3), np.uint8)
    a[0, 0], a[0, -1], a[-1, 0], a[-1, -1] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    return a, save(tmp_path / "photo.png", a)


def huge_png(path, side):
    "A PNG whose header claims side x side pixels and that holds next to none of them."

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    return path


# ---- photos -------------------------------------------------------------------------------------------------------------------------


def test_read_image_rgb(photo):
    a, path = photo
    assert np.array_equal(read_image(path), a) and np.array_equal(read_image(str(path)), a)
    assert read_image(path).flags.writeable and read_image(path).dtype == np.uint8


@pytest.mark.parametrize(
    "read,suffix", [(read_image, ".png"), (read_image, ".jpg"), (read_depth, ".png"), (read_depth, ".npy")]
)
def test_bad_files_get_one_plain_line(read, suffix, tmp_path):
    missing, empty, text, folder = (tmp_path / f"{n}{suffix}" for n in ("missing", "empty", "text", "folder"))
    empty.write_bytes(b"")
    text.write_text("this is no image\n" * 20)
    folder.mkdir()
    for path, error, words in (
        (missing, FileNotFoundError, "no such file"),
        (empty, ValueError, "empty"),
        (text, ValueError, "not a"),
        (folder, ValueError, "folder"),
    ):
        with pytest.raises(error, match=words) as e:
            read(path)
        assert path.name in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tiff", "a.webp", "a.bmp", "a.gif"])
def test_truncated_at_many_places(name, tmp_path):
    "Cut anywhere, a file is read whole (nothing of the picture was lost) or gives a plain ValueError."
    rng = np.random.default_rng(0)
    path = save(tmp_path / name, rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
    whole, full = path.read_bytes(), read_image(path)
    failed = 0
    for keep in [1, 3, 8, 20, 33, 60, *range(100, len(whole), max(1, len(whole) // 12))]:
        path.write_bytes(whole[:keep])
        try:
            assert read_image(path).shape == full.shape
        except ValueError as e:
            assert str(path) in str(e)
            failed += 1
    assert failed >= 8


def test_npy_cut_short(tmp_path):
    path = tmp_path / "d.npy"
    np.save(path, np.ones((20, 20), np.float32))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="whole .npy"):
        read_depth(path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="whole .npy"):
        read_depth(path)


@pytest.mark.parametrize("side", [10_500, 30_000, 200_000])
def test_huge_header_is_refused_before_decoding(side, tmp_path, recwarn):
    path = huge_png(tmp_path / "huge.png", side)
    for read in (read_image, read_depth):
        with pytest.raises(ValueError, match="million"):
            read(path)
    assert side * side > MAX_PIXELS and not [w for w in recwarn if "ecompression" in str(w.message)]


def test_one_pixel(tmp_path):
    assert read_image(save(tmp_path / "one.png", np.full((1, 1, 3), 7, np.uint8))).tolist() == [[[7, 7, 7]]]
    assert read_depth(save(tmp_path / "d.png", np.full((1, 1), 2500, np.uint16))).tolist() == [[2.5]]
    write_depth(tmp_path / "w.png", np.full((1, 1), 1.25))
    assert read_depth(tmp_path / "w.png")[0, 0] == 1.25


@pytest.mark.parametrize("tag", range(1, 9))
def test_exif_orientation(tag, photo, tmp_path):
    a, _ = photo
    stored = {
        1: a,
        2: a[:, ::-1],
        3: a[::-1, ::-1],
        4: a[::-1],
        5: a.transpose(1, 0, 2),
        6: np.rot90(a, 1),
        7: a[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(a, -1),
    }[tag]
    exif = Image.Exif()
    exif[0x0112] = tag
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(read_image(path), a)


def test_grey_palette_and_transparency(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    assert np.array_equal(read_image(save(tmp_path / "grey.png", grey)), np.repeat(grey[..., None], 3, 2))
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = 200, 10, 20, 255
    out = read_image(save(tmp_path / "rgba.png", rgba))
    assert out[0, 0].tolist() == [200, 10, 20] and out[1, 1].tolist() == [
        255,
        255,
        255,
    ]  # what is transparent becomes white
    pal = Image.fromarray(np.dstack([grey, grey, grey])).quantize(12)
    pal.save(tmp_path / "pal.png")
    assert read_image(tmp_path / "pal.png").shape == (3, 4, 3)
    pal.info["transparency"] = 0
    pal.save(tmp_path / "pal_t.png", transparency=0)
    assert (read_image(tmp_path / "pal_t.png") == 255).all(-1).sum() >= 1
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    assert set(np.unique(read_image(tmp_path / "bits.png"))) == {0, 255}


def test_a_depth_map_is_no_photo_and_the_other_way_round(photo, tmp_path):
    with pytest.raises(ValueError, match="read_depth"):
        read_image(save(tmp_path / "d16.png", np.full((4, 4), 3000, np.uint16)))
    with pytest.raises(ValueError, match="one channel"):
        read_depth(photo[1])
    Image.fromarray(photo[0]).quantize(8).save(tmp_path / "p.png")
    with pytest.raises(ValueError, match="palette"):
        read_depth(tmp_path / "p.png")
    Image.fromarray(np.eye(4) > 0).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="mask"):
        read_depth(tmp_path / "mask.png")


# ---- depth files --------------------------------------------------------------------------------------------------------------------


def test_encodings_by_hand(tmp_path):
    v8 = save(tmp_path / "8.png", np.array([[0, 1, 128, 255]], np.uint8))
    assert np.allclose(read_depth(v8, "nyu8"), [[0, 1.5 / 255 * 9.99547, 128.5 / 255 * 9.99547, 9.99547]], atol=1e-5)
    assert np.allclose(read_depth(v8, "level8"), [[0, 1 / 25.5, 128 / 25.5, 10]], atol=1e-5)
    v16 = save(tmp_path / "16.png", np.array([[0, 1, 2500, 65534]], np.uint16))
    assert np.allclose(read_depth(v16), [[0, 0.001, 2.5, 65.534]])
    assert np.allclose(read_depth(v16, "tum16"), [[0, 0.0002, 0.5, 13.1068]])
    assert np.allclose(read_depth(v16, scale=0.01), [[0, 0.01, 25, 655.34]])
    assert read_depth(v8, "nyu8").dtype == np.float32 and read_depth(v8, "nyu8").max() <= NYU_MAX_M + 1e-6


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_zero_stays_zero(encoding, tmp_path):
    path = save(tmp_path / "z.png", np.array([[0, 9]], np.uint8))
    d = read_depth(path, encoding)
    assert d[0, 0] == 0 and d[0, 1] > 0


def test_float_files_and_odd_values(tmp_path):
    a = np.array([[0, -1, np.nan, np.inf, 2.5]], np.float32)
    np.save(tmp_path / "f.npy", a)
    assert read_depth(tmp_path / "f.npy").tolist() == [[0, 0, 0, 0, 2.5]]
    Image.fromarray(a).save(tmp_path / "f.tiff")
    assert read_depth(tmp_path / "f.tiff").tolist() == [[0, 0, 0, 0, 2.5]]
    np.save(tmp_path / "f8.npy", a.astype(float))
    assert read_depth(tmp_path / "f8.npy").dtype == np.float32
    np.save(tmp_path / "i.npy", np.array([[3000]], np.int32))
    assert read_depth(tmp_path / "i.npy")[0, 0] == 3


@pytest.mark.parametrize(
    "dtype,suffix",
    [(d, ".npy") for d in ("<u2", ">u2", "<i4", ">i4", "<u4", "<i8", "<f4", "<f8")]
    + [("<u2", ".png"), ("<u2", ".tiff"), (">u2", ".tiff"), ("<i4", ".tiff"), ("<f4", ".tiff")],
)
def test_65535_is_no_reading(dtype, suffix, tmp_path):
    v = np.array([[0, 1000, 65534, 65535]], dtype)
    path = tmp_path / f"m{suffix}"
    if suffix == ".npy":
        np.save(path, v)
    elif dtype == ">u2":
        Image.frombytes("I;16B", (4, 1), v.tobytes()).save(path)
    else:
        save(path, v)
    unit = {"encoding": "mm16"} if v.dtype.kind == "f" else {}
    assert np.allclose(read_depth(path, **unit), [[0, 1, 65.534, 0]])
    assert np.allclose(read_depth(path, scale=0.001), [[0, 1, 65.534, 0]]) and np.allclose(
        read_depth(path, "tum16"), [[0, 0.2, 13.1068, 0]]
    )
    assert np.allclose(read_depth(path, invalid=(), **unit), [[0, 1, 65.534, 65.535]])
    assert np.allclose(read_depth(path, invalid=1000, **unit), [[0, 0, 65.534, 65.535]])
    assert np.allclose(read_depth(path, invalid=[1000, 65534], **unit), [[0, 0, 0, 65.535]])
    with pytest.raises(ValueError, match="invalid should be a stored number"):
        read_depth(path, invalid="far", **unit)


def test_the_top_of_any_whole_number_is_no_reading(tmp_path):
    for dtype in (np.int16, np.int32, np.uint32):
        np.save(tmp_path / "t.npy", np.array([[1500, np.iinfo(dtype).max, 1000]], dtype))
        assert read_depth(tmp_path / "t.npy").tolist() == [[1.5, 0, 1]]
    np.save(tmp_path / "t.npy", np.array([[255, 9]], np.uint8))  # but 255 is a level like any other
    assert read_depth(tmp_path / "t.npy", "level8")[0, 0] == 10


@pytest.mark.parametrize(
    "name,dtype", [("d.png", np.uint8), ("d.tiff", np.uint8), ("d.npy", np.uint8), ("d.npy", np.int8)]
)
def test_eight_bits_need_a_name(name, dtype, tmp_path):
    def write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        a = np.array([[0, 51, 102]], dtype)
        np.save(path, a) if path.suffix == ".npy" else save(path, a)
        return path

    path = write(tmp_path / name)
    for check in (read_depth, check_levels):
        with pytest.raises(ValueError, match=r"8 bits a pixel.*'nyu8'.*'level8'.*scale="):
            check(path)
    assert np.allclose(read_depth(path, scale=0.02), [[0, 1.02, 2.04]])
    if dtype == np.uint8:
        assert np.allclose(read_depth(path, "level8"), [[0, 2, 4]]) and np.allclose(
            read_depth(path, "nyu"), read_depth(path, "nyu8")
        )
        inside = write(tmp_path / "data" / "nyu2_train" / "den_0001_out" / name)
        check_levels(inside)
        assert np.array_equal(read_depth(inside), read_depth(path, "nyu8"))  # the Kaggle edition's folder says it


def test_what_is_not_eight_bits_passes(tmp_path):
    np.save(tmp_path / "f.npy", np.ones((2, 2)))
    (tmp_path / "broken.png").write_bytes(b"no image")
    for path in (
        save(tmp_path / "d.png", np.full((2, 2), 900, np.uint16)),
        tmp_path / "f.npy",
        tmp_path / "broken.png",
        tmp_path / "gone.png",
    ):
        check_levels(path)


@pytest.mark.parametrize(
    "value,dtype", [(3000, np.float32), (3000, np.float64), (150, np.float16), (3_000_000, np.int32)]
)
def test_a_room_is_not_a_hundred_metres_deep(value, dtype, tmp_path):
    path = tmp_path / "far.npy"
    np.save(path, np.array([[0, value, value]], dtype))
    for encoding in ("auto", "nyu"):
        with pytest.raises(ValueError, match="millimetres.*scale=0.001.*encoding='m'"):
            read_depth(path, encoding)
    assert read_depth(path, "m")[0, 1] == value and np.isclose(
        read_depth(path, scale=0.001)[0, 1], value / 1000
    )  # named, it is believed
    np.save(path, np.array([[2, 3, 500]], np.float32))  # one far pixel is no unit
    assert read_depth(path).max() == 500


def test_levels_in_sixteen_bits_are_doubted(tmp_path, recwarn):
    path = save(tmp_path / "d.png", np.array([[0, 51, 255]], np.uint16))
    with pytest.warns(UserWarning, match="no number above 255"):
        read_depth(path)
    recwarn.clear()
    read_depth(path, "mm16")
    read_depth(save(tmp_path / "e.png", np.array([[0, 51, 256]], np.uint16)))
    read_depth(save(tmp_path / "z.png", np.zeros((2, 2), np.uint16)))
    assert not recwarn.list


def test_mm16_by_hand():
    with pytest.warns(UserWarning, match="2 of 4 readings lie beyond 65.534 m"):
        assert mm16(np.array([[0, np.nan, 0.0004, 2.5, 65.536, 1e9]])).tolist() == [[0, 0, 0, 2500, 65534, 65534]]


def test_the_farthest_that_is_written_comes_back(tmp_path, recwarn):
    write_depth(tmp_path / "d.png", np.array([[1, MM16_MAX_M, 1.0]]))
    assert read_depth(tmp_path / "d.png")[0, 1] == np.float32(MM16_MAX_M) and not recwarn.list


def test_unknown_encoding(tmp_path):
    with pytest.raises(ValueError, match="mm16"):
        read_depth(tmp_path / "any.png", "mm")


@pytest.mark.parametrize("scale", [0, -0.001, float("nan"), float("inf")])
def test_a_scale_is_above_zero(scale, tmp_path):
    with pytest.raises(ValueError, match="metres per unit"):
        read_depth(save(tmp_path / "d.png", np.full((2, 2), 3000, np.uint16)), scale=scale)


def test_one_unit_for_a_file(tmp_path):
    "A scale or an encoding; and levels of 8 bits only where there are 8 bits."
    v8, v16 = (save(tmp_path / f"{t().itemsize}.png", np.full((2, 2), 200, t)) for t in (np.uint8, np.uint16))
    np.save(tmp_path / "f.npy", np.full((2, 2), 2.0))
    with pytest.raises(ValueError, match="not both"):
        read_depth(v16, "mm16", scale=0.001)
    for encoding in ("nyu8", "level8"):
        assert read_depth(v8, encoding).all()
        for path, holds in ((v16, "uint16"), (tmp_path / "f.npy", "float64")):
            with pytest.raises(ValueError, match=f"{holds} values, and '{encoding}' reads 8-bit levels"):
                read_depth(path, encoding)


def test_suffix_in_capitals(tmp_path):
    np.save(tmp_path / "d.npy", np.full((2, 3), 2.5))
    os.rename(tmp_path / "d.npy", tmp_path / "D.NPY")
    assert (read_depth(tmp_path / "D.NPY") == 2.5).all()
    write_depth(tmp_path / "D.PNG", np.full((2, 3), 2.5))
    assert (read_depth(tmp_path / "D.PNG") == 2.5).all()


def test_write_depth_takes_metres_into_png(tmp_path):
    mm = np.full((4, 4), 3000, np.uint16)
    for depth, name, words in (
        (mm, "w.png", "got uint16.*read_depth"),
        (mm.astype(float), "w.png", "millimetres.*1000"),
        (mm / 1000, "w.npy", "16-bit .png, got 'w.npy'"),
        (mm / 1000, "w", "16-bit .png"),
        ([[3, 4]], "w.png", "metres as floats"),
    ):
        with pytest.raises(ValueError, match=words):
            write_depth(tmp_path / name, depth)
    assert not list(tmp_path.iterdir())
    far = np.full((4, 4), 3.0)
    far[:2] = 1e4  # half of it beyond: the sky, say
    with pytest.warns(UserWarning, match="8 of 16 readings lie beyond 65.534 m"):
        write_depth(tmp_path / "w.png", far)
    assert read_depth(tmp_path / "w.png")[:, 0].tolist() == [np.float32(65.534)] * 2 + [3, 3]
    far[2, 0] = 1e4
    far[3, :] = 0  # a hole has no say
    with pytest.raises(ValueError, match="most of this depth.*clamp=True"):
        write_depth(tmp_path / "w.png", far)
    with pytest.warns(UserWarning, match="9 of 12 readings"):
        write_depth(tmp_path / "w.png", far, clamp=True)  # a picture of mountains: whoever says so gets them
    assert read_depth(tmp_path / "w.png")[:, 0].tolist() == [np.float32(65.534)] * 3 + [0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_write_then_read(h, w, seed):
    import tempfile

    rng = np.random.default_rng(seed)
    d = (rng.random((h, w)) * 65 * (rng.random((h, w)) > 0.2)).astype(np.float32)
    with tempfile.TemporaryDirectory() as tmp:
        write_depth(f"{tmp}/d.png", d)
        back = read_depth(f"{tmp}/d.png")
        assert os.listdir(tmp) == ["d.png"]
    assert np.abs(back - d).max() <= 0.00051 and not back[d == 0].any()


def test_write_depth_odd_values_and_errors(tmp_path):
    with pytest.warns(UserWarning, match="1 of 2 readings"):
        write_depth(tmp_path / "d.png", np.array([[np.nan, np.inf, -3, 80, 1]]))
    assert read_depth(tmp_path / "d.png").tolist() == [[0, 0, 0, np.float32(65.534), 1]]
    for bad in (np.zeros((2, 2, 3)), np.zeros((0, 4)), np.zeros(3)):
        with pytest.raises(ValueError, match="H,W"):
            write_depth(tmp_path / "no.png", bad)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_depth(tmp_path / "nowhere" / "d.png", np.ones((2, 2)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.png"]


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_atomic_write_leaves_nothing_behind(step, tmp_path, monkeypatch):
    path = tmp_path / "out.bin"
    atomic_write(path, b"old")

    def fail(*a, **k):
        raise OSError("disk full")

    if step == "write":
        with pytest.raises(TypeError):
            atomic_write(path, "not bytes")
    else:
        monkeypatch.setattr(os, step, fail)
        with pytest.raises(OSError, match="disk full"):
            atomic_write(path, b"new" * 1000)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["out.bin"]


def longest(suffix, letter="x"):
    "A legal file name of 255 bytes, as many as a folder takes."
    return letter * ((255 - len(suffix)) // len(letter.encode())) + suffix


@pytest.mark.parametrize(
    "name",
    [longest(".png"), longest(".png", "방"), longest(""), "a." + longest("")[2:], longest("." + "s" * 60)],
    ids=["long", "Korean", "plain", "all suffix", "long suffix"],
)
def test_a_name_may_be_as_long_as_a_folder_allows(name, tmp_path):
    path = tmp_path / name
    path.touch()  # the name itself is legal here
    atomic_write(path, b"new")
    with temporary_beside(path) as tmp:
        tmp.write_bytes(b"newer")
        assert len(os.fsencode(tmp.name)) < 40
    assert path.read_bytes() == b"newer" and len(list(tmp_path.iterdir())) == 1
    if path.suffix == ".png":
        write_depth(path, np.full((2, 3), 2.5))
        assert (read_depth(path) == 2.5).all()


def test_threads_may_write_one_file_and_one_folder(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    texts = [bytes([65 + i]) * 100_000 for i in range(8)]
    names = ["same.bin"] * 8 + [f"{i}.bin" for i in range(8)]
    for _ in range(10):
        with ThreadPoolExecutor(16) as ex:
            list(
                ex.map(lambda nt: atomic_write(tmp_path / nt[0], nt[1]), zip(names, texts * 2))
            )  # an error in a thread is raised here
        assert (tmp_path / "same.bin").read_bytes() in texts and all(
            (tmp_path / f"{i}.bin").read_bytes() == texts[i] for i in range(8)
        )
        assert len(list(tmp_path.iterdir())) == 9


def _write_often(path, letter, queue):
    error, getpid = None, os.getpid
    os.getpid = lambda: 7  # as in containers that share a disk: their processes have the same number
    try:
        for _ in range(40):
            atomic_write(path, letter * 50_000)
    except Exception as e:
        error = repr(e)
    os.getpid = getpid
    queue.put(error)


@pytest.mark.skipif(os.name != "posix", reason="fork")
def test_processes_may_write_one_file(tmp_path):
    import multiprocessing

    ctx = multiprocessing.get_context("fork")
    queue = ctx.Queue()
    ps = [ctx.Process(target=_write_often, args=(tmp_path / "same.bin", bytes([65 + i]), queue)) for i in range(3)]
    for p in ps:
        p.start()
    assert [queue.get(timeout=60) for _ in ps] == [None] * 3
    for p in ps:
        p.join()
    data = (tmp_path / "same.bin").read_bytes()
    assert len(data) == 50_000 and len(set(data)) == 1 and len(list(tmp_path.iterdir())) == 1


def test_temporary_beside(tmp_path):
    path = tmp_path / "out.png"
    with temporary_beside(path) as tmp:
        assert (
            tmp.parent == path.parent
            and tmp.suffix == ".png"
            and tmp.name[0] == "."
            and not tmp.exists()
            and not path.exists()
        )
        Image.new("L", (3, 2)).save(tmp)  # an encoder goes by the suffix
    old = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), temporary_beside(path, suffix=".part") as tmp:
        assert tmp.suffix == ".part"
        tmp.write_bytes(b"half")
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError), temporary_beside(path):
        pass  # nothing was written: the old file stays
    with temporary_beside(path) as one, temporary_beside(path) as two:
        assert one != two
        one.write_bytes(old)
        two.write_bytes(old)
    assert path.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["out.png"]
    with pytest.raises(FileNotFoundError, match="no such folder"), temporary_beside(tmp_path / "nowhere" / "a.png"):
        raise AssertionError("entered")
    with pytest.raises(IsADirectoryError, match="is a folder"), temporary_beside(tmp_path):
        raise AssertionError("entered")


@pytest.mark.skipif(os.name != "posix", reason="links and permissions")
def test_temporary_beside_respects_links_and_permissions(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "target")  # what it points to does not exist yet
    old = os.umask(0o027)
    try:
        with temporary_beside(tmp_path / "link") as tmp:
            assert tmp.parent == tmp_path / "far"
            tmp.write_bytes(b"1")
        assert (
            tmp_path / "far" / "target"
        ).stat().st_mode & 0o777 == 0o640  # a new file has the permissions of any new file
    finally:
        os.umask(old)
    (tmp_path / "far" / "target").chmod(0o444)
    atomic_write(tmp_path / "link", b"2")
    assert (
        (tmp_path / "link").is_symlink()
        and (tmp_path / "far" / "target").read_bytes() == b"2"
        and (tmp_path / "far" / "target").stat().st_mode & 0o777 == 0o444
    )
    (tmp_path / "lost").symlink_to(tmp_path / "gone" / "target")
    with pytest.raises(FileNotFoundError, match="no such folder.*gone"):
        atomic_write(tmp_path / "lost", b"3")
    with temporary_beside(os.devnull) as tmp:
        assert str(tmp) == os.devnull


# ---- data root, mask ----------------------------------------------------------------------------------------------------------------


def test_data_root(tmp_path, monkeypatch):
    monkeypatch.delenv("DOGDEPTH_DATA", raising=False)
    assert data_root() is None
    monkeypatch.setenv("DOGDEPTH_DATA", str(tmp_path))
    assert data_root() == tmp_path
    monkeypatch.setenv("DOGDEPTH_DATA", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match="not a folder"):
        data_root()


def test_valid_mask_edges_numpy_and_torch():
    d = np.array([0, DEPTH_CAP[0], 0.002, 10, 10.001, np.nan, np.inf, -1], np.float32)
    want = [False, False, True, True, False, False, False, False]
    assert valid_mask(d).tolist() == want and valid_mask(torch.from_numpy(d)).tolist() == want
    assert valid_mask(d, (0, np.inf)).tolist() == [False, True, True, True, True, False, False, False]
    assert valid_mask(d).dtype == bool and valid_mask(torch.zeros(2, 1, 3, 4)).shape == (2, 1, 3, 4)


# ---- camera -------------------------------------------------------------------------------------------------------------------------

cameras = st.builds(
    lambda h, w, fov, sx, sy, ay: (lambda c: replace(c, cx=c.cx + sx, cy=c.cy + sy, fy=c.fx * ay))(
        Camera.from_fov(fov, h, w)
    ),
    st.integers(2, 40),
    st.integers(2, 40),
    st.floats(20, 120),
    st.floats(-5, 5),
    st.floats(-5, 5),
    st.floats(0.8, 1.2),
)
points = st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.5, 9)).map(np.array)


def grid(h, w):
    return np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1)


@settings(max_examples=60, deadline=None)
@given(cameras, st.integers(0, 10**6))
def test_project_backproject_is_identity(cam, seed):
    d = np.random.default_rng(seed).uniform(0.3, 9, (cam.height, cam.width))
    pts = cam.backproject(d)
    assert pts.shape == (cam.height, cam.width, 3) and np.array_equal(pts[..., 2], d)
    assert np.allclose(cam.project(pts), grid(cam.height, cam.width), atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(cameras, points, st.integers(2, 80), st.integers(2, 80))
def test_resize(cam, p, h, w):
    """A point keeps its place as a share of the picture, measured from the picture's edge (half a pixel before the
    first centre)."""
    small = cam.resize(h, w)
    share = (cam.project(p) + 0.5) / (cam.width, cam.height)
    assert np.allclose((small.project(p) + 0.5) / (w, h), share, atol=1e-9)
    back = small.resize(cam.height, cam.width)
    assert np.allclose([back.fx, back.fy, back.cx, back.cy], [cam.fx, cam.fy, cam.cx, cam.cy])
    assert (small.height, small.width) == (h, w) and np.isclose(small.fov_deg, cam.fov_deg)


@settings(max_examples=60, deadline=None)
@given(cameras, points, st.integers(-5, 10), st.integers(-5, 10))
def test_crop_and_flip(cam, p, top, left):
    u, v = cam.project(p)
    assert np.allclose(cam.crop(top, left, 7, 9).project(p), [u - left, v - top])
    assert np.allclose(cam.flip().project(p * [-1, 1, 1]), [cam.width - 1 - u, v])
    two = cam.flip().flip()
    assert np.isclose(two.cx, cam.cx) and replace(two, cx=cam.cx) == cam
    assert (cam.crop(top, left, 7, 9).height, cam.crop(top, left, 7, 9).width) == (7, 9)


@settings(max_examples=40, deadline=None)
@given(cameras)
def test_crop_then_resize_moves_with_the_image(cam):
    "Crop the picture and resize it, and the camera: the depth map of a plane still gives that plane."
    normal, dist = np.array([0.2, -0.1, 1.0]), 3.0
    depth = dist / (cam.rays() @ normal)
    if not (depth > 0).all():
        return
    h, w = max(1, cam.height - 2), max(1, cam.width - 1)
    c = cam.crop(1, 1, h, w) if cam.height > 2 and cam.width > 2 else cam
    d = depth[1 : 1 + h, 1 : 1 + w] if c is not cam else depth
    assert np.allclose(c.backproject(d) @ normal, dist)
    c2 = c.resize(2 * c.height, 2 * c.width)
    assert np.allclose(c2.backproject(dist / (c2.rays() @ normal)) @ normal, dist)


def test_fov_and_focal():
    c = Camera.from_fov(90, 100, 200)
    assert np.isclose(c.fx, 100) and np.isclose(c.fov_deg, 90) and (c.cx, c.cy) == (99.5, 49.5)
    assert np.isclose(replace(c, fy=c.fx * 4).focal, 200)
    assert np.allclose(c.K @ [0, 0, 1], [99.5, 49.5, 1])
    assert 60 < NYU_CAMERA.fov_deg < 65
    for bad in (0, 180, -3, 4.99, float("nan"), float("inf"), "60", None, [60]):
        with pytest.raises(ValueError, match="should be 5 to 175 degrees") as e:
            Camera.from_fov(bad, 10, 10)
        assert "radians" not in str(e.value) and repr(bad) in str(e.value)
    for radians in (1.1, np.float32(1.1), 0.09, 3):  # 63, 5 and 172 degrees
        with pytest.raises(ValueError, match="looks like radians"):
            Camera.from_fov(radians, 10, 10)
    assert np.isclose(Camera.from_fov(5, 10, 10).fov_deg, 5) and np.isclose(
        Camera.from_fov(np.float32(175), 10, 10).fov_deg, 175
    )


BAD = [0, -1, float("nan"), float("inf"), "5", None]


@pytest.mark.parametrize(
    "change",
    [{k: v} for k in ("fx", "fy", "height", "width") for v in BAD]
    + [{k: v} for k in ("cx", "cy") for v in BAD[2:]]
    + [{k: v} for k in ("height", "width") for v in (0.5, 4.5)],
)
def test_a_camera_that_cannot_see_is_refused(change):
    with pytest.raises(ValueError, match="a camera needs focal lengths above 0") as e:
        Camera(**dict(fx=5.0, fy=5.0, cx=2.5, cy=1.5, height=4, width=6) | change)
    ((name, value),) = change.items()
    assert f"{name}={value!r}" in str(e.value) and "\n" not in str(e.value)


def test_resize_and_crop_to_nothing_are_refused():
    cam = Camera.from_fov(60, 4, 6)
    for make in (
        lambda: cam.resize(0, 0),
        lambda: cam.resize(-3, 4),
        lambda: cam.resize(2.5, 3),
        lambda: cam.crop(-5, 0, -10, 10),
        lambda: cam.crop(0, 0, 4, 0),
        lambda: replace(cam, fx=0),
        lambda: Camera.from_fov(60, 4, 0),
        lambda: cam.crop(float("nan"), 0, 2, 2),
    ):
        with pytest.raises(ValueError, match="a camera needs"):
            make()
    assert cam.crop(-5, -2, 7, 9).cy == cam.cy + 5  # more than the picture: padding


def test_a_size_may_be_any_whole_number():
    cam = Camera(np.float32(5), 5, 2, 1, np.int64(4), 6.0)
    assert (type(cam.height), type(cam.width)) == (int, int) and cam == Camera(5.0, 5.0, 2, 1, 4, 6)
    assert cam.backproject(np.ones((4, 6))).shape == (4, 6, 3)
    sizes = asdict(Camera.from_fov(60, *np.array([4, 6])).resize(*np.array([8, 12])))
    assert json.loads(json.dumps({k: sizes[k] for k in ("height", "width")})) == dict(height=8, width=12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_equals_numpy(dtype):
    cam = NYU_CAMERA.resize(12, 16)
    d = np.random.default_rng(1).uniform(0.5, 9, (3, 1, 12, 16))
    t = torch.from_numpy(d).to(dtype)
    got = cam.backproject(t)
    want = np.stack([cam.backproject(x[0]) for x in d])
    assert got.shape == (3, 12, 16, 3) and got.dtype == dtype
    assert np.allclose(got.numpy(), want, atol=1e-5)
    assert np.allclose(cam.project(got).numpy(), np.broadcast_to(grid(12, 16), (3, 12, 16, 2)), atol=1e-4)
    assert np.allclose(cam.backproject(t[0, 0]).numpy(), want[0], atol=1e-5)
    g = t.clone().requires_grad_()
    cam.backproject(g).sum().backward()
    assert torch.isfinite(g.grad).all()


def test_holes_and_points_behind():
    cam = Camera.from_fov(60, 4, 6)
    pts = cam.backproject(np.zeros((4, 6), np.float32))
    assert not pts.any() and np.isnan(cam.project(pts)).all()
    assert np.isnan(cam.project(np.array([0, 0, -1.0]))).all()
    assert torch.isnan(cam.project(torch.zeros(3))).all()


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
def test_whole_numbers_are_points_too(kind):
    cam = Camera.from_fov(60, 4, 6)
    p = [[0, 0, 1], [0, 0, 0], [0, 1, -1], [1, 0, 4]]
    got, want = np.asarray(cam.project(kind(p))), cam.project(np.array(p, float))
    assert np.isnan(got[1:3]).all() and np.allclose(got, want, equal_nan=True)
    assert got[0].tolist() == [2.5, 1.5]


@pytest.mark.parametrize("shape", [(3, 5), (5, 2), (4,), ()])
def test_points_have_three_numbers_last(shape):
    cam = Camera.from_fov(60, 4, 6)
    for kind in (np.zeros, torch.zeros):
        with pytest.raises(ValueError, match="x y z last"):
            cam.project(kind(shape))


def test_camera_refuses_what_is_not_its_own():
    cam = Camera.from_fov(60, 4, 6)
    with pytest.raises(ValueError, match=r"camera.resize"):
        cam.backproject(np.ones((6, 4)))
    with pytest.raises(ValueError, match="read_depth"):
        cam.backproject(np.full((4, 6), 2500, np.uint16))
    with pytest.raises(ValueError, match="read_depth"):
        cam.backproject(torch.full((1, 1, 4, 6), 2500))


# ---- pictures -----------------------------------------------------------------------------------------------------------------------


def test_show_depth_shares_a_scale_and_greys_holes():
    import matplotlib

    matplotlib.use("Agg")
    near, far, rgb = np.full((6, 8), 1.0), np.full((6, 8), 4.0), np.zeros((6, 8, 3), np.uint8)
    near[0, 0] = 0
    fig = show_depth([rgb, near, far], ["photo", "near", "far"], vmin=1, vmax=4)
    ims = [ax.images[0] for ax in fig.axes if ax.images and ax.get_title()]
    assert (
        [i.get_clim() for i in ims[1:]] == [(1, 4)] * 2
        and ims[1].get_array().mask[0, 0]
        and not ims[2].get_array().mask.any()
    )
    assert np.allclose(ims[1].cmap(np.ma.masked_all(1))[0, :3], 0.6)
    assert fig.axes[-1].get_ylabel() == "depth (m)"
    auto = show_depth([near, far])
    assert len({ax.images[0].get_clim() for ax in auto.axes[:2]}) == 1
    show_depth(np.zeros((4, 4)))  # no reading at all
    show_depth(rgb)
    show_depth(torch.ones(1, 1, 4, 4))


def test_a_strip_of_depth_makes_no_giant_figure():
    import matplotlib

    matplotlib.use("Agg")
    strip = np.ones((9, 5000), np.float32)
    for ims in (strip, [strip, strip]):
        w, h = show_depth(ims).get_size_inches()
        assert w <= 31 and h < 4
    assert show_depth(strip.T).get_size_inches()[0] < 2 and show_depth(np.ones((480, 640))).get_size_inches()[0] > 5


def test_pictures_two_wide_and_empty_ones():
    import matplotlib

    matplotlib.use("Agg")
    narrow = np.full((6, 2), 2.0)  # two columns are depth, not two channels
    ax = show_depth(narrow).axes[0]
    assert ax.images[0].get_array().shape == (6, 2) and ax.images[0].cmap.name == "turbo"
    assert show_depth(np.zeros((4, 4))).axes[0].images[0].get_clim() == (0, 10)  # nothing to go by: NYU's range
    w = show_depth(np.ones((9, 5000))).get_size_inches()[0]
    assert 30 <= w <= 31


# ---- real frames --------------------------------------------------------------------------------------------------------------------


def test_nyu_in_two_encodings(data):
    folder = data / "nyu" / "data"
    pairs = [
        (f, next((folder / "nyu2_train").glob(f"*/{int(f.name[:5])}.png")))
        for f in sorted((folder / "nyu2_test_format").glob("*_depth.png"))
    ]
    assert len(pairs) == 10
    for mm, eight in pairs:
        a, b = read_depth(mm), read_depth(eight)
        ok = valid_mask(a) & valid_mask(b)
        assert ok.mean() > 0.99 and np.abs(a - b)[ok].max() < 0.0207 and abs((a - b)[ok].mean()) < 0.003
        assert np.abs(read_depth(eight, "level8") - a)[ok].mean() > np.abs(a - b)[ok].mean() * 1.4


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and permissions")
def test_atomic_write_respects_links_pipes_and_permissions(tmp_path):
    import threading

    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "target").chmod(0o600)
    (tmp_path / "link").symlink_to("target")
    atomic_write(tmp_path / "link", b"new")
    assert (
        (tmp_path / "link").is_symlink()
        and (tmp_path / "target").read_bytes() == b"new"
        and (tmp_path / "target").stat().st_mode & 0o777 == 0o600
    )
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    atomic_write(tmp_path / "pipe", b"through")
    reader.join(10)
    assert got == [b"through"] and not (tmp_path / "pipe").is_file()

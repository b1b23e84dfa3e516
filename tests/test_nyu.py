"dogdepth.nyu: readers, splits, cache, doctor and download, on folders and servers the tests make."

import hashlib
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import cv2
import h5py
import numpy as np
import pytest
from scipy.io import savemat

from dogdepth.depth import NYU_CAMERA, Camera, default_camera, read_depth
from dogdepth.files import NYU_MAX_M, read_image
from dogdepth.doctor import DEFECTS, SAME_PICTURE, fingerprint
from dogdepth.nyu import LISTS, SAMPLES, FolderDepth, NYUDepth, NYULabeled, check_dataset, read_list, resize_item
from dogdepth.nyu import sample_frames
from dogdepth.archive import PackedDepth, pack
from dogdepth.download import LABELED, SPLITS, fetch, fetch_labeled
from dogdepth.pairing import nearest_pairs, pair_files, times_s
from dogdepth.layout import _bar, nyu_levels, place, val_places, write_nyu

H, W = 48, 64


def picture(seed, h=H, w=W):
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (w, h), interpolation=cv2.INTER_CUBIC)


def room(seed, scene="kitchen_0001", h=H, w=W):
    rng = np.random.default_rng(1000 + seed)
    depth = cv2.resize(rng.uniform(1, 5, (3, 4)).astype(np.float32), (w, h))
    return dict(
        image=picture(seed, h, w), depth=depth, camera=NYU_CAMERA.resize(h, w), scene=scene, name=f"{scene}/{seed}"
    )


SCENES = ["kitchen_0001", "kitchen_0002", "office_0003", "bedroom_0004a", "bedroom_0004b", "bath_0005"]


def rooms():
    return [room(i, SCENES[i // 2]) for i in range(12)]


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)


@pytest.fixture
def root(tmp_path):
    "Twelve training and three test frames; bath_0005 validates."
    r = tmp_path / "nyu"
    write_nyu(rooms(), r)
    write_nyu([room(100 + i) for i in range(3)], r, split="test")
    (r / "val_scenes.txt").write_text("bath_0005\n")
    return r


# --- encodings and the Kaggle layout


def test_levels_round_trip_exactly():
    v = np.arange(256, dtype=np.uint8)[None]
    metres = np.where(v > 0, np.minimum((v + 0.5) / 255 * NYU_MAX_M, NYU_MAX_M), 0)
    assert np.array_equal(nyu_levels(metres), v)
    d = np.linspace(0.04, 9.99, 5000)[None]
    assert np.abs((nyu_levels(d) + 0.5) / 255 * NYU_MAX_M - d).max() < NYU_MAX_M / 255 / 2 + 1e-6
    assert nyu_levels(np.array([[0.0, 1e-5, 50.0]])).tolist() == [[0, 1, 255]]


def test_train_and_test_agree_with_the_rooms_they_store(root):
    for got, want in zip(NYUDepth(root, split="all"), rooms() + [room(100 + i) for i in range(3)]):
        test = got["scene"] is None
        assert np.abs(got["depth"] - want["depth"]).max() < (0.00051 if test else 0.0197)
        assert np.abs(got["image"].astype(int) - want["image"]).mean() < (1e-9 if test else 12)
        assert got["camera"] == NYU_CAMERA.resize(H, W)
        assert got["image"].dtype == np.uint8 and got["depth"].dtype == np.float32
        assert got["image"].flags.writeable and got["depth"].flags.writeable


def test_names_and_scenes(root):
    ds = NYUDepth(root, split="all")
    assert len(ds) == 15 and ds.scenes == sorted(SCENES)
    assert len({f.name for f in ds.frames}) == 15
    assert (ds[2]["scene"], ds[2]["name"]) == ("kitchen_0002", "kitchen_0002/2")
    assert (ds[-1]["scene"], ds[-1]["name"]) == (None, "00002")
    assert ds.frames[2].at == "nyu2_train.csv:3"
    assert len(NYUDepth(root, split="test")) == 3
    with pytest.raises(IndexError):
        ds[15]


def test_encoding_reaches_the_reader(root):
    a, b = NYUDepth(root)[0]["depth"], NYUDepth(root, encoding="level8")[0]["depth"]
    assert 0.01 < (a - b).mean() < 0.0197


def test_write_nyu_errors_and_interruption(tmp_path, root):
    with pytest.raises(ValueError, match="is there already"):
        write_nyu(rooms(), root)
    with pytest.raises(ValueError, match="should be 'train' or 'test', got 'val'"):
        write_nyu(rooms(), tmp_path / "x", split="val")
    with pytest.raises(ValueError, match="no frame to write"):
        write_nyu([], tmp_path / "x")

    def broken():
        yield room(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_nyu(broken(), tmp_path / "y")
    assert not (tmp_path / "y" / LISTS["train"]).exists()


@pytest.mark.parametrize("where", [".", "..", "data", "moved"])
def test_root_may_be_the_folder_its_parent_or_its_data(root, where, monkeypatch):
    if where == "moved":
        root = root.rename(root.parent / "nyu_data")
        where = ".."
    r = {".": root, "..": root.parent, "data": root / "data"}[where]
    assert len(NYUDepth(r)) == 10
    assert check_dataset(r).ok


def test_root_from_the_environment(root, monkeypatch):
    monkeypatch.setenv("DOGDEPTH_DATA", str(root.parent))
    assert len(NYUDepth(split="val")) == 2
    monkeypatch.delenv("DOGDEPTH_DATA")
    with pytest.raises(FileNotFoundError, match="set DOGDEPTH_DATA to the folder that holds nyu/.*dogdepth data rooms"):
        NYUDepth()


def test_root_errors_say_where_what_and_how(tmp_path, root):
    with pytest.raises(
        FileNotFoundError, match=r"nope: it is not there.*kaggle.com/datasets.*dogdepth data rooms .*nope"
    ):
        NYUDepth(tmp_path / "nope")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds neither data/nyu2_train.csv nor data/nyu2_test.csv"):
        NYUDepth(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileNotFoundError, match="is a file"):
        NYUDepth(tmp_path / "file")
    (root / LISTS["test"]).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no data/nyu2_test.csv in .*split='test' needs.*dogdepth data get labeled"
    ):
        NYUDepth(root, split="test")
    assert len(NYUDepth(root, split="all")) == 12
    with pytest.raises(ValueError, match="split should be .* got 'dev'"):
        NYUDepth(root, split="dev")
    with pytest.raises(ValueError, match="split_by should be 'scene' or 'frame', got 'room'"):
        NYUDepth(root, split_by="room")


@pytest.mark.parametrize(
    "row, why",
    [
        ("a/1.jpg", "has 1 field instead of 2"),
        ("a/1.jpg,a/1.png,9", "has 3 fields instead of 2"),
        ("a/1.jpg,", "has an empty field"),
        ("/etc/passwd.jpg,a/1.png", "leaves the folder"),
        ("../a/1.jpg,a/1.png", "leaves the folder"),
        ("image,depth", "does not name two image files"),
    ],
)
def test_wrong_rows_name_file_and_line(root, row, why):
    p = root / LISTS["train"]
    p.write_text(p.read_text() + "\n" + row + "\n")
    with pytest.raises(ValueError, match=rf"nyu2_train.csv:14 {why}"):
        NYUDepth(root)


def test_lists_may_have_bom_crlf_spaces_and_blank_lines(root):
    p = root / LISTS["train"]
    p.write_bytes(b"\xef\xbb\xbf" + p.read_bytes().replace(b"\n", b"\r\n\r\n").replace(b",", b" , "))
    assert len(NYUDepth(root)) == 10 and NYUDepth(root)[0]["depth"].shape == (H, W)
    p.write_text("\n \n")
    with pytest.raises(ValueError, match="lists no frame"):
        read_list(p)
    p.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="is not a text file"):
        read_list(p)


def test_a_bad_frame_names_its_row(root):
    f = NYUDepth(root).frames[1]
    f.rgb.unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.jpg.*\(row nyu2_train.csv:2\)"):
        NYUDepth(root)[1]
    f.rgb.write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"not an image.*\(row nyu2_train.csv:2\)"):
        NYUDepth(root)[1]
    put(f.rgb, picture(1, 20, 30))
    with pytest.raises(ValueError, match="20x30, its depth 48x64 .*should be one size"):
        NYUDepth(root)[1]


# --- splits


def test_scene_split_is_disjoint_and_complete(root):
    train, val = NYUDepth(root, split="train"), NYUDepth(root, split="val")
    assert val.scenes == ["bath_0005"] and set(train.scenes).isdisjoint(val.scenes)
    assert {f.rgb for f in train.frames} | {f.rgb for f in val.frames} == {
        f.rgb for f in NYUDepth(root, split="all").frames if f.scene
    }


def test_parts_of_one_room_stay_together(root):
    assert [place(s) for s in ("basement_0001a", "basement_0001", "room_a", "a1b2c")] == [
        "basement_0001",
        "basement_0001",
        "room_a",
        "a1b2",
    ]
    (root / "val_scenes.txt").write_text("# ours\nbedroom_0004a_out  # part a\n\n")
    assert NYUDepth(root, split="val").scenes == ["bedroom_0004a", "bedroom_0004b"]
    for names in (["x_0001a", "x_0001b", "y_0002"], ["x_0001b", "y_0002", "z_0003c"]):
        assert val_places(names) <= {place(n) for n in names}


def test_hash_split_is_fixed_and_about_one_in_eight():
    names = [f"room_{i:05d}" for i in range(4000)]
    val = val_places(names)
    assert 0.11 < len(val) / 4000 < 0.14
    assert val == val_places(names[::-1] + [None])
    assert val_places(names[:2000]) == {
        v for v in val if v < "room_02000"
    }  # a room's side does not depend on the others
    assert "room_00009" in val and "room_00000" not in val  # fixed for good


def test_small_folders_still_have_two_sides(root):
    (root / "val_scenes.txt").unlink()
    a, b = NYUDepth(root, split="train"), NYUDepth(root, split="val")
    assert len(a) + len(b) == 12 and len(b) >= 2 and set(a.scenes).isdisjoint(b.scenes)
    for n in range(2, 30):  # never none, never all
        for start in range(0, 60, 7):
            names = [f"room_{i:05d}" for i in range(start, start + n)]
            assert 0 < len(val_places(names)) < n
    all_val = sorted(val_places([f"room_{i:05d}" for i in range(200)]))[:3]
    assert len(val_places(all_val)) == 2


def test_one_room_cannot_be_split(tmp_path):
    write_nyu([room(0), room(1)], tmp_path)
    assert len(NYUDepth(tmp_path)) == 2
    with pytest.raises(
        ValueError, match="falls into split='val'.*at least two scenes.*val_scenes.txt.*split_by='frame'"
    ):
        NYUDepth(tmp_path, split="val")


def test_frame_split_is_80_20_and_follows_the_seed(root):
    def names(split, seed=0):
        return [f.name for f in NYUDepth(root, split=split, split_by="frame", seed=seed).frames]

    assert len(names("val")) == 2 and len(names("train")) == 10
    assert set(names("val")).isdisjoint(names("train"))
    assert names("val") == names("val")
    assert len({tuple(names("val", s)) for s in range(8)}) > 4
    assert NYUDepth(root, split="val", seed=5).scenes == NYUDepth(root, split="val").scenes  # scenes do not


# --- resizing


@pytest.mark.parametrize("size", [(24, 32), (31, 47), (96, 128), (48, 64)])
def test_resize_keeps_depth_values_and_moves_the_camera(size):
    it = room(3)
    it["depth"][:10] = 0
    r = resize_item(it, *size)
    assert r["image"].shape == (*size, 3) and r["depth"].shape == size
    assert set(np.unique(r["depth"])) <= set(np.unique(it["depth"]))
    assert r["camera"] == it["camera"].resize(*size) and r["name"] == it["name"]
    assert abs(float(r["image"].mean()) - float(it["image"].mean())) < 3
    assert it["depth"].shape == (H, W)


# --- the official .mat


def strings(f, key, values):
    refs = f.create_dataset(key, (1, len(values)), h5py.ref_dtype)
    for i, v in enumerate(values):
        f[f"#refs#/{key}{i}"] = np.array([[ord(c)] for c in v], np.uint16)
        refs[0, i] = f[f"#refs#/{key}{i}"].ref


@pytest.fixture
def mat(tmp_path):
    "A file built as nyu_depth_v2_labeled.mat is, with six frames."
    its = [room(i, SCENES[i]) for i in range(6)]
    raw = [it["depth"].copy() for it in its]
    for d in raw:
        d[:, :5] = 0
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as f:
        f["images"] = np.stack([it["image"].transpose(2, 1, 0) for it in its])
        f["depths"] = np.stack([it["depth"].T for it in its])
        f["rawDepths"] = np.stack([d.T for d in raw])
        strings(f, "scenes", SCENES)
        strings(f, "sceneTypes", [s.split("_")[0] for s in SCENES])
    savemat(
        tmp_path / "splits.mat",
        dict(trainNdxs=np.array([[1], [2], [5]], np.uint16), testNdxs=np.array([[3], [4], [6]], np.uint16)),
    )
    return tmp_path / "nyu_depth_v2_labeled.mat", its


def test_labeled_items(mat):
    path, its = mat
    for split, idx in (("train", [0, 1, 4]), ("test", [2, 3, 5]), ("all", range(6))):
        ds = NYULabeled(path, split=split)
        assert len(ds) == len(list(ds)) == len(idx)
        for got, i in zip(ds, idx):
            assert np.array_equal(got["image"], its[i]["image"]) and np.array_equal(got["depth"], its[i]["depth"])
            assert (got["scene"], got["name"], got["camera"]) == (SCENES[i], f"{i:05d}", its[i]["camera"])
            assert got["depth"].dtype == np.float32 and got["image"].flags.writeable
        assert ds.scene == [SCENES[i] for i in idx]
    assert NYULabeled(path.parent).split == "test"  # the folder will do
    assert ds.scenes == sorted(SCENES) and ds.scene_types[2] == "office"
    assert "6 frames" in repr(ds)


def test_labeled_raw_has_the_holes(mat):
    ds = NYULabeled(mat[0], split="all", raw=True)
    assert (ds[0]["depth"][:, :5] == 0).all() and (ds[0]["depth"][:, 5:] > 0).all()


def test_labeled_errors(mat, tmp_path):
    path, _ = mat
    with pytest.raises(ValueError, match="split should be 'train', 'test' or 'all', got 'val'"):
        NYULabeled(path, split="val")
    with pytest.raises(FileNotFoundError, match="no such file.*dogdepth data get labeled"):
        NYULabeled(tmp_path / "no.mat")
    splits = path.with_name("splits.mat")
    elsewhere = splits.rename(tmp_path / "elsewhere.mat")
    assert len(NYULabeled(path, splits=elsewhere)) == 3
    with pytest.raises(FileNotFoundError, match="splits.mat; it says which.*dogdepth data get labeled"):
        NYULabeled(path)
    assert len(NYULabeled(path, split="all")) == 6
    splits.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not the official splits.mat"):
        NYULabeled(path)
    savemat(splits, dict(testNdxs=[[0], [3]]))
    with pytest.raises(ValueError, match="names frames that .* does not hold: .*1 to 6"):
        NYULabeled(path)
    savemat(splits, dict(testNdxs=[[7]]))
    with pytest.raises(ValueError, match="does not hold"):
        NYULabeled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole HDF5 file.*official"):
        NYULabeled(path, split="all")
    with h5py.File(path, "w") as f:
        f["depths"] = np.zeros((2, 4, 3))
    with pytest.raises(ValueError, match="holds no images"):
        NYULabeled(path, split="all")
    with h5py.File(path, "a") as f:
        f["images"] = np.zeros((3, 3, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="3 images but 2 depth maps"):
        NYULabeled(path, split="all")


def child(ds, i, pid_of_parent, queue):
    queue.put((os.getpid() != pid_of_parent, float(ds[i]["depth"].sum()), ds[i]["name"]))


def test_files_open_once_per_process(mat, tmp_path):
    labeled = NYULabeled(mat[0], split="all")
    packed = PackedDepth(pack(labeled, tmp_path / "p.h5", progress=False))
    ctx = multiprocessing.get_context("fork")
    for ds in (labeled, packed):
        want = float(ds[1]["depth"].sum())  # opened here first
        assert ds._pid == os.getpid()
        queue = ctx.Queue()
        ps = [ctx.Process(target=child, args=(ds, 1, os.getpid(), queue)) for _ in range(2)]
        for p in ps:
            p.start()
        for other, total, name in [queue.get(timeout=60) for _ in ps]:
            assert other and total == want and name == ds[1]["name"]
        for p in ps:
            p.join()
        assert float(ds[1]["depth"].sum()) == want
        twin = pickle.loads(pickle.dumps(ds))  # as a spawned worker gets it
        assert twin._file is None and float(twin[1]["depth"].sum()) == want


def test_a_forked_child_gets_a_handle_of_its_own(mat, monkeypatch):
    ds = NYULabeled(mat[0], split="all")
    first = ds.file
    assert ds.file is first
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert ds.file is not first and ds._pid == -1


# --- the packed cache


def test_pack_round_trip(root, tmp_path):
    ds = NYUDepth(root, split="all")
    packed = PackedDepth(pack(ds, tmp_path / "deep" / "er" / "x.h5", progress=False))
    assert len(packed) == len(ds) == 15 and packed.scenes == ds.scenes and "48x64" in repr(packed)
    for a, b in zip(packed, ds):
        assert np.array_equal(a["image"], b["image"]) and np.abs(a["depth"] - b["depth"]).max() < 0.00051
        assert np.array_equal(a["depth"] == 0, b["depth"] == 0)
        assert (a["scene"], a["name"], a["camera"]) == (b["scene"], b["name"], b["camera"])
        assert a["depth"].dtype == np.float32 and a["image"].flags.writeable and isinstance(a["camera"].height, int)
    assert packed.scene == ds.scene == [f["scene"] for f in ds]
    assert packed[-1]["name"] == ds[-1]["name"]
    for i in (15, -16):
        with pytest.raises(IndexError, match="of 15"):
            packed[i]
    assert [p.name for p in (tmp_path / "deep" / "er").iterdir()] == ["x.h5"]


def test_pack_resizes_and_stores_what_training_needs(root, tmp_path):
    path = pack(NYUDepth(root), tmp_path / "x.h5", size=(24, 32), progress=False)
    it, want = PackedDepth(path)[4], resize_item(NYUDepth(root)[4], 24, 32)
    assert np.array_equal(it["image"], want["image"]) and it["camera"] == want["camera"] == NYU_CAMERA.resize(
        H, W
    ).resize(24, 32)
    with h5py.File(path) as f:
        assert f["image"].dtype == np.uint8 and f["depth"].dtype == np.uint16
        assert f["image"].chunks == (1, 24, 32, 3) and f["depth"].chunks == (1, 24, 32)


def test_pack_keeps_far_depth_and_holes(tmp_path):
    it = room(0)
    it["depth"][0, :3] = 0, 80.0, 0.0004
    with pytest.warns(UserWarning, match="1 of .* readings lie beyond 65.534 m"):
        path = pack([it], tmp_path / "x.h5", progress=False)
    assert PackedDepth(path)[0]["depth"][0, :3].tolist() == pytest.approx([0, 65.534, 0])


def test_pack_is_all_or_nothing(root, tmp_path):
    path = tmp_path / "x.h5"
    path.write_text("the old one")
    ds = NYUDepth(root)
    ds.frames[5].rgb.write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        pack(ds, path, progress=False)
    assert (
        path.read_text() == "the old one"
        and [p.name for p in tmp_path.glob("*.part")] + [p.name for p in tmp_path.glob(".*")] == []
    )
    with pytest.raises(ValueError, match="nothing to pack"):
        pack([], path)
    for size in ((0, 0), (24, -32), (24,), 24, (24.5, 32)):
        with pytest.raises(ValueError, match=r"size should be \(H,W\) in pixels, 1 or more each, got"):
            pack([room(0)], path, size, progress=False)
    assert path.read_text() == "the old one"


def test_packed_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="dogdepth data pack ROOT OUT.h5"):
        PackedDepth(tmp_path / "x.h5")
    (tmp_path / "x.h5").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="not a whole HDF5 file"):
        PackedDepth(tmp_path / "x.h5")
    with h5py.File(tmp_path / "y.h5", "w") as f:
        f["image"] = 1
    with pytest.raises(ValueError, match="holds no depth, camera, scene, name"):
        PackedDepth(tmp_path / "y.h5")


# --- the doctor: one planted folder per defect


def frame(root, i=0, split="train"):
    return read_list(root / LISTS[split])[i]


def rewrite(root, old, new, split="train"):
    p = root / LISTS[split]
    assert old in p.read_text()
    p.write_text(p.read_text().replace(old, new, 1))


def mm_png(path, metres):
    put(path, np.rint(metres * 1000).astype(np.uint16))


def plant_missing_list(r):
    (r / LISTS["test"]).unlink()


def plant_bad_row(r):
    rewrite(r, "1.jpg,", "1.jpg;")


def plant_missing_file(r):
    frame(r).depth.unlink()


def plant_empty_file(r):
    frame(r).rgb.write_bytes(b"")


def plant_unreadable(r):
    p = frame(r).rgb
    p.write_bytes(p.read_bytes()[:-400])


def plant_not_a_photo(r):
    put(frame(r, 0, "test").rgb, np.full((H, W), 3000, np.uint16) + np.arange(W, dtype=np.uint16))


def plant_not_a_depth_map(r):
    put(frame(r).depth, picture(0))


def plant_wrong_pair(r):
    rewrite(r, "kitchen_0001_out/0.png", "kitchen_0001_out/1.png")


def plant_blank_photo(r):
    put(frame(r).rgb, np.full((H, W, 3), 77, np.uint8))


def plant_size_mismatch(r):
    put(frame(r).depth, nyu_levels(room(0, h=24, w=32)["depth"]))


def plant_odd_size(r):
    put(frame(r).rgb, picture(0, 24, 32))
    put(frame(r).depth, nyu_levels(room(0, h=24, w=32)["depth"]))


def plant_unit_mix_up(r):
    mm_png(frame(r).depth, room(0)["depth"])


def plant_implausible_depth(r):
    mm_png(frame(r, 0, "test").depth, room(0)["depth"] * 5)


def plant_all_holes(r):
    put(frame(r).depth, np.zeros((H, W), np.uint8))


def plant_many_holes(r):
    d = nyu_levels(room(0)["depth"])
    d[:30] = 0
    put(frame(r).depth, d)


def plant_constant_depth(r):
    put(frame(r).depth, np.full((H, W), 60, np.uint8))


def plant_duplicate_row(r):
    p = r / LISTS["train"]
    p.write_text(p.read_text() + p.read_text().splitlines()[3] + "\n")


def plant_duplicate_photo(r):
    frame(r, 1).rgb.write_bytes(frame(r, 0).rgb.read_bytes())


def plant_frame_leak(r):
    put(frame(r, 1, "test").rgb, cv2.imread(str(frame(r, 2).rgb)))


def plant_unknown_val_scene(r):
    (r / "val_scenes.txt").write_text("bath_0005\nattic_0009\n")


def plant_empty_split(r):
    (r / "val_scenes.txt").write_text("\n".join(SCENES))


def plant_scene_leak(r):
    d = r / "data/nyu2_test/kitchen_0002_out"
    d.mkdir()
    for f, n in ((frame(r, 0, "test").rgb, "00000_colors.png"), (frame(r, 0, "test").depth, "00000_depth.png")):
        f.rename(d / n)
    rewrite(
        r,
        "data/nyu2_test/00000_colors.png,data/nyu2_test/00000_depth.png",
        "data/nyu2_test/kitchen_0002_out/00000_colors.png,data/nyu2_test/kitchen_0002_out/00000_depth.png",
        "test",
    )


WHERE = {  # the file each planted defect should be reported at, and a word of the message
    "missing-list": ("data/nyu2_test.csv", "the folder data/nyu2_test/ is"),
    "bad-row": ("data/nyu2_train.csv", "line 2 has 1 field"),
    "missing-file": ("data/nyu2_train/kitchen_0001_out/0.png", "not there"),
    "empty-file": ("data/nyu2_train/kitchen_0001_out/0.jpg", "0 bytes"),
    "unreadable": ("data/nyu2_train/kitchen_0001_out/0.jpg", "damaged or cut short"),
    "not-a-photo": ("data/nyu2_test/00000_colors.png", "16 bits"),
    "not-a-depth-map": ("data/nyu2_train/kitchen_0001_out/0.png", "shape"),
    "wrong-pair": ("data/nyu2_train/kitchen_0001_out/0.jpg", "listed with 1.png"),
    "blank-photo": ("data/nyu2_train/kitchen_0001_out/0.jpg", "one colour"),
    "size-mismatch": ("data/nyu2_train/kitchen_0001_out/0.jpg", "is 48x64, its depth 24x32"),
    "odd-size": ("data/nyu2_train/kitchen_0001_out/0.jpg", "is 24x32, most frames are 48x64"),
    "unit-mix-up": ("data/nyu2_train/kitchen_0001_out/0.png", "16 bits"),
    "implausible-depth": ("data/nyu2_test/00000_depth.png", "median is 1"),
    "all-holes": ("data/nyu2_train/kitchen_0001_out/0.png", "no reading"),
    "many-holes": ("data/nyu2_train/kitchen_0001_out/0.png", "62%"),
    "constant-depth": ("data/nyu2_train/kitchen_0001_out/0.png", "everywhere"),
    "duplicate-row": ("data/nyu2_train/kitchen_0002_out/3.jpg", "nyu2_train.csv:4 and again at nyu2_train.csv:13"),
    "duplicate-photo": ("data/nyu2_train/kitchen_0001_out/1.jpg", "same file as kitchen_0001/0"),
    "frame-leak": ("data/nyu2_test/00001_colors.png", "(test) is the same picture as kitchen_0002/2 (train)"),
    "scene-leak": ("data/nyu2_test.csv", "kitchen_0002 is in the training list too"),
    "unknown-val-scene": ("val_scenes.txt", "attic_0009"),
    "empty-split": ("val_scenes.txt", "no room to train on"),
}


def test_a_healthy_folder_is_healthy(root):
    r = check_dataset(root)
    assert r.ok and r.defects == [] and r.kinds == {} and (r.frames, r.scenes) == (15, 6)
    assert str(r).startswith("nyu: 15 frames, 6 scenes, no defect") and "no defect" in r._repr_html_()
    assert r.notes == ["frames are 48x64, not NYU's 480x640: NYU's camera is resized to fit"]


@pytest.mark.parametrize("kind", DEFECTS)
def test_each_planted_defect_is_named_alone(root, kind):
    globals()["plant_" + kind.replace("-", "_")](root)
    report = check_dataset(root)
    assert not report.ok and report.kinds == {kind: 1}, str(report)
    file, word = WHERE[kind]
    (d,) = report.defects
    assert (d.kind, d.file) == (kind, file) and word in d.message
    assert f"1 defect (1 {kind})" in str(report) and file in str(report)
    assert kind in report._repr_html_()


def test_other_faces_of_the_same_defects(root):
    def kinds():
        return check_dataset(root).kinds

    t = frame(root, 0, "test")
    put(t.depth, nyu_levels(room(100)["depth"]))
    assert kinds() == {"unit-mix-up": 1}  # 8 bits among the test frames
    mm_png(t.depth, room(100)["depth"] / 10)
    assert kinds() == {"implausible-depth": 1}  # centimetres
    mm_png(t.depth, room(100)["depth"])
    assert kinds() == {}
    put(frame(root).depth, np.rint(room(0)["depth"]).astype(np.uint8))
    assert kinds() == {"implausible-depth": 1}  # whole metres as levels
    put(frame(root).depth, nyu_levels(room(0)["depth"]))
    frame(root).rgb.write_bytes(b"GIF? no")
    assert kinds() == {"unreadable": 1}
    put(frame(root).rgb, picture(0))
    put(frame(root, 11).rgb, picture(0))  # a validation room's frame is a training picture
    assert kinds() == {"frame-leak": 1}
    put(frame(root, 11).rgb, picture(11))
    (root / "val_scenes.txt").write_text("attic_0001\n")
    assert kinds() == {"unknown-val-scene": 1, "empty-split": 1}
    (root / LISTS["train"]).write_bytes(b"\xff\xfe\x00\x81")
    assert kinds() == {"bad-row": 1}
    (root / LISTS["train"]).write_text("")
    assert "bad-row" in kinds()


def test_parts_of_one_room_in_two_lists_leak(root):
    (root / "data/nyu2_train/bedroom_0004b_out").rename(root / "data/nyu2_test/bedroom_0004b_out")
    p = root / LISTS["train"]
    rows = p.read_text().splitlines(True)
    p.write_text("".join(r for r in rows if "0004b" not in r))
    for q in sorted((root / "data/nyu2_test/bedroom_0004b_out").glob("*.png")):
        mm_png(q, read_depth(q))
    (root / LISTS["test"]).write_text(
        (root / LISTS["test"]).read_text() + "".join(r.replace("nyu2_train", "nyu2_test") for r in rows if "0004b" in r)
    )
    assert check_dataset(root).kinds == {"scene-leak": 1}


def test_many_holes_follows_its_limit(root):
    plant_many_holes(root)
    assert check_dataset(root, max_holes=0.7).ok


def test_missing_lists_and_folders(tmp_path, root):
    (tmp_path / "empty").mkdir()
    r = check_dataset(tmp_path / "empty")
    assert r.kinds == {"missing-list": 1} and r.frames == 0
    with pytest.raises(FileNotFoundError, match="nope: it is not there"):
        check_dataset(tmp_path / "nope")
    for f in LISTS.values():
        (root / f).unlink()
    assert check_dataset(root).kinds == {"missing-list": 2}


def test_notes_are_no_defects(tmp_path):
    write_nyu([room(i, SCENES[i]) for i in range(4)], tmp_path)
    put(tmp_path / "data/nyu2_train/kitchen_0001_out/77.jpg", picture(77))
    r = check_dataset(tmp_path)
    assert r.ok and any("no data/nyu2_test.csv" in n for n in r.notes) and "1 photo on disk in no list" in r.notes
    assert "note: 1 photo" in str(r)


def test_report_escapes_and_stays_short(root):
    p = root / LISTS["train"]
    p.write_text(p.read_text() + "<script>\n" * 60)
    r = check_dataset(root)
    assert r.kinds == {"bad-row": 60} and str(r).count("\n") < 56 and "10 more" in str(r)
    assert "<script>" not in r._repr_html_() and "&lt;script&gt;" in r._repr_html_()


def test_progress_of_the_doctor(root, capsys):
    check_dataset(root, progress=True)
    err = capsys.readouterr().err
    assert "check: 100%" in err and "15/15" in err and "frames/s" in err and err.count("\n") == 1
    check_dataset(root)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_fingerprint_knows_a_copy(quality):
    for seed in range(5):
        img = picture(seed, 120, 160)
        copy = cv2.imdecode(cv2.imencode(".jpg", img, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)
        assert np.bitwise_count(fingerprint(img) ^ fingerprint(copy)).sum() <= SAME_PICTURE
        assert np.bitwise_count(fingerprint(img) ^ fingerprint(cv2.resize(img, (320, 240)))).sum() <= SAME_PICTURE
        other = picture(seed + 1, 120, 160)
        assert np.bitwise_count(fingerprint(img) ^ fingerprint(other)).sum() > 60


# --- the reader's own folders


@pytest.mark.parametrize(
    "rgb, depth, want",
    [
        ("f10.jpg f2.jpg", "f10.png f2.png", [("f2.jpg", "f2.png"), ("f10.jpg", "f10.png")]),
        (
            "rgb/7.jpg rgb/8.jpg",
            "depth/0007.png depth/0008.png",
            [("rgb/7.jpg", "depth/0007.png"), ("rgb/8.jpg", "depth/0008.png")],
        ),
        ("rgb_00000.jpg", "sync_depth_00000.png", [("rgb_00000.jpg", "sync_depth_00000.png")]),
        (
            "b/rgb/1.png a/rgb/1.png",
            "a/depth/1.png b/depth/1.png",
            [("a/rgb/1.png", "a/depth/1.png"), ("b/rgb/1.png", "b/depth/1.png")],
        ),
        (
            "1305.17.png 1305.21.png",
            "1305.16.png 1305.19.png",
            [("1305.17.png", "1305.16.png"), ("1305.21.png", "1305.19.png")],
        ),  # TUM: times, the nearest
        ("x.jpg", "y.png", [("x.jpg", "y.png")]),
    ],
)
def test_pairing(rgb, depth, want):
    assert [(a.as_posix(), b.as_posix()) for a, b in pair_files(rgb.split(), depth.split())] == want


@pytest.mark.parametrize(
    "rgb, depth, match",
    [
        ("1.jpg 2.jpg 3.jpg", "1.png 3.png", r"3 photos and 2 depth maps.*Photos without depth: 2\.jpg"),
        ("1.jpg", "1.png 2.png", r"1 photos and 2 depth maps.*Depth maps without photo: 2\.png"),
        (
            "1.jpg 2.jpg 3.jpg",
            "1.png 2.png 4.png",
            r"Photos without depth: 3\.jpg. Depth maps without photo: 4\.png",
        ),  # equal counts, other frames
        ("a.jpg b.jpg", "x.png", "Their names do not tell"),
    ],
)
def test_pairing_errors(rgb, depth, match):
    with pytest.raises(ValueError, match=match):
        pair_files(rgb.split(), depth.split())


T0 = 1311868164


def stamped(folder, frames, name, late=0.0, suffix=".png"):
    "Names of 30 frames a second, as `name` writes seconds."
    return [f"{folder}/{name(T0 + k / 30 + late)}{suffix}" for k in frames]


TIMES = {  # how cameras write a moment into a name
    "TUM": lambda s: f"{s:.6f}",
    "prefix": lambda s: f"cam-{s:.6f}-aligned",
    "ROS": lambda s: f"{int(s)}_{round(s % 1 * 1e9):09d}",
    "NYU raw": lambda s: f"r-{s:.6f}-{int(s * 1e3) % 10**10:010d}",
    "ms": lambda s: f"{s * 1e3:.0f}",
    "us": lambda s: f"frame_{s * 1e6:.0f}",
    "ns": lambda s: f"{round(s * 1e6) * 1000}",
    "ns since boot": lambda s: f"{round((s - T0 + 86_400) * 1e6) * 1000}",
    "us since start, padded": lambda s: f"{round((s - T0) * 1e6):012d}",
    "s since start": lambda s: f"{s - T0:.4f}",
    "date": lambda s: __import__("datetime").datetime.fromtimestamp(s).strftime("%Y%m%d_%H%M%S_%f"),
    "date, milliseconds": lambda s: (
        __import__("datetime").datetime.fromtimestamp(s).strftime("%Y-%m-%d-%H-%M-%S.%f")[:-3]
    ),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_pair_with_the_nearest(kind):
    "Colour dropped frames 5 and 6, depth 20; depth is 4 ms late."
    rgb, depth = [k for k in range(40) if k not in (5, 6)], [k for k in range(40) if k != 20]
    a, b = stamped("rgb", rgb, TIMES[kind], 0.002), stamped("depth", depth, TIMES[kind], 0.006)
    with pytest.warns(UserWarning, match=r"3 of 77 files have no partner \(times within 0.02 s\)"):
        pairs = pair_files(a, b)
    both = [k for k in rgb if k in depth]
    want = list(zip(stamped("rgb", both, TIMES[kind], 0.002), stamped("depth", both, TIMES[kind], 0.006)))
    assert [(x.as_posix(), y.as_posix()) for x, y in pairs] == want


def test_equal_counts_of_times_are_not_paired_by_order(recwarn):
    a, b = (
        stamped("rgb", [k for k in range(60) if k != 5], TIMES["TUM"]),
        stamped("depth", [k for k in range(60) if k != 50], TIMES["TUM"], 0.004),
    )
    assert len(a) == len(b)
    pairs = pair_files(a, b)
    assert len(pairs) == 58 and all(abs(float(x.stem) - float(y.stem)) < 0.005 for x, y in pairs) and len(recwarn) == 1


def test_two_rates_and_a_tolerance(recwarn):
    a = stamped("rgb", range(30), TIMES["TUM"])
    b = stamped("depth", range(0, 30, 3), TIMES["TUM"], 0.004)
    assert len(pair_files(a, b)) == 10 and "20 of 40 files" in str(recwarn[0].message)
    late = stamped("depth", range(30), TIMES["TUM"], 5.0)  # a clock that is five seconds off
    with pytest.raises(
        ValueError, match=r"no two lie within 0.02 s \(the nearest are 4.03 s apart: do the two clocks differ"
    ):
        pair_files(a, late)
    far = stamped("depth", range(0, 30, 3), TIMES["TUM"], 0.0166)
    assert len(pair_files(a, far)) == 10
    with pytest.raises(ValueError, match="no two lie within 0.01 s"):
        pair_files(a, far, max_difference=0.01)
    for bad in (-1, float("nan"), "0.02", None):
        with pytest.raises(ValueError, match="max_difference should be seconds"):
            pair_files(a, b, max_difference=bad)


def test_each_file_is_used_once():
    assert nearest_pairs([0.0, 0.010], [0.006], 0.02) == [(1, 0)]
    assert nearest_pairs([1.0, 1.01], [1.011, 1.0], 0.02) == [(0, 1), (1, 0)]
    assert nearest_pairs([], [1.0], 0.02) == []
    assert nearest_pairs([0.02], [0.0], 0.02) == [(0, 0)]


def test_each_scene_has_its_own_clock():
    def of(kind, late):
        return [p for s in "ab" for p in stamped(f"{s}/{kind}", range(4), TIMES["s since start"], late)]

    pairs = pair_files(of("rgb", 0), of("depth", 0.003))
    assert len(pairs) == 8 and all(x.parts[0] == y.parts[0] for x, y in pairs)
    with pytest.warns(UserWarning, match="4 of 12 files have no partner"):
        assert len(pair_files(of("rgb", 0), of("depth", 0.003)[:4])) == 4  # the second scene has no depth


def test_what_is_no_time():
    assert times_s(["1.png", "2.png"]) is None and times_s([]) is None and times_s(["1.5.png", "b.png"]) is None
    assert times_s(["v1.5_a.png", "v1.5_b.png"]) is None  # a version, the same in every name
    assert times_s(["0000000007.png", "0000000008.png"]).tolist() == [
        7,
        8,
    ]  # padded frame numbers pair where they are equal
    assert times_s(["20119999999999.png"]) is None  # digits of no date, and one frame has no step


@pytest.mark.parametrize(
    "rgb, depth, want",
    [
        ("left_0001.jpg left_0002.jpg", "disp_0001.png disp_0002.png", [1, 2]),  # other words, equal numbers
        ("cam0_07.jpg cam0_9.jpg", "cam1_0009.png cam1_0007.png", [7, 9]),
        ("x/00_a.jpg x/01_b.jpg", "y/1_b.png y/0_a.png", [0, 1]),
    ],
)
def test_numbers_pair_whatever_the_words(rgb, depth, want):
    last = [[int(re.findall(r"\d+", p.stem)[-1]) for p in pair] for pair in pair_files(rgb.split(), depth.split())]
    assert last == [[k, k] for k in want]


@pytest.mark.parametrize(
    "rgb, depth, match",
    [
        ("0.jpg 1.jpg 2.jpg", "1.png 2.png 3.png", "counted from different starts"),
        ("IMG_101.jpg IMG_102.jpg", "d_1.png d_2.png", "carry different numbers .*order alone would be a guess"),
        (
            "a_1.jpg a_2.jpg a_4.jpg",
            "b_1.png b_3.png b_4.png",
            "Photos without depth: a_2.jpg. Depth maps without photo: b_3.png",
        ),
        ("7.jpg 07.jpg 8.jpg", "7.png 8.png 9.png", "Some names say the same frame: 0?7.jpg, 0?7.jpg"),
        ("s/rgb/1.jpg t/rgb/1.jpg", "s/depth/1.png", "A folder has only one of the two: 1.jpg"),
    ],
)
def test_names_that_speak_against_order(rgb, depth, match):
    with pytest.raises(ValueError, match=match):
        pair_files(rgb.split(), depth.split())


def test_odd_frames_can_be_left_out():
    with pytest.warns(
        UserWarning, match="2 of 6 files have no partner and are left out: photos 2.jpg; depth maps 3.png"
    ):
        pairs = pair_files(["1.jpg", "2.jpg", "4.jpg"], ["0001.png", "3.png", "4.png"], unpaired="skip")
    assert [(a.name, b.name) for a, b in pairs] == [("1.jpg", "0001.png"), ("4.jpg", "4.png")]
    with pytest.raises(ValueError, match="unpaired should be"):
        pair_files(["1.jpg"], ["1.png"], unpaired="drop")


def test_order_alone_is_said():
    with pytest.warns(UserWarning, match="paired in their order, a.jpg with x.png"):
        assert [(a.name, b.name) for a, b in pair_files(["b.jpg", "a.jpg"], ["x.png", "y.png"])] == [
            ("a.jpg", "x.png"),
            ("b.jpg", "y.png"),
        ]


@pytest.fixture
def tum(tmp_path):
    "Six frames as TUM RGB-D stores them, the third depth map missing."
    root, rows = tmp_path / "freiburg", {"rgb": [], "depth": []}
    for k in range(6):
        for folder, late in (("rgb", 0.0), ("depth", 0.004)):
            if (folder, k) == ("depth", 2):
                continue
            t = f"{T0 + k / 30 + late:.6f}"
            put(root / folder / f"{t}.png", picture(k) if folder == "rgb" else np.full((H, W), 5000 + k, np.uint16))
            rows[folder].append(f"{t} {folder}/{t}.png")
    for folder, lines in rows.items():
        (root / f"{folder}.txt").write_text(f"# {folder} maps\n# file: 'x.bag'\n" + "\n".join(lines) + "\n")
    pairs = [f"{a} {b}" for a, b in zip([r for i, r in enumerate(rows["rgb"]) if i != 2], rows["depth"])]
    (root / "associations.txt").write_text("\n".join(pairs))
    (root / "swapped.txt").write_text("\n".join(" ".join((w := p.split())[2:] + w[:2]) for p in pairs))
    return root


@pytest.mark.parametrize(
    "rgb, depth",
    [
        ("rgb/*.png", "depth/*.png"),
        ("rgb.txt", "depth.txt"),
        ("associations.txt", "associations.txt"),
        ("swapped.txt", "swapped.txt"),
    ],
)
def test_a_tum_folder(tum, rgb, depth, recwarn):
    ds = FolderDepth(tum, rgb, depth, encoding="tum16", camera=60.0)
    assert [round(float(ds[i]["depth"][0, 0] * 5000)) - 5000 for i in range(len(ds))] == [0, 1, 3, 4, 5]
    assert np.array_equal(ds[2]["image"], picture(3)[..., ::-1])
    assert len(recwarn) == (0 if rgb[0] in "as" else 1)


def test_lists_of_times_that_are_none(tum):
    (tum / "bad.txt").write_text("1.0 rgb/1.png\nrgb/2.png 2.0\n")
    (tum / "none.txt").write_text("# nothing\n")
    for name, match in (
        ("bad.txt", "bad.txt:2 is 'rgb/2.png 2.0'; expected a time and a file"),
        ("none.txt", "lists no frame"),
        ("rgb.txt", "give two lists of times"),
    ):
        with pytest.raises(ValueError, match=match):
            FolderDepth(tum, name, name)
    with pytest.raises(ValueError, match="no two lie within 0.001 s"):
        FolderDepth(tum, "rgb.txt", "depth.txt", max_difference=0.001)


def test_folder_of_levels_needs_a_name(folder):
    for i in (2, 10):
        put(folder / f"{i}.png", nyu_levels(room(i)["depth"]))
    with pytest.raises(ValueError, match="8 bits a pixel.*'nyu8'"):
        FolderDepth(folder)
    assert np.abs(FolderDepth(folder, encoding="nyu8")[0]["depth"] - room(2)["depth"]).max() < 0.02
    assert FolderDepth(folder, scale=0.1)[0]["depth"].max() < 25.5


def test_folder_marks(folder):
    d = np.rint(room(2)["depth"] * 1000).astype(np.uint16)
    d[0, :4], d[1, :4] = 65535, 4000
    put(folder / "2.png", d)
    assert (
        not FolderDepth(folder)[0]["depth"][0, :4].any()
        and not FolderDepth(folder, invalid=4000)[0]["depth"][1, :4].any()
    )
    assert FolderDepth(folder, invalid=())[0]["depth"][0, 0] == pytest.approx(65.535)


@pytest.fixture
def folder(tmp_path):
    for i in (2, 10):
        it = room(i)
        put(tmp_path / "mine" / f"{i}.jpg", it["image"][..., ::-1])
        mm_png(tmp_path / "mine" / f"{i}.png", it["depth"])
    return tmp_path / "mine"


def test_folder_items(folder):
    ds = FolderDepth(folder)
    assert ds.scene == [f["scene"] for f in ds]
    assert (
        len(ds) == 2 and [it["name"] for it in ds] == ["2", "10"] and ds.scenes == ["mine"] and "2 frames" in repr(ds)
    )
    it = ds[0]
    assert np.abs(it["depth"] - room(2)["depth"]).max() < 0.00051 and it["image"].shape == (H, W, 3)
    assert it["camera"] == default_camera(H, W) and set(it) == {"image", "depth", "camera", "scene", "name"}


def test_folder_units(folder):
    mm = FolderDepth(folder)[0]["depth"]
    assert np.allclose(FolderDepth(folder, encoding="tum16")[0]["depth"], mm / 5, atol=1e-6)
    assert np.allclose(FolderDepth(folder, scale=0.002)[0]["depth"], mm * 2, atol=1e-6)


def test_folder_cameras(folder):
    assert FolderDepth(folder, camera=70)[0]["camera"].fov_deg == pytest.approx(70)
    big = Camera.from_fov(60, H * 4, W * 4)
    assert FolderDepth(folder, camera=big)[0]["camera"] == big.resize(H, W)
    with pytest.raises(ValueError, match="100x100 and 48x64 differ in shape.*camera belongs to another picture"):
        FolderDepth(folder, camera=Camera.from_fov(60, 100, 100))[0]


def test_folder_of_a_phone(folder):
    put(folder / "2.jpg", picture(2, H * 4, W * 4))  # a sharp photo, a small depth map
    it = FolderDepth(folder)[0]
    assert it["image"].shape == (H, W, 3) and it["camera"].height == H
    put(folder / "2.jpg", picture(2, 64, 64))
    with pytest.raises(ValueError, match="64x64 and 48x64 differ in shape.*one field of view"):
        FolderDepth(folder)[0]


def test_folder_with_subfolders_and_lists(tmp_path):
    for s in ("hall", "attic"):
        for i in range(3):
            put(tmp_path / s / "rgb" / f"{i}.png", picture(i))
            mm_png(tmp_path / s / "depth" / f"{i}.png", room(i)["depth"])
    ds = FolderDepth(tmp_path, rgb="*/rgb/*.png", depth="*/depth/*.png")
    assert len(ds) == 6 and ds.scenes == ["attic", "hall"] and ds[0]["name"] == "attic/rgb/0"
    assert all(f.rgb.parent.parent == f.depth.parent.parent and f.rgb.name == f.depth.name for f in ds.frames)
    two = FolderDepth(
        tmp_path, rgb=["hall/rgb/2.png", "hall/rgb/0.png"], depth=["attic/depth/1.png", "hall/depth/0.png"]
    )
    assert [(f.rgb.name, f.depth.name) for f in two.frames] == [("2.png", "1.png"), ("0.png", "0.png")]
    with pytest.raises(ValueError, match="1 photos but 2 depth maps.*equal length"):
        FolderDepth(tmp_path, rgb=["hall/rgb/2.png"], depth=["attic/depth/1.png", "hall/depth/0.png"])
    with pytest.raises(
        FileNotFoundError, match=r"matches rgb='\*.png'; it holds 12 .png. Subfolders belong in the pattern"
    ):
        FolderDepth(tmp_path, rgb="*.png")
    with pytest.raises(ValueError, match="both find"):
        FolderDepth(tmp_path, rgb="**/*.png", depth="*/depth/*.png")


def test_folder_errors(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder.*expected one that holds"):
        FolderDepth(tmp_path / "nope")
    with pytest.raises(ValueError, match="encoding should be 'auto' or one of .*'mm16'.*got 'mm'"):
        FolderDepth(folder, encoding="mm")
    with pytest.raises(ValueError, match="give scale or encoding, not both"):
        FolderDepth(folder, encoding="mm16", scale=0.001)
    for scale in (0, -0.001, float("nan"), float("inf"), "0.001"):
        with pytest.raises(ValueError, match=f"scale should be metres per unit, above 0.*got {scale!r}"):
            FolderDepth(folder, scale=scale)
    (folder / "10.png").unlink()
    with pytest.raises(ValueError, match=r"2 photos and 1 depth maps.*10\.jpg"):
        FolderDepth(folder)
    mm_png(folder / "10.png", room(1)["depth"])
    (folder / "10.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"10.jpg is empty.*\(row 10.jpg\)"):
        FolderDepth(folder)[1]


# --- download


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files, cuts=(), ranges=True, status=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cuts, self.ranges, self.status, self.asked = files, list(cuts), ranges, status, []
        Thread(target=self.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True).start()

    def url(self, name="/f.bin"):
        return f"http://127.0.0.1:{self.server_port}{name}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *a):
        pass

    def do_GET(self):
        s = self.server
        s.asked.append((self.path, self.headers.get("Range")))
        body = s.files.get(self.path)
        if s.status or body is None:
            return self.send_error(s.status or 404)
        start = int(self.headers["Range"].split("=")[1].rstrip("-")) if s.ranges and self.headers.get("Range") else 0
        if start and start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        n = s.cuts.pop(0) if s.cuts else len(body)
        self.wfile.write(body[start : start + n])
        self.wfile.flush()
        self.close_connection = True


BODY = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    made = []

    def start(*a, **k):
        made.append(Server(*a, **k))
        return made[-1]

    yield start
    for s in made:
        s.shutdown()
        s.server_close()


def test_fetch(serve, tmp_path):
    s = serve({"/f.bin": BODY})
    p = fetch(s.url(), tmp_path / "a" / "f.bin", len(BODY), SHA, progress=False)
    assert (
        p.read_bytes() == BODY and [q.name for q in p.parent.iterdir()] == ["f.bin"] and s.asked == [("/f.bin", None)]
    )
    assert fetch(s.url(), p, len(BODY), SHA) == p and len(s.asked) == 1  # nothing to do
    p.write_bytes(b"mine")
    with pytest.raises(ValueError, match="is there already but has 4 bytes instead of 300,000: move it away"):
        fetch(s.url(), p, len(BODY), SHA)
    assert p.read_bytes() == b"mine"


def test_fetch_goes_on_after_cuts(serve, tmp_path):
    s = serve({"/f.bin": BODY}, cuts=[100_000, 50_000])
    assert fetch(s.url(), tmp_path / "f.bin", len(BODY), SHA, wait=0, progress=False).read_bytes() == BODY
    assert [r for _, r in s.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_fetch_without_known_size_notices_a_cut(serve, tmp_path):
    s = serve({"/f.bin": BODY}, cuts=[100_000])
    assert (
        fetch(s.url(), tmp_path / "f.bin", md5=hashlib.md5(BODY).hexdigest(), wait=0, progress=False).read_bytes()
        == BODY
    )
    assert len(s.asked) == 2


def test_fetch_resumes_what_an_earlier_run_left(serve, tmp_path):
    s = serve({"/f.bin": BODY})
    (tmp_path / "f.bin.part").write_bytes(BODY[:299_000])
    assert fetch(s.url(), tmp_path / "f.bin", len(BODY), SHA, progress=False).read_bytes() == BODY
    assert s.asked == [("/f.bin", "bytes=299000-")]
    (tmp_path / "g.bin.part").write_bytes(BODY)  # all of it came, only the name is missing
    assert fetch(s.url(), tmp_path / "g.bin", len(BODY), SHA, progress=False).read_bytes() == BODY and len(s.asked) == 1
    (tmp_path / "h.bin.part").write_bytes(BODY + b"x")  # too long: begin again
    assert fetch(s.url(), tmp_path / "h.bin", len(BODY), SHA, progress=False).read_bytes() == BODY


def test_fetch_from_a_server_without_ranges(serve, tmp_path):
    s = serve({"/f.bin": BODY}, cuts=[100_000], ranges=False)
    assert fetch(s.url(), tmp_path / "f.bin", len(BODY), SHA, wait=0, progress=False).read_bytes() == BODY
    assert len(s.asked) == 2


def test_fetch_when_the_part_is_no_beginning(serve, tmp_path):
    s = serve({"/f.bin": BODY})
    (tmp_path / "f.bin.part").write_bytes(b"x" * 400_000)
    assert (
        fetch(s.url(), tmp_path / "f.bin", wait=0, progress=False).read_bytes() == BODY
    )  # size unknown: 416, then from the start
    assert [r for _, r in s.asked] == ["bytes=400000-", None]
    (tmp_path / "g.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match="came in whole but has sha256 .* thrown away"):
        fetch(s.url(), tmp_path / "g.bin", len(BODY), SHA, progress=False)
    assert not list(tmp_path.glob("g.bin*"))


def test_fetch_refuses_another_file(serve, tmp_path):
    s = serve({"/f.bin": BODY})
    with pytest.raises(ValueError, match="came in whole but has sha256 .* instead of 0000.*not the file we know"):
        fetch(s.url(), tmp_path / "f.bin", len(BODY), "0" * 64, progress=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="is 300,000 bytes long; 299,999 were expected"):
        fetch(s.url(), tmp_path / "f.bin", len(BODY) - 1, SHA, progress=False)
    assert not list(tmp_path.iterdir())


def test_fetch_gives_up_with_a_reason(serve, tmp_path):
    s = serve({"/f.bin": BODY}, cuts=[1000] + [0] * 9)
    with pytest.raises(OSError, match=r"could not be fetched: .*3 times in a row.*kept in .*f.bin.part: run it again"):
        fetch(s.url(), tmp_path / "f.bin", len(BODY), SHA, tries=3, wait=0, progress=False)
    assert (tmp_path / "f.bin.part").stat().st_size == 1000 and len(s.asked) == 4 and not (tmp_path / "f.bin").exists()
    with pytest.raises(OSError, match="answered 404"):
        fetch(s.url("/other"), tmp_path / "g.bin", progress=False)
    s.status = 503
    with pytest.raises(OSError, match="503.*2 times in a row"):
        fetch(s.url(), tmp_path / "g.bin", tries=2, wait=0, progress=False)
    port = s.server_port
    s.shutdown()
    s.server_close()
    with pytest.raises(OSError, match="could not be fetched: .*refused"):
        fetch(f"http://127.0.0.1:{port}/f.bin", tmp_path / "g.bin", tries=1, wait=0, progress=False)


def test_fetch_looks_at_the_disk_first(serve, tmp_path, monkeypatch):
    s = serve({"/f.bin": BODY})
    monkeypatch.setattr(shutil, "disk_usage", lambda p: type("U", (), dict(free=1000)))
    with pytest.raises(OSError, match="GB free, .* GB are needed"):
        fetch(s.url(), tmp_path / "f.bin", len(BODY), SHA, progress=False)
    assert len(s.asked) == 1 and not list(tmp_path.iterdir())


def test_fetch_into_a_name_as_long_as_a_folder_allows(serve, tmp_path):
    s = serve({"/f.bin": BODY}, cuts=[100_000])
    path = tmp_path / ("x" * 251 + ".bin")
    assert fetch(s.url(), path, len(BODY), SHA, wait=0, progress=False).read_bytes() == BODY
    assert list(tmp_path.iterdir()) == [path] and len(s.asked) == 2


def test_two_downloads_of_one_file_side_by_side(serve, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    for k in range(10):
        s = serve({"/f.bin": BODY}, cuts=[100_000, 200_000, 90_000, 250_000])
        path = tmp_path / str(k) / "f.bin"
        with ThreadPoolExecutor(4) as ex:
            got = list(ex.map(lambda _: fetch(s.url(), path, len(BODY), SHA, wait=0.01, progress=False), range(4)))
        assert set(got) == {path} and path.read_bytes() == BODY


def test_fetch_labeled_gets_both_files(serve, tmp_path, capsys):
    splits = b"splits"
    s = serve({"/f.bin": BODY, "/splits.mat": splits}, cuts=[6, 200_000])
    kw = dict(
        url=s.url(),
        size=len(BODY),
        sha256=SHA,
        splits_url=s.url("/splits.mat"),
        splits_md5=hashlib.md5(splits).hexdigest(),
        wait=0,
    )
    p = fetch_labeled(tmp_path / "to", **kw)
    assert p == tmp_path / "to" / "nyu_depth_v2_labeled.mat" and p.read_bytes() == BODY
    assert p.with_name("splits.mat").read_bytes() == splits and len(list(p.parent.iterdir())) == 2
    assert "nyu_depth_v2_labeled.mat: 100%" in (err := capsys.readouterr().err) and "300k/300k" in err
    assert fetch_labeled(tmp_path / "to", **kw) == p and len(s.asked) == 3
    fetch_labeled(tmp_path / "alone", **(kw | dict(splits_url=None)), progress=False)
    assert [q.name for q in (tmp_path / "alone").iterdir()] == [p.name]


def test_official_addresses():
    assert LABELED["size"] == 2972037809 and len(LABELED["sha256"]) == 64 and len(SPLITS["md5"]) == 32
    assert LABELED["url"].endswith("/nyu_depth_v2_labeled.mat") and SPLITS["url"].endswith("/splits.mat")


def test_bar_keeps_one_line_and_may_start_in_the_middle(capsys):
    bar = _bar("x", 10, "frames")
    for i in (4, 7, 10):
        bar(i)
    text = capsys.readouterr().err
    assert text.startswith("\r") and text.count("\n") == 1 and "10/10" in text
    _bar("x", 10, "frames", show=False)(10)
    assert capsys.readouterr().err == ""


# --- frames to show


def test_sample_frames_without_data(monkeypatch, capsys):
    monkeypatch.delenv("DOGDEPTH_DATA", raising=False)
    a = sample_frames(2, size=(60, 80))
    assert "2 rendered rooms, because DOGDEPTH_DATA is not set" in capsys.readouterr().out
    assert all(it["depth"].shape == (60, 80) and it["camera"].height == 60 for it in a) and not np.array_equal(
        a[0]["depth"], a[1]["depth"]
    )


def test_sample_frames_of_any_nyu_folder(root, monkeypatch, capsys):
    monkeypatch.setenv("DOGDEPTH_DATA", str(root.parent))
    assert [it["name"] for it in sample_frames(2)] == ["bath_0005/10", "bath_0005/11"]
    assert "2 validation frames of NYU" in capsys.readouterr().out
    with pytest.raises(ValueError, match="3 sample frames wanted, but the validation set has 2"):
        sample_frames(3)


def test_import_is_light():
    code = "import dogdepth.nyu, sys; print([m for m in ('torch','h5py','matplotlib','scipy','plotly') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# --- the real folder


def test_real_counts(data):
    train, val, whole = (NYUDepth(data / "nyu", split=s) for s in ("train", "val", "all"))
    assert (len(train), len(val), len(whole)) == (690, 105, 795)
    assert (len(train.scenes), len(val.scenes), len(whole.scenes)) == (217, 32, 249)
    assert set(train.scenes).isdisjoint(val.scenes)
    official = {int(f.rgb.stem) for f in whole.frames}
    assert len(official) == 795 and max(official) < 1449 and len(set(range(1449)) - official) == 654
    assert (len(NYUDepth(data / "nyu", "train", "frame")), len(NYUDepth(data / "nyu", "val", "frame"))) == (636, 159)
    both = set(NYUDepth(data / "nyu", "train", "frame").scenes) & set(NYUDepth(data / "nyu", "val", "frame").scenes)
    assert len(both) > 80  # what a split over frames does


def test_real_encodings_agree(data):
    whole = {f.name.split("/")[1]: f for f in NYUDepth(data / "nyu", split="all").frames}
    pairs = read_list(data / "nyu/data/nyu2_test_format.csv")
    assert len(pairs) == 10
    for f in pairs:
        mm, levels = read_depth(f.depth), read_depth(whole[str(int(f.name))].depth)
        assert np.abs(mm - levels).max() < 0.0207 and mm.shape == (480, 640)
        assert (
            np.bitwise_count(
                fingerprint(read_image(f.rgb)) ^ fingerprint(read_image(whole[str(int(f.name))].rgb))
            ).sum()
            <= 2
        )


def test_real_samples(data, capsys):
    names = [it["name"] for it in sample_frames(12)]
    assert names == SAMPLES and len({n.split("/")[0] for n in names}) == 12


def test_real_kinect_folder(data):
    ds = FolderDepth(data / "kinect_raw", rgb="rgb_*.jpg", depth="sync_depth_*.png", camera=NYU_CAMERA)
    assert len(ds) == 3 and all(0.2 < (it["depth"] == 0).mean() < 0.35 for it in ds) and ds[0]["camera"] == NYU_CAMERA


@pytest.mark.slow
def test_real_folder_is_healthy(data):
    r = check_dataset(data / "nyu")
    assert r.ok and r.frames == 795 and r.notes == ["no data/nyu2_test.csv: split='test' will not open"], str(r)


def test_what_is_no_reading_is_stored_as_none(tmp_path):
    odd = np.float32([[np.inf, np.nan, -1.0, 2.0]])
    assert nyu_levels(odd).tolist() == [[0, 0, 0, 51]]
    item = room(0) | dict(
        depth=np.repeat(np.repeat(odd, 24, 0), 8, 1),
        image=np.zeros((24, 32, 3), np.uint8),
        camera=NYU_CAMERA.resize(24, 32),
    )
    with np.errstate(invalid="raise"):
        packed = PackedDepth(pack([item], tmp_path / "a.h5", progress=False))
    assert packed[0]["depth"][0, ::8].tolist() == [0, 0, 0, 2]
    packed.close()


def test_settings_are_refused_when_the_folder_is_opened(root):
    with pytest.raises(ValueError, match="encoding should be"):
        NYUDepth(root, encoding="cm")
    for n in (0, -1, 1.5):
        with pytest.raises(ValueError, match="n should be a whole number of frames"):
            sample_frames(n)


def test_frames_without_a_camera_have_the_lens_that_predict_assumes(tmp_path):
    for h, w in ((64, 48), (40, 60), (48, 64)):
        folder = tmp_path / f"{h}"
        put(folder / "a.jpg", np.zeros((h, w, 3), np.uint8))
        put(folder / "a.png", np.full((h, w), 2000, np.uint16))
        assert FolderDepth(folder)[0]["camera"] == default_camera(h, w)


def test_packed_again_it_still_says_where_it_is_from(root, tmp_path):
    a = pack(NYUDepth(root, split="val"), tmp_path / "a.h5", progress=False)
    b = pack(PackedDepth(a), tmp_path / "b.h5", progress=False)
    assert "split='val'" in PackedDepth(b).file.attrs["source"]

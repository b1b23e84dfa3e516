"The renderer against slow oracles and against true views; the film, decoded again."

import io
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from dogdepth import film, viewer
from dogdepth.cloud import orbit_video
from dogdepth.depth import NYU_CAMERA, Camera
from dogdepth.film import MOTIONS
from dogdepth.rooms import render_room
from dogdepth.viewer import BACKDROP, Viewer, ask_photo, fill_holes, orbit_pose, splat, surfaces


def camera(h=48, w=64, f=60.0):
    return Camera(f, f * 1.05, w / 2 - 0.7, h / 2 + 1.3, h, w)


def colourful(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def smooth(h, w):
    y, x = np.mgrid[:h, :w]
    return np.stack([40 + x * 180 / w, 40 + y * 180 / h, 128 + 0 * x], -1).astype(np.uint8)


def item(h=48, w=64, depth=2.0, image=None):
    return dict(
        depth=np.full((h, w), depth, np.float32), camera=camera(h, w), image=smooth(h, w) if image is None else image
    )


@pytest.fixture(scope="module")
def room():
    return render_room(4, 240, 320)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


# ---------------------------------------------------------------- the pose


def test_a_pose_turns_around_its_pivot_and_keeps_it_in_sight():
    for yaw, lift, away in ((0, 0, 1), (30, 10, 1), (-90, 0, 1.5), (180, 40, 0.7)):
        pose = orbit_pose(yaw, lift, away, 3.0)
        R, t = pose[:3, :3], pose[:3, 3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(R), 1)
        np.testing.assert_allclose(R.T @ ([0, 0, 3.0] - t), [0, 0, 3 * away], atol=1e-12)  # straight ahead, that far
    np.testing.assert_allclose(orbit_pose(0, 0, 1, 3), np.eye(4))
    assert orbit_pose(10, 0, 1, 3)[0, 3] > 0.1  # to the right
    assert orbit_pose(0, 10, 1, 3)[1, 3] < -0.1  # up: y grows downwards


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions_begin_and_end_at_the_photo(motion):
    for t in (0, 1):
        np.testing.assert_allclose(orbit_pose(*MOTIONS[motion](t, 6.0), 3.0), np.eye(4), atol=1e-9)
    steps = np.array([orbit_pose(*MOTIONS[motion](k / 120, 6.0), 3.0) for k in range(121)])
    jump = np.abs(np.diff(steps, axis=0)).max((1, 2))
    assert jump.max() < 0.3 and np.abs(np.diff(jump)).max() < 0.05  # no jerk, neither within nor at the seam


# ---------------------------------------------------------------- the z-buffer


def painter(xyz, value, pose, cam, nearest=0.02):
    "The oracle: float64, far to near, the last one wins; at equal depth the larger value."
    p = xyz.T.astype(float) @ pose[:3, :3] - pose[:3, 3] @ pose[:3, :3]
    p, value = p[p[:, 2] > nearest], value[p[:, 2] > nearest]
    x, y = np.floor(cam.project(p) + 0.5).T.astype(int)
    ok = (x >= 0) & (x < cam.width) & (y >= 0) & (y < cam.height)
    p, value, x, y = p[ok], value[ok], x[ok], y[ok]
    order = np.lexsort((value, -p[:, 2]))
    near, out = np.zeros((cam.height, cam.width)), np.zeros((cam.height, cam.width), np.uint32)
    near[y[order], x[order]], out[y[order], x[order]] = 1 / p[order, 2], value[order]
    return near, out


@pytest.mark.parametrize("pose", [(0, 0, 1), (8, 2, 1), (-40, 10, 1.3), (90, 0, 1), (180, 30, 1.5), (0, 0, 0.3)])
@pytest.mark.parametrize("size", [(48, 64), (33, 17), (1, 90)])
def test_splat_agrees_with_the_painter(pose, size):
    rng = np.random.default_rng(3)
    cam, pose = camera(*size), orbit_pose(*pose, 2.0)
    xyz = (rng.normal(size=(3, 20_000)) * [[1], [1], [1]] + [[0], [0], [2]]).astype(np.float32)
    value = rng.permutation(20_000).astype(np.uint32)
    near, got = splat(xyz, value, pose, cam)
    want_near, want = painter(xyz, value, pose, cam)
    assert (got == want).mean() > 0.995  # the rest: points on a rounding edge between two pixels
    same = got == want
    np.testing.assert_allclose(near[same], want_near[same], rtol=1e-4)
    assert ((near > 0) == (want_near > 0)).mean() > 0.995


def test_the_order_of_the_points_does_not_matter(room):
    v = Viewer(room)
    value = np.arange(v.xyz.shape[1], dtype=np.uint32)
    shuffled = np.random.default_rng(0).permutation(len(value))
    pose = orbit_pose(9, 2, 1, 3)
    for a, b in zip(splat(v.xyz, value, pose, v.camera), splat(v.xyz[:, shuffled], value[shuffled], pose, v.camera)):
        np.testing.assert_array_equal(a, b)


def test_of_two_points_in_a_pixel_the_nearer_is_seen_and_none_from_behind():
    cam = camera()
    xyz = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [3, 1, 2, -1]], np.float32)
    near, value = splat(xyz, np.array([7, 8, 9, 10], np.uint32), np.eye(4), cam)
    assert value[value > 0].tolist() == [8] and near.max() == 1
    near, value = splat(xyz, np.array([7, 8, 9, 10], np.uint32), np.eye(4), cam, nearest=1.5)
    assert value[value > 0].tolist() == [9]
    near, value = splat(xyz[:, 3:], np.array([1], np.uint32), np.eye(4), cam)
    assert not near.any() and not value.any()


def test_all_points_of_the_photo_are_drawn(room):
    v = Viewer(room, size=(240, 320))
    assert v.xyz.shape == (3, 240 * 320)
    assert Viewer(
        dict(room, camera=NYU_CAMERA, depth=np.ones((480, 640), np.float32), image=colourful(480, 640)), size=(480, 640)
    ).xyz.shape == (3, 307_200)


# ---------------------------------------------------------------- views


@pytest.mark.parametrize("size", [(48, 64), (33, 65), (64, 48)])
def test_from_the_photographers_place_one_sees_the_photo(size):
    rng = np.random.default_rng(1)
    it = item(*size, image=colourful(*size))
    it["depth"] = rng.uniform(0.5, 6, size).astype(np.float32)  # jumps everywhere
    np.testing.assert_array_equal(Viewer(it).view(np.eye(4)), it["image"])
    it["depth"][5:9, 7:20] = 0
    got, known = Viewer(it).view(np.eye(4)), it["depth"] > 0
    np.testing.assert_array_equal(got[known], it["image"][known])


def test_the_view_from_aside_is_what_a_camera_sees_there(room):
    v = Viewer(room)
    for yaw, lift, away in ((5, 1, 1), (-8, 2, 1), (0, 0, 0.9)):
        pose = orbit_pose(yaw, lift, away, v.pivot)
        true = render_room(4, 240, 320, pose=room["pose"] @ pose)
        img, ok, near = v.see(pose)
        assert ok.mean() > 0.6
        assert np.median(np.abs(1 / near[ok] - true["depth"][ok])) < 0.005
        got = v.view(pose)
        assert psnr(got[ok], true["image"][ok]) > 26
        assert psnr(got, true["image"]) > psnr(room["image"], true["image"]) + 6


def wall_and_floor(h=120, w=160):
    "A red wall 1 m away before green things 4 m away: only its right half covers them."
    it = item(h, w, 4.0, np.full((h, w, 3), (0, 200, 0), np.uint8))
    it["depth"][:, w // 2 :] = 1
    it["image"][:, w // 2 :] = (200, 0, 0)
    return it


@pytest.mark.parametrize("away", [1.0, 0.9, 0.8])
def test_nothing_shines_through_a_wall(away):
    "Nearer by, the wall's points stand apart; the green ones that pass behind it must not be seen between them."
    it = wall_and_floor()
    v = Viewer(it)
    pose = orbit_pose(0, 0, away, v.pivot)
    pose[0, 3] = 0.4  # to the right: the green slides under the wall
    near, edge = splat(v.xyz, v.edge, pose, v.camera)
    solid = cv2.morphologyEx((near > 0.6).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
    solid = cv2.erode(solid.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    shining = solid & (near > 0) & (near < 0.4)
    assert solid.mean() > 0.3 and (away == 1 or shining.sum() > 50)  # there is something to hide
    got = v.view(pose)
    assert (got[solid][:, 1] < 100).all(), f"{(got[solid][:, 1] >= 100).sum()} green pixels in the wall"


def test_what_shone_through_in_the_photo_stays():
    it = item(48, 64, 1.0, np.full((48, 64, 3), (200, 0, 0), np.uint8))
    it["depth"][:, 20], it["image"][:, 20] = 4, (0, 200, 0)  # a slit in the wall, one pixel wide
    np.testing.assert_array_equal(Viewer(it).view(np.eye(4)), it["image"])


def test_mixed_colours_at_an_outline_leave_no_ghost():
    "A black board before a white wall; the rim of the wall's pixels beside it is grey, as a lens makes it."
    it = item(120, 160, 3.0, np.full((120, 160, 3), 250, np.uint8))
    it["depth"][40:80, 60:100], it["image"][40:80, 60:100] = 1.5, 0
    rim = cv2.dilate((it["depth"] < 2).astype(np.uint8), np.ones((3, 3), np.uint8)) - (it["depth"] < 2)
    it["image"][rim > 0] = 120
    v = Viewer(it)
    pose = np.eye(4)
    pose[0, 3] = 0.6  # 12 pixels of disparity uncover the wall to the right
    grey = np.abs(v.view(pose).astype(int) - 120).max(-1) < 40
    black = v.view(pose).max(-1) < 40
    near_black = cv2.dilate(black.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    assert black.sum() > 1000
    assert not (grey & ~near_black).any()


def test_cracks_are_closed_and_the_behind_is_not_trusted():
    near = np.ones((9, 9), np.float32)
    near[:, 4] = 0  # a crack
    near[4, 2] = 1 / 3  # something behind shines through
    closed, ok = surfaces(near, np.zeros((9, 9), bool))
    np.testing.assert_allclose(closed, np.ones((9, 9)), rtol=1e-6)
    assert ok.all()  # all of it is wall now
    wide = near.copy()
    wide[:, 4:7] = 0
    assert not surfaces(wide, np.zeros((9, 9), bool))[1][:, 4:7].any()  # but a hole stays a hole
    slope = np.tile(np.linspace(1, 1.2, 9, dtype=np.float32), (9, 1))
    np.testing.assert_allclose(
        surfaces(np.where(np.arange(9) % 4 == 2, 0, slope).astype(np.float32), np.zeros((9, 9), bool))[0][1:-1, 1:-1],
        slope[1:-1, 1:-1],
        rtol=0.03,
    )
    _, ok = surfaces(near, near < 0.5)
    assert ok[4, 2]  # it stood beside something nearer in the photo, and does so still
    _, ok = surfaces(np.ones((9, 9), np.float32), np.ones((9, 9), bool))
    assert not ok.any()  # and these have lost it


def test_the_photo_is_asked_at_the_right_place():
    cam, img = camera(), smooth(48, 64)
    closed = np.full((48, 64), 0.5, np.float32)
    pose = np.eye(4)
    pose[0, 3] = 2 / 60 * 2.5  # at 2 m, two and a half pixels to the right
    got = ask_photo(img, closed, pose, cam).astype(float)
    want = (img[:, 3:].astype(float) + img[:, 2:-1]) / 2
    assert np.abs(got[:, :61] - want).max() <= 1


# ---------------------------------------------------------------- holes


def test_known_pixels_stay_and_holes_continue_what_is_around():
    img, near = np.full((40, 60, 3), (10, 90, 200), np.uint8), np.ones((40, 60), np.float32)
    ok = np.random.default_rng(0).random((40, 60)) > 0.4
    ok[10:30, 20:40] = False
    noise = colourful(40, 60)
    got = fill_holes(np.where(ok[..., None], img, noise), ok, near * ok)
    assert np.abs(got.astype(int) - img).max() <= 2
    for colour in ((10, 90, 200), (33, 127, 254), (1, 64, 99)):  # rounded, not cut off: right on average
        plain = np.full((40, 60, 3), colour, np.uint8)
        assert abs((fill_holes(plain, ok, near * ok).astype(float) - plain)[~ok].mean()) < 0.25
    img = colourful(41, 59)
    np.testing.assert_array_equal(fill_holes(img, np.ones((41, 59), bool), np.ones((41, 59), np.float32)), img)
    np.testing.assert_array_equal(
        fill_holes(img, (k := np.arange(59) % 3 > 0) & np.ones((41, 1), bool), np.ones((41, 59), np.float32))[:, k],
        img[:, k],
    )


def test_a_hole_between_near_and_far_takes_the_far_colour():
    img, near, ok = np.zeros((32, 90, 3), np.uint8), np.zeros((32, 90), np.float32), np.ones((32, 90), bool)
    img[:, :40], near[:, :40] = (200, 0, 0), 1
    img[:, 50:], near[:, 50:] = (0, 0, 200), 1 / 3
    ok[:, 40:50] = False
    hole = fill_holes(img, ok, near)[:, 40:50].astype(float).mean((0, 1))
    even = fill_holes(img, ok, near, power=0)[:, 40:50].astype(float).mean((0, 1))
    assert hole[2] > 130 > hole[0] + 60
    assert abs(even[0] - even[2]) < 30  # without a say for the far: half and half


def test_beyond_reach_comes_the_backdrop():
    img, ok = np.full((200, 200, 3), 250, np.uint8), np.zeros((200, 200), bool)
    ok[80:120, 80:120] = True
    got = fill_holes(img, ok, ok.astype(np.float32), reach=10)
    assert (got[ok] == 250).all()
    assert np.abs(got[:40, :40].astype(int) - BACKDROP).max() <= 1
    assert fill_holes(img, ok, ok.astype(np.float32))[:40, :40].min() > 240


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 17), (16, 16)])
def test_pictures_of_any_size_and_without_anything_known(size):
    img = colourful(*size)
    for ok in (np.zeros(size, bool), np.ones(size, bool)):
        for reach in (None, 3):
            got = fill_holes(img, ok, ok.astype(np.float32), reach)
            assert got.shape == img.shape and got.dtype == np.uint8
            assert not ok.all() or (got == img).all()


# ---------------------------------------------------------------- the film


def read(path):
    "Frames, and the facts that a browser cares about."
    with av.open(str(path)) as box:
        s = box.streams.video[0]
        frames, times = [], []
        for f in box.decode(s):
            frames.append(f.to_ndarray(format="rgb24"))
            times.append(float(f.pts * s.time_base))
        return SimpleNamespace(
            frames=frames,
            times=np.array(times),
            codec=s.codec_context.name,
            pixels=s.pix_fmt,
            rate=float(s.average_rate),
            format=box.format.name,
            streams=len(box.streams),
            matrix=s.codec_context.colorspace,
            limited=s.codec_context.color_range == 1,
        )


def atoms(raw):
    i, names = 0, []
    while i < len(raw):
        size = int.from_bytes(raw[i : i + 4], "big")
        names.append(raw[i + 4 : i + 8].decode())
        assert size >= 8
        i += size
    assert i == len(raw)
    return names


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize(
    "frames,size,fps", [(1, (48, 64), 30), (2, (47, 63), 12.5), (25, (64, 48), 29.97), (9, (17, 640), 60)]
)
def test_a_film_reads_back(tmp_path, motion, frames, size, fps):
    it = item()
    orbit_video(it, tmp_path / "a.mp4", frames=frames, size=size, fps=fps, motion=motion)
    v = read(tmp_path / "a.mp4")
    assert (v.codec, v.pixels, v.streams) == ("h264", "yuv420p", 1) and "mp4" in v.format
    assert len(v.frames) == frames and v.frames[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert v.rate == pytest.approx(fps, rel=1e-3) and (v.matrix, v.limited) == (6, True)
    np.testing.assert_allclose(v.times, np.arange(frames) / fps, atol=1.5e-3)
    names = atoms((tmp_path / "a.mp4").read_bytes())
    assert names[:2] == ["ftyp", "moov"] and names.index("moov") < names.index(
        "mdat"
    )  # starts before all of it has come
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_the_first_frame_is_the_photo_and_the_loop_closes(tmp_path, room):
    orbit_video(room, tmp_path / "a.mp4", frames=60, size=(240, 320))
    f = [x.astype(float) for x in read(tmp_path / "a.mp4").frames]
    assert psnr(f[0], room["image"]) > 30
    assert np.abs((f[0] - room["image"]).mean((0, 1))).max() < 1.5  # no tint: matrix and range agree
    gap = [np.abs(a - b).mean() for a, b in zip(f, f[1:])]
    assert max(np.abs(f[15] - f[0]).mean(), np.abs(f[45] - f[0]).mean()) > 2 * np.median(gap)  # it does move
    v = Viewer(room)
    for k in (0, 1, 59):  # what coding changes is small, in the first frame as in the last
        assert np.abs(f[k] - v.view(orbit_pose(*MOTIONS["sway"](k / 60, v.swing), v.pivot))).mean() < 4


def seam(it, motion, n=120):
    """The step from the last frame to the first, as a share of the step after it; in what is drawn, before a coder
    changes it."""
    v = Viewer(it)
    last, first, second = (
        v.view(orbit_pose(*MOTIONS[motion](k / n, v.swing), v.pivot)).astype(float) for k in (n - 1, 0, 1)
    )
    np.testing.assert_array_equal(first, it["image"])
    return np.abs(last - first).mean() / np.abs(second - first).mean()


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("seed", [0, 1, 3, 7, 12])
def test_the_movement_closes_in_any_room(seed, motion):
    assert seam(render_room(seed, 120, 160), motion) == pytest.approx(1, abs=0.15)


def test_the_movement_closes_on_data(data):
    from dogdepth.nyu import sample_frames

    for it in sample_frames(3):
        assert seam(it, "sway") == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 90), (10, 200, 40)])
def test_one_colour_stays_that_colour(tmp_path, colour):
    orbit_video(item(image=np.full((48, 64, 3), colour, np.uint8)), tmp_path / "a.mp4", frames=5, size=(48, 64))
    for f in read(tmp_path / "a.mp4").frames:
        assert np.abs(f.astype(int) - colour).max() <= 4


def holes(it, share):
    it["depth"][np.random.default_rng(0).random(it["depth"].shape) < share] = 0
    return it


def odd_depth():
    it = item()
    it["depth"][0, :5] = [np.nan, np.inf, -1, 1e-9, 1e6]
    return it


ODD = dict(
    a_pixel=lambda: item(1, 1),
    a_row=lambda: item(1, 300),
    tiny=lambda: item(8, 8),
    portrait=lambda: item(96, 40),
    half_holes=lambda: holes(item(), 0.5),
    one_reading=lambda: holes(item(), 0.9995),
    odd_depth=odd_depth,
    far=lambda: item(depth=5000.0),
    near=lambda: item(depth=0.01),
    large=lambda: item(900, 1200),
    near_and_far=lambda: (lambda it: (it["depth"].__setitem__((slice(None), slice(0, 9)), 0.05), it)[1])(
        item(depth=8.0)
    ),
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("motion", MOTIONS)
def test_odd_predictions_make_films(tmp_path, name, motion):
    orbit_video(ODD[name](), tmp_path / "a.mp4", frames=6, size=(48, 64), motion=motion)
    assert len(read(tmp_path / "a.mp4").frames) == 6


def test_a_photo_of_another_shape_is_not_distorted():
    "A portrait in a landscape film: centred, whole, and round things stay round."
    img = np.zeros((120, 60, 3), np.uint8)
    cv2.circle(img, (30, 60), 20, (255, 255, 255), -1)
    v = Viewer(dict(depth=np.full((120, 60), 2, np.float32), camera=camera(120, 60), image=img), size=(240, 320))
    assert v.xyz.shape[1] == 240 * 120
    y, x = np.nonzero(v.view(np.eye(4))[..., 0] > 128)
    assert abs(np.ptp(x) - np.ptp(y)) <= 1 and abs(x.mean() - 160.5) < 1 and np.ptp(x) == pytest.approx(80, abs=2)


@pytest.mark.parametrize(
    "shape,size",
    [
        ((480, 640), (480, 640)),
        ((3000, 4000), (480, 640)),
        ((64, 48), (640, 480)),
        ((50, 50), (554, 554)),
        ((1, 400), (28, 4096)),
    ],
)
def test_size_none_takes_the_photos_shape(tmp_path, shape, size):
    assert film._size_like(shape) == size
    if max(shape) < 100:
        orbit_video(item(*shape), tmp_path / "a.mp4", frames=1, size=None)
        assert read(tmp_path / "a.mp4").frames[0].shape[:2] == size


def test_enlarged_depth_has_nothing_between_front_and_back():
    d = np.full((24, 32), 1, np.float32)
    d[:, 16:] = 3
    big = viewer._canvas(d, camera(24, 32), colourful(24, 32), (240, 320))[0]
    assert set(np.unique(big)) == {1, 3}
    ramp = np.tile(np.linspace(2, 2.4, 32, dtype=np.float32), (24, 1))
    assert (
        len(np.unique(viewer._canvas(ramp, camera(24, 32), colourful(24, 32), (240, 320))[0][5])) > 200
    )  # and slopes are no stairs


def test_near_things_move_a_tenth_of_the_picture_at_most():
    for near in (0.5, 0.8, 1.5, 2.5):
        it = item(depth=3.0)
        it["depth"][40:, :] = near
        v = Viewer(it)
        shift = v.pivot * np.radians(v.swing) * v.camera.fx * (1 / near - 1 / v.pivot) / 64
        assert v.pivot == 3 and shift < 0.105 and 1 < v.swing <= 6.1


def test_films_made_side_by_side_are_the_same_film(tmp_path, room):
    "The frames to the bit; the coder may choose a little differently from run to run, but no worse."
    v = Viewer(room)
    poses = [orbit_pose(*MOTIONS["sway"](k / 10, v.swing), v.pivot) for k in range(10)]
    one = [v.view(p) for p in poses]
    for _ in range(3):
        for a, b in zip(film._in_order(v.view, poses, 4), one):
            np.testing.assert_array_equal(a, b)

    def make(k):
        orbit_video(room, tmp_path / f"{k}.mp4", frames=10, size=(240, 320))
        return psnr(np.stack(read(tmp_path / f"{k}.mp4").frames), np.stack(one))

    first = make(0)
    with ThreadPoolExecutor(3) as pool:
        assert all(abs(p - first) < 0.3 for p in pool.map(make, range(1, 4)))
    assert first > 30 and abs(make(0) - first) < 0.3  # and it replaces a film that was there


def test_prediction_item_and_bare_depth_make_the_same_film(tmp_path):
    it = item()
    forms = [
        ((SimpleNamespace(depth_m=it["depth"], camera=it["camera"], image=it["image"], std_m=None),), {}),
        ((it,), {}),
        ((it["depth"],), dict(camera=it["camera"], image=it["image"])),
    ]
    for k, (args, kw) in enumerate(forms):
        orbit_video(*args, str(tmp_path / f"{k}.mp4"), frames=3, size=(48, 64), **kw)
    first, *others = [np.stack(read(p).frames) for p in sorted(tmp_path.iterdir())]
    assert len(others) == 2 and all(psnr(f, first) > 40 for f in others)


# ---------------------------------------------------------------- order, progress, cancel


def test_frames_come_in_order_and_never_far_ahead():
    started = []

    def slow(k):
        started.append(k)
        time.sleep(0.02 if k % 3 == 0 else 0)
        return k

    for want, got in enumerate(film._in_order(slow, range(30), 3)):
        assert got == want and len(started) <= want + 2 * 3 + 1
    with pytest.raises(ZeroDivisionError):
        list(film._in_order(lambda k: 1 // (k - 5), range(30), 3))


def test_progress_is_told_frame_by_frame(tmp_path, capsys):
    told = []
    orbit_video(item(), tmp_path / "a.mp4", frames=7, size=(48, 64), progress=lambda *a: told.append(a))
    assert told == [(k, 7) for k in range(1, 8)]
    orbit_video(item(), tmp_path / "a.mp4", frames=7, size=(48, 64))
    assert capsys.readouterr().err == ""
    orbit_video(item(), tmp_path / "a.mp4", frames=7, size=(48, 64), progress=True)
    assert "/7" in capsys.readouterr().err


def test_a_stopped_film_leaves_nothing_and_spoils_nothing(tmp_path):
    (tmp_path / "old.mp4").write_bytes(b"old")

    class Stop(Exception):
        pass

    def stop(done, n):
        if done == 3:
            raise Stop

    for name in ("old.mp4", "new.mp4"):
        with pytest.raises(Stop):
            orbit_video(item(), tmp_path / name, frames=50, size=(48, 64), progress=stop)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("old.mp4", b"old")]


def test_a_failing_encoder_leaves_nothing(tmp_path, monkeypatch):
    def fail(*a, **k):
        raise RuntimeError("encoder broke")

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", fail)
    with pytest.raises(RuntimeError, match="encoder broke"):
        orbit_video(item(), tmp_path / "a.mp4", frames=5, size=(48, 64))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file size are POSIX")
def test_a_full_disk_leaves_nothing(tmp_path):
    "A process that may write 2 kB and no more: what a full disk looks like from inside."
    code = """if 1:
        import resource, sys, numpy as np
        from dogdepth.cloud import orbit_video
        from dogdepth.depth import NYU_CAMERA
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        it = dict(depth=np.ones((480, 640), np.float32), camera=NYU_CAMERA, image=np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
        try: orbit_video(it, sys.argv[1], frames=3, size=(48, 64))
        except OSError as e: print('refused', e.errno)
    """
    r = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.mp4")], capture_output=True, text=True)
    assert r.stdout.startswith("refused"), r.stderr
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- what is wrong is said before the work


@pytest.mark.parametrize(
    "kw,error,match",
    [
        (dict(path="a.avi"), ValueError, "written as .mp4"),
        (dict(path="a"), ValueError, "written as .mp4"),
        (dict(path="no/a.mp4"), FileNotFoundError, "no such folder"),
        (dict(path="folder.mp4"), ValueError, "it is a folder"),
        (dict(frames=0), ValueError, "frames should be"),
        (dict(frames=2.5), ValueError, "frames should be"),
        (dict(frames=True), ValueError, "frames should be"),
        (dict(frames="9"), ValueError, "frames should be"),
        (dict(frames=10**9), ValueError, "frames should be"),
        (dict(fps=0), ValueError, "fps should be"),
        (dict(fps=float("nan")), ValueError, "fps should be"),
        (dict(fps=None), ValueError, "fps should be"),
        (dict(size=(8, 64)), ValueError, "size should be"),
        (dict(size=(480, 100_000)), ValueError, "size should be"),
        (dict(size=480), ValueError, "size should be"),
        (dict(size=(480, 640, 3)), ValueError, "size should be"),
        (dict(size=(48.5, 64)), ValueError, "size should be"),
        (dict(motion="dance"), ValueError, "motion should be one of"),
        (dict(pred=np.ones((48, 64), np.float32)), ValueError, "need the camera"),
        (dict(pred=None), ValueError, "expected a Prediction"),
        (dict(pred=item(depth=0.0)), ValueError, "nothing to draw"),
        (dict(pred=item(depth=np.nan)), ValueError, "nothing to draw"),
    ],
)
def test_errors_say_what_to_do(tmp_path, kw, error, match):
    (tmp_path / "folder.mp4").mkdir()
    kw = dict(pred=item(), path="a.mp4", frames=2, size=(48, 64)) | kw
    with pytest.raises(error, match=match):
        orbit_video(kw.pop("pred"), tmp_path / kw.pop("path"), **kw)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.mp4"]


def test_a_folder_that_refuses_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(film.os, "access", lambda *a: False)
    with pytest.raises(ValueError, match="not writable"):
        orbit_video(item(), tmp_path / "a.mp4", frames=2, size=(48, 64))


# ---------------------------------------------------------------- speed


def test_a_whole_film_costs_two_cores_two_seconds(tmp_path):
    """120 frames of 480x640 from 307 200 points, in a fresh process: 4 s of processor time are 2 s on two cores; the
    clock would count the neighbours' work too."""
    code = """if 1:
        import sys, time, numpy as np, cv2
        from dogdepth.cloud import orbit_video
        from dogdepth.depth import NYU_CAMERA
        y, x = np.mgrid[:480, :640]
        depth = (2 + x / 640 + (np.hypot(x - 300, y - 200) < 90) * -.8).astype(np.float32)
        image = cv2.resize(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8), (640, 480))
        orbit_video(dict(depth=depth, camera=NYU_CAMERA, image=image), sys.argv[1])
        print(time.process_time())
    """
    times = []
    for _ in range(2):
        r = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.mp4")], capture_output=True, text=True)
        times.append(float(r.stdout))
        if times[-1] < 4:
            break
    assert min(times) < 4, times
    assert len(read(tmp_path / "a.mp4").frames) == 120


def test_bench_video_keeps_its_rows(tmp_path, monkeypatch):
    from dogdepth.timing import read_results

    monkeypatch.delenv("DOGDEPTH_DATA", raising=False)
    monkeypatch.setattr(film, "_scatter_s", lambda it: 5.0)
    rows = film.bench_video(1, tmp_path)
    (f,) = tmp_path.glob("*.csv")
    assert (
        [r["name"] for r in read_results(f)]
        == [r["name"] for r in rows]
        == ["imports", "orbit_video, sway, 120 frames", "orbit_video, turn, 120 frames", "scatter, 1 view of the 24"]
    )
    assert rows[0]["runs"] == 2 and all(r["median_ms"] > 0 for r in rows)
    text = film.format_video_rows(rows)
    assert "about 120 s (one view, times 24)" in text and "480x640" in text
    with pytest.raises(ValueError, match="1 or more"):
        film.bench_video(0)


@pytest.mark.slow
def test_a_film_is_quicker_than_one_scatter(tmp_path):
    """The report's way: Matplotlib scatters all points. One of its 24 views costs more than our 120 frames (of one
    processor each, side by side)."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    room = render_room(4, 480, 640)
    t = time.process_time()
    fig = plt.figure(figsize=(6.4, 4.8), dpi=100)
    v, u = np.indices((480, 640))
    ax = fig.add_subplot(projection="3d")
    ax.scatter(u.ravel(), room["depth"].ravel(), -v.ravel(), c=room["image"].reshape(-1, 3) / 255, s=1)
    fig.savefig(io.BytesIO(), format="png")
    scatter = time.process_time() - t
    t = time.process_time()
    orbit_video(room, tmp_path / "a.mp4")
    assert time.process_time() - t < scatter


def test_real_frames_make_films(data, tmp_path):
    from dogdepth.nyu import sample_frames

    it = sample_frames(1)[0]
    orbit_video(it, tmp_path / "a.mp4", frames=4)
    v = read(tmp_path / "a.mp4")
    assert len(v.frames) == 4 and psnr(v.frames[0], it["image"]) > 28

"Rooms: geometry by hand, the same picture everywhere, lens and sensor laws, walks."

import os
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from dogdepth.depth import NYU_CAMERA, Camera, valid_mask
from dogdepth.furniture import FURNITURE
from dogdepth.paint import TEXTURES, noise
from dogdepth.rooms import Light, Rooms, draw, pose_of, render_room, room_scene, room_view, room_walk, span
from dogdepth.sensor import Lens, Sensor, defocus
from dogdepth.solids import BALL, BOX, CYL, Body, Dice, Material, Scene, ball, box

CAM = NYU_CAMERA.resize(120, 160)
ROOM = Body(BOX, (0, -1.25, 0), (3, 1.25, 3))
AHEAD = pose_of(0, 0, 0, (0, -1.25, -2))  # looks along z, at half the room's height


def world(item):
    "The room's coordinates (H,W,3) of what each pixel sees."
    d = item.get("depth_true", item["depth"]).astype(float)
    return (item["camera"].rays() * d[..., None]) @ item["pose"][:3, :3].T + item["pose"][:3, 3]


# ---- geometry by hand ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x,up,z,r", [(0, 1.25, 0.5, 0.4), (0.6, 1.6, 0.8, 0.3), (-0.5, 0.7, 1.5, 0.5), (0.9, 0.5, 0, 0.25)]
)
def test_nearest_pixel_of_a_ball(x, up, z, r):
    """The least depth on a ball is that of its centre less the radius, and it shows where the camera projects that
    point."""
    out = draw(Scene([ROOM, Body(BALL, (x, -up, z), (r, r, r))], []), CAM, AHEAD)
    d = np.where(out["ids"] == 1, out["depth"], 99)
    near = np.array([x, 1.25 - up, z + 2 - r])
    row, col = np.unravel_index(d.argmin(), d.shape)
    u, v = CAM.project(near)
    assert abs(col - u) <= 1 and abs(row - v) <= 1
    assert near[2] <= d.min() + 1e-6 and d.min() < near[2] + 0.002


def test_a_ball_pixel_for_pixel():
    "Every pixel of a ball lies on the ball; the disc has the area that the cone of rays says."
    c, r = np.array([0.3, -1.5, 0.6]), 0.45
    out = draw(Scene([ROOM, Body(BALL, tuple(c), (r, r, r))], []), CAM, AHEAD) | dict(camera=CAM, pose=AHEAD)
    on = out["ids"] == 1
    assert np.abs(np.linalg.norm(world(out)[on] - c, axis=-1) - r).max() < 1e-4
    rays = CAM.rays()
    to = c - AHEAD[:3, 3]
    cos = rays @ to / np.linalg.norm(rays, axis=-1) / np.linalg.norm(to)
    assert np.array_equal(on, cos > np.sqrt(1 - (r / np.linalg.norm(to)) ** 2))


@pytest.mark.parametrize("pitch,roll,yaw", [(0, 0, 0), (15, 2, 30), (-10, -3, 200)])
def test_planes_are_flat(pitch, roll, yaw):
    pose = pose_of(yaw, pitch, roll, (0.3, -1.4, -0.2))
    out = draw(Scene([ROOM], []), CAM, pose) | dict(camera=CAM, pose=pose)
    p = world(out)
    gap = np.abs(np.abs(p - ROOM.center) - ROOM.half).min(-1)
    assert gap.max() < 1e-6 * 6  # float32 depth of up to 6 m
    assert (out["depth"] > 0).all() and not out["ids"].any()


@pytest.mark.parametrize("shape", [BOX, BALL, CYL])
def test_bodies_against_brute_force(shape):
    "March along each ray in small steps: the first step inside the body is where the tracer says."
    b = Body(shape, (0.2, -1.1, 0.4), (0.5, 0.6, 0.35), turn=0.6)
    out = draw(Scene([ROOM, b], []), CAM.resize(30, 40), AHEAD, antialias=False)
    cam, c, s = CAM.resize(30, 40), np.cos(0.6), np.sin(0.6)
    t = np.arange(1, 4, 0.002)
    p = cam.rays()[:, :, None] * t[:, None] + AHEAD[:3, 3] - b.center
    q = np.abs(np.stack([c * p[..., 0] - s * p[..., 2], p[..., 1], s * p[..., 0] + c * p[..., 2]], -1) / b.half)
    inside = {
        BOX: q.max(-1) < 1,
        BALL: (q**2).sum(-1) < 1,
        CYL: (q[..., 0] ** 2 + q[..., 2] ** 2 < 1) & (q[..., 1] < 1),
    }[shape]
    hit, first = inside.any(-1), t[inside.argmax(-1)]
    assert (hit == (out["ids"] == 1)).mean() > 0.99 and hit.sum() > 50
    both = hit & (out["ids"] == 1)
    assert np.percentile(np.abs(first - out["depth"])[both], 99) < 0.0021  # one step of the march


def test_nearest_of_many_wins_whatever_the_order():
    things = [box(x, 0, z, 0.4, 1.5, 0.3, Material()) for x, z in ((0, 1), (0.1, 0.2), (-0.2, 2), (0.3, -0.5))] + [
        ball(0, 1, 0, 0.3, 0.3, 0.3, Material())
    ]
    a = draw(Scene([ROOM, *things], []), CAM, AHEAD)
    b = draw(Scene([ROOM, *things[::-1]], []), CAM, AHEAD)
    assert np.array_equal(a["depth"], b["depth"]) and np.array_equal(a["ids"] == 0, b["ids"] == 0)
    alone = np.minimum.reduce([draw(Scene([ROOM, t], []), CAM, AHEAD)["depth"] for t in things])
    assert np.array_equal(a["depth"], alone)


def test_bodies_beside_and_behind_the_eye():
    "A table that the camera stands over, and one behind it: the outline of a body partly behind is cut, not lost."
    wide = Camera.from_fov(100, 60, 80)
    long_, behind = box(0, 0.5, 0, 0.8, 0.05, 6, Material()), box(0, 0.5, -2.7, 0.8, 0.5, 0.4, Material())
    out = draw(Scene([ROOM, long_, behind], []), wide, pose_of(0, 20, 0, (0, -1.4, -1.5)))
    flat = draw(
        Scene([ROOM, replace(long_, half=(0.4, 0.025, 2.9), center=(0, -0.525, 0.1)), behind], []),
        wide,
        pose_of(0, 20, 0, (0, -1.4, -1.5)),
    )
    assert (out["ids"] == 1).sum() > 400 and not (out["ids"] == 2).any()
    assert (out["ids"] == 1).sum() >= (flat["ids"] == 1).sum() > 300


def test_poses_are_rotations():
    r = Dice(1)
    for _ in range(50):
        R = pose_of(r(0, 360), r(-40, 40), r(-30, 30), (1, 2, 3))[:3, :3]
        assert np.allclose(R @ R.T, np.eye(3), atol=1e-8) and np.isclose(np.linalg.det(R), 1)
    down = pose_of(0, 30, 0, (0, 0, 0))[:3, 2]
    assert np.allclose(down, [0, 0.5, np.sqrt(0.75)])  # pitch looks down, and down is +y
    assert np.allclose(pose_of(90, 0, 0, (0, 0, 0))[:3, 2], [1, 0, 0], atol=1e-8)


# ---- light --------------------------------------------------------------------------------------------------------------------------


def test_shadow_falls_where_the_light_is_hidden():
    white = Material(a=(0.8,) * 3, b=(0.8,) * 3)
    lamp = Light((0, -2.4, 1), (1.5,) * 3, size=0.001)
    room = replace(ROOM, mat=white)
    lid = box(0, 1.2, 1, 0.6, 0.05, 0.6, white)
    down = pose_of(0, 35, 0, (0, -1.3, -1.5))
    lit, dark = (
        draw(Scene([room] + b, [lamp], (0.05,) * 3), CAM, down)["image"][..., 0].astype(int) for b in ([], [lid])
    )
    floor = draw(Scene([room, lid], [lamp]), CAM, down) | dict(camera=CAM, pose=down)
    p = world(floor)
    on_floor = (floor["ids"] == 0) & (np.abs(p[..., 1]) < 0.01)
    reach = 0.3 * 2.4 / (2.4 - 1.25)  # similar triangles, from the lid's upper side
    inner = on_floor & (np.abs(p[..., 0]) < reach - 0.06) & (np.abs(p[..., 2] - 1) < reach - 0.06)
    outer = (
        on_floor & ((np.abs(p[..., 0]) > reach + 0.1) | (np.abs(p[..., 2] - 1) > reach + 0.1)) & (np.abs(p[..., 0]) < 2)
    )
    assert inner.sum() > 100 and outer.sum() > 100
    assert (lit - dark)[inner].min() > 20 and np.abs(lit - dark)[outer].max() <= 2


def test_twice_the_light_is_brighter_and_no_light_is_black():
    scene = [replace(ROOM, mat=Material(a=(0.3,) * 3, b=(0.3,) * 3))]
    one, two = (
        draw(Scene(scene, [Light((0, -2, 0), (k,) * 3)], (0,) * 3), CAM, AHEAD)["image"].astype(float)
        for k in (0.2, 0.4)
    )
    m = (one > 30) & (two < 255)
    assert m.sum() > 1000 and np.allclose((two[m] / one[m]) ** 2, 2, atol=0.15)  # gamma 2
    assert draw(Scene(scene, [], (0,) * 3), CAM, AHEAD)["image"].max() == 0


@pytest.mark.parametrize("kind", TEXTURES)
def test_textures_stay_in_range_and_fade_when_far(kind):
    v, u = (g.ravel().astype(np.float32) for g in np.mgrid[-0.45:0.45:60j, -0.6:0.6:80j])
    one = np.ones_like(u)
    near, far = (TEXTURES[kind](u, v, 0.6 * one, 0.45 * one, 0.15 * one, 0.3 * one, px * one) for px in (0.004, 0.5))
    for m in (near, far):
        assert m.shape in ((len(u),), (3, len(u))) and np.isfinite(m).all() and m.min() > -0.5 and m.max() < 1.5
    if kind in ("tiles", "checker", "carpet", "stripes", "plaid", "blinds"):
        assert far.std() < near.std()


def test_noise_is_smooth_and_between_0_and_1():
    u = np.linspace(-300, 300, 40001)
    n = noise(u, u * 0.37)
    assert 0 <= n.min() and n.max() <= 1 and np.abs(np.diff(n)).max() < 0.06 and n.std() > 0.1
    assert np.allclose(noise(u, u), noise(u + 128, u - 128), atol=1e-5)  # the table repeats


# ---- rooms --------------------------------------------------------------------------------------------------------------------------

KEPT = {
    0: (
        [[83, 81, 81, 79, 68], [21, 81, 80, 105, 99], [82, 80, 79, 86, 99], [81, 79, 79, 60, 97], [33, 70, 28, 89, 89]],
        [
            [1.24044, 1.3401, 1.45718, 1.59667, 1.76569],
            [1.23616, 1.37127, 1.49411, 1.25695, 1.39411],
            [1.29493, 1.40393, 1.53296, 1.39026, 1.43853],
            [1.32402, 1.43818, 1.57388, 1.43124, 1.48587],
            [1.12289, 0.96944, 1.30263, 1.45579, 1.71725],
        ],
    ),
    7: (
        [
            [162, 52, 29, 152, 115],
            [149, 141, 122, 138, 139],
            [137, 128, 110, 34, 128],
            [124, 134, 94, 199, 185],
            [148, 124, 102, 47, 39],
        ],
        [
            [1.60941, 1.89677, 1.90912, 1.61846, 1.35055],
            [1.68287, 2.04253, 2.07623, 1.70207, 1.44218],
            [1.76336, 2.16233, 2.21587, 1.50031, 1.50819],
            [1.85194, 2.19246, 2.37565, 1.29319, 1.30848],
            [1.86099, 1.418, 1.90673, 1.32597, 1.09289],
        ],
    ),
    1234: (
        [
            [154, 129, 144, 168, 169],
            [155, 136, 75, 166, 165],
            [145, 129, 92, 154, 156],
            [132, 116, 116, 140, 144],
            [111, 36, 41, 65, 52],
        ],
        [
            [3.38905, 3.99536, 3.44835, 2.69237, 2.20825],
            [3.40358, 4.01557, 2.96811, 2.67479, 2.19641],
            [3.41824, 4.03599, 3.17648, 2.65743, 2.18469],
            [3.43302, 4.05661, 2.97305, 2.6403, 2.1731],
            [3.44794, 3.65072, 2.0068, 2.26386, 1.92586],
        ],
    ),
}  # seed: grey levels at [::48,::64] green and depth there, drawn once and kept


@pytest.mark.parametrize("seed", KEPT)
def test_the_same_picture_on_every_machine(seed):
    it = render_room(seed)
    green, depth = KEPT[seed]
    assert np.abs(it["image"][24::48, 32::64, 1].astype(int) - np.array(green)).max() <= 1
    assert np.abs(it["depth"][24::48, 32::64] - np.array(depth)).max() < 1e-4


def test_same_seed_same_room_in_a_fresh_process():
    code = "from dogdepth.rooms import render_room; from dogdepth.sensor import Lens, Sensor; i=render_room(31,60,80,lens=Lens(),sensor=Sensor()); print(i['image'].sum(), i['depth'].tobytes().hex()[:64], int(i['ids'].sum()))"
    outs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    it = render_room(31, 60, 80, lens=Lens(), sensor=Sensor())
    assert outs == {f"{it['image'].sum()} {it['depth'].tobytes().hex()[:64]} {int(it['ids'].sum())}\n"}


def test_same_picture_on_an_older_processor():
    """NumPy and OpenCV choose their inner loops by processor; with the newer ones switched off the picture stays the
    same, bit for bit."""
    code = (
        "import hashlib\nfrom dogdepth.rooms import render_room\nfrom dogdepth.sensor import Lens, Sensor\nfor kw in "
        "({}, dict(lens=Lens(), sensor=Sensor())):\n"
        "    i = render_room(12, 120, 160, **kw); print([hashlib.md5(i[k].tobytes()).hexdigest() for k in ('image', "
        "'depth')])"
    )
    old = dict(
        os.environ,
        NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512F AVX2 FMA3",
        OPENCV_CPU_DISABLE="AVX,AVX2,AVX512F",
    )
    run = lambda env: (
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, env=env
        ).stdout
    )  # noqa: E731
    assert run(old) == run(dict(os.environ)) and len(run(old).split()) == 4


def test_rooms_module_needs_no_torch():
    code = "import sys, dogdepth.rooms; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == [
        "False",
        "False",
    ]


def test_item_and_odd_sizes():
    it = render_room(3)
    assert it["image"].shape == (240, 320, 3) and it["image"].dtype == np.uint8 and it["depth"].dtype == np.float32
    assert (
        it["scene"] == it["name"] == "room_00003"
        and it["camera"] == NYU_CAMERA.resize(240, 320)
        and "depth_true" not in it
    )
    for h, w in ((1, 1), (7, 13), (33, 50)):
        a = render_room(3, h, w)
        assert a["image"].shape == (h, w, 3) and a["depth"].shape == (h, w) and valid_mask(a["depth"], (0, 99)).all()
    for bad in (dict(seed=-1), dict(seed=1, height=0)):
        with pytest.raises(ValueError, match="seed of 0 or more"):
            render_room(**bad)


def test_same_depth_at_another_resolution():
    "A pixel centre that both sizes share sees the same point: three times as many pixels, the middle one of each 3x3."
    small, large = render_room(5, 60, 80), render_room(5, 180, 240)
    assert np.abs(large["depth"][1::3, 1::3] - small["depth"]).max() < 1e-4 and np.array_equal(
        large["ids"][1::3, 1::3], small["ids"]
    )


@pytest.mark.parametrize("fov", [45, 60, 90])
def test_any_camera_sees_the_same_room_from_the_same_place(fov):
    base, other = render_room(8), render_room(8, camera=Camera.from_fov(fov, 200, 260))
    assert np.array_equal(base["pose"], other["pose"]) and other["camera"].width == 260
    uv = np.rint(base["camera"].project(other["camera"].backproject(other["depth"]))).astype(int)
    ok = (uv >= 0).all(-1) & (uv < (320, 240)).all(-1)
    assert ok.mean() > 0.3
    err = np.abs(base["depth"][uv[ok][:, 1], uv[ok][:, 0]] - other["depth"][ok])
    assert np.median(err) < 0.015 and (err < 0.1).mean() > 0.93


def test_rooms_differ_and_resemble_nyu():
    items = [render_room(s, 60, 80, antialias=False) for s in range(300, 340)]
    med = np.array([np.median(i["depth"]) for i in items])
    assert 2.2 < med.mean() < 3.1 and med.std() > 0.4
    assert min(i["depth"].min() for i in items) > 0.15 and max(i["depth"].max() for i in items) < 15
    every = np.concatenate([i["depth"].ravel() for i in items])
    assert np.percentile(every, 0.5) < 1.1 and np.percentile(every, 99.5) > 5.5
    assert (
        np.mean([(i["ids"] > 0).mean() for i in items]) > 0.35
        and np.mean([len(np.unique(i["ids"])) for i in items]) > 15
    )
    top, bottom = (np.mean([np.median(i["depth"][r]) for i in items]) for r in (20, 57))
    assert bottom < top  # the floor is nearer
    assert 80 < np.mean([i["image"].mean() for i in items]) < 140
    height = [-i["pose"][1, 3] for i in items]
    assert min(height) > 1.1 and max(height) < 1.7
    assert len({i["image"].tobytes() for i in items}) == 40


def test_furniture_stands_in_the_room():
    for s in range(20):
        sc = room_scene(s)
        lo, hi = sc.corners[1:].min((0, 1)), sc.corners[1:].max((0, 1))
        assert (
            (lo[[0, 2]] > -sc.half[0, [0, 2]] - 0.2).all()
            and (hi[[0, 2]] < sc.half[0, [0, 2]] + 0.2).all()
            and hi[1] < 0.02
            and lo[1] > -2 * sc.half[0, 1] - 0.02
        )
        yaw, pitch, roll, eye = room_view(s)
        assert 1.15 <= -eye[1] <= 1.65 and -2 <= pitch <= 24 and abs(roll) <= 3


@pytest.mark.parametrize("make", FURNITURE, ids=lambda f: f.__name__)
def test_every_piece_is_sound(make):
    for seed in range(8):
        parts = make(Dice(seed))
        assert parts and all(min(b.half) > 0 for b in parts)
        assert max(b.center[1] + b.half[1] for b in parts) < 1e-9  # nothing under the floor
    draw(Scene([ROOM, *parts], [Light((0, -2, -1), (1,) * 3)]), CAM.resize(24, 32), AHEAD)


def test_fast_enough():
    "Generous: a busy machine passes too. About 0.1 s of one quiet core."
    spent = []
    for s in range(6):
        t = time.process_time()
        render_room(700 + s)
        spent.append(time.process_time() - t)
    assert np.median(spent) < 1.0


# ---- lens ---------------------------------------------------------------------------------------------------------------------------


def test_blur_is_zero_in_focus_and_grows_away_from_it():
    lens = Lens(2.0, 2.0, 50.0)
    z = np.linspace(0.5, 8, 400)
    b = lens.blur_px(z, CAM)
    assert lens.blur_px(np.array(2.0), CAM) == 0
    assert (np.diff(b[z < 2]) < 0).all() and (np.diff(b[z > 2]) > 0).all()
    assert np.isclose(lens.blur_px(np.array(4.0), CAM), CAM.focal * 0.025 / (2 - 0.05) * 0.5)  # by hand: aperture 25 mm
    assert np.allclose(Lens(4.0, 2.0, 50.0).blur_px(z, CAM), b / 2) and np.allclose(
        lens.blur_px(z, CAM.resize(240, 320)), 2 * b
    )


def test_lens_refuses_the_impossible():
    for bad in (dict(f_number=0), dict(focus_m=0.04), dict(focal_mm=-1)):
        with pytest.raises(ValueError, match="beyond the focal length"):
            Lens(**bad)


def sharpness(img):
    return np.abs(cv2.Laplacian(cv2.cvtColor(img, cv2.COLOR_RGB2GRAY).astype(np.float32), cv2.CV_32F)).mean()


def test_defocus_laws():
    rng = np.random.default_rng(0)
    img = rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)
    cam, lens = Camera.from_fov(60, 80, 100), Lens(1.0, 2.0, 100.0)
    assert np.array_equal(defocus(img, np.full((80, 100), 2.0), cam, lens), img)  # in focus: untouched
    assert np.array_equal(defocus(img, np.zeros((80, 100)), cam, lens), img)  # no reading: untouched
    s = [sharpness(defocus(img, np.full((80, 100), z), cam, lens)) for z in (2.0, 3.0, 4.0, 5.5, 9.0)]
    assert all(a > b for a, b in zip(s, s[1:]))
    s = [sharpness(defocus(img, np.full((80, 100), z), cam, lens)) for z in (2.0, 1.5, 1.2, 0.8)]
    assert all(a > b for a, b in zip(s, s[1:]))
    z = rng.uniform(0.6, 8, (80, 100))
    flat = defocus(np.full((80, 100, 3), 123, np.uint8), z, cam, lens)
    assert np.abs(flat.astype(int) - 123).max() <= 1  # a grey room stays grey
    assert not np.array_equal(defocus(img, z, cam, lens), defocus(img, z, cam, Lens(8.0, 2.0, 100.0)))


def test_a_point_becomes_a_disc_of_the_right_size():
    img = np.zeros((61, 61, 3), np.uint8)
    img[30, 30] = 255
    cam, lens = Camera.from_fov(20, 61, 61), Lens(1.0, 2.0, 100.0)
    d = float(lens.blur_px(np.array(4.0), cam))
    out = (defocus(img, np.full((61, 61), 4.0), cam, lens)[..., 0] / 255.0) ** 2
    assert 1.5 < d < 12 and abs(2 * np.sqrt((out > out.max() / 2).sum() / np.pi) - d) < 0.2 * d + 0.5
    assert abs(out.sum() - 1) < 0.15


def test_render_room_with_a_lens_keeps_depth():
    a, b = render_room(6), render_room(6, lens=Lens(1.0, 1.2))
    assert np.array_equal(a["depth"], b["depth"]) and sharpness(b["image"]) < 0.8 * sharpness(a["image"])


# ---- sensor -------------------------------------------------------------------------------------------------------------------------


def test_sensor_holes_are_zero_and_noise_grows_with_depth():
    err, holes = [], []
    for s in range(6):
        it = render_room(s, sensor=Sensor())
        d, t = it["depth"], it["depth_true"]
        assert d.dtype == np.float32 and (d[d > 0] > 0.3).all() and np.isfinite(d).all()
        holes.append((d == 0).mean())
        err += [(t[d > 0], np.abs(d - t)[d > 0])]
    t, e = (np.concatenate(v) for v in zip(*err))
    near, far = (np.median(e[(t > a) & (t < b)]) for a, b in ((1, 1.6), (3.5, 4.5)))
    assert 0.001 < near < 0.01 and far > 3 * near and far < 0.08
    assert 0.15 < np.mean(holes) < 0.5


def test_sensor_parts_can_be_switched_off():
    true = render_room(4)
    clean = render_room(4, sensor=Sensor(noise=0, baseline_m=1e-9, dropout=0, rim=0, grain=0, far_m=99, near_m=0))
    assert np.array_equal(clean["depth"], true["depth"]) and np.array_equal(clean["image"], true["image"])
    cut = render_room(4, sensor=Sensor(noise=0, dropout=0, rim=0, grain=0, far_m=3.0))
    assert not cut["depth"][true["depth"] > 3].any() and (cut["depth"] > 0).mean() > 0.1
    rim = render_room(4, sensor=Sensor(noise=0, dropout=0, grain=0, baseline_m=1e-9, rim=0.1))["depth"]
    assert not rim[:24].any() and not rim[:, -32:].any() and (rim[26:-26, 34:-34] > 0).all()


def test_projector_shadow_by_hand():
    """A post at 1 m before a wall at 3 m: the shadow on the wall is fx*baseline*(1/1-1/3) pixels wide, on the left of
    the post."""
    cam = Camera.from_fov(60, 20, 200)
    z = np.full((20, 200), 3.0)
    z[:, 100:120] = 1.0
    _, d = Sensor(noise=0, dropout=0, rim=0, grain=0).read(np.full((20, 200, 3), 128, np.uint8), z, cam)
    holes = np.flatnonzero(d[10] == 0)
    want = cam.fx * 0.075 * (1 - 1 / 3)
    assert (d == d[10]).all() and abs(len(holes) - want) <= 1 and holes.max() == 99 and (np.diff(holes) == 1).all()


def test_sensor_draws_differ_by_frame_not_by_call():
    a, b, c = (render_room(2, 60, 80, sensor=Sensor(), frame=f)["depth"] for f in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


# ---- walks and data sets ------------------------------------------------------------------------------------------------------------


def test_walk_frames_agree_and_move():
    walk = room_walk(6, 8, 90, 120, step_m=0.05, turn_deg=2.0)
    assert [w["name"] for w in walk[:2]] == ["room_00006_0000", "room_00006_0001"] and {w["scene"] for w in walk} == {
        "room_00006"
    }
    assert np.array_equal(walk[0]["depth"], render_room(6, 90, 120)["depth"])
    eyes = np.array([w["pose"][:3, 3] for w in walk])
    steps = np.linalg.norm(np.diff(eyes, axis=0), axis=1)
    assert np.allclose(steps, 0.05, atol=1e-6) and np.allclose(eyes[:, 1], eyes[0, 1])
    for a, b in zip(walk, walk[1:]):
        local = (world(a) - b["pose"][:3, 3]) @ b["pose"][:3, :3]
        uv = b["camera"].project(local)
        x, y = np.rint(np.nan_to_num(uv, nan=-9)).astype(int).transpose(2, 0, 1)
        ok = (x >= 0) & (x < 120) & (y >= 0) & (y < 90)
        err = np.abs(b["depth"][y[ok], x[ok]] - local[ok][:, 2])
        assert ok.mean() > 0.8 and np.median(err) < 0.012 and (err < 0.1).mean() > 0.85
        cos = (np.trace(a["pose"][:3, :3].T @ b["pose"][:3, :3]) - 1) / 2
        assert np.degrees(np.arccos(min(cos, 1))) < 2.5


def test_long_walks_stay_out_of_the_furniture():
    for seed in (1, 9):
        for w in room_walk(seed, 40, 6, 8, step_m=0.1):
            sc, eye = room_scene(seed), w["pose"][:3, 3]
            assert (np.abs(eye - sc.center[0]) < sc.half[0] - 0.19).all() and w["depth"].min() > 0.02


def test_rooms_is_a_sequence():
    ds = Rooms(3, 24, 32, seed=50, sensor=Sensor())
    assert len(ds) == 3 and [i["name"] for i in ds] == ["room_00050", "room_00051", "room_00052"]
    assert np.array_equal(ds[-1]["depth"], ds[2]["depth"]) and "depth_true" in ds[0]
    assert np.array_equal(ds[np.int64(1)]["image"], render_room(51, 24, 32, sensor=Sensor())["image"])
    for bad in (3, -4):
        with pytest.raises(IndexError, match="of 3"):
            ds[bad]


def test_dice():
    r = Dice(0)
    xs = [r(2, 3) for _ in range(200)]
    assert 2 <= min(xs) < 2.1 and 2.9 < max(xs) < 3 and set(Dice(3).pick("abc") for _ in range(1)) <= set("abc")
    assert Dice(1)() != Dice(2)() and Dice(1, 2)() == Dice(1, 2)()
    assert {Dice(k).pick([1, 2, 3]) for k in range(30)} == {1, 2, 3}
    assert all(0 <= v <= 1 for k in range(30) for v in Dice(k).color())


def test_span_by_hand():
    o, d = (np.zeros(1), np.zeros(1), np.full(1, -3.0)), (np.zeros(1) + 1e-9, np.zeros(1) + 1e-9, np.ones(1))
    for shape in (BOX, BALL, CYL):
        t0, t1 = span(shape, o, d)
        assert np.isclose(t0, 2) and np.isclose(t1, 4)
    for shape in (BOX, BALL, CYL):
        t0, t1 = span(shape, (np.full(1, 1.2), np.zeros(1), np.full(1, -3.0)), d)
        assert not t0 < t1


def test_defocus_takes_grey_levels_only():
    it = render_room(0, 24, 32)
    for image in (it["image"] / 255, it["image"][..., 0], it["image"][:12]):
        with pytest.raises(ValueError, match=r"image should be \(H,W,3\) uint8"):
            defocus(image, it["depth"], it["camera"], Lens(2.8, 2.0))

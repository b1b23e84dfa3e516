"""Photo in, metres out: laws of the canonical camera, oracles for both resizings, and every kind of input.

Most tests use tiny networks whose answer is known; the real architecture and the bundled weights come at the end."""

import json
import os
import subprocess
import sys
import warnings

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import dogdepth
from dogdepth.weights import CANONICAL_FOCAL, folded
from dogdepth.attention import DepthUNet
from dogdepth.depth import NYU_CAMERA, Camera
from dogdepth.dog import stack_dog
from dogdepth.photos import as_rgb, exif_focal, load_photo, photo_notes
from dogdepth.predict import Prediction, Predictor, default_camera, network_size


class Net(torch.nn.Module):
    "A network that answers with `f(x)` and remembers what it was shown."

    def __init__(self, f, arch="light", dog=False, height=240, width_px=320):
        super().__init__()
        self.f, self.arch, self.seen = f, arch, []
        self.config = dict(arch=arch, dog=dog, height=height, width_px=width_px)

    def forward(self, x):
        self.seen.append(x.clone())
        return self.f(x)

    def __deepcopy__(self, memo):
        return self  # a Predictor takes a copy; these tests want to see what that was shown

    metres = DepthUNet.metres


def constant(v):
    return lambda x: torch.full_like(x[:, :1], v)


def brightness(x):
    return 1 + 4 * x.mean(1, keepdim=True)


def ramp(x):
    "Depth that grows to the right, whatever the picture."
    return torch.linspace(1, 3, x.shape[-1]).expand(x.shape[0], 1, *x.shape[-2:])


def photo(h=48, w=64, seed=0):
    "Smooth colours: enlarging and shrinking change them little."
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)


# --- sizes


@pytest.mark.parametrize(
    "h,w,want",
    [
        (480, 640, (240, 320)),
        (240, 320, (240, 320)),
        (3000, 4000, (240, 320)),
        (640, 480, (320, 240)),
        (500, 741, (224, 336)),
        (400, 400, (272, 272)),
        (8, 4000, (32, 6192)),
    ],
)
def test_network_size(h, w, want):
    assert network_size(h, w) == want


def test_network_size_keeps_shape_and_area():
    r = np.random.default_rng(0)
    for h, w in r.integers(100, 3000, (300, 2)):
        a, b = network_size(int(h), int(w))
        assert a % 16 == b % 16 == 0 or (a, b) == (240, 320)
        assert min(a, b) >= 32
        if 1 / 3 < w / h < 3:
            assert abs(np.log((b / a) / (w / h))) < 0.12 and abs(a * b / 76800 - 1) < 0.12


def test_network_size_follows_the_weights():
    assert network_size(480, 640, (480, 640)) == (480, 640)
    assert network_size(456, 608, (228, 304)) == (228, 304)  # its own size needs no steps of 16
    net = Net(constant(1.0), height=96, width_px=128)
    Predictor(net).predict(photo())
    Predictor(net, size=(48, 64)).predict(photo())
    assert [tuple(x.shape) for x in net.seen] == [(1, 3, 96, 128), (1, 3, 48, 64)]


# --- what the network is shown


def test_shrinks_by_area_and_scales_to_one():
    fine = np.zeros((480, 640, 3), np.uint8)
    fine[::2, ::2] = 252  # one pixel in four: a mean of 63 everywhere, which sampling would miss
    net = Net(constant(1.0))
    Predictor(net).predict(fine)
    assert torch.allclose(net.seen[0], torch.tensor(63 / 255))


def test_enlarges_smoothly():
    ramp_img = np.repeat(np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], 24, 0), 3, 2)
    net = Net(constant(1.0))
    Predictor(net).predict(ramp_img)  # 24x32 -> 240x320: steps of 8 levels become slopes
    assert net.seen[0].diff(dim=-1).max() < 3 / 255


def test_channels_are_rgb_then_dog():
    img = photo(240, 320)
    net = Net(constant(1.0), dog=True)
    Predictor(net).predict(img)
    want = torch.from_numpy(stack_dog(img).transpose(2, 0, 1)).float() / 255
    assert net.seen[0].shape == (1, 6, 240, 320) and torch.equal(net.seen[0][0], want)


def test_published_program_sees_bgr_and_answers_in_levels():
    img = photo(240, 320)
    net = Net(constant(51.0), arch="published", dog=True)
    p = Predictor(net)
    assert np.allclose(p.predict(img).depth_m, 2.0)  # 51 of 255 levels, 255 = 10 m
    assert np.allclose(p.predict(img, Camera.from_fov(30, 240, 320)).depth_m, 2.0)  # levels know no camera
    assert torch.equal(net.seen[0][0, :3], torch.from_numpy(img[..., ::-1].transpose(2, 0, 1).copy()).float() / 255)
    assert (
        Predictor(Net(constant(-9.0), arch="published", dog=True)).predict(img).depth_m.min() > 0
    )  # a level below 0 is no hole


# --- metres


def test_nyu_frame_comes_out_as_the_network_said():
    assert np.allclose(Predictor(Net(constant(2.5))).predict(photo(480, 640)).depth_m, 2.5, rtol=1e-6)


@pytest.mark.parametrize("h,w,f", [(480, 640, 1037.0), (500, 741, 994.978), (300, 900, 200.0), (640, 480, 520.0)])
def test_metres_follow_the_focal_length(h, w, f):
    cam = Camera(f, f, w / 2, h / 2, h, w)
    a, b = network_size(h, w)
    want = 2.5 * f * np.sqrt(a / h * b / w) / CANONICAL_FOCAL
    assert np.allclose(Predictor(Net(constant(2.5))).predict(photo(h, w), cam).depth_m, want, rtol=1e-5)


def test_zoom_law():
    "Half the field of view, the same picture: everything is twice as far."
    p, img = Predictor(Net(brightness)), photo(480, 640)
    wide, tele = (p.predict(img, Camera(f, f, 320, 240, 480, 640)).depth_m for f in (500.0, 1000.0))
    assert np.allclose(tele, 2 * wide, rtol=1e-5)


@pytest.mark.parametrize("h,w", [(240, 320), (960, 1280), (391, 521)])
def test_resizing_keeps_metres(h, w):
    p, img = Predictor(Net(brightness)), photo(480, 640)
    for cam in (None, Camera.from_fov(50, 480, 640)):
        a = p.predict(img, cam).depth_m
        b = p.predict(cv2.resize(img, (w, h), interpolation=cv2.INTER_AREA), cam and cam.resize(h, w)).depth_m
        assert b.shape == (h, w)
        assert np.abs(cv2.resize(b, (640, 480)) / a - 1).max() < 0.03


def test_answer_is_enlarged_bilinearly():
    g = torch.Generator().manual_seed(0)
    out = 1 + torch.rand(1, 1, 240, 320, generator=g)
    got = Predictor(Net(lambda x: out), sharp=False).predict(photo(480, 640)).depth_m
    want = F.interpolate(out, (480, 640), mode="bilinear", align_corners=False)[0, 0].numpy()
    assert np.abs(got - want).max() < 1e-4


def test_answer_turns_where_the_photo_shows_a_border():
    "A step of depth that the network drew over sixteen pixels takes four where the photo shows it."
    step = np.full((480, 640, 3), 40, np.uint8)
    step[:, 320:] = 220
    x = (torch.arange(320.0) - 159.5).clamp(-4, 4) / 8 + 0.5  # 0 to 1 over eight pixels of the network's map
    out = (1 + 2 * x).repeat(240, 1)[None, None]
    width = {}
    for sharp in (True, False):
        depth = Predictor(Net(lambda x: out), sharp=sharp).predict(step).depth_m
        assert depth[:, 0].max() < 1.02 and depth[:, -1].min() > 2.98
        width[sharp] = ((depth > 1.2) & (depth < 2.8)).sum(1).mean()
    assert width[True] < 0.5 * width[False], width


def test_flip_averages_the_two_views():
    img = photo(240, 320)
    right, left = (
        ramp(torch.zeros(1, 3, 240, 320))[0, 0].numpy(),
        ramp(torch.zeros(1, 3, 240, 320))[0, 0].numpy()[:, ::-1],
    )
    assert np.allclose(Predictor(Net(ramp)).predict(img, flip=True).depth_m, (right + left) / 2, atol=1e-5)
    p = Predictor(Net(lambda x: ramp(x) * brightness(x)))
    a, b = p.predict(img, flip=True).depth_m, p.predict(np.ascontiguousarray(img[:, ::-1]), flip=True).depth_m
    assert np.allclose(a[:, ::-1], b, atol=1e-5)
    assert not np.allclose(p.predict(img).depth_m, a, atol=0.1)


# --- batches


def test_batch_equals_one_by_one_in_order():
    net = Net(lambda x: brightness(x) * ramp(x), dog=True)
    p = Predictor(net)
    imgs = [
        photo(*s, seed=i)
        for i, s in enumerate([(48, 64), (60, 90), (96, 128), (64, 48), (61, 90), (480, 640), (33, 47)])
    ]
    cams = [None, Camera.from_fov(80, 60, 90), None, None, Camera.from_fov(40, 61, 90), None, None]
    batch = p.predict_batch(imgs, cams)
    assert len(net.seen) < len(imgs)  # same sizes went together
    for img, cam, b in zip(imgs, cams, batch):
        one = p.predict(img, cam)
        assert b.depth_m.shape == img.shape[:2] and b.camera == one.camera
        assert np.allclose(one.depth_m, b.depth_m, rtol=1e-5) and (b.image == img).all()


def test_batch_is_cut_into_parts_and_may_be_empty():
    net = Net(constant(1.0))
    assert len(Predictor(net).predict_batch([photo()] * 5, bs=2)) == 5 and [len(x) for x in net.seen] == [2, 2, 1]
    assert Predictor(net).predict_batch([]) == []


def test_one_camera_for_all():
    cam = Camera.from_fov(40, 48, 64)
    assert [p.camera for p in Predictor(Net(constant(1.0))).predict_batch([photo()] * 2, cam)] == [cam, cam]


def test_prediction_types_and_input_untouched():
    img = photo()
    before = img.copy()
    r = Predictor(Net(brightness)).predict(img)
    assert (
        isinstance(r, Prediction) and r.depth_m.dtype == np.float32 and r.depth_m.shape == (48, 64) and r.std_m is None
    )
    assert r.image.dtype == np.uint8 and (img == before).all() and r.camera == default_camera(48, 64)
    assert (r.depth_m > 0).all() and np.isfinite(r.depth_m).all()


# --- kinds of picture


def test_as_rgb_accepts():
    img = photo()
    grey = img[..., 0]
    assert (as_rgb(img) == img).all()
    assert (as_rgb(grey) == grey[..., None]).all() and as_rgb(grey).shape == img.shape
    assert (as_rgb(grey[..., None]) == as_rgb(grey)).all()
    assert (as_rgb(img / 255) == img).all() and (as_rgb((img / 255).astype(np.float32)) == img).all()
    assert (as_rgb(np.full((9, 9), 0.999)) == 255).all()  # rounded, not cut
    rgba = np.dstack([img, np.full(img.shape[:2], 255, np.uint8)])
    assert (as_rgb(rgba) == img).all()
    rgba[..., 3] = 0
    assert (as_rgb(rgba) == 255).all()  # nothing there: white paper
    rgba[..., :3], rgba[..., 3] = 100, 51
    assert (as_rgb(rgba) == 224).all()  # 0.2*100 + 0.8*255
    for mode in ("RGB", "L", "RGBA", "P"):
        assert as_rgb(Image.fromarray(img).convert(mode)).shape == img.shape
    assert (as_rgb(Image.fromarray(img)) == img).all()
    red = Image.new("RGB", (20, 20), "red").convert("P", palette=Image.Palette.ADAPTIVE)
    assert (as_rgb(red) == (255, 0, 0)).all()  # colours, not palette numbers
    assert as_rgb(img[:, ::-1]).flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    "img,match",
    [
        ("room.jpg", r"got the path 'room.jpg'.*load_photo"),
        (np.zeros((3, 48, 64), np.uint8), r"channels last, got \(3, 48, 64\)"),
        (np.zeros((2, 48, 64, 3), np.uint8), r"got \(2, 48, 64, 3\)"),
        (np.zeros((48, 64, 2), np.uint8), r"got \(48, 64, 2\)"),
        (np.zeros((1, 1, 3), np.uint8), r"at least 8 pixels each way, got 1x1"),
        (np.zeros((0, 64, 3), np.uint8), r"at least 8 pixels each way, got 0x64"),
        (np.zeros((48, 64, 3), np.uint16), r"uint8, or float in \[0,1\], got uint16"),
        (np.full((48, 64, 3), 200.0), r"float in \[0,1\], got float64 from 200"),
        (np.full((48, 64, 3), np.nan), r"float in \[0,1\], got float64 from nan"),
        (np.full((48, 64, 3), -0.1), r"float in \[0,1\]"),
    ],
)
def test_bad_pictures(img, match):
    with pytest.raises(ValueError, match=match):
        Predictor(Net(constant(1.0))).predict(img)


def test_bad_cameras():
    p = Predictor(Net(constant(1.0)))
    with pytest.raises(ValueError, match=r"camera belongs to 480x640 pixels, the photo has 48x64"):
        p.predict(photo(), NYU_CAMERA)
    with pytest.raises(ValueError, match=r"2 photos came with 1 cameras"):
        p.predict_batch([photo()] * 2, [None])


# --- cameras of photos


def test_default_camera():
    assert default_camera(480, 640) == NYU_CAMERA
    assert default_camera(240, 320) == NYU_CAMERA.resize(240, 320)
    c = default_camera(500, 741)
    assert c.fx / 741 == pytest.approx(NYU_CAMERA.fx / 640) and c.fx == c.fy and (c.cx, c.cy) == (370, 249.5)
    assert default_camera(741, 500).fx == c.fx  # turning a camera does not change its lens


def save(path, img, orientation=None, raw=None, xmp=None, **tags):
    im, ex = Image.fromarray(img), Image.Exif()
    if orientation:
        ex[0x0112] = orientation
    names = dict(f35=0xA405, f_mm=0x920A, res=0xA20E, unit=0xA210, w=0xA002, h=0xA003, zoom=0xA404, rendered=0xA401)
    for k, number in (("model", 0x0110), ("w0", 0x0100), ("h0", 0x0101)):
        if k in tags:
            ex[number] = tags.pop(k)
    ifd = ex.get_ifd(0x8769)
    for k, v in tags.items():
        ifd[names[k]] = v
    im.save(path, exif=raw or ex, quality=95, **(dict(xmp=xmp) if xmp else {}))
    return path


def heard(path, **kw):
    "The camera of a photo, and what the library had to say about it."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cam = load_photo(path, **kw)[1]
    return cam, [str(w.message) for w in said if w.category is UserWarning and "PIL" not in w.filename]


# the block of the whole photo (4032x3024, 26 mm), in pictures that are and are not copies of it
@pytest.mark.parametrize(
    "h,w,orientation",
    [(48, 64, None), (64, 48, None), (48, 64, 6), (64, 48, 8), (75, 101, None), (9, 12, None), (600, 800, None)],
)
def test_smaller_copies_keep_their_lens(tmp_path, h, w, orientation):
    cam, said = heard(save(tmp_path / "a.jpg", photo(h, w), orientation, f35=26, w=4032, h=3024))
    assert cam.source == "exif" and not said


@pytest.mark.parametrize("h,w", [(48, 48), (36, 64), (27, 64), (64, 40), (200, 300)])
@pytest.mark.parametrize("how", [dict(w=4032, h=3024), dict(w0=4032, h0=3024), dict(w=3024, h=4032)], ids=str)
@pytest.mark.parametrize("lens", [dict(f35=26), dict(f_mm=6.0, res=1000.0, unit=4)], ids=str)
def test_a_block_of_another_picture_is_not_believed(tmp_path, h, w, how, lens):
    p = save(tmp_path / "a.jpg", photo(h, w), **lens, **how)
    cam, said = heard(p)
    assert cam == default_camera(h, w) and cam.source == "assumed" and exif_focal(p, h, w) is None
    assert (
        len(said) == 1
        and said[0].startswith(f"{p}: ")
        and "another shape" in said[0]
        and f"{w}x{h}" in said[0]
        and "fov" in said[0]
    )
    assert photo_notes(p) == [said[0].removeprefix(f"{p}: ")] == photo_notes(Image.open(p))
    for kw in (dict(fov=50), dict(fx=60)):
        cam, said = heard(p, **kw)
        assert cam.source == "given" and not said  # the person knows better


def test_a_block_without_a_lens_is_nobodys_business(tmp_path):
    assert heard(save(tmp_path / "a.jpg", photo(48, 48), w=4032, h=3024)) == (default_camera(48, 48), [])


def test_digital_zoom_is_said(tmp_path):
    cam, said = heard(save(tmp_path / "a.jpg", photo(), f35=26, zoom=2.5))
    assert cam.source == "exif" and len(said) == 1 and "2.5 times" in said[0]
    assert not heard(save(tmp_path / "b.jpg", photo(), f35=26, zoom=1.0))[1]


GPANO = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" %s</x:xmpmeta>'


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.png"])
@pytest.mark.parametrize(
    "block,kind",
    [
        (GPANO % b'GPano:ProjectionType="equirectangular"/>', "equirectangular"),
        (GPANO % b"><GPano:ProjectionType>cylindrical</GPano:ProjectionType></rdf:Description>", "cylindrical"),
        (GPANO % b'GPano:UsePanoramaViewer="True"/>', "GPano"),
    ],
)
def test_panoramas_are_no_pinhole_pictures(tmp_path, name, block, kind):
    p = tmp_path / name
    if name == "a.png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", block.decode())
        Image.fromarray(photo(32, 64)).save(p, pnginfo=info)
    else:
        save(p, photo(32, 64), xmp=block, f35=26)
    cam, said = heard(p)
    assert (
        cam.source == "assumed"
        and len(said) == 1
        and "panorama" in said[0]
        and kind in said[0]
        and "pinhole" in said[0]
    )
    assert len(heard(p, fov=90)[1]) == 1  # no field of view makes it one


def test_other_panoramas(tmp_path):
    assert "panorama" in heard(save(tmp_path / "a.jpg", photo(32, 100), f35=26, rendered=6))[1][0]
    assert "RICOH THETA" in heard(save(tmp_path / "b.jpg", photo(32, 64), f35=7, model="RICOH THETA V"))[1][0]
    flat = GPANO % b'GPano:ProjectionType="rectilinear"/>'
    assert heard(save(tmp_path / "c.jpg", photo(), xmp=flat, f35=26)) == (load_photo(tmp_path / "c.jpg")[1], [])
    assert not heard(save(tmp_path / "d.jpg", photo(), f35=26, rendered=2))[1]  # HDR
    assert not heard(save(tmp_path / "e.jpg", photo(48, 64), f35=26, model="RICOH THETA V"))[1]  # a view cut out of it


def test_photo_without_exif(tmp_path):
    img, cam = load_photo(save(tmp_path / "a.png", photo()))
    assert (img == photo()).all() and cam == default_camera(48, 64)


def test_35mm_equivalent(tmp_path):
    _, cam = load_photo(save(tmp_path / "a.jpg", photo(), f35=26))
    assert cam.fx == cam.fy == pytest.approx(26 * np.hypot(48, 64) / np.hypot(36, 24), rel=1e-4)
    assert (cam.height, cam.width, cam.cx, cam.cy) == (48, 64, 31.5, 23.5)


@pytest.mark.parametrize("unit,per_mm", [(2, 25.4), (3, 10), (4, 1)])
def test_focal_plane(tmp_path, unit, per_mm):
    "A 6 mm lens on a 6.4 mm wide sensor of 6400 pixels, shrunk to 64: 1000 px per mm, so fx = 60."
    _, cam = load_photo(save(tmp_path / "a.jpg", photo(), f_mm=6.0, res=1000.0 * per_mm, unit=unit, w=6400, h=4800))
    assert cam.fx == pytest.approx(60, rel=1e-4)


def test_focal_plane_without_a_size(tmp_path):
    _, cam = load_photo(save(tmp_path / "a.jpg", photo(), f_mm=6.0, res=10.0, unit=4, w=0, h=0))
    assert cam.fx == pytest.approx(60, rel=1e-4)


def test_turned_photo(tmp_path):
    "Orientation 6: stored lying, shown upright; the lens stays what it was."
    img, cam = load_photo(save(tmp_path / "a.jpg", photo(), orientation=6, f35=26))
    assert img.shape == (64, 48, 3) and (cam.height, cam.width) == (64, 48)
    _, lying = load_photo(save(tmp_path / "b.jpg", photo(), f35=26))
    assert cam.fx == lying.fx
    _, cam = load_photo(save(tmp_path / "c.jpg", photo(), orientation=6, f_mm=6.0, res=1000.0, unit=4, w=6400, h=4800))
    assert cam.fx == pytest.approx(60, rel=1e-4)


@pytest.mark.parametrize("tags", [dict(f35=0), dict(f_mm=6.0), dict(f35=60000), dict(f35=1), dict(f_mm=6.0, res=0.0)])
def test_useless_exif_is_ignored(tmp_path, tags):
    p = save(tmp_path / "a.jpg", photo(), **tags)
    assert exif_focal(p, 48, 64) is None and load_photo(p)[1] == default_camera(48, 64)


def test_damaged_exif_is_ignored(tmp_path):
    p = save(tmp_path / "a.jpg", photo(), raw=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff garbage")
    assert load_photo(p)[1] == default_camera(48, 64)


def test_fov_and_fx_override_exif(tmp_path):
    p = save(tmp_path / "a.jpg", photo(), f35=26)
    assert load_photo(p, fov=90)[1].fx == pytest.approx(32)
    assert load_photo(p, fx=50)[1].fx == 50
    for kw, match in (
        (dict(fov=60, fx=50), "not both"),
        (dict(fov=180), "degrees"),
        (dict(fov=0), "degrees"),
        (dict(fx=0), "got 0"),
        (dict(fx=-5), "got -5"),
        (dict(fx=float("nan")), "got nan"),
    ):
        with pytest.raises(ValueError, match=match):
            load_photo(p, **kw)


def test_unreadable_photos(tmp_path):
    for name, content, match in (
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"hello", "not an image"),
        ("cut.png", None, "damaged|cut short"),
    ):
        p = tmp_path / name
        if content is None:
            save(p, photo())
            p.write_bytes(p.read_bytes()[:2000])
        else:
            p.write_bytes(content)
        with pytest.raises(ValueError, match=match):
            load_photo(p)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_photo(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match=r"\.png: .*at least 8 pixels each way, got 1x1"):
        load_photo(save(tmp_path / "one.png", np.zeros((1, 1, 3), np.uint8)))


# --- one known distance


def test_rescale_takes_what_a_tape_measures():
    r = np.random.default_rng(0)
    d = r.uniform(1, 5, (48, 64)).astype(np.float32)
    p = Prediction(d, default_camera(48, 64), photo(), std_m=d / 10)
    q = p.rescale((60, 7), 3.25)
    ray = np.linalg.norm(p.camera.rays()[7, 60])
    assert ray > 1.1
    assert np.linalg.norm(q.camera.backproject(q.depth_m)[7, 60]) == pytest.approx(3.25)  # along the ray
    assert q.distance((60, 7)) == pytest.approx(3.25) and q.depth_m[7, 60] == pytest.approx(3.25 / ray)
    assert q.depth_m.dtype == np.float32
    assert np.allclose(q.depth_m / d, 3.25 / ray / d[7, 60], rtol=1e-5) and np.allclose(
        q.std_m, q.depth_m / 10, rtol=1e-5
    )
    assert (p.depth_m == d).all() and q.camera is p.camera and q.image is p.image
    deep = p.rescale((60, 7), 3.25, z=True)
    assert deep.depth_m[7, 60] == pytest.approx(3.25)
    assert np.allclose(deep.depth_m / q.depth_m, ray, rtol=1e-5)
    assert Prediction(d, p.camera, p.image).rescale((np.float64(60), 7.2), 3.25).std_m is None
    for xy, m, match in (
        ((64, 0), 1, r"\(64,0\) lies outside the photo, which is 64 wide and 48 high"),
        ((0, 48), 1, "outside"),
        ((-1, 0), 1, "outside"),
        ((0, 0), 0, "positive number of metres, got 0"),
        ((0, 0), -2, "positive"),
        ((0, 0), float("nan"), "positive"),
    ):
        for z in (False, True):
            with pytest.raises(ValueError, match=match):
                p.rescale(xy, m, z)


@pytest.mark.parametrize("fov", [20, 63, 120])
def test_rescale_follows_the_predictions_own_camera_and_brings_the_width_along(fov):
    """A flat wall 2 m away: whichever pixel is measured, the tape agrees and nothing changes; twice the tape is twice
    the width."""
    cam = Camera.from_fov(fov, 48, 64).crop(3, 10, 40, 50)  # off its middle too
    p = Prediction(np.full((40, 50), 2, np.float32), cam, photo(40, 50))
    for xy in ((0, 0), (49, 0), (25, 20), (3, 39)):
        tape = float(np.linalg.norm(cam.backproject(p.depth_m)[xy[1], xy[0]]))
        np.testing.assert_allclose(p.rescale(xy, tape).depth_m, 2, rtol=1e-5)
        assert p.distance(xy) == pytest.approx(tape)
        q = p.rescale(xy, 2 * tape)
        width = [np.ptp(v.camera.backproject(v.depth_m)[..., 0]) for v in (p, q)]
        assert width[1] == pytest.approx(2 * width[0], rel=1e-5)


@pytest.mark.parametrize("hole", [0, np.nan, np.inf])
def test_a_pixel_without_depth_cannot_be_measured(hole):
    d = np.full((48, 64), 2, np.float32)
    d[7, 60] = hole
    with pytest.raises(ValueError, match=r"pixel \(x,y\) = \(60,7\) has no depth"):
        Prediction(d, default_camera(48, 64), photo()).rescale((60, 7), 3)


# --- weights and devices


def test_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    m = DepthUNet("light", dog=True).eval()
    for q in m.buffers():  # statistics as after some training: loading must bring them too
        if q.is_floating_point():
            q.uniform_(0.5, 1.5)
    m.save_pretrained(tmp_path)
    p = Predictor(tmp_path, device="cpu")
    assert p.weights == str(tmp_path) and p.size == (240, 320)
    imgs = [photo(480, 640), photo(500, 741, 1), photo(240, 320, 2)]
    batch = p.predict_batch(imgs)
    for i, b in zip(imgs, batch):
        assert np.allclose(p.predict(i).depth_m, b.depth_m, rtol=1e-3)
        assert np.allclose(Predictor(m.train()).predict(i).depth_m, b.depth_m, rtol=1e-3)  # and is put in eval mode
    assert np.ptp(batch[0].depth_m) > 0


@pytest.mark.parametrize(
    "files,match",
    [
        ({}, "no config.json"),
        ({"config.json": "{}"}, "config.json is not a dogdepth configuration"),
        ({"config.json": "not json"}, "config.json is not a dogdepth configuration"),
        ({"config.json": None}, "no weights at"),
        ({"config.json": None, "model.safetensors": "hello"}, "not a weight file that can be read"),
    ],
)
def test_bad_weights(tmp_path, files, match):
    good = tmp_path / "good"
    DepthUNet("light").save_pretrained(good)
    bad = tmp_path / "bad"
    bad.mkdir()
    for k, v in files.items():
        (bad / k).write_text((good / k).read_text() if v is None else v)
    with pytest.raises((ValueError, FileNotFoundError), match=match) as e:
        Predictor(bad)
    assert "\n" not in str(e.value)


def test_weights_of_another_architecture(tmp_path):
    DepthUNet("light", dog=True).save_pretrained(tmp_path)
    cfg = tmp_path / "config.json"
    cfg.write_text(cfg.read_text().replace('"dog": true', '"dog": false'))
    with pytest.raises(ValueError, match="does not fit arch='light'"):
        Predictor(tmp_path)


def test_missing_weights_and_device(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "nowhere")):
        Predictor(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="device 'toaster' cannot be used here"):
        Predictor(Net(constant(1.0)), device="toaster")


def test_import_is_light():
    code = "import sys, dogdepth.predict; assert not {'torch', 'matplotlib', 'skimage', 'plotly'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the bundled weights


@pytest.fixture(scope="module")
def bundled():
    from pathlib import Path

    if not (Path(dogdepth.__file__).parent / "weights/default/model.safetensors").exists():
        pytest.fail("dogdepth/weights/default holds no model.safetensors: the package should carry its default weights")
    return Predictor(device="cpu")


def test_motorcycle_in_metres(bundled):
    """Middlebury's motorcycle through its own lens (41 degrees wide, where NYU's is 63): far from the training rooms,
    so the scale may be off by half, but not the shape; and one known distance mends the scale."""
    from skimage.data import stereo_motorcycle

    from dogdepth.metrics import depth_metrics

    img, _, disp = stereo_motorcycle()
    with np.errstate(invalid="ignore"):
        truth = np.where(np.isfinite(disp) & (disp > 0), 994.978 * 0.193001 / (disp + 31.086), 0)
    p = bundled.predict(img, Camera(994.978, 994.978, 311.193, 254.877, 500, 741))
    ok = truth > 0
    assert 0.5 < np.median(p.depth_m[ok]) / np.median(truth[ok]) < 2
    assert depth_metrics(p.depth_m, truth, align="median")["abs_rel"] < 0.25
    assert depth_metrics(p.rescale((370, 250), truth[250, 370], z=True).depth_m, truth)["abs_rel"] < 0.3


def test_mirrored_photo_mirrored_depth(bundled):
    from skimage.data import coffee

    img = cv2.resize(coffee(), (320, 240), interpolation=cv2.INTER_AREA)
    a, b = bundled.predict(img).depth_m, bundled.predict(np.ascontiguousarray(img[:, ::-1])).depth_m[:, ::-1]
    assert np.median(np.abs(np.log(a / b))) < 0.15


def test_validation_frames(bundled, data):
    from dogdepth.metrics import average_metrics, image_metrics
    from dogdepth.nyu import NYUDepth

    ds = NYUDepth(data / "nyu", split="val")
    rows = []
    for i in range(0, len(ds), 9):
        it = ds[i]
        rows.append(image_metrics(bundled.predict(it["image"], it["camera"]).depth_m, it["depth"]))
    assert average_metrics(rows)["abs_rel"] < 0.25  # a constant scores about 0.4


# --- how sure


class Unsure(Net):
    "Answers 2 m everywhere, with a spread of .1 where the picture is dark and .3 where it is bright."

    def __init__(self, **kw):
        super().__init__(constant(2.0), **kw)
        self.config["confidence"] = True

    def forward(self, x, spread=False):
        depth = super().forward(x)
        return (depth, 0.1 + 0.2 * (x.mean(1, keepdim=True) > 0.5)) if spread else depth


def test_standard_deviation_is_the_laplace_scale_times_depth():
    img = np.zeros((240, 320, 3), np.uint8)
    img[:, 160:] = 255
    cam = NYU_CAMERA.resize(240, 320)
    p = Predictor(Unsure()).predict(img, cam)
    assert p.std_m.shape == p.depth_m.shape and p.std_m.dtype == np.float32
    np.testing.assert_allclose(p.std_m[:, :150], 2 * 0.1 * 2**0.5, rtol=1e-5)
    np.testing.assert_allclose(p.std_m[:, 170:], 2 * 0.3 * 2**0.5, rtol=1e-5)
    np.testing.assert_allclose(p.rescale((0, 0), 6.0, z=True).std_m, 3 * p.std_m, rtol=1e-5)
    far = Predictor(Unsure()).predict(img, Camera(2 * cam.fx, 2 * cam.fy, cam.cx, cam.cy, 240, 320))
    np.testing.assert_allclose(far.std_m, 2 * p.std_m, rtol=1e-5)  # twice the depth, twice the doubt
    mirror = Predictor(Unsure()).predict(img, cam, flip=True)
    np.testing.assert_allclose(mirror.std_m, p.std_m, rtol=1e-5)  # each view is mirrored back before they are averaged
    net = Unsure()
    net.extra = dict(spread_scale=1.5)
    np.testing.assert_allclose(Predictor(net).predict(img, cam).std_m, 1.5 * p.std_m, rtol=1e-5)


def test_no_second_head_no_standard_deviation():
    assert Predictor(Net(constant(2.0))).predict(photo()).std_m is None


# --- folders, films, pipelines


def test_stream_of_a_folder(tmp_path):
    for k in range(5):
        Image.fromarray(photo(seed=k)).save(tmp_path / f"p{k}.png")
    (tmp_path / "notes.txt").write_text("not a photo")
    q = Predictor(Net(brightness))
    got = list(q.stream(tmp_path, bs=2, progress=False))
    assert [n for n, _ in got] == [f"p{k}" for k in range(5)]
    for k, (_, p) in enumerate(got):
        np.testing.assert_allclose(p.depth_m, q.predict(photo(seed=k)).depth_m, rtol=1e-4)
    assert len(list(q.stream([tmp_path / "p1.png", str(tmp_path / "p2.png")], progress=False))) == 2
    assert len(list(q.stream(tmp_path / "p1.png", progress=False))) == 1
    assert [n for n, _ in q.stream((photo(seed=k) for k in range(3)), progress=False)] == ["00000", "00001", "00002"]


def test_stream_reads_no_further_ahead_than_a_batch():
    taken = []

    def endless():
        while True:
            taken.append(0)
            yield photo()

    s = Predictor(Net(brightness)).stream(endless(), bs=4, progress=False)
    next(s)
    assert len(taken) == 4


def test_stream_of_a_film(tmp_path):
    film = cv2.VideoWriter(str(tmp_path / "walk.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for v in (40, 120, 200):
        film.write(np.full((48, 64, 3), v, np.uint8))
    film.release()
    got = list(Predictor(Net(brightness)).stream(tmp_path / "walk.avi", progress=False))
    assert [n for n, _ in got] == ["walk_00000", "walk_00001", "walk_00002"]
    np.testing.assert_allclose([np.median(p.image) for _, p in got], [40, 120, 200], atol=4)


def test_stream_says_what_is_missing(tmp_path):
    q = Predictor(Net(brightness))
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        next(q.stream(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no photo in"):
        next(q.stream(tmp_path))
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match="a.txt"):
        next(q.stream(tmp_path / "a.txt"))
    (tmp_path / "a.mp4").write_text("hello")
    with pytest.raises(ValueError, match="no film that OpenCV can open"):
        next(q.stream(tmp_path / "a.mp4"))


def test_a_photo_is_a_photo_whatever_its_name(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA405] = 13  # 13 mm, as 35 mm film has it
    Image.fromarray(photo()).save(tmp_path / "a.jpg", exif=exif)
    q = Predictor(Net(brightness))
    want = q.predict(*load_photo(tmp_path / "a.jpg"))
    for name in ("b.jfif", "b"):
        (tmp_path / name).write_bytes((tmp_path / "a.jpg").read_bytes())
        ((_, got),) = q.stream(tmp_path / name, progress=False)
        assert got.camera == want.camera and np.array_equal(got.depth_m, want.depth_m)
    (tmp_path / "b").unlink()
    assert [n for n, _ in q.stream(tmp_path, progress=False)] == ["a", "b"]
    (tmp_path / "a.mov").mkdir()  # a folder is a folder, whatever its name
    (tmp_path / "a.mov" / "c.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    assert [n for n, _ in q.stream(tmp_path / "a.mov", progress=False)] == ["c"]


def test_a_film_that_breaks_off_says_so(tmp_path):
    film = cv2.VideoWriter(str(tmp_path / "walk.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for v in range(20):
        film.write(np.random.default_rng(v).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    film.release()
    whole = (tmp_path / "walk.avi").read_bytes()
    (tmp_path / "walk.avi").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="breaks off: .* of about 20 frames"):
        got = list(Predictor(Net(brightness)).stream(tmp_path / "walk.avi", progress=False))
    assert 0 < len(got) < 20


def test_a_transparent_colour_is_white_in_memory_too(tmp_path):
    grey = Image.fromarray(np.full((48, 64), 90, np.uint8))
    for im, clear in ((grey, 90), (grey.convert("RGB"), (90, 90, 90))):
        im.save(tmp_path / "a.png", transparency=clear)
        assert (as_rgb(Image.open(tmp_path / "a.png")) == 255).all() and (
            load_photo(tmp_path / "a.png")[0] == 255
        ).all()


def test_a_bfloat16_tensor_is_a_picture():
    x = torch.rand(48, 64, 3).bfloat16()
    assert np.array_equal(as_rgb(x), as_rgb(x.float()))


def test_answers_like_a_pipeline(tmp_path):
    q = Predictor(Net(brightness))
    img = photo()
    Image.fromarray(img).save(tmp_path / "a.png")
    want = q.predict(img).depth_m
    for given in (img, Image.fromarray(img), tmp_path / "a.png", str(tmp_path / "a.png")):
        out = q(given)
        assert set(out) == {"predicted_depth", "depth"}
        np.testing.assert_allclose(out["predicted_depth"].numpy(), want, rtol=1e-5)
        assert out["depth"].size == (64, 48) and out["depth"].mode == "L"
        np.testing.assert_allclose(np.asarray(out["depth"]), want * 25.5, atol=1)
    assert [len(q([img] * n)) for n in (0, 1, 3)] == [0, 1, 3]


# --- ONNX


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from dogdepth.export import export_onnx

    d = tmp_path_factory.mktemp("onnx")
    return export_onnx(d / "full.onnx"), export_onnx(d / "half.onnx", half=True)


def test_onnx_file_equals_torch_within_a_thousandth(exported):
    img = photo(480, 640)
    a, b, c = (Predictor(w).predict(img) for w in ("default", *exported))
    np.testing.assert_allclose(b.depth_m, a.depth_m, rtol=1e-3)
    assert (a.std_m is None) == (b.std_m is None)
    if a.std_m is not None:
        np.testing.assert_allclose(b.std_m, a.std_m, rtol=1e-3)
    # the package's weights are 16-bit numbers: nothing is lost
    np.testing.assert_allclose(c.depth_m, a.depth_m, rtol=1e-4)
    assert exported[1].stat().st_size <= 8_050_000 < exported[0].stat().st_size


def graph(path):
    import onnx

    m = onnx.load(path)
    return m, [n.op_type for n in m.graph.node]


@pytest.mark.parametrize("early, added", [(True, 0), (False, 4)])
def test_onnx_graphs_carry_no_trail_and_join_before_no_convolution(tmp_path, early, added):
    """Both files add convolutions where the torch program joins maps (a decoder of four blocks, if it joins late), and
    leave out which line of Python a node came from."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from dogdepth.export import export_onnx

    torch.manual_seed(0)
    net = DepthUNet("light", confidence=True, early=early).eval()
    files = [export_onnx(tmp_path / f"{half}.onnx", net, size=(64, 96), half=half) for half in (False, True)]
    full, half = (graph(f) for f in files)
    for m, _ in (full, half):
        assert not any(n.metadata_props or n.doc_string for n in m.graph.node)
    assert "Slice" not in full[1] + half[1], "weights that are cut while the network runs cannot be stored in 8 bits"
    made = {n.output[0]: n.op_type for n in full[0].graph.node}
    joined = [n for n in full[0].graph.node if n.op_type == "Conv" and made.get(n.input[0]) == "Concat"]
    assert len(joined) == 1  # the spatial gate's two maps of one channel each stay together
    convs = sum(isinstance(m, torch.nn.Conv2d) for m in folded(net).modules())
    assert full[1].count("Conv") == half[1].count("Conv") == convs + added
    rules = [
        a.s
        for n in full[0].graph.node
        if n.op_type == "Resize"
        for a in n.attribute
        if a.name == "coordinate_transformation_mode"
    ]
    assert rules.count(b"pytorch_half_pixel") == 2 and rules.count(b"half_pixel") == 4  # two heads, four steps up
    img = photo(64, 96)
    np.testing.assert_allclose(
        Predictor(files[0]).predict(img).depth_m, Predictor(net, size=(64, 96)).predict(img).depth_m, rtol=1e-3
    )


def test_an_onnx_file_says_for_which_camera_it_answers(exported, tmp_path):
    import onnx

    m = onnx.load(exported[0])
    cfg = json.loads(m.metadata_props[0].value)
    assert cfg["canonical_focal"] == pytest.approx(259.55, abs=0.1)
    img = photo(480, 640)
    want = Predictor(exported[0]).predict(img).depth_m
    for focal, factor in (
        (2 * cfg["canonical_focal"], 0.5),
        (None, 1.0),
    ):  # a file from before it was written says nothing, and means NYU's
        m.metadata_props[0].value = json.dumps(
            {k: v for k, v in {**cfg, "canonical_focal": focal}.items() if v is not None}
        )
        onnx.save(m, tmp_path / "other.onnx")
        np.testing.assert_allclose(Predictor(tmp_path / "other.onnx").predict(img).depth_m, factor * want, rtol=1e-4)


def test_onnx_file_runs_without_torch(exported):
    code = (
        "import sys; sys.modules['torch'] = None; import numpy as np; from dogdepth.predict import Predictor; "
        "p = Predictor(sys.argv[1]).predict(np.full((480,640,3), 99, np.uint8), flip=True); assert p.depth_m.shape == "
        "(480,640) and (p.depth_m > 0).all()"
    )
    subprocess.run([sys.executable, "-c", code, str(exported[0])], check=True)


def test_onnx_flip_averages_the_two_views(exported):
    img = photo(480, 640)
    a, b = Predictor("default").predict(img, flip=True), Predictor(exported[0]).predict(img, flip=True)
    np.testing.assert_allclose(b.depth_m, a.depth_m, rtol=1e-3)
    assert not np.allclose(b.depth_m, Predictor(exported[0]).predict(img).depth_m, rtol=1e-3)


def test_onnx_file_takes_no_device_and_no_bf16(exported):
    for kw in (dict(device="cuda"), dict(bf16=True)):
        with pytest.raises(ValueError, match="runs on the cpu"):
            Predictor(exported[0], **kw)
    assert Predictor(exported[0], device="cpu").device.type == "cpu"


def test_int8_file_is_small_and_near(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from skimage.data import coffee

    from dogdepth.export import export_onnx

    f = export_onnx(tmp_path / "int8.onnx", int8=True)
    m, ops = graph(f)
    assert f.stat().st_size < 5_000_000 and ops.count("DequantizeLinear") > 100
    from dogdepth.rooms import render_room

    for img in (render_room(77, 480, 640)["image"], cv2.resize(coffee(), (640, 480))):
        a, b = Predictor("default").predict(img), Predictor(f).predict(img)
        off = abs(b.depth_m / a.depth_m - 1)
        assert 1e-3 < off.mean() < 0.05 and abs(np.median(b.depth_m / a.depth_m) - 1) < 0.05
        assert abs(np.log(b.std_m / a.std_m)).mean() < 0.2
    by = {o: n for n in m.graph.node for o in n.output}
    for n in m.graph.node:  # gates and heads take floats: what feeds a last convolution is no 8-bit number
        if n.op_type == "Exp":
            assert by[n.input[0]].op_type == "Clip" and by[by[by[n.input[0]].input[0]].input[0]].op_type == "Conv"
    with pytest.raises(ValueError, match="choose one"):
        export_onnx(tmp_path / "both.onnx", int8=True, half=True)


def test_bf16_is_near_and_leaves_the_model_alone():
    img = photo(480, 640)
    net = DepthUNet.from_pretrained("default")
    a, b = Predictor(net).predict(img), Predictor(net, bf16=True).predict(img)
    assert b.depth_m.dtype == np.float32 and next(net.parameters()).dtype == torch.float32
    assert 1e-4 < abs(b.depth_m / a.depth_m - 1).mean() < 0.05


# --- the benchmark


def test_bench_model_times_each_engine_in_a_process_of_its_own(tmp_path, monkeypatch):
    from pathlib import Path

    import dogdepth.bench as P

    keep = ("light, torch", "light, torch, 8 photos at once, each")
    monkeypatch.setattr(P, "ENGINES", {k: P.ENGINES[k] for k in keep})
    monkeypatch.setattr(P, "export_onnx", lambda *a, **kw: Path())
    rows = P.bench_model(1, tmp_path, img=np.zeros((480, 640, 3), np.uint8), peers=False)
    assert [r["name"] for r in rows] == list(keep) and all(
        r["runs"] >= 1 and r["min_ms"] > 0 and r["peak_mb"] > 100 for r in rows
    )
    from dogdepth.timing import read_results

    (f,) = tmp_path.glob("timing-*.csv")
    assert [r["median_ms"] for r in read_results(f)] == pytest.approx([r["median_ms"] for r in rows], abs=1e-3)
    text = P.format_model_rows(
        rows + [dict(rows[0], name="published (untrained), 480x640", median_ms=10 * rows[0]["median_ms"])]
    )
    assert "| light, torch | " in text and "| 10.0 |" in text
    with pytest.raises(ValueError, match="1 or more, got 0"):
        P.bench_model(0)


def test_an_engine_that_dies_is_named_with_its_reason(tmp_path):
    from dogdepth.bench import _turns

    np.save(tmp_path / "photo.npy", np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(RuntimeError, match="light, ONNX Runtime could not be timed: .*no file"):
        _turns(["light, ONNX Runtime"], tmp_path, 1)


def test_onnx_file_keeps_its_settings_and_its_size(exported):
    q = Predictor(exported[0])
    assert q.size == (240, 320) and q.model.config["arch"] == "light"
    both = q.predict_batch([photo(480, 640), photo(240, 320, 1)])
    np.testing.assert_allclose(both[1].depth_m, q.predict(photo(240, 320, 1)).depth_m, rtol=1e-4)
    assert q.predict(photo(400, 400)).depth_m.shape == (400, 400)


def test_onnx_of_another_size_and_without_dog(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from dogdepth.export import export_onnx

    torch.manual_seed(0)
    net = DepthUNet("light", dog=False, width=6).eval()
    f = export_onnx(tmp_path / "a.onnx", net, size=(64, 96))
    img = photo(64, 96)
    a, b = Predictor(net, size=(64, 96)).predict(img), Predictor(f).predict(img)
    np.testing.assert_allclose(b.depth_m, a.depth_m, rtol=1e-3)
    assert b.std_m is None


def test_bad_onnx_files(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    with pytest.raises(FileNotFoundError, match="dogdepth export"):
        Predictor(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(ValueError, match="was not written by `dogdepth export`"):
        Predictor(tmp_path / "bad.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        Predictor(tmp_path / "bad.onnx")


def test_peak_memory_is_this_programs_own():
    "A small program started by a large one is small."
    large = np.ones(60_000_000)
    code = "from dogdepth.bench import _peak_mb; a = _peak_mb(); b = bytearray(200_000_000); print(a, _peak_mb())"
    before, after = map(
        float, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert len(large) and before < 250 and 180 < after - before < 230


def test_pil_pictures_of_every_kind_are_the_same_picture():
    rgb = Image.fromarray(photo(48, 64))
    for mode in ("CMYK", "YCbCr", "HSV", "RGBA", "RGBX"):
        got = as_rgb(rgb.convert(mode))
        assert got.shape == (48, 64, 3) and np.abs(got.astype(int) - np.asarray(rgb)).max() <= (
            24 if mode in ("HSV", "YCbCr") else 1
        ), mode
    assert set(np.unique(as_rgb(rgb.convert("1")))) == {0, 255}
    lying = Image.fromarray(np.rot90(photo(48, 64)))
    lying.getexif()[0x0112] = 6
    assert np.array_equal(as_rgb(lying), photo(48, 64))  # upright, as load_photo reads it
    for mode in ("I", "F", "I;16"):
        with pytest.raises(ValueError, match="8 bits a channel, got one of mode"):
            as_rgb(Image.new(mode, (30, 30)))


@pytest.mark.parametrize("size", [(0, 0), (-16, 32), (240,), "x", 240.5, (240.0, 320.0), (8, 320), (240, 320, 3)])
def test_sizes_that_no_network_can_look_at(size):
    with pytest.raises(ValueError, match="size is what the network looks at.*got"):
        Predictor(Net(constant(2)), size=size)


def test_calls_that_go_wrong_say_how_to_go_right(tmp_path):
    p = Predictor(Net(constant(2)), size=(48, 64))
    for bs, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="bs is how many photos go in at once"):
            p.predict_batch([photo()], bs=bs)
    for one in (photo(), Image.fromarray(photo()), "room.jpg"):
        with pytest.raises(ValueError, match="predict_batch takes a list of photos"):
            p.predict_batch(one)
    for camera in ({}, False, "NYU", np.eye(3), (500, 500)):
        with pytest.raises(TypeError, match="a camera should be a Camera or None, got"):
            p.predict(photo(), camera)
    with pytest.raises(ValueError, match="at most 20 times as long as it is wide, got 9x5000"):
        p.predict(np.zeros((9, 5000, 3), np.uint8))
    with pytest.raises(ValueError, match="device 'nowhere' cannot be used here"):
        Predictor(device="nowhere")
    Image.fromarray(photo(480, 640)).save(tmp_path / "a.png")
    for fx in (1e-9, 1e9, -500, float("nan")):
        with pytest.raises(ValueError, match="fx is a focal length in pixels of this photo, 640 wide: 86 to 7329"):
            load_photo(tmp_path / "a.png", fx=fx)
    for kw in (dict(fov="60"), dict(fx="500")):
        with pytest.raises(ValueError, match="fov and fx are numbers"):
            load_photo(tmp_path / "a.png", **kw)
    with pytest.raises(ValueError, match="load_photo takes a path, got ndarray"):
        load_photo(photo())


def test_a_camera_may_write_its_next_frame_into_the_same_memory():
    "Frames of a generator that reuses its buffer stay what they were; a Prediction keeps a picture of its own."
    frames = [photo(seed=k) for k in range(5)]

    def camera():
        buffer = np.empty_like(frames[0])
        for f in frames:
            np.copyto(buffer, f)
            yield buffer

    q = Predictor(Net(brightness))
    for got in ([p for _, p in q.stream(camera(), bs=3, progress=False)], q.predict_batch(camera())):
        assert len(got) == 5
        for f, p in zip(frames, got):
            assert np.array_equal(p.image, f)
            np.testing.assert_allclose(p.depth_m, q.predict(f).depth_m, rtol=1e-5)
    for f, a in zip(frames, q(camera())):
        np.testing.assert_allclose(a["predicted_depth"].numpy(), q.predict(f).depth_m, rtol=1e-5)
    img = photo()
    assert not np.shares_memory(q.predict(img).image, img) and not np.shares_memory(as_rgb(img), img)


def test_stream_leaves_litter_alone_and_hands_out_what_came_before_an_error(tmp_path):
    for k in range(3):
        Image.fromarray(photo(seed=k)).save(tmp_path / f"p{k}.png")
    (tmp_path / "._p0.png").write_bytes(b"what another system leaves on a stick")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    q = Predictor(Net(brightness))
    assert [n for n, _ in q.stream(tmp_path, progress=False)] == ["p0", "p1", "p2"]
    (tmp_path / "q.jpg").write_bytes(b"broken")
    for source, match in (
        (tmp_path, "q.jpg"),
        ([photo(), photo(), photo(), np.zeros((3, 3))], "photo 3: an image should be at least 8"),
    ):
        got = []
        with pytest.raises(ValueError, match=match):
            for name, _ in q.stream(source, progress=False, strict=True):
                got.append(name)
        assert len(got) == 3


@pytest.mark.parametrize("where", [0, 2, 4])
def test_one_bad_photo_does_not_end_a_stream(tmp_path, where):
    for k in range(5):
        Image.fromarray(photo(seed=k)).save(tmp_path / f"p{k}.jpg")
    bad = tmp_path / f"p{where}.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    q, good = Predictor(Net(brightness)), [f"p{k}" for k in range(5) if k != where]
    for source in (tmp_path, sorted(tmp_path.iterdir())):
        failed = []
        with pytest.warns(UserWarning) as said:
            assert [n for n, _ in q.stream(source, bs=2, progress=False, failed=failed)] == good
        said = [str(w.message) for w in said if "PIL" not in w.filename]
        assert (
            len(said) == 2
            and bad.name in said[0]
            and "left out" in said[0]
            and said[1] == f"left out 1 of 5 photos: {bad.name}"
        )
        assert [n for n, _ in failed] == [bad.name] and "damaged or cut short" in failed[0][1]
        with pytest.raises(ValueError, match=bad.name):
            list(q.stream(source, bs=2, progress=False, strict=True))


def test_other_bad_photos_of_a_stream(tmp_path):
    q, failed = Predictor(Net(brightness)), []
    source = [photo(), tmp_path / "gone.jpg", np.zeros((3, 3)), None, photo(seed=1), photo(60, 80)]
    with pytest.warns(UserWarning):
        got = list(q.stream(source, camera=Camera.from_fov(60, 48, 64), progress=False, failed=failed))
    assert [n for n, _ in got] == ["00000", "00004"] and got[1][1].camera.fov_deg == pytest.approx(60)
    assert [n for n, _ in failed] == ["gone.jpg", "00002", "00003", "00005"]
    assert "no such file" in failed[0][1] and "at least 8" in failed[1][1] and "camera belongs to" in failed[3][1]


def test_a_stream_of_which_nothing_can_be_used_ends_with_an_error(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"no picture")
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"none of 3 photos could be used \(a.png, b.png, c.png\): .*a.png"),
    ):
        list(Predictor(Net(brightness)).stream(tmp_path, progress=False))


def test_an_iterator_that_fails_ends_the_stream_after_what_came_before():
    def camera():
        yield photo()
        raise OSError("unplugged")

    got = []
    with pytest.raises(OSError, match="unplugged"):
        for name, _ in Predictor(Net(brightness)).stream(camera(), bs=4, progress=False):
            got.append(name)
    assert got == ["00000"]


def test_a_batch_says_which_photo_is_wrong():
    with pytest.raises(ValueError, match="photo 1: an image should be at least 8"):
        Predictor(Net(brightness)).predict_batch([photo(), np.zeros((3, 3), np.uint8)])


def test_an_open_heic_file_says_what_to_install(tmp_path, monkeypatch):
    "As its path does; it was called no photo."
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    f = tmp_path / "phone.jpg"
    f.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 50)
    with open(f, "rb") as opened, pytest.raises(ValueError, match=r"HEIC.*pip install 'dogdepth\[heif\]'"):
        load_photo(opened)


def test_stream_refuses_at_once(tmp_path):
    q = Predictor(Net(brightness))
    for source in (photo(), Image.fromarray(photo()), None, 3):
        with pytest.raises(ValueError, match="photos come from a folder, a film, a list .*one photo goes to predict"):
            q.stream(source)
    for bs, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match="bs is how many photos go in at once"):
            q.stream([photo()], bs=bs)
    with pytest.raises(TypeError, match="a camera should be a Camera or None, got str"):
        q.stream([photo()], camera="NYU")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        q.stream(tmp_path / "nowhere")
    assert len(list(q.stream(np.stack([photo()] * 2), progress=False))) == 2


def test_a_pil_image_brings_its_lens(tmp_path):
    "As a path does: whoever opens the file himself gets the same metres."
    f = save(tmp_path / "tele.jpg", photo(), f35=77)
    q, cam = Predictor(Net(brightness)), load_photo(f)[1]
    assert cam.fx == pytest.approx(77 * np.hypot(48, 64) / np.hypot(36, 24), rel=1e-4)
    assert q.predict(Image.open(f)).camera == cam and q.predict_batch([photo(), Image.open(f)])[1].camera == cam
    assert next(q.stream([Image.open(f)], progress=False))[1].camera == cam
    np.testing.assert_array_equal(q(Image.open(f))["predicted_depth"], q(f)["predicted_depth"])
    assert q.predict(Image.open(f), NYU_CAMERA.resize(48, 64)).camera == NYU_CAMERA.resize(
        48, 64
    )  # who knows better is heard
    assert q.predict(Image.fromarray(photo())).camera == default_camera(48, 64)
    lying = save(tmp_path / "lying.jpg", np.rot90(photo()), orientation=6, f35=26)
    assert q.predict(Image.open(lying)).camera == load_photo(lying)[1] and load_photo(lying)[1].height == 48


def test_load_photo_reads_open_files_and_closes_its_own(tmp_path):
    import io
    import warnings

    f = save(tmp_path / "a.jpg", photo(), f35=30)
    img, cam = load_photo(f)
    for given in (io.BytesIO(f.read_bytes()), Image.open(f)):
        got = load_photo(given)
        assert np.array_equal(got[0], img) and got[1] == cam
    for broken in (b"no photo", f.read_bytes()[:400]):
        with pytest.raises(ValueError):
            load_photo(io.BytesIO(broken))
    with pytest.raises(ValueError, match="downloads nothing"):
        load_photo("https://example.org/a.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        import gc
        import sys as system

        bad, hook = [], system.unraisablehook
        system.unraisablehook = bad.append
        try:
            load_photo(f)
            gc.collect()
        finally:
            system.unraisablehook = hook
    assert not bad


def test_a_predictor_takes_a_copy_of_a_network():
    net = DepthUNet("light", height=64, width_px=96).train()
    p = Predictor(net)
    before = p.predict(photo()).depth_m
    assert net.training and not p.model.training
    with torch.no_grad():
        for w in net.parameters():
            w.mul_(0.5)
    np.testing.assert_array_equal(p.predict(photo()).depth_m, before)


def test_weights_that_are_none():
    for w in (None, 3, {}):
        with pytest.raises(TypeError, match="weights should be a name, a path or a DepthUNet, got"):
            Predictor(w)
    with pytest.raises(TypeError, match="should be a DepthUNet, got Conv2d"):
        Predictor(torch.nn.Conv2d(3, 1, 1))
    assert Predictor(Net(constant(1.0)), size=np.array([48, 64])).size == (48, 64)


def test_a_picture_that_is_none_says_what_to_do():
    q = Predictor(Net(constant(1.0)))
    with pytest.raises(ValueError, match=r"permute\(1,2,0\)"):
        q.predict(torch.zeros(3, 48, 64))
    with pytest.raises(ValueError, match="divide by"):
        q.predict(np.zeros((48, 64, 3), np.uint16))
    for x in (None, b"jpeg", {}):
        with pytest.raises(ValueError, match="an array or a PIL image, got"):
            q.predict(x)
    assert q.predict(torch.rand(48, 64, 3, requires_grad=True)).depth_m.shape == (48, 64)
    out = q(np.stack([photo()] * 2), camera=[None, NYU_CAMERA.resize(48, 64)])
    assert len(out) == 2


def test_rescale_wants_numbers():
    p = Predictor(Net(constant(2.0))).predict(photo())
    for xy, m in (((float("nan"), 2), 1), (5, 1), ((1,), 1), ((1, 2), "far"), ((1, 2), None), ((float("inf"), 1), 1)):
        with pytest.raises(ValueError, match="a pixel .x,y. and its distance in metres"):
            p.rescale(xy, m)


def test_onnx_predictor_can_be_copied_and_pickled(exported):
    import copy
    import pickle

    q = Predictor(exported[0])
    want = q.predict(photo()).depth_m
    for other in (copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        np.testing.assert_array_equal(other.predict(photo()).depth_m, want)


def test_export_refuses_before_it_works(tmp_path):
    from dogdepth.export import export_onnx

    for size in (240, (0, 0), (240.0, 320.0), (-32, 32), ("a", "b")):
        with pytest.raises(ValueError, match="size is what the network looks at"):
            export_onnx(tmp_path / "a.onnx", size=size)
    with pytest.raises(ValueError, match="is a folder"):
        export_onnx(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@pytest.mark.parametrize("weights", ["default", "file.onnx"])
def test_predict_after_a_fork(tmp_path, weights):
    "Threads do not come along into a forked process: it must not wait for them. In a process of its own, with threads."
    if weights != "default":
        pytest.importorskip("onnxruntime")
        from dogdepth.export import export_onnx

        export_onnx(tmp_path / weights)
        weights = str(tmp_path / weights)
    code = f"""
import os, numpy as np
from dogdepth.predict import Predictor
img = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
p = Predictor({weights!r})
before = p.predict(img).depth_m
if not (pid := os.fork()):
    same = np.allclose(p.predict(img).depth_m, before, rtol=1e-3)
    same &= np.allclose(Predictor({weights!r}).predict(img).depth_m, before, rtol=1e-3)  # one that is made there
    os._exit(0 if same else 7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env | {"OMP_NUM_THREADS": "2"}, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "0", done.stderr


@pytest.fixture(scope="module")
def one_shape(tmp_path_factory):
    "A small network, and the file of it that looks at 48x64 pixels."
    pytest.importorskip("onnxruntime")
    from dogdepth.export import export_onnx

    net = DepthUNet("light", pretrained=False, height=48, width_px=64).eval()
    return net, export_onnx(tmp_path_factory.mktemp("onnx") / "net.onnx", net)


@pytest.mark.parametrize("h,w", [(480, 640), (640, 480), (200, 200), (360, 640), (100, 700), (700, 100), (31, 57)])
def test_a_file_of_one_shape_answers_for_any_photo(one_shape, h, w):
    net, path = one_shape
    img, cam = photo(h, w), Camera.from_fov(60, h, w)
    got = Predictor(path).predict(img, cam)
    assert (
        got.depth_m.shape == (h, w) and got.camera == cam and np.isfinite(got.depth_m).all() and (got.depth_m > 0).all()
    )
    assert np.array_equal(got.image, img)
    if 4 * h == 3 * w:  # its own shape: the same answer
        np.testing.assert_allclose(got.depth_m, Predictor(net, size=(48, 64)).predict(img, cam).depth_m, rtol=1e-3)
    longer = Predictor(path).predict(img, Camera.from_fov(30, h, w)).depth_m  # the lens still scales it
    np.testing.assert_allclose(longer / got.depth_m, np.tan(np.radians(30)) / np.tan(np.radians(15)), rtol=1e-4)


def test_photos_of_many_shapes_go_into_one_batch(one_shape):
    q = Predictor(one_shape[1])
    photos = [photo(60, 80), photo(80, 60, 1), photo(50, 90, 2)]
    for a, b in zip(q.predict_batch(photos), photos):
        np.testing.assert_allclose(a.depth_m, q.predict(b).depth_m, rtol=1e-4)


@pytest.mark.parametrize("h,w", [(640, 480), (101, 101), (700, 100), (48, 64), (9, 12)])
def test_fit_and_pad_keeps_the_photo_whole_and_the_rays(h, w):
    from dogdepth.onnxnet import fit_and_pad

    img, cam = photo(h, w), Camera.from_fov(60, h, w)
    framed, lens, inside = fit_and_pad(img, cam, (48, 64))
    part = framed[inside]
    assert framed.shape == (48, 64, 3) and (lens.height, lens.width) == (48, 64)
    assert part.shape[0] == 48 or part.shape[1] == 64
    assert abs(part.shape[1] / part.shape[0] / (w / h) - 1) < 1.5 / min(part.shape[:2])
    corner = np.array([inside[1].start - 0.5, inside[0].start - 0.5])  # the photo's corner, in the frame
    ray = (corner - (lens.cx, lens.cy)) / (lens.fx, lens.fy)
    np.testing.assert_allclose(ray, (np.array([-0.5, -0.5]) - (cam.cx, cam.cy)) / (cam.fx, cam.fy), atol=1e-6)


def test_a_file_of_one_shape_takes_no_other_size(one_shape):
    with pytest.raises(ValueError, match="looks at 48x64 pixels"):
        Predictor(one_shape[1], size=(64, 96))


def test_the_published_network_in_a_file_is_that_of_torch(tmp_path):
    "Levels of 8 bits become metres: 255 is 10 m."
    pytest.importorskip("onnxruntime")
    from dogdepth.export import export_onnx

    net = DepthUNet("published", width=4, height=32, width_px=48).eval()
    a, b = (
        Predictor(n, size=(32, 48)).predict(photo(64, 96)).depth_m
        for n in (net, export_onnx(tmp_path / "p.onnx", net, size=(32, 48)))
    )
    np.testing.assert_allclose(a, b, rtol=1e-3)


@pytest.mark.parametrize("h,w", [(90, 60), (64, 64), (60, 120), (48, 160)])
def test_a_fitted_photo_has_the_metres_that_torch_gives_its_frame(tmp_path, h, w):
    "Taller photos are padded, wider ones squeezed; the lens goes along, and so does the confidence."
    pytest.importorskip("onnxruntime")
    from dogdepth.export import export_onnx
    from dogdepth.onnxnet import fit_and_pad
    from dogdepth.predict import predict_maps

    torch.manual_seed(0)
    net = DepthUNet("light", pretrained=False, height=48, width_px=64, confidence=True).eval()
    img, cam = photo(h, w), Camera.from_fov(40, h, w)
    got = Predictor(export_onnx(tmp_path / "net.onnx", net), sharp=False).predict(img, cam)
    framed, lens, inside = fit_and_pad(img, cam, (48, 64)) if 48 * w <= 64 * h else (img, cam, np.s_[:, :])
    want = predict_maps(net, [framed], [lens], (48, 64))
    for a, b in zip((got.depth_m, got.std_m), want):
        np.testing.assert_allclose(a, cv2.resize(b[0][inside], (w, h), interpolation=cv2.INTER_LINEAR), rtol=2e-3)
    focal = (
        (cam.fx * 64 / w * cam.fy * 48 / h) ** 0.5 if w * 48 > h * 64 else cam.fx * 48 / h
    )  # of the photo in the frame
    assert lens.resize(48, 64).focal == pytest.approx(focal, rel=0.02)

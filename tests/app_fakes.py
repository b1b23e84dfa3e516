"Predictors that need no weights, for the tests of the page. They live in a module so that they can travel to the worker process."

import os
import signal
import time
import warnings

import numpy as np

from dogdepth.predict import Prediction, default_camera


class Slope:
    "Depth grows from 1 m on the left to 3 m on the right, times what the lens says."

    def predict(self, img, camera=None):
        camera = camera or default_camera(*img.shape[:2])
        depth = np.linspace(1, 3, img.shape[1], dtype=np.float32)[None].repeat(img.shape[0], 0)
        return Prediction(depth * np.float32(camera.fx / img.shape[1]), camera, img)


class Moody(Slope):
    "Does what the photo's middle pixel says: red dies, green dawdles, blue fails."

    def predict(self, img, camera=None):
        r, g, b = img[img.shape[0] // 2, img.shape[1] // 2].astype(int)
        if r > 200 and g < 60 and b < 60:
            os.kill(os.getpid(), signal.SIGKILL)
        if g > 200 and r < 60 and b < 60:
            time.sleep(30)
        if b > 200 and r < 60 and g < 60:
            raise RuntimeError("a secret place: " + __file__)
        return super().predict(img, camera)


def make_slope():
    return Slope()


class Deep(Slope):
    "Half of the photo lies at 2 m, the other half too far for a picture of depth."

    def predict(self, img, camera=None):
        p = super().predict(img, camera)
        p.depth_m[:] = 2
        p.depth_m[:, img.shape[1] // 3 :] = 5000
        p.depth_m[0, 0] = np.inf
        return p


class Warner(Slope):
    "Has something to say about every photo."

    def predict(self, img, camera=None):
        warnings.warn("what a strange photo")
        warnings.warn("numpy is old", DeprecationWarning)
        return super().predict(img, camera)


class Upright:
    "A network exported for one size, upright, as an .onnx file may be: it answers at no other."

    size = (320, 240)

    def predict(self, img, camera=None):
        if img.shape[0] * 3 != img.shape[1] * 4:
            raise ValueError(f"this file looks at 320x240 pixels, the photo has {img.shape[:2]}")
        return Slope().predict(img, camera)

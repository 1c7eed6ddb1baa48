"""Read pictures with onnxruntime alone: python examples/read.py NETWORK.onnx PICTURE...

NETWORK.onnx comes of python export.py --input picture; everything else is inside it.
"""

import json
import sys

import cv2
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
classes = list(json.loads(session.get_modelmeta().custom_metadata_map["classes"]))
for name in sys.argv[2:]:
    picture = cv2.imread(name, cv2.IMREAD_UNCHANGED)
    transparent = picture.ndim == 3 and picture.shape[2] == 4
    grey = 255 - picture[..., 3] if transparent else cv2.imread(name, cv2.IMREAD_GRAYSCALE)
    labels, shares = session.run(["labels", "probabilities"], {"picture": grey[None, None]})
    print(f"{name}: {classes[labels[0, 0]]} {shares[0, 0]:.2%}")

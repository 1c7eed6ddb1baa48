"""Recognize drawings and clean scans with onnxruntime and OpenCV only.

    python export.py --checkpoint checkpoints/small80.pt --input picture --out network.onnx
    python examples/read.py network.onnx samples/U+6C38.png

It holds preprocessing, network and classes. Transparency is paper. Photos need predict.py.
"""

import json
import sys

import cv2
import onnxruntime

# A picture that cannot be read gets one sentence, from here.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def main() -> int:
    if len(sys.argv) < 3:
        print("usage: python examples/read.py NETWORK.onnx PICTURE...", file=sys.stderr)
        return 2
    sys.stdout.reconfigure(encoding="utf-8")  # Windows has another where output is redirected
    try:
        session = onnxruntime.InferenceSession(sys.argv[1])
        metadata = session.get_modelmeta().custom_metadata_map
    except Exception:  # onnxruntime's exceptions have no common class
        metadata = {}
    if metadata.get("input") != "picture":
        print(f"{sys.argv[1]}: not a file of export.py --input picture", file=sys.stderr)
        return 2
    classes, status = list(json.loads(metadata["classes"])), 0
    for name in sys.argv[2:]:
        problem = "no such file, or not a picture that OpenCV reads"
        grey = cv2.imread(name, cv2.IMREAD_GRAYSCALE)  # (h,w) uint8
        if grey is not None:
            picture = cv2.imread(name, cv2.IMREAD_UNCHANGED)
            if picture.shape[2:] == (4,) and picture[..., 3].min() < picture[..., 3].max():
                grey = 255 - (picture[..., 3] >> 8 * (picture.dtype == "uint16")).astype("uint8")
            outputs = ["glyph", "labels", "probabilities"]
            glyph, labels, shares = session.run(outputs, {"picture": grey[None, None]})
            problem = "" if glyph.any() else "no ink was found; photos need predict.py"
        if problem:
            print(f"{name}: {problem}", file=sys.stderr)
            status = 2
        else:
            print(f"{name}: {classes[labels[0, 0]]} {shares[0, 0]:.2%}")
    return status


if __name__ == "__main__":
    sys.exit(main())

"""What an exported file holds: from a picture to the glyph, and the network, as ONNX nodes."""

"""A network as C: `layers.py` says what there is, `onnx_layers.py` reads it, `fusion.py` joins, `places.py` lays out,
`text.py` writes, `compiler.py` builds; `kernels/` computes."""

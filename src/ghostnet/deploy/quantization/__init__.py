"""int8 exports: calibration images, one quantiser a runtime, layers that stay in float, and training for int8.

`quantize` writes an export whose weights and activations are 8-bit integers. `fake_quantized` makes a network that can
be fine-tuned for them first.
"""

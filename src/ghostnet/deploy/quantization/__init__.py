"""int8 by post-training quantisation: calibration images, one quantiser a runtime, and layers that stay in float.

`quantize` writes an export whose weights and activations are 8-bit integers. Left out: quantisation-aware training.
"""

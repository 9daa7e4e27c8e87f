"""Run an exported policy on a robot with numpy and onnxruntime, without action-heads and torch.

pip install onnxruntime && python run_onnx.py policy.onnx

Axes: b batch, h horizon, a action, c condition.
"""

import json
import sys
import time

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
shapes = {entry.name: entry.shape for entry in session.get_inputs()}
print(", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items()))
said = json.loads(session.get_modelmeta().custom_metadata_map.get("action_heads", "{}"))
print(", ".join(f"{name}: {said[name]}" for name in ("head", "adapter", "sampler", "steps", "units") if name in said))

rng = np.random.default_rng(0)
inputs = {
    "noise": rng.standard_normal(shapes["noise"], dtype=np.float32),  # Draw new noise for every chunk.
    "cond": np.zeros(shapes["cond"], dtype=np.float32),  # Replace this by the output of your encoder.
}
if "mask" in shapes:
    inputs["mask"] = np.ones(shapes["mask"], dtype=bool)

chunk = np.asarray(session.run(None, inputs)[0])  # (b h a) in robot units
assert np.isfinite(chunk).all(), "NaN or infinity in the chunk: look at cond"  # A file does not check itself.
print(f"chunk {chunk.shape}; first action {np.round(chunk[0, 0], 3)}")

times = []
for _ in range(20):
    began = time.perf_counter()
    session.run(None, inputs)
    times.append(time.perf_counter() - began)
print(f"median {1e3 * np.median(times):.2f} ms")

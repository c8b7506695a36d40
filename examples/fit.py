"""The whole chain in one call: scikit-learn's digits in, a certified ONNX file out. Run again, it returns at once.

python examples/fit.py
"""

import nasflow

result = nasflow.fit(
    "digits", devices=["local-cpu"], limits={"flops": 1e6}, trials=12, epochs=6, notify=print
)
for network in result.front:
    error, ms = network["metrics"]["error"], network["metrics"]["latency_ms@local-cpu"]
    print(f"trial {network['trial']:2}: {error:.2%} wrong on validation images, {ms:.3f} ms")
best = result.best("local-cpu")
print(f"{best.name}: {best.certificate['test_error']:.2%} wrong on test images, certified")
print(f"exported to {best.export('digits.onnx')}, all about it in {result.report()}")

"""Plain networks out of records: one module a format, each with what `nasbench.export.format.Format` asks of it."""

FORMATS = ("onnx", "torchscript", "pt2", "safetensors", "executorch", "litert", "coreml")

"""Quantizes ONNX models to int8."""

import os
import tempfile

import onnx
import onnx.inliner
from onnx import numpy_helper
from onnxruntime import quantization

# ONNX Runtime warns about a model without this mark, which its own preparation leaves. It would inline nothing.
_PREPARED = {'onnx.quant.pre_process': 'onnxruntime.quant'}


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
  """Returns a model with int8 kernels, one scale per output, whose products quantize their inputs when they run.

  ONNX Runtime skips the bodies of functions, so the blocks are inlined.
  """
  inlined = onnx.inliner.inline_local_functions(model)
  for opset in [opset for opset in inlined.opset_import if opset.domain]:
    inlined.opset_import.remove(opset)
  onnx.helper.set_model_props(inlined, _PREPARED)
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, 'model.onnx')
    quantization.quantize_dynamic(inlined, path, per_channel=True, weight_type=quantization.QuantType.QInt8)
    result = onnx.load(path)
  for tensor in result.graph.initializer:  # as bytes, which another file can refer to
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
  del result.metadata_props[:]
  result.producer_name, result.producer_version = model.producer_name, ''
  return result

"""Deploys a multi-head Keras model: checked TFLite files for the combinations of its tasks.

Importing this package imports neither Keras nor TensorFlow; `export` does, when it is called.
"""

from __future__ import annotations

from tflite_export.bench.benchmarking import Benchmark as Benchmark
from tflite_export.bench.benchmarking import benchmark as benchmark
from tflite_export.bench.latency import measure_latency as measure_latency
from tflite_export.compile.exporter import export as export
from tflite_export.compile.quantization import Quantization as Quantization
from tflite_export.ship.records import ExportedFile as ExportedFile
from tflite_export.ship.records import ExportedSignature as ExportedSignature

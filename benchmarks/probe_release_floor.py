"""Runs one part of a release's work alone, and prints its processor time as one line of JSON.

  python -m benchmarks.probe_release_floor PART MODULE DIRECTORY

PART is one of:

* `saving`: all but the proof, which is importing TensorFlow, opening the source, saving and packing both models;
* `source`: outputs and gradient of the source's graph, in its subprocess;
* `reference`: the reference's outputs and gradient of the encoder, in float64;
* `export`: outputs and gradient of the encoder that `saving` left in DIRECTORY.

"cpu" is processor time in seconds. For `saving` it is that of this process, for `source` that of the subprocess. For
the other parts it is that of the computation alone, because a release computes them in the process that saves.
"""

import argparse
import json
import pathlib
import resource
import time

import threadpoolctl

from converters import cli
from converters import source as source_lib
from converters import weight_map
from converters.reference import outputs as reference_outputs
from export.source import process as source_process
from export.validation import encoder_certificate
from export.validation import exported_encoder

_PARTS = frozenset(weight_map.Part)


def main() -> None:
  """Runs the part, and prints its processor time."""
  parser = argparse.ArgumentParser()
  parser.add_argument('part', choices=sorted(_DO))
  parser.add_argument('module')
  parser.add_argument('directory', type=pathlib.Path)
  arguments = parser.parse_args()
  cli.set_environment()  # as a release does
  with source_lib.open_source(arguments.module) as source:
    print(json.dumps({'cpu': _DO[arguments.part](source, arguments.directory)}))


def _saving(source: source_lib.Source, directory: pathlib.Path) -> float:
  from converters import build_encoder
  from export.model import encoder
  from export.model import preprocessor as preprocessor_model
  from export.model import saved_model
  from export.release import archive as release_archive

  live, signatures = preprocessor_model.exportable(source.sp_model, 3)
  saved_model.write(live, signatures, directory / 'preprocessor')
  sp_model_file = directory / source.sp_model_name
  sp_model_file.write_bytes(source.sp_model)
  live, signatures = encoder.exportable(build_encoder.build(source, _PARTS), str(sp_model_file))
  saved_model.write(live, signatures, directory / 'encoder')
  for name in ('preprocessor', 'encoder'):
    release_archive.pack(directory / name, directory / f'{name}.tar.gz')
  return time.process_time()


def _source(source: source_lib.Source, directory: pathlib.Path) -> float:
  batch, scalar, signatures = encoder_certificate.given(source, _PARTS)
  with source_process.start(source.path, batch, signatures, scalar) as run:
    run.outputs()
    run.gradient()
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def _reference(source: source_lib.Source, directory: pathlib.Path) -> float:
  batch, scalar, _ = encoder_certificate.given(source, _PARTS)
  before = time.process_time()
  with threadpoolctl.threadpool_limits(1, 'blas'):  # as a release does it
    reference_outputs.Expected(source, _PARTS, batch, scalar)
  return time.process_time() - before


def _export(source: source_lib.Source, directory: pathlib.Path) -> float:
  batch, scalar, signatures = encoder_certificate.given(source, _PARTS)
  import tensorflow  # noqa: F401  (`saving` has it already)

  before = time.process_time()
  encoder = exported_encoder.Exported(directory / 'encoder', 'dict')
  encoder.outputs(batch, [*signatures, 'serving_default'])
  encoder.gradient(scalar)
  return time.process_time() - before


_DO = {'saving': _saving, 'source': _source, 'reference': _reference, 'export': _export}

if __name__ == '__main__':
  main()

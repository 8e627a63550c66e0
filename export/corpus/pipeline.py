"""Compares a corpus on Apache Beam: from pieces of files to one summary. Lines never pass between steps."""

import json
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from export.beam import filesystems
from export.corpus import comparison
from export.corpus import lines
from export.corpus import models
from export.corpus import summary as summary_lib


class _Pieces(beam.DoFn):
  def process(self, pattern: str) -> Iterator[lines.Piece]:
    for path, size in filesystems.matched(pattern):
      yield from lines.pieces(path, size)


def count(patterns: Iterable[str]) -> int:
  """Returns the number of pieces of the files that match patterns."""
  return len({piece for pattern in patterns for piece in _Pieces().process(pattern)})


class _Compare(beam.DoFn):
  """Maps a piece of a file to the summary of its lines."""

  def __init__(self, job: models.Job):
    self._job = job

  def process(self, piece: lines.Piece) -> Iterator[summary_lib.Summary]:
    with models.pair(self._job) as pair:
      yield comparison.compare(piece, pair)


class _Together(beam.CombineFn):
  """Combines summaries into one."""

  def __init__(self, keep: int):
    self._keep = keep

  def create_accumulator(self) -> summary_lib.Summary:
    return summary_lib.Summary(self._keep)

  def add_input(self, accumulator: summary_lib.Summary, element: summary_lib.Summary) -> summary_lib.Summary:
    accumulator.add(element)
    return accumulator

  def merge_accumulators(self, accumulators: Any) -> summary_lib.Summary:
    result = self.create_accumulator()
    for accumulator in accumulators:
      result.add(accumulator)
    return result

  def extract_output(self, accumulator: summary_lib.Summary) -> summary_lib.Summary:
    return accumulator


def build(job: models.Job, patterns: Sequence[str], result: str, pipeline: beam.Pipeline) -> None:
  """Adds the comparison to a pipeline.

  Args:
    job: parameters of the comparison.
    patterns: paths or globs of text files.
    result: path of the JSON file for the summary.
    pipeline: pipeline to add to.
  """
  (
    pipeline
    | 'patterns' >> beam.Create(list(patterns))
    | 'pieces of files' >> beam.ParDo(_Pieces())
    # Several patterns can match a file.
    | 'once each' >> beam.Distinct()
    | 'spread' >> beam.Reshuffle()
    | 'compare' >> beam.ParDo(_Compare(job))
    | 'together' >> beam.CombineGlobally(_Together(job.keep))
    | 'write' >> beam.Map(_write, result)
  )


def _write(summary: summary_lib.Summary, path: str) -> None:
  filesystems.write(path, json.dumps(summary.as_json(), allow_nan=False).encode())

"""Runs and forecasts as TensorBoard event files, a folder each, written without torch or TensorFlow.

A newcomer would use torch's SummaryWriter, which loads torch to write numbers that are already there.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from windtunnel.bridge.mirror import Page

# what protobuf makes at import time, which type checkers cannot see
Event: Any = vars(event_pb2)["Event"]
Summary: Any = vars(summary_pb2)["Summary"]
SummaryMetadata: Any = vars(summary_pb2)["SummaryMetadata"]
TensorProto: Any = vars(tensor_pb2)["TensorProto"]
DT_STRING: Any = vars(types_pb2)["DT_STRING"]


class ToTensorBoard:
    """A tracker for `Mirror`: `folder` is what `tensorboard --logdir` is given."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def has(self, key: str) -> bool:
        """Whether the record beside the events was written, which comes last."""
        return (self._place(key) / "record.json").is_file()

    def write(self, page: Page) -> None:
        """A folder with an event file and, when that is whole, the record as JSON."""
        place = self._place(page.key)
        for partial in place.glob("*tfevents*"):  # of a process that was killed here
            partial.unlink()
        writer, now = EventFileWriter(str(place)), time.time()
        said = json.dumps({"name": page.name, **page.facts}, indent=1)
        writer.add_event(Event(wall_time=now, step=0, summary=_text("facts", said)))
        for name, value in page.results.items():
            writer.add_event(Event(wall_time=now, step=0, summary=_scalar(name, value)))
        for name, (steps, values) in page.curves.items():
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                writer.add_event(Event(wall_time=now, step=int(step), summary=_scalar(name, value)))
        writer.close()
        (place / "record.json").write_text(json.dumps(dict(page.full), indent=1), "utf-8")

    def _place(self, key: str) -> Path:
        return self.folder / re.sub(r"[^A-Za-z0-9]", "_", key)


def _scalar(name: str, value: float) -> Any:
    return Summary(value=[Summary.Value(tag=name, simple_value=value)])


def _text(name: str, text: str) -> Any:
    about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
    return Summary(value=[Summary.Value(tag=name, metadata=about, tensor=tensor)])

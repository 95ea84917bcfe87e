"""A study's objects as bytes for other processes: parts of `__main__` by value, all others by where they are imported.

A newcomer would call cloudpickle: it fails on a function that reads both `torch` and any attribute called `classes`, as
it takes `torch.classes`, which is no plain module, along. Importing this file must not import torch.
"""

from __future__ import annotations

import importlib
import io
import sys
from types import ModuleType
from typing import Any

from windtunnel.errors import InputError


def pickled(thing: Any) -> bytes:
    """`thing` as bytes that `pickle.loads` reads. Raises InputError for what cannot leave this process."""
    import cloudpickle

    class Pickler(cloudpickle.CloudPickler):
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, ModuleType) and type(obj) is not ModuleType and sys.modules.get(obj.__name__) is obj:
                return importlib.import_module, (obj.__name__,)
            if isinstance(obj, ModuleType) and type(obj) is not ModuleType:
                raise InputError(f"{obj.__name__} is no module that can be imported; name it where it is used")
            return super().reducer_override(obj)

    buffer = io.BytesIO()
    try:
        Pickler(buffer).dump(thing)
    except Exception as error:  # whatever an object of the user's own raises
        raise InputError(
            f"A part of this study, or what it leans on, cannot be sent to another process ({error}). Put the part "
            f"into a file that is imported, or train in this process: Here(devices=1), --devices 1."
        ) from error
    return buffer.getvalue()

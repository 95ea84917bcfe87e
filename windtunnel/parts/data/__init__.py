"""Data plans: which examples each step sees. `text`, `stdlib`, `digits`, `images`, `huggingface`, `mixed`, `successive`
and `tasks` make them; numpy only.

Each function has the name of the file it comes from and hides it here, on purpose; import other names of a file with
`from windtunnel.parts.data.text import Text`.
"""

from windtunnel.parts.data.digits import digits
from windtunnel.parts.data.huggingface import TokenizerFile, huggingface, train_bpe
from windtunnel.parts.data.images import images
from windtunnel.parts.data.mixed import mixed
from windtunnel.parts.data.order import check_length, required_passes
from windtunnel.parts.data.successive import successive
from windtunnel.parts.data.tasks import tasks
from windtunnel.parts.data.text import stdlib, text

__all__ = ["TokenizerFile", "check_length", "digits", "huggingface", "images", "mixed", "required_passes", "stdlib"]
__all__ += ["successive", "tasks", "text", "train_bpe"]

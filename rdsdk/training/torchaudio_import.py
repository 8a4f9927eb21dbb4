"""torchaudio beside a torch without CUDA.

PyPI's Linux wheel links CUDA libraries, so that ``import torchaudio`` raises OSError beside a CPU
build of torch, and with it every transformers model, which imports torchaudio whenever it is
installed. Only its compiled extension is at fault: the models are plain Python. When, and only
when, the import fails, an empty extension takes the place of the compiled one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from rdsdk.errors import ConfigError

_EXTENSION = "torchaudio._extension"


def import_torchaudio() -> Any:
    """torchaudio, without its compiled functions where these do not load.

    Raises:
        ConfigError: it is not installed, or does not load even so.
    """
    if importlib.util.find_spec("torchaudio") is None:
        raise ConfigError("torchaudio is not installed; run: pip install 'rdsdk[torchaudio]'")
    try:
        return importlib.import_module("torchaudio")
    except Exception as error:  # whatever a library that does not load leads to
        first = error
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        del sys.modules[name]
    sys.modules[_EXTENSION] = _empty_extension()
    try:
        return importlib.import_module("torchaudio")
    except Exception as error:
        del sys.modules[_EXTENSION]
        raise ConfigError(
            f"torchaudio does not load: {first}; nor without its compiled extension: {error}; "
            "install the torchaudio that goes with this torch, or remove it"
        ) from error


def mend_torchaudio() -> None:
    """Make a torchaudio that does not load loadable, so that importing transformers works.

    Raises:
        ConfigError: it is installed and cannot be mended.
    """
    if "torchaudio" not in sys.modules and importlib.util.find_spec("torchaudio") is not None:
        import_torchaudio()


def _empty_extension() -> ModuleType:
    module: Any = ModuleType(_EXTENSION)
    module.__path__ = []
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module.fail_if_no_align = lambda function: function
    return module

"""A config, as commands name it: a preset, a file of JSON, or what has one in it."""

import json
from pathlib import Path

from numgpt import formats, safetensors
from numgpt.config import PRESETS, GPTConfig
from numgpt.files import FormatError, names_once, read_json
from numgpt.formats.huggingface_config import read_config


def config_named(name) -> GPTConfig:
    """The config of a preset; of numgpt's or Hugging Face's JSON; of weights, a run or a trace."""
    name, path = str(name), Path(name)
    if name in PRESETS or not path.exists():
        try:
            return GPTConfig.preset(name)
        except ValueError as error:
            raise ValueError(f"{error}; and there is no file or folder of that name") from None
    if path.suffix == ".json":
        content = read_json(path)
        if "model_type" in content or "architectures" in content:
            return read_config(content, name)[1]
        return _parsed(content, path)
    if path.suffix == ".safetensors" and path.is_file():
        with safetensors.File(path) as file:
            if "config" in file.metadata:  # numgpt's own, or a trace
                return _parsed(file.metadata["config"], path)
    return formats.config_of(path)


def _parsed(content, source) -> GPTConfig:
    try:
        content = json.loads(content, object_pairs_hook=names_once) if isinstance(content, str) else content
        return GPTConfig.from_dict(content)
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{source}: its config is not one: {error}") from None

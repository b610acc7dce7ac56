"""The settings of a run: schema.py names them all, reader.py reads and writes files, `python train_vae.py --help_config`
prints every one with default, range and meaning.
"""

from .reader import differences, load_config, parse_config, resolve, to_yaml

__all__ = ["differences", "load_config", "parse_config", "resolve", "to_yaml"]

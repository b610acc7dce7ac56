"""Errors that a user can fix: one line that names the key or file and says what to do."""


class ConfigError(ValueError):
    """A setting is unknown, missing, mistyped or contradicts another."""


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another architecture."""


class TrainingError(RuntimeError):
    """Training stopped by itself, for instance on a non-finite loss."""

"""The error for bad data that a user can fix."""


class DataError(ValueError):
    """One line that names the file or folder and says what to do."""

"""The error for data that a user can mend."""


class DataError(ValueError):
    """One line that names the file or folder and says what to do."""

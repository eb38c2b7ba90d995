"""Why an address gave no picture."""

from kontext.errors import SourceError


class FetchError(SourceError):
    """An address gave no picture; `reason` is the reject reason that is recorded."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PassingError(FetchError):
    """One that may pass. `wait` is how long the server asks to be left alone, in seconds."""

    def __init__(self, reason: str, message: str, wait: float = 0.0) -> None:
        super().__init__(reason, message)
        self.wait = wait

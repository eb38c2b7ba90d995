"""A run that ended in a failed state has said why; Prefect's engine adds a traceback of itself."""

import logging


def _says_more(record: logging.LogRecord) -> bool:
    """Whether a line is more than the engine's traceback of a state that was returned to it."""
    kind = record.exc_info[0] if record.exc_info else None
    engine = str(record.msg).startswith("Engine execution exited")
    return not (engine and kind is not None and kind.__name__ == "FailedRun")


def quieten() -> None:
    """Leave that traceback out of the logs of this process's run."""
    logging.getLogger("prefect.flow_runs").addFilter(_says_more)

"""A run that fails on purpose: the open source server has no other way to show a warning."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Failed

WARNING_KEY = "warning"


@flow(name="warn", flow_run_name="warning · {message}", persist_result=False)
def warn(message: str = "something needs a look") -> Any:
    """Show a warning among the failed runs.

    Args:
        message: What is wrong
    """
    create_markdown_artifact(f"# {message}\n", WARNING_KEY, message)
    return Failed(message=message)

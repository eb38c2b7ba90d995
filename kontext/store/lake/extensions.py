"""DuckDB's extensions come from installed wheels: nothing is downloaded."""

import importlib.util
from pathlib import Path

import duckdb

from kontext.errors import CatalogError
from kontext.store.lake.ddl import quote


def load(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load an installed extension. Raises CatalogError where its wheel is missing."""
    connection.execute(f"LOAD {quote(str(extension(name)))}")


def extension(name: str) -> Path:
    """The DuckDB extension file that the wheel `duckdb-extension-<name>` brought."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    version = f"v{duckdb.__version__}"
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "extensions", version, f"{name}.duckdb_extension")
        if path.is_file():
            return path
    package = f"duckdb-extension-{name.replace('_', '-')}"
    raise CatalogError(f"DuckDB {version} needs {package} {version[1:]}: pip install {package}")

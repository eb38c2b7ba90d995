"""Arrow schemas as DuckDB statements."""

import pyarrow as pa


def create_table(name: str, schema: pa.Schema) -> list[str]:
    """Statements that create a table with its comments."""
    columns = ", ".join(f'"{field.name}" {sql_type(field.type)}' for field in schema)
    table_comment = quote(schema.metadata[b"comment"].decode())
    statements = [
        f'CREATE TABLE "{name}" ({columns})',
        f'COMMENT ON TABLE "{name}" IS {table_comment}',
    ]
    return statements + [_comment(name, field) for field in schema]


def add_columns(name: str, schema: pa.Schema, present: set[str]) -> list[str]:
    """Statements that add the columns a table made by earlier code lacks (null in its rows)."""
    statements = []
    for field in schema:
        if field.name not in present:
            kind = sql_type(field.type)
            statements.append(f'ALTER TABLE "{name}" ADD COLUMN "{field.name}" {kind}')
            statements.append(_comment(name, field))
    return statements


def _comment(table: str, field: pa.Field) -> str:
    comment = quote(field.metadata[b"comment"].decode())
    return f'COMMENT ON COLUMN "{table}"."{field.name}" IS {comment}'


def quote(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
}


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type. Raises TypeError for one no table uses."""
    if kind in _SQL_TYPES:
        return _SQL_TYPES[kind]
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        fields = (kind.field(i) for i in range(kind.num_fields))
        return f"STRUCT({', '.join(f'{f.name} {sql_type(f.type)}' for f in fields)})"
    if pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "BLOB"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMPTZ"
    raise TypeError(f"no SQL type for Arrow type {kind}")

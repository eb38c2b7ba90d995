"""SQL that can only read the lake: one SELECT, of which every part is known to be harmless.

DuckDB parses the text, and the tree decides, not the words. What is listed here passes; anything
else is refused, also what nobody has thought of. Behind it stand `restrict` (no files, no
settings), a read-only attachment and `run`'s read-only transaction.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from kontext.errors import CatalogError
from kontext.store.lake.ddl import quote
from kontext.store.lake.functions import FUNCTIONS, TABLE_FUNCTIONS

ALLOWED = (
    "one SELECT over the lake's tables and views (also WITH, FROM, VALUES, PIVOT … IN, DESCRIBE, "
    "SUMMARIZE, SHOW TABLES, EXPLAIN)"
)
Node = dict[str, Any]
Names = frozenset[str]

# kinds of nodes in a tree that pass
_IN_EXPRESSIONS = """
    BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT DEFAULT FUNCTION LAMBDA
    LAMBDA_REF OPERATOR POSITIONAL_REFERENCE STAR SUBQUERY WINDOW
"""
_ELSEWHERE = """
    SELECT_NODE SET_OPERATION_NODE RECURSIVE_CTE_NODE
    BASE_TABLE EMPTY EXPRESSION_LIST JOIN PIVOT SHOW_REF SUBQUERY TABLE_FUNCTION
    DISTINCT_MODIFIER LIMIT_MODIFIER LIMIT_PERCENT_MODIFIER ORDER_MODIFIER
    ORDER_DEFAULT ASCENDING DESCENDING
"""
_EXPRESSIONS, _NODES = frozenset(_IN_EXPRESSIONS.split()), frozenset(_ELSEWHERE.split())
_TYPES = re.compile(r"[A-Z]+_TYPE_INFO")  # the target of a cast
_LAKE = {("", ""), ("", "main"), ("", "lake"), ("lake", "main")}  # catalog, schema
_WORD = re.compile(r"[^\W\d]\w*")
_COMMENTS = r"(?>\s|--[^\n]*(?:\n|$)|/\*(?:(?!\*/|/\*).)*\*/)*+"  # nested ones end it
_FIRST = re.compile(_COMMENTS + r"(\w*)", re.DOTALL)
_STARTS_OF_SELECT = ("SELECT", "FROM", "VALUES", "TABLE")
# from the word on it holds nothing that could change how what follows is read: no comment, no quote
_EXPLAIN = re.compile(
    _COMMENTS + r"(explain(?:[ \t\r\n]+analyze)?(?=[ \t\r\n(]))"
    r"(?:[ \t\r\n]*\([ \t\r\n]*(?:format[ \t\r\n]+)?[a-z]+[ \t\r\n]*\)())?",
    re.DOTALL | re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True)
class Query:
    """SQL that may run, and the tables and views of the lake that it reads, in lower case.

    names_dataset: it names a column `dataset`. in_past: it reads a table AT a version.
    """

    text: str
    relations: Names
    names_dataset: bool = False
    in_past: bool = False


def check(connection: duckdb.DuckDBPyConnection, sql: str) -> Query:
    """`sql` as a query, if it is one statement that only reads the lake.

    `connection` has the lake attached as `lake`. Nothing of `sql` is run or bound.

    Raises CatalogError where it is not, and for bad syntax.
    """
    try:
        text, statements = _statements(connection, sql)
        if len(statements) != 1:
            what = "more than one statement" if statements else "an empty query"
            raise CatalogError(f"{what} is refused: the catalog answers {ALLOWED}")
        known = frozenset(_lower(row[0]) for row in connection.execute(_RELATIONS).fetchall())
        walk = _Walk(known)
        walk.visit(statements, frozenset())
    except RecursionError as error:
        raise CatalogError("the query is nested too deeply") from error
    return Query(text, frozenset(walk.used), walk.names_dataset, walk.in_past)


def run(connection: duckdb.DuckDBPyConnection, query: Query) -> pa.Table:
    """The answer of a query that `check` has passed, read in a transaction that cannot write.

    Raises CatalogError for a statement of any other kind, duckdb.Error where it fails.
    """
    kinds = duckdb.StatementType
    statements = connection.extract_statements(query.text)
    if [s.type for s in statements] not in ([kinds.SELECT], [kinds.EXPLAIN]):
        raise CatalogError(f"refused: the catalog answers {ALLOWED}")
    connection.execute("BEGIN TRANSACTION READ ONLY")
    try:
        return connection.execute(statements[0]).to_arrow_table()
    finally:
        connection.execute("ROLLBACK")


def narrow(connection: duckdb.DuckDBPyConnection, query: Query, dataset: str) -> None:
    """Let every table and view that `query` reads hold the rows of one dataset only.

    A temporary view goes before the lake's own of the same name. So this holds at every snapshot,
    whatever views it had; `lake.pairs` still has all rows. Raises CatalogError where the query
    reads a table AT a version, which a view cannot.
    """
    names = sorted(query.relations & datasets_in(connection))
    if names and query.in_past:
        raise CatalogError("AT and one dataset exclude each other: use WHERE dataset = '…'")
    for statement in narrowing(names, dataset):
        connection.execute(statement)


def narrowing(names: Iterable[str], dataset: str) -> list[str]:
    """Statements after which these tables and views hold one dataset's rows."""
    rows = 'CREATE TEMP VIEW "{0}" AS SELECT * FROM lake.main."{0}" WHERE dataset = {1}'
    return [rows.format(name, quote(dataset)) for name in names]


def datasets_in(connection: duckdb.DuckDBPyConnection) -> Names:
    """Tables and views of the lake, in lower case, whose rows say which dataset they belong to."""
    return frozenset(_lower(row[0]) for row in connection.execute(_WITH_DATASET).fetchall())


_WITH_DATASET = """
    SELECT table_name FROM duckdb_columns()
    WHERE database_name = 'lake' AND NOT internal AND column_name = 'dataset'
"""
_RELATIONS = """
    SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake' AND schema_name = 'main'
    UNION ALL
    SELECT view_name FROM duckdb_views()
    WHERE database_name = 'lake' AND schema_name = 'main' AND NOT internal
"""


def _statements(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[str, list[Node]]:
    """The text to run and its trees; for EXPLAIN, the trees of the query behind it."""
    if re.search("[\0\ud800-\udfff]", sql):  # the parser would stop, or not start
        raise CatalogError("the SQL is not valid text")
    tree = _tree(connection, sql)
    match = _EXPLAIN.match(sql)
    start = 0
    if match and tree["error"]:
        sql = sql[match.start(1) :]
        for end in sorted({match.end(1), match.end()}):
            start = end - match.start(1)
            behind = _tree(connection, sql[start:])
            if not behind["error"]:
                return sql, behind["statements"]
    if not tree["error"]:
        return sql, tree["statements"]
    if tree["error_type"] == "parser":
        raise CatalogError(f"cannot read the SQL: {' '.join(tree['error_message'].split())}")
    if re.search(r"\bpivot\b", sql, re.IGNORECASE):
        raise CatalogError("PIVOT needs its values here: PIVOT … ON column IN ('one', 'two') …")
    first = _FIRST.match(sql, start)
    assert first is not None  # it matches the empty string
    what = first[1].upper() or "this"
    if what in _STARTS_OF_SELECT:  # alone it would have a tree
        what = "more than one statement"
    elif what == "WITH":
        what = "WITH before anything but one SELECT"
    raise CatalogError(f"{what} is refused: the catalog answers {ALLOWED}")


def _tree(connection: duckdb.DuckDBPyConnection, sql: str) -> Node:
    """DuckDB's parse tree as JSON; it is made of SELECT only, so all else is an error here."""
    row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone()
    assert row is not None
    found: Node = json.loads(row[0])
    return found


def _lower(name: str) -> str:
    """Lower case as DuckDB compares names: ASCII only."""
    return re.sub("[A-Z]", lambda letter: letter[0].lower(), name)


class _Walk:
    """Visits a tree; refuses what is not listed; collects the relations of the lake in `used`."""

    def __init__(self, known: Names) -> None:
        self.known = known
        self.used: set[str] = set()
        self.names_dataset = self.in_past = False

    def visit(self, value: Any, scope: Names) -> None:
        """`scope` has the names of the WITH clauses that can be seen from here."""
        if isinstance(value, list):
            for item in value:
                self.visit(item, scope)
        elif isinstance(value, dict):
            for item, visible in self._parts(value, scope):
                self.visit(item, visible)

    def _parts(self, node: Node, scope: Names) -> Iterator[tuple[Any, Names]]:
        """What is below a node, and the names that can be seen there."""
        kind = node.get("type")
        if "class" in node:
            if node["class"] not in _EXPRESSIONS:
                raise _refused(f"{node['class']} in an expression")
            if "function_name" in node:
                _check_function(node, FUNCTIONS)
            if node["class"] == "COLUMN_REF" and _lower(node["column_names"][-1]) == "dataset":
                self.names_dataset = True
        elif isinstance(kind, str) and not _TYPES.fullmatch(kind):
            if kind not in _NODES:
                raise _refused(kind)
            if kind == "BASE_TABLE":
                self._relation(node, scope)
            elif kind == "SHOW_REF":
                _check_show(node)
            elif kind == "TABLE_FUNCTION":
                call = node.pop("function")
                _check_function(call, TABLE_FUNCTIONS)
                yield [call[key] for key in call if key != "function_name"], scope
        for entry in node.pop("cte_map", {"map": []})["map"]:
            yield entry["value"], scope  # which does not see its own name
            scope |= {_word(entry["key"])}
        if kind == "RECURSIVE_CTE_NODE":
            yield node.pop("left"), scope
            scope |= {_word(node["cte_name"])}
        for item in node.values():
            yield item, scope

    def _relation(self, node: Node, scope: Names) -> None:
        place = _lower(node["catalog_name"]), _lower(node["schema_name"])
        name = _lower(node["table_name"])
        if place == ("", "") and name in scope:
            return
        if place not in _LAKE or name not in self.known:
            text = ".".join(part for part in (*place, node["table_name"]) if part)
            raise CatalogError(
                f"no table or view '{text}' in the lake (`kontext tables` lists them): "
                "files and other databases are refused"
            )
        self.used.add(name)
        self.in_past |= bool(node.get("at_clause"))


def _check_function(node: Node, allowed: Names) -> None:
    name = _lower(node["function_name"])
    if name not in allowed:
        raise _refused(f"the function {name}()")


def _check_show(node: Node) -> None:
    """DESCRIBE and SUMMARIZE of a query (which is visited too), and SHOW TABLES of the lake."""
    place = _lower(node["catalog_name"]), _lower(node["schema_name"])
    tables = node["show_type"] == "SHOW_UNQUALIFIED" and node["table_name"] == '"tables"'
    if node["query"] is None and not tables and (place not in _LAKE or place == ("", "")):
        raise _refused("SHOW or DESCRIBE without one of the lake's tables")


def _word(name: str) -> str:
    """The name of a WITH clause; one that looks like a file is refused."""
    if not _WORD.fullmatch(name):
        raise CatalogError(f"WITH '{name}': give it a name of letters, digits and _")
    return _lower(name)


def _refused(what: str) -> CatalogError:
    return CatalogError(
        f"{what} is refused: the catalog answers {ALLOWED}, with functions that only compute"
    )

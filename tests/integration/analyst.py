#!/usr/bin/env python3
"""Runs the queries of the README on a star, as analysts do:  analyst.py STAR README

With Python's sqlite3, and with DuckDB, which reads the file by its SQLite extension. Each must give what the README says, and
dates and times must come as such. Wants the packages duckdb and duckdb-extension-sqlite-scanner. Exit code 0: so it is.
"""
import datetime
import glob
import re
import sqlite3
import sys

import duckdb
import duckdb_extension_sqlite_scanner

TABLES = ["dim_chats", "dim_days", "fact_events", "fact_errors", "fact_hours"]
TYPES = {"DATE": datetime.date, "TIMESTAMP": datetime.datetime, "INTEGER": int, "REAL": float, "TEXT": str}


def queries(readme):
    """Each query and the rows that stand behind it as remarks."""
    section = readme.split("### For the analyst", 1)[1].split("```sql\n", 1)[1].split("```", 1)[0]
    found = []
    for block in re.split(r"(?m)^-- \d+\. ", section)[1:]:
        lines = block.split("\n")[1:]
        rows = [line[2:].strip() for line in lines if line.startswith("--")]
        found.append(("\n".join(line for line in lines if not line.startswith("--")).strip().rstrip(";"), rows))
    return found


def shown(row):
    def cell(value):
        if value is None:
            return ""
        return "%.2f" % value if isinstance(value, float) else str(value)
    return " | ".join(cell(value) for value in row)


def hold(name, run, readme):
    for number, (query, wanted) in enumerate(queries(readme), 1):
        found = [shown(row) for row in run(query)]
        assert found == wanted, "%s, query %d: %r, and the README has %r" % (name, number, found, wanted)


def declared(archive, table):
    return {name: kind for _, name, kind, *_ in archive.execute("PRAGMA table_info(%s)" % table)}


def check_types(name, rows_of, archive):
    """What is declared as a date is one, in every row."""
    for table in TABLES:
        names, rows = rows_of("SELECT * FROM %s" % table)
        assert rows, "%s is empty" % table
        for column, values in zip(names, zip(*rows)):
            kind = declared(archive, table)[column]
            wanted = (int, bool) if kind == "BOOLEAN" else TYPES[kind]
            for value in values:
                assert value is None or isinstance(value, wanted), "%s, %s.%s: %r is no %s" % (name, table, column, value, kind)


def main(star, readme):
    with open(readme, encoding="utf-8") as file:
        readme = file.read()
    assert len(queries(readme)) == 10, "%d queries" % len(queries(readme))
    archive = sqlite3.connect("file:%s?mode=ro" % star, uri=True, detect_types=sqlite3.PARSE_DECLTYPES)
    sqlite3.register_converter("date", lambda text: datetime.date.fromisoformat(text.decode()))
    sqlite3.register_converter("timestamp", lambda text: datetime.datetime.fromisoformat(text.decode()))

    def of_sqlite(query):
        cursor = archive.execute(query)
        return [column[0] for column in cursor.description], cursor.fetchall()

    hold("sqlite3", lambda query: of_sqlite(query)[1], readme)
    check_types("sqlite3", of_sqlite, archive)

    duck = duckdb.connect()
    folder = duckdb_extension_sqlite_scanner.__path__[0]
    duck.execute("LOAD '%s'" % glob.glob(folder + "/extensions/*/sqlite_scanner.duckdb_extension")[0])
    duck.execute("ATTACH '%s' AS star (TYPE sqlite, READ_ONLY); USE star" % star)

    def of_duckdb(query):
        cursor = duck.execute(query)
        return [column[0] for column in cursor.description], cursor.fetchall()

    hold("duckdb", lambda query: of_duckdb(query)[1], readme)
    check_types("duckdb", of_duckdb, archive)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])

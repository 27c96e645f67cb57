#!/usr/bin/env python3
"""Holds exports against the archive that they are of:  export.py ARCHIVE FORMAT FOLDER [DTD]

Reads the archive with sqlite3 and the export with what Python has for its format (XML: also xmllint, against the DTD), and
compares every row; pages also as Chromium has them, CSV as LibreOffice opens it, Parquet as DuckDB and pyarrow read it (with
the Python that tests/run makes). Exit code 0: the same.
"""
import base64
import collections
import csv
import email
import email.policy
import email.utils
import glob
import html.parser
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

TABLES = {"chats": "chats", "attributes": "chat_attributes", "events": "events", "variants": "event_variants",
          "holes": "coverage_holes", "maskings": "maskings", "files": "file_transfers"}
ORDER = {"chats": "chat_id", "events": "chat_id, event_index", "variants": "chat_id, event_index, digest",
         "holes": "chat_id, from_position"}
TYPING = ("TypingStarted", "TypingStopped")
csv.field_size_limit(1 << 30)


def same(what, found, wanted):
    assert found == wanted, "%s: %.300r, and the archive has %.300r" % (what, found, wanted)


def archive_rows(archive, name, columns):
    known = [row[1] for row in archive.execute("PRAGMA table_info(%s)" % TABLES.get(name, "api_errors"))]
    shared = [column for column in columns if column in known and (name, column) != ("chats", "holes")]
    order = ORDER.get(name, "chat_id, id") if name != "errors" else "chat_id IS NULL, chat_id, id"
    rows = archive.execute("SELECT %s FROM %s ORDER BY %s" % (", ".join(shared), TABLES.get(name, "api_errors"), order))
    return shared, [list(row) for row in rows]


def check_jsonl(archive, folder):
    for name in list(TABLES) + ["errors"]:
        with open("%s/%s.jsonl" % (folder, name), encoding="utf-8") as lines:
            found = [json.loads(line) for line in lines]
        shared, wanted = archive_rows(archive, name, list(found[0]) if found else ["chat_id"])
        same(name, len(found), len(wanted))
        for row, record in zip(wanted, found):
            row = [base64.b64encode(value).decode() if isinstance(value, bytes) else value for value in row]
            same(name, [record[column] for column in shared], row)
            if name == "events" and record["utc_time"] is not None and record["at_utc"] is not None:
                same("at_utc", parsed(record["at_utc"]), record["utc_time"])


def parsed(iso):
    import datetime
    return round(datetime.datetime.fromisoformat(iso.replace("Z", "+00:00")).timestamp() * 1000)


def had_back(cell):
    return re.sub(r"(^|[;\t\r\n])'", r"\1", cell)


def check_csv(archive, folder):
    for name in list(TABLES) + ["errors"]:
        with open("%s/%s.csv" % (folder, name), encoding="utf-8", newline="") as text:
            header, *found = list(csv.reader(text, strict=True))
        shared, wanted = archive_rows(archive, name, header)
        same(name, len(found), len(wanted))
        for row, cells in zip(wanted, found):
            for cell in cells:
                armed = re.search(r"(^|[;\t\r\n])[=+@|＝＋＠－]|(^|[;\t\r\n])-(?!\d+$)|^[\t\r\n]", cell)
                assert not armed, "a spreadsheet would run %.100r" % cell
            record = dict(zip(header, cells))
            for column, value in zip(shared, row):
                if isinstance(value, bytes):
                    same(column, record[column], base64.b64encode(value).decode())
                elif isinstance(value, str):
                    same(column, had_back(record[column]), value)
                else:
                    same(column, record[column], "" if value is None else str(value))


# What columns are in Parquet: by pyarrow, by DuckDB. All others are texts.
TIMES = {"at_utc", "first_seen_at", "last_seen_at", "ended_at", "observed_at", "last_observed_at", "recorded_at", "at"}
INTEGERS = {"id", "run_id", "row_id", "event_index", "utc_time", "participant_id", "next_position", "from_position",
            "highest_index", "covered_to", "hidden", "holes", "bytes", "at_character", "characters", "repeats",
            "http_status", "status_code", "code", "duration_ms"}


def parquet_kind(column):
    if column in TIMES:
        return "timestamp[ms, tz=UTC]", "TIMESTAMP WITH TIME ZONE"
    if column in INTEGERS:
        return "int64", "BIGINT"
    if column == "is_async":
        return "bool", "BOOLEAN"
    if column == "digest":
        return "binary", "BLOB"
    return "string", "VARCHAR"


def milliseconds(value):
    import datetime
    return (value - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) // datetime.timedelta(milliseconds=1)


def check_parquet(archive, folder):
    import duckdb
    import pyarrow.parquet
    for name in list(TABLES) + ["errors"]:
        path = "%s/%s.parquet" % (folder, name)
        table = pyarrow.parquet.read_table(path)
        told = duckdb.sql("FROM '%s'" % path)
        same("columns of " + name, told.columns, table.column_names)
        for field, by_duckdb in zip(table.schema, told.types):
            same("type of " + field.name, (str(field.type), str(by_duckdb)), parquet_kind(field.name))
        shared, wanted = archive_rows(archive, name, table.column_names)
        by_arrow = table.select(shared).to_pylist()
        columns = ", ".join('epoch_ms("%s")' % column if column in TIMES else column for column in shared)
        by_duckdb = duckdb.sql("SELECT %s FROM '%s'" % (columns or "1", path)).fetchall()
        same(name, (len(by_arrow), len(by_duckdb)), (len(wanted), len(wanted)))
        for row, record, other in zip(wanted, by_arrow, by_duckdb):
            same(name, [milliseconds(value) if value is not None and column in TIMES else value
                        for column, value in record.items()], row)
            same(name, list(other), row)
    utc = pyarrow.parquet.read_table("%s/events.parquet" % folder, columns=["at_utc", "utc_time"]).to_pylist()
    for row in utc:
        if row["at_utc"] is not None:
            same("at_utc", milliseconds(row["at_utc"]), row["utc_time"])
        else:
            assert row["utc_time"] in (None, 2 ** 63 - 1), row


def formulas(paths, separator, folder):
    """How many a spreadsheet program sees in each, if it takes this for the border of cells."""
    options = "CSV:%d,34,76,1,,0,false,true,false,false,false,-1" % ord(separator)
    command = ["soffice", "-env:UserInstallation=file://%s/profile" % folder, "--headless", "--convert-to", "fods"]
    subprocess.run(command + ["--infilter=" + options, "--outdir", folder] + paths, check=True, capture_output=True, timeout=120)
    counts = []
    for path in paths:
        name = os.path.basename(path).replace(".csv", ".fods")
        with open(os.path.join(folder, name), encoding="utf-8") as sheet:
            counts.append(sheet.read().count("table:formula"))
    return counts


def check_spreadsheet(_archive, folder):
    with tempfile.TemporaryDirectory() as work:
        control = os.path.join(work, "control.csv")
        with open(control, "w", encoding="utf-8") as file:
            file.write('=1+1,"x;=1+1;y"\n')
        sheets = ["%s/%s.csv" % (folder, name) for name in ("events", "attributes", "errors")]
        for separator in ",;":
            of_control, *found = formulas([control] + sheets, separator, work)
            assert of_control > 0, "no formula in the control: this finds none"
            same("formulas", found, [0, 0, 0])


def legible(text):
    def spelt(c):
        if ord(c) < 32:
            return chr(0x2400 + ord(c))
        return "\u2421" if c == "\x7f" else "[U+%04X]" % ord(c)
    odd = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ufffe\uffff]"
    return re.sub(odd, lambda found: spelt(found[0]), text.replace("\r\n", "\n") if re.search(odd, text) else text)


def line(text):
    return legible(text).replace("\n", "\u240a").replace("\t", "\u2409")


def header(text):
    return line(text)[:256].replace("=?", "=\u2060?")


def what(kind, text, user_data):
    text = text or ""
    if kind == "Message":
        return text
    if kind in ("ParticipantJoined", "ParticipantLeft"):
        return "[joined]" if kind == "ParticipantJoined" else "[left]"
    if kind in ("FileUploaded", "FileDeleted"):
        data = json.loads(user_data or "{}")
        name = data.get("file-name") or data.get("file-id") or text or "without a name"
        return "[%s a file: %s]" % ("sent" if kind == "FileUploaded" else "deleted", name)
    if kind is None:
        return "[an event without a type] " + text
    return "[%s] %s" % (kind, text) if text else "[%s]" % kind


def events(archive):
    """By chat: index, time, who, kind of party, what, kind."""
    chats = collections.OrderedDict((chat, []) for chat, in archive.execute("SELECT chat_id FROM chats ORDER BY 1"))
    rows = archive.execute("SELECT chat_id, event_index, utc_time, nickname, participant_id, party_type, type, text, user_data"
                           " FROM events ORDER BY chat_id, event_index")
    for chat, index, at, nickname, number, party, kind, text, user_data in rows:
        who = nickname or (("#%d" % number) if number is not None else (party or "unknown"))
        chats[chat].append((index, at, who, party, what(kind, text, user_data), kind))
    return chats


class Page(html.parser.HTMLParser):
    """The cells of the transcript's table; and whether there is anything in it that could act."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.rows, self.cell, self.tags, self.policy, self.tables = [], None, collections.Counter(), None, 0

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        attributes = dict(attributes)
        assert not any(name.startswith("on") for name in attributes), attributes
        assert "src" not in attributes and not attributes.get("href", "").startswith(("javascript", "data", "http")), attributes
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        self.tables += tag == "table"
        if self.tables == 2 and tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.cell = ""
        if tag == "br" or tag == "div":
            self.cell = (self.cell or "") + "\0"

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag == "td":
            if self.tables == 2:
                self.rows[-1].append(self.cell)
            self.cell = None


def check_page(text, chat, wanted):
    page = Page()
    page.feed(text)
    known = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "table", "thead", "tbody", "tr", "th", "td", "bdi",
             "br", "footer", "div"}
    assert set(page.tags) <= known, set(page.tags) - known
    assert page.policy.startswith("default-src 'none'; style-src 'sha256-"), page.policy
    rows = [row for row in page.rows if row]
    same("events of " + chat, len(rows), len(wanted))
    for row, (index, _at, who, party, said, _kind) in zip(rows, wanted):
        same("index", row[0], str(index))
        same("who", row[2], line(who) + "\0" + line(party or ""))
        same("what", row[3].split("\0")[0], legible(said))


def shown(rows):
    return [row for row in rows if row[5] not in TYPING]


def check_chromium(archive, folder):
    """What a browser makes of the pages."""
    pages = sorted(glob.glob(folder + "/*/*.html"))
    for path, (chat, rows) in zip(pages, events(archive).items()):
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "file://" + path]
        dom = subprocess.run(command, check=True, capture_output=True, timeout=120).stdout.decode()
        check_page(dom, chat, shown(rows))
        assert "<script" not in dom.lower() and "<title>Chat " in dom, "a title that was changed, or a script"


def check_html(archive, folder):
    pages = sorted(glob.glob(folder + "/*/*.html"))
    chats = events(archive)
    same("pages", len(pages), len(chats))
    for path, (chat, rows) in zip(pages, chats.items()):
        with open(path, encoding="utf-8", newline="") as page:
            check_page(page.read(), chat, shown(rows))
    with open(folder + "/index.html", encoding="utf-8") as index:
        links = re.findall(r'href="([^"]+)"', index.read())
    same("links", [folder + "/" + link for link in links], pages)


def check_eml(archive, folder):
    mails = sorted(glob.glob(folder + "/*/*.eml"))
    chats = events(archive)
    same("mails", len(mails), len(chats))
    ids = set()
    for path, (chat, rows) in zip(mails, chats.items()):
        with open(path, "rb") as file:
            content = file.read()
        head = content.split(b"\r\n\r\n", 1)[0]
        assert all(len(text) <= 998 for text in content.split(b"\r\n")), "a line is too long"
        assert b"\n" not in content.replace(b"\r\n", b"") and head.isascii(), "bare line feeds, or bytes in a header"
        mail = email.message_from_bytes(content, policy=email.policy.default)
        defects = [defect for part in mail.walk() for defect in part.defects]
        defects += [defect for _, value in mail.items() for defect in value.defects]
        assert not defects, defects
        ids.add(mail["message-id"])
        same("chat", mail["x-gms-recorder-chat-id"], header(chat))
        allowed = {"from", "to", "subject", "date", "message-id", "auto-submitted", "x-gms-recorder-chat-id",
                   "x-gms-recorder-archive-id", "mime-version", "content-type"}
        same("headers", {name.lower() for name in mail.keys()}, allowed)
        names = [address.display_name for address in mail["from"].addresses + mail["to"].addresses]
        for address in mail["from"].addresses + mail["to"].addresses:
            assert re.fullmatch(r"[a-z0-9-]+@[A-Za-z0-9-]+\.invalid", address.addr_spec), address
        for name in {header(row[2]) for row in rows[:1]}:
            assert name in names, "%r is not among %r" % (name, names)
        last = [at for _, at, _, _, _, _ in shown(rows) if at is not None]
        if last:
            same("date", int(mail["date"].datetime.timestamp()), last[-1] // 1000)
        body = mail.get_body(("plain",)).get_content().replace("\r\n", "\n").split("\n\n", 1)[1]
        lines = re.findall(r"^(\S+) #(\d+) (.*?): ((?:.|\n    )*)$", body, re.M)
        same("events of " + chat, len(lines), len(shown(rows)))
        for (_at, index, who, said), row in zip(lines, shown(rows)):
            same("index", index, str(row[0]))
            wanted = "%s (%s): %s" % (line(row[2]), line(row[3] or "unknown"), legible(row[4]).replace("\n", "\n    "))
            said = re.sub(r"\n    \(also delivered with other content: .*\)$", "", said)
            same("what", "%s: %s" % (who, said), wanted)
        page = mail.get_body(("html",)).get_content().replace("\r\n", "\n")
        check_page(page, chat, shown(rows))
    same("message ids", len(ids), len(mails))


def check_actiance(archive, folder, dtd):
    path = folder + "/actiance_export.xml"
    subprocess.run(["xmllint", "--noout", "--huge", "--dtdvalid", dtd, path], check=True)
    root = ElementTree.parse(path).getroot()
    chats = events(archive)
    same("conversations", len(root), len(chats))

    def legal(text):
        return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "\ufffd", text)

    for conversation, (chat, rows) in zip(root, chats.items()):
        assert conversation.findtext("RoomID").endswith(" - " + legal(chat)), conversation.findtext("RoomID")
        said = [(message.findtext("MessageId"), message.findtext("Content"), int(message.findtext("DateTimeUTC")))
                for message in conversation.findall("Message")]
        skipped = TYPING + ("ParticipantJoined", "ParticipantLeft", "FileUploaded")
        start = int(conversation.findtext("StartTimeUTC"))
        wanted = []
        for index, at, who, _party, text, kind in rows:
            if kind not in skipped:
                text = "[NicknameUpdated] " + who if kind == "NicknameUpdated" else text
                wanted.append((legal("%s-%d" % (chat, index)), legal(text), start if at is None else at))
        same("messages of " + chat, said, wanted)
        for kind, name in (("ParticipantJoined", "ParticipantEntered"), ("ParticipantLeft", "ParticipantLeft")):
            times = collections.Counter(int(party.findtext("DateTimeUTC")) for party in conversation.findall(name))
            assert not collections.Counter(row[1] for row in rows if row[5] == kind) - times, (chat, kind)
        same("files", len(conversation.findall("FileTransferEnded")), sum(row[5] == "FileUploaded" for row in rows))
        speakers = {message.findtext("LoginName") for message in conversation.findall("Message")}
        entered = {party.findtext("LoginName") for party in conversation.findall("ParticipantEntered")}
        assert speakers <= entered, speakers - entered


if __name__ == "__main__":
    database, form, folder, *rest = sys.argv[1:]
    connection = sqlite3.connect("file:%s?mode=ro" % database, uri=True)
    globals()["check_" + form](connection, folder, *rest)
    print("the same")

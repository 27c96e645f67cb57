#!/usr/bin/env python3
"""Checks a bundle of `gms-recorder export --bundle`, offline:  bundle.py FOLDER PUBLIC_KEYS_FILE

The file has a public key a line, as `gms-recorder key list` prints them: one that was given out on the first day will do.

Knows nothing of gms-recorder but what the bundle's README.txt says, RFC 8493 (BagIt), RFC 6962 and C2SP's signed notes. Needs
Python's standard library and the package "cryptography" for Ed25519. Exit code 0: it is whole, and every row is what was recorded
and signed.
"""
import base64
import bisect
import hashlib
import json
import os
import re
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

# What is hashed of each table, in this order: README.txt has them too, but who changes a bundle can change that.
COLUMNS = {
    "events": "chat_id,event_index,type,utc_time,participant_id,nickname,party_type,text,message_type,user_data,"
        "event_attributes,raw,recorded_at,node,run_id",
    "event_variants": "chat_id,event_index,digest,kind,raw,recorded_at,node,run_id",
    "chat_attributes": "id,chat_id,name,value,source,observed_at,run_id",
    "api_errors": "id,observed_at,last_observed_at,repeats,origin,http_status,status_code,format,code,meaning,class,"
        "field,detail,advice,reference_id,service,operation,chat_id,alias,method,path,node,client,request_id,"
        "duration_ms,run_id,trace_id",
    "coverage": "chat_id,from_position,next_position,node,run_id,at",
    "findings": "id,observed_at,last_observed_at,repeats,kind,chat_id,detail,raw,raw_length,digest,run_id",
    "outages": "id,started_at,ended_at,reason,detail,events,answers,delivered_early,refused,dropped,chat_ids,run_id,"
        "spooled",
    "chats": "chat_id,service,first_seen_at,last_seen_at / 300000,ended_at,ended_how,next_position,is_async,"
        "highest_index",
    "maskings": "id,what,chat_id,event_index,digest,row_id,field,rule,at_character,characters,recorded_at,run_id",
    "file_transfers": "id,chat_id,file_id,direction,bytes,sha256,at,outcome,node,run_id",
    "acts": "id,kind,at,ended_at,who,via,host,case_ref,asked,reason,found,version",
    "erasures": "id,act_id,chat_id,how,at,below,service,first_seen_at,last_seen_at,events,rows,leaves",
}


def sha256(data):
    return hashlib.sha256(data).digest()


def manifest(folder, name):
    """Every line is one of a manifest, and every file is as it says. Returns the names."""
    with open(os.path.join(folder, name), encoding="utf-8", newline="") as file:
        lines = file.read().split("\n")
    assert lines.pop() == "", "%s does not end with its last line" % name
    names = []
    for line in lines:
        digest, path = re.fullmatch(r"([0-9a-f]{64})  ([^\r]+)", line).groups()
        assert not path.startswith("/") and ".." not in path.split("/"), "%s leads elsewhere" % path
        found = hashlib.sha256()
        with open(os.path.join(folder, path), "rb") as file:
            for part in iter(lambda: file.read(1 << 20), b""):
                found.update(part)
        assert found.hexdigest() == digest, "%s is not what %s says" % (path, name)
        names.append(path)
    return names


def check_bag(folder):
    """RFC 8493: all files are named by a manifest, none is missing, none is too many."""
    tags = manifest(folder, "tagmanifest-sha256.txt")
    payload = manifest(folder, "manifest-sha256.txt")
    assert {"manifest-sha256.txt", "bagit.txt", "bag-info.txt"} <= set(tags), "tags that no manifest names"
    there = {os.path.relpath(os.path.join(place, name), folder) for place, _, names in os.walk(folder) for name in names}
    named = ["tagmanifest-sha256.txt"] + tags + payload
    assert len(named) == len(set(named)) and there == set(named), "not named: %s" % sorted(there ^ set(named))[:5]
    return len(payload)


def value(kind, content):
    """One value as it is hashed."""
    if kind == "N":
        return b"N"
    if kind == "I":
        return b"I" + struct.pack(">q", content)
    if kind == "R":
        return b"R" + struct.pack(">d", content)
    content = content.encode() if kind == "T" else base64.b64decode(content, validate=True)
    return kind.encode() + struct.pack(">I", len(content)) + content


def read_rows(path):
    """The leaves of all rows, by their numbers; how many rows there are of each table, and how many are said to be sealed later."""
    leaves, tables, later = [], {}, 0
    with open(path, encoding="utf-8", newline="\n") as lines:
        for line in lines:
            row = json.loads(line)
            salt = base64.b64decode(row["salt"], validate=True)
            assert len(salt) == 16, "a salt has 16 bytes"
            names = ",".join(name for name, _kind, _content in row["fields"])
            assert names == COLUMNS.get(row["table"]), "columns of %s have other names, or another order" % row["table"]
            fields = b"".join(value(kind, content) for _name, kind, content in row["fields"])
            leaves.append((row["leaf"], sha256(b"\x00" + salt + value("T", row["table"]) + fields)))
            tables[row["table"]] = tables.get(row["table"], 0) + 1
            later += row["sealed_later_at"] is not None
    leaves.sort()
    assert all(one[0] < other[0] for one, other in zip(leaves, leaves[1:])), "two rows with the same leaf"
    return leaves, tables, later


def root_of(leaves, size, nodes):
    """As README.txt has it."""
    def root(lo, hi, first, end):
        if hi - lo == 1:
            return leaves[first][1]
        middle = lo + (1 << ((hi - lo - 1).bit_length() - 1))
        at = bisect.bisect_left(leaves, (middle, b""), first, end)
        left = root(lo, middle, first, at) if first < at else None
        right = root(middle, hi, at, end) if at < end else None
        left = nodes.read(32) if left is None else left
        right = nodes.read(32) if right is None else right
        return sha256(b"\x01" + left + right)
    assert leaves and leaves[-1][0] < size, "no rows, or some beyond the tree"
    return root(0, size, 0, len(leaves))


def parse_key(line):
    """C2SP signed-note: a verifier key's name, its number, the key."""
    try:
        name, key_id, key = line.split("+", 2)
        key = base64.b64decode(key, validate=True)
    except ValueError:
        raise ValueError("no public key of signed notes: %s" % line) from None
    assert key[0] == 1 and len(key) == 33, "only Ed25519 is known"
    assert sha256(name.encode() + b"\n" + key)[:4].hex() == key_id, "the key's own number is wrong"
    return name, key_id, Ed25519PublicKey.from_public_bytes(key[1:])


def open_note(note, keys):
    """C2SP signed-note: the lines that one of the keys has signed. None: it is signed by others."""
    text, signatures = note.split("\n\n", 1)
    for line in signatures.splitlines():
        dash, signer, signature = line.split(" ")
        signature = base64.b64decode(signature, validate=True)
        for name, key_id, key in keys:
            if dash == "—" and signer == name and signature[:4].hex() == key_id:
                key.verify(signature[4:], text.encode() + b"\n")
                return text.splitlines()
    return None


def with_successors(keys, path, origin):
    """And those of which one before them has signed that they follow in the archive of that origin. Bundles of archives that had
    one key, and of earlier releases, have no such file."""
    if not os.path.exists(path):
        return keys
    with open(path, encoding="utf-8") as file:
        statements = json.load(file)
    for statement in statements:
        try:
            lines = open_note(statement, keys)
        except (ValueError, InvalidSignature):
            continue
        if lines and lines[0] == origin and lines[1].startswith("next key "):
            keys = keys + [parse_key(lines[1][len("next key "):])]
    return keys


def check(folder, vkeys):
    keys = [parse_key(line.strip()) for line in vkeys.splitlines() if line.strip()]
    files = check_bag(folder)
    data = os.path.join(folder, "data")
    with open(os.path.join(data, "checkpoint.txt"), encoding="utf-8") as file:
        note = file.read()
    signed = open_note(note, with_successors(keys, os.path.join(data, "successions.json"), note.split("\n", 1)[0]))
    assert signed, "it is signed by another key than those given, and by none that follows one of them"
    # C2SP tlog-checkpoint: who may be believed, how many leaves, which root.
    origin, size, root = signed[0], int(signed[1]), base64.b64decode(signed[2], validate=True)
    leaves, tables, later = read_rows(os.path.join(data, "rows.jsonl"))
    with open(os.path.join(data, "nodes.bin"), "rb") as nodes:
        assert root_of(leaves, size, nodes) == root, "the rows do not lead to the root that was signed"
        assert nodes.read(1) == b"", "hashes are left over"
    with open(os.path.join(data, "unproved.jsonl"), encoding="utf-8", newline="\n") as lines:
        unproved = [json.loads(line)["table"] for line in lines]
    with open(os.path.join(data, "export", "export.json"), encoding="utf-8") as about:
        told = json.load(about)["rows"]
    for table in ("chats", "events"):
        found = tables.get(table, 0) + unproved.count(table)
        assert told[table] == found, "%d %s to be read, and %d among the rows" % (told[table], table, found)
    return ("%d files; %d rows of %d chats are among the %d leaves that %s signed; %d newer rows are not proved\n"
            "  not proved, only said: %d rows were sealed later than written" % (
                files, len(leaves), told["chats"], size, origin, len(unproved), later))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        with open(sys.argv[2], encoding="utf-8") as key:
            print(check(sys.argv[1], key.read()))
    except (AssertionError, InvalidSignature, ValueError, KeyError, TypeError, IndexError, AttributeError, OSError) as error:
        sys.exit("NOT PROVED: %s %s" % (type(error).__name__, error))

#!/usr/bin/env python3
"""Checks a proof of `gms-recorder prove`, offline:  prove.py PROOF.json PUBLIC_KEY_FILE

Knows nothing of gms-recorder but what migrations/0005_seals.sql says, RFC 6962 and C2SP's signed notes. Needs Python's
standard library and the package "cryptography" for Ed25519. Exit code 0: every row is what was recorded and signed.
"""
import base64
import hashlib
import json
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


# What is hashed of each table, in this order: the table sealed_forms of migrations 0005 to 0007.
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
    "chats": "chat_id,service,first_seen_at,last_seen_at / 300000,ended_at,ended_how,next_position,is_async,"
        "highest_index",
    "maskings": "id,what,chat_id,event_index,digest,row_id,field,rule,at_character,characters,recorded_at,run_id",
    "file_transfers": "id,chat_id,file_id,direction,bytes,sha256,at,outcome,node,run_id",
    "acts": "id,kind,at,ended_at,who,via,host,case_ref,asked,reason,found,version",
    "holds": "id,act_id,at,reason,chat_id,name,value,query,released_at,released_by",
    "erasures": "id,act_id,chat_id,how,at,below,service,first_seen_at,last_seen_at,events,rows,leaves",
    "waiting_erasures": "id,act_id,chat_id,held_by,at,done_by",
}


def sha256(data):
    return hashlib.sha256(data).digest()


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


def leaf_hash(row):
    fields = b"".join(value(kind, content) for _name, kind, content in row["fields"])
    salt = base64.b64decode(row["salt"], validate=True)
    assert len(salt) == 16, "a salt has 16 bytes"
    return sha256(b"\x00" + salt + value("T", row["table"]) + fields)


def root_by_path(index, size, leaf, path):
    """RFC 9162, section 2.1.3.2."""
    if index >= size:
        return None
    last, node = size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if index % 2 == 1 or index == last:
            node = sha256(b"\x01" + sibling + node)
            while index % 2 == 0 and index != 0:
                index, last = index >> 1, last >> 1
        else:
            node = sha256(b"\x01" + node + sibling)
        index, last = index >> 1, last >> 1
    return node if last == 0 else None


def open_note(note, vkey):
    """C2SP signed-note: the lines that the key has signed."""
    name, key_id, key = vkey.strip().split("+", 2)
    key = base64.b64decode(key, validate=True)
    assert key[0] == 1 and len(key) == 33, "only Ed25519 is known"
    assert sha256(name.encode() + b"\n" + key)[:4].hex() == key_id, "the key's own number is wrong"
    text, signatures = note.split("\n\n", 1)
    text += "\n"
    for line in signatures.splitlines():
        dash, signer, signature = line.split(" ")
        signature = base64.b64decode(signature, validate=True)
        if dash == "—" and signer == name and signature[:4].hex() == key_id:
            Ed25519PublicKey.from_public_bytes(key[1:]).verify(signature[4:], text.encode())
            return text.splitlines()
    raise ValueError("the key has not signed this note")


def is_of(proof, row):
    """Of the chat or act that the proof is about; or an act that erased something of the chat."""
    fields = {field: content for field, _kind, content in row["fields"]}
    if "act_id" in proof:
        act = proof["act_id"]
        if row["table"] == "acts":
            return fields["id"] in [act] + [waiting["act_id"] for waiting in rows_of(proof, "waiting_erasures") if waiting["done_by"] == act]
        return act in (fields["act_id"], fields.get("done_by"))
    if row["table"] != "acts":
        return fields["chat_id"] == proof["chat_id"]
    return any(erasure["act_id"] == fields["id"] for erasure in rows_of(proof, "erasures"))


def rows_of(proof, table):
    return [{name: content for name, _, content in row["fields"]} for row in proof["rows"] if row["table"] == table]


def check(proof, vkeys):
    # C2SP tlog-checkpoint: who is to be believed, how many leaves, which root.
    origin, size, root = open_with_any(proof["checkpoint"], known_keys(proof, vkeys))[:3]
    size, root = int(size), base64.b64decode(root, validate=True)
    assert proof["rows"], "it proves nothing"
    leaves = [row["leaf"] for row in proof["rows"]]
    assert len(leaves) == len(set(leaves)), "a row is there twice"
    for row in proof["rows"]:
        names = ",".join(name for name, _kind, _content in row["fields"])
        assert names == COLUMNS[row["table"]], "columns of %s have other names, or another order" % row["table"]
        path = [base64.b64decode(sibling, validate=True) for sibling in row["path"]]
        name = "%s %s" % (row["table"], row["fields"][:2])
        assert root_by_path(row["leaf"], size, leaf_hash(row), path) == root, "not in the tree: " + name
        assert is_of(proof, row), "of another chat or act: " + name
    later = sum(row["sealed_later_at"] is not None for row in proof["rows"])
    subject = proof.get("chat_id", "act %s" % proof.get("act_id"))
    told = ["%d rows of %s are among the %d leaves that %s signed" % (len(proof["rows"]), subject, size, origin)]
    for table in COLUMNS:
        rows = rows_of(proof, table)
        if rows and table == "acts":
            told += ["act %(id)s: %(kind)s by %(who)s on %(host)s, case %(case_ref)s, because: %(reason)s" % row for row in rows]
        elif rows and table == "erasures":
            told += ["%(how)s by act %(act_id)s: %(events)s events, %(rows)s rows of chat %(chat_id)s" % row for row in rows]
        elif rows and table == "waiting_erasures":
            told += ["chat %(chat_id)s was to be erased by act %(act_id)s, and hold %(held_by)s was in the way; done by act %(done_by)s" % row
                     for row in rows]
        elif rows:
            told.append("%d of %s" % (len(rows), table))
    told += ["act %d erased nothing" % act for act in erased_nothing(proof)]
    told.append("not proved, only said: %d rows were sealed later than written, %d are too new" % (later, proof["newer_rows"]))
    return "\n  ".join(told)


def erased_nothing(proof):
    """The erasure that the proof is of, where it is of all that it did and there is nothing of it."""
    if proof["newer_rows"] or rows_of(proof, "erasures"):
        return []
    return [act["id"] for act in rows_of(proof, "acts") if act["kind"] == "erase"]


def known_keys(proof, vkeys):
    """Those of the file, and those of which one of them has signed that they follow."""
    known = [vkey.strip() for vkey in vkeys.splitlines() if vkey.strip()]
    for note in proof["successions"]:
        try:
            origin, following = open_with_any(note, known)[:2]
        except ValueError:
            continue
        if following.startswith("next key ") and proof["checkpoint"].startswith(origin + "\n"):
            known.append(following[len("next key "):])
    return known


def open_with_any(note, vkeys):
    for vkey in vkeys:
        try:
            return open_note(note, vkey)
        except (ValueError, AssertionError, InvalidSignature):
            continue
    raise ValueError("no key of the file, and none that follows one, has signed this note")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        with open(sys.argv[1], encoding="utf-8") as proof, open(sys.argv[2], encoding="utf-8") as key:
            print(check(json.load(proof), key.read()))
    except (AssertionError, InvalidSignature, ValueError, KeyError, TypeError, IndexError) as error:
        sys.exit("NOT PROVED: %s %s" % (type(error).__name__, error))

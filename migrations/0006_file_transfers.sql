-- Files that went through, from customers and to them: what was transferred, by its hash. The files are not kept.
-- `sha256sum` of a file that somebody has kept tells whether it is the one that was transferred.
CREATE TABLE file_transfers (
    id         INTEGER PRIMARY KEY,
    chat_id    TEXT,                                      -- NULL where the request names no chat that is known
    file_id    TEXT,                                      -- as GMS names it; NULL where an upload was given none
    direction  TEXT    NOT NULL CHECK (direction IN ('up', 'down')),
    bytes      INTEGER NOT NULL,                          -- of the file, as far as it came
    sha256     TEXT    NOT NULL,                          -- of these bytes, 64 hex digits
    at         INTEGER NOT NULL,                          -- when its transfer ended
    outcome    TEXT    NOT NULL,                          -- complete | partial (HTTP 206) | refused | broken_off | unanswered
    node       TEXT,
    run_id     INTEGER NOT NULL
);
CREATE INDEX file_transfers_by_chat ON file_transfers (chat_id) WHERE chat_id IS NOT NULL;
CREATE INDEX file_transfers_by_hash ON file_transfers (sha256);

-- Sealed as the others are (see 0005).
INSERT INTO sealed_forms VALUES
    (14, 'file_transfers', 'id', 'id,chat_id,file_id,direction,bytes,sha256,at,outcome,node,run_id');

-- Archives of other proxies that were brought in (`gms-recorder merge`): an HA pair's two files become one account.
--
-- HOW IT IS SOUND. Rows of another archive come in as rows of this one, sealed in this tree in the transaction that brings
-- them; no leaf of the other tree is taken over. They keep what the other recorder wrote: recorded_at, node, at; only run_id is
-- another, that of a copy of its run, which keeps `instance`. merges.runs says which run of which archive that was. What
-- vouches for the rows before the merge is the other tree: merges keeps its id, size, root, last checkpoint and public keys, so
-- that the other file, kept, can be held against them. A merge removes nothing here, and brings nothing that was erased or
-- purged on either side.

-- A row for each merge. ended_at NULL: it is under way, or was interrupted; the next one goes on with what is missing.
CREATE TABLE merges (
    id          INTEGER PRIMARY KEY,
    act_id      INTEGER NOT NULL,
    archive_id  TEXT    NOT NULL,                         -- the other archive's
    at          INTEGER NOT NULL,
    ended_at    INTEGER,
    leaves      INTEGER NOT NULL,                         -- of the other tree then
    root        BLOB    NOT NULL,                         -- its root, 32 bytes
    checkpoint  TEXT,                                     -- its last signed checkpoint; NULL: it had none
    vkeys       TEXT    NOT NULL,                         -- its public keys, a line each, the present one last
    runs        TEXT    NOT NULL,                         -- JSON: [{"archive_id", "run_id" (there), "here"}], of all its runs
    brought     TEXT                                      -- JSON: how many of what, at the end
);

-- Which rows of other archives are here already, under which number: bookkeeping, so that a merge brings each once. Of runs
-- (form 9), errors (4), findings (6), outages (7) and files (14); what a chat and an index name needs no row here. Not sealed:
-- who changes it can have a row brought twice, or not at all, and no row that is sealed changes by it.
CREATE TABLE merged_rows (
    archive_id  TEXT    NOT NULL,                         -- where it was recorded
    form        INTEGER NOT NULL,                         -- as in sealed_forms
    their_id    INTEGER NOT NULL,                         -- its number there
    id          INTEGER NOT NULL,                         -- its number here; it may have been erased since
    repeats     INTEGER NOT NULL DEFAULT 0,               -- of findings: how many of theirs are counted here
    PRIMARY KEY (archive_id, form, their_id)
) WITHOUT ROWID;
CREATE INDEX merged_rows_by_id ON merged_rows (form, id);

-- acts.kind is also: restore (a backup took the archive's place), merge.

-- The latest address of a customer is the one observed last, whichever was written last.
DROP VIEW chat_summary;
CREATE VIEW chat_summary AS
SELECT
    c.chat_id                                                        AS chat_id,
    c.service                                                        AS service,
    CAST(strftime('%Y-%m-%dT%H:%M:%SZ', coalesce(min(e.utc_time), c.first_seen_at) / 1000, 'unixepoch') AS TEXT) AS started_at,
    CAST(strftime('%Y-%m-%dT%H:%M:%SZ', c.last_seen_at / 1000, 'unixepoch') AS TEXT)  AS last_seen_at,
    CAST(max(e.utc_time) - min(e.utc_time) AS INTEGER)               AS duration_ms,
    CAST(min(CASE WHEN e.type = 'ParticipantJoined' AND e.party_type = 'Agent' THEN e.utc_time END)
       - min(CASE WHEN e.type = 'ParticipantJoined' AND e.party_type = 'Client' THEN e.utc_time END) AS INTEGER) AS waiting_ms,
    CAST(count(e.event_index) AS INTEGER)                            AS events,
    CAST(total(e.type = 'Message') AS INTEGER)                       AS messages,
    CAST(total(e.type = 'Message' AND e.party_type = 'Client') AS INTEGER) AS client_messages,
    CAST(total(e.type = 'Message' AND e.party_type = 'Agent') AS INTEGER)  AS agent_messages,
    CAST(count(DISTINCT e.participant_id) AS INTEGER)                AS parties,
    CAST(group_concat(DISTINCT CASE WHEN e.party_type = 'Agent' THEN e.nickname END) AS TEXT) AS agents,
    CAST((SELECT count(*) FROM event_variants v WHERE v.chat_id = c.chat_id) AS INTEGER) AS variants,
    CAST((SELECT coalesce(sum(a.repeats), 0) FROM api_errors a WHERE a.chat_id = c.chat_id) AS INTEGER) AS errors,
    CAST((SELECT t.value FROM chat_attributes t WHERE t.chat_id = c.chat_id AND t.name = 'emailAddress'
           ORDER BY t.observed_at DESC, t.id DESC LIMIT 1) AS TEXT)                      AS email_address,
    c.ended_how                                                      AS ended_how
FROM chats c LEFT JOIN events e ON e.chat_id = c.chat_id
GROUP BY c.chat_id;

-- Sealed as the others are (see 0005).
INSERT INTO sealed_forms VALUES
    (19, 'merges', 'id', 'id,act_id,archive_id,at,ended_at,leaves,root,checkpoint,vkeys,runs,brought');

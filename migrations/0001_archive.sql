-- The archive: every transcript event that passed the recorder, once, and every error beside it.
--
-- For whoever reads this with sqlite3 (please use `sqlite3 -readonly`):
--   * Times are integers, milliseconds since 1970-01-01 UTC. The views show ISO 8601 too.
--   * Columns that end in _json, and user_data, event_attributes and raw, hold JSON as text.
--   * Secrets (secureKey, Authorization, cookies) were replaced by '*' of equal length before anything was written.
--   * Nothing is ever overwritten: an event delivered again with other content becomes a row of event_variants.
--   * Tables and views open in SQLite 3.26 and newer; only gms-recorder itself may write.

-- One row: which archive this is, and the settings the views need.
CREATE TABLE archive (
    id                      INTEGER PRIMARY KEY CHECK (id = 1),
    archive_id              TEXT    NOT NULL,             -- 32 hex digits, made when the file was created
    created_at              INTEGER NOT NULL,
    created_by              TEXT    NOT NULL,             -- program and version
    quiet_after_ms          INTEGER NOT NULL DEFAULT 3600000,   -- a chat without traffic this long counts as over
    async_quiet_after_ms    INTEGER NOT NULL DEFAULT 604800000  -- the same for asynchronous chats
);

-- One row for every time `serve` ran. `clean` is 1 after an orderly stop; NULL stopped_at: running, or it died.
CREATE TABLE runs (
    run_id           INTEGER PRIMARY KEY,
    instance         TEXT    NOT NULL,
    version          TEXT    NOT NULL,
    started_at       INTEGER NOT NULL,
    stopped_at       INTEGER,
    clean            INTEGER NOT NULL DEFAULT 0 CHECK (clean IN (0, 1)),
    deliver          TEXT    NOT NULL,                    -- after_commit | immediately
    when_unavailable TEXT    NOT NULL,                    -- pass | refuse
    settings         TEXT    NOT NULL,                    -- JSON: the settings that decide what is recorded
    config_hash      TEXT    NOT NULL,                    -- SHA-256 of the effective configuration, hex
    ledger           TEXT                                 -- JSON: what was seen and what became of it, at the stop
);

-- One row a chat.
CREATE TABLE chats (
    chat_id        TEXT    PRIMARY KEY NOT NULL,
    service        TEXT,                                  -- {serviceName} of the URL or CometD channel
    first_seen_at  INTEGER NOT NULL,
    last_seen_at   INTEGER NOT NULL,
    ended_at       INTEGER,                               -- when an answer first said chatEnded
    ended_how      TEXT,                                  -- chat_ended (statusCode 0) | chat_ended_with_error (statusCode 2)
    next_position  INTEGER,                               -- the highest nextPosition any answer gave
    is_async       INTEGER NOT NULL DEFAULT 0 CHECK (is_async IN (0, 1)),
    highest_index  INTEGER                                -- the highest event index stored
);
CREATE INDEX chats_by_last_seen ON chats (last_seen_at);

-- One row for each transcript event, by the chat and the index GMS gave it. The first content seen stays.
-- A plain rowid table with a unique index: with many chats interleaved it costs about half of WITHOUT ROWID.
CREATE TABLE events (
    chat_id          TEXT    NOT NULL,
    event_index      INTEGER NOT NULL CHECK (event_index >= 1),
    type             TEXT,                                -- Message, ParticipantJoined, …: an open set, verbatim
    utc_time         INTEGER,                             -- as GMS said, never repaired
    participant_id   INTEGER,
    nickname         TEXT,
    party_type       TEXT,                                -- Client, Agent, Supervisor, External, …: an open set
    text             TEXT,
    message_type     TEXT,
    user_data        TEXT,
    event_attributes TEXT,
    raw              TEXT    NOT NULL,                    -- the event as received, after scrubbing
    recorded_at      INTEGER NOT NULL,
    node             TEXT,                                -- the GMS node that delivered it first
    run_id           INTEGER NOT NULL,
    PRIMARY KEY (chat_id, event_index)
);

-- The same key delivered with other content: kept once for each distinct content.
CREATE TABLE event_variants (
    chat_id      TEXT    NOT NULL,
    event_index  INTEGER NOT NULL CHECK (event_index >= 1),
    digest       BLOB    NOT NULL,                        -- of the canonical content, 16 bytes
    kind         TEXT    NOT NULL CHECK (kind IN ('changed', 'extended')),
    raw          TEXT    NOT NULL,
    recorded_at  INTEGER NOT NULL,
    node         TEXT,
    run_id       INTEGER NOT NULL,
    PRIMARY KEY (chat_id, event_index, digest)
);

-- What is known about a chat and its customer; one row for every change of a value.
CREATE TABLE chat_attributes (
    id           INTEGER PRIMARY KEY,
    chat_id      TEXT    NOT NULL,
    name         TEXT    NOT NULL,                        -- nickname, emailAddress, userData[key], alias, userId, …
    value        TEXT    NOT NULL,
    source       TEXT    NOT NULL CHECK (source IN ('request', 'answer')),
    observed_at  INTEGER NOT NULL,
    run_id       INTEGER NOT NULL
);
CREATE INDEX chat_attributes_by_chat ON chat_attributes (chat_id, name);
CREATE INDEX chat_attributes_by_value ON chat_attributes (value, name);

-- Every error a client was given, and by whom. Identical ones within a minute fold into one row.
CREATE TABLE api_errors (
    id                INTEGER PRIMARY KEY,
    observed_at       INTEGER NOT NULL,
    last_observed_at  INTEGER NOT NULL,
    repeats           INTEGER NOT NULL DEFAULT 1 CHECK (repeats >= 1),
    origin            TEXT    NOT NULL CHECK (origin IN ('gms', 'chat_server', 'proxy', 'client')),
    http_status       INTEGER,
    status_code       INTEGER,                            -- GMS's statusCode
    format            TEXT    NOT NULL,                   -- errors | validationError | status | bayeux | http
    code              INTEGER,                            -- joins error_codes
    meaning           TEXT,
    class             TEXT    NOT NULL,                   -- missing | limit | unexpected | not_found | media_server | invalid | transport | unknown
    field             TEXT,
    detail            TEXT,
    advice            TEXT,                               -- as GMS gave it
    reference_id      TEXT,                               -- what to search for in the node's GMS log
    service           TEXT,
    operation         TEXT,
    chat_id           TEXT,
    alias             TEXT,                               -- the Chat Server instance
    method            TEXT,
    path              TEXT,                               -- without the query
    node              TEXT,
    client            TEXT,
    request_id        TEXT,
    duration_ms       INTEGER,
    run_id            INTEGER NOT NULL
);
CREATE INDEX api_errors_by_time ON api_errors (observed_at);
CREATE INDEX api_errors_by_chat ON api_errors (chat_id) WHERE chat_id IS NOT NULL;
CREATE INDEX api_errors_by_reference ON api_errors (reference_id) WHERE reference_id IS NOT NULL;

-- The catalogue: what a code means and what the support desk can do. Filled by the program.
CREATE TABLE error_codes (
    code      INTEGER PRIMARY KEY,
    meaning   TEXT NOT NULL,
    class     TEXT NOT NULL,
    channels  TEXT NOT NULL,                              -- comma list of chat, email, openmedia
    remedy    TEXT NOT NULL
);

-- Which stretch of a transcript some answer covered: [from_position, next_position). Rows may overlap.
CREATE TABLE coverage (
    chat_id        TEXT    NOT NULL,
    from_position  INTEGER NOT NULL CHECK (from_position >= 1),
    next_position  INTEGER NOT NULL CHECK (next_position > from_position),
    node           TEXT    NOT NULL,
    run_id         INTEGER NOT NULL,
    at             INTEGER NOT NULL,                      -- when it last grew
    PRIMARY KEY (chat_id, from_position, run_id, node)
) WITHOUT ROWID;

-- What could not be understood or keyed: kept as it came, unique by kind, chat and content.
CREATE TABLE findings (
    id                INTEGER PRIMARY KEY,
    observed_at       INTEGER NOT NULL,
    last_observed_at  INTEGER NOT NULL,
    repeats           INTEGER NOT NULL DEFAULT 1 CHECK (repeats >= 1),
    kind              TEXT    NOT NULL,
    chat_id           TEXT,
    detail            TEXT,
    raw               BLOB,                               -- decoded and scrubbed, at most finding_bytes_max
    raw_length        INTEGER,                            -- before it was cut
    digest            BLOB    NOT NULL,                   -- of kind, chat and content, 16 bytes
    run_id            INTEGER NOT NULL
);
CREATE UNIQUE INDEX findings_by_content ON findings (digest);
CREATE INDEX findings_by_chat ON findings (chat_id) WHERE chat_id IS NOT NULL;

-- When recording was not what it should be, why, and what that touched.
CREATE TABLE outages (
    id               INTEGER PRIMARY KEY,
    started_at       INTEGER NOT NULL,
    ended_at         INTEGER,
    reason           TEXT    NOT NULL,
    detail           TEXT,
    events           INTEGER NOT NULL DEFAULT 0,          -- events affected
    answers          INTEGER NOT NULL DEFAULT 0,          -- answers affected
    delivered_early  INTEGER NOT NULL DEFAULT 0,          -- events that clients had before they were on disk
    refused          INTEGER NOT NULL DEFAULT 0,          -- events that clients were not given
    dropped          INTEGER NOT NULL DEFAULT 0,          -- events that will never be written
    chat_ids         TEXT    NOT NULL DEFAULT '[]',       -- JSON list, at most 1,000
    run_id           INTEGER NOT NULL
);

-- How these views stay quick on large archives: plain columns are not cast (they keep their declared type), so that
-- WHERE chat_id = … reaches the indexes; what is computed is cast to a type.

-- A line an event, to be read from top to bottom.
CREATE VIEW transcript AS
SELECT
    e.chat_id                                                          AS chat_id,
    e.event_index                                                      AS event_index,
    CAST(strftime('%Y-%m-%dT%H:%M:%S', e.utc_time / 1000, 'unixepoch')
         || printf('.%03dZ', abs(e.utc_time % 1000)) AS TEXT)          AS at,
    CAST(coalesce(e.nickname, e.party_type || ' ' || e.participant_id,
                  e.party_type, '') AS TEXT)                           AS who,
    e.party_type                                                       AS party_type,
    e.type                                                             AS type,
    e.text                                                             AS text,
    CAST((SELECT group_concat(DISTINCT v.kind) FROM event_variants v
           WHERE v.chat_id = e.chat_id AND v.event_index = e.event_index) AS TEXT) AS variant
FROM events e
ORDER BY e.chat_id, e.event_index;

-- Errors, newest first, with what to do about them.
CREATE VIEW error_audit AS
SELECT
    a.id                                                               AS id,
    CAST(strftime('%Y-%m-%dT%H:%M:%S', a.observed_at / 1000, 'unixepoch')
         || printf('.%03dZ', a.observed_at % 1000) AS TEXT)            AS at,
    CAST(strftime('%Y-%m-%dT%H:%M:%S', a.last_observed_at / 1000, 'unixepoch')
         || printf('.%03dZ', a.last_observed_at % 1000) AS TEXT)       AS last_at,
    a.repeats                                                          AS repeats,
    a.origin                                                           AS origin,
    a.http_status                                                      AS http_status,
    a.status_code                                                      AS status_code,
    a.format                                                           AS format,
    a.code                                                             AS code,
    a.meaning                                                          AS meaning,
    a.class                                                            AS class,
    a.field                                                            AS field,
    a.detail                                                           AS detail,
    a.advice                                                           AS advice,
    a.reference_id                                                     AS reference_id,
    a.service                                                          AS service,
    a.operation                                                        AS operation,
    a.chat_id                                                          AS chat_id,
    a.alias                                                            AS alias,
    a.method                                                           AS method,
    a.path                                                             AS path,
    a.node                                                             AS node,
    a.client                                                           AS client,
    a.request_id                                                       AS request_id,
    a.duration_ms                                                      AS duration_ms,
    c.remedy                                                           AS remedy,
    a.observed_at                                                      AS observed_at,
    a.last_observed_at                                                 AS last_observed_at,
    a.run_id                                                           AS run_id
FROM api_errors a LEFT JOIN error_codes c ON c.code = a.code
ORDER BY a.observed_at DESC, a.id DESC;

-- Every hole: ground of a transcript that no answer covered, up to the highest nextPosition.
-- A missing index inside covered ground is no hole: GMS hides some events from some parties.
CREATE VIEW coverage_holes AS
WITH reached AS (
    SELECT chat_id, from_position,
           coalesce(max(next_position) OVER (
               PARTITION BY chat_id ORDER BY from_position, next_position
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 1) AS reach
    FROM coverage
)
SELECT chat_id                        AS chat_id,
       CAST(reach AS INTEGER)         AS from_position,
       from_position                  AS next_position
FROM reached WHERE from_position > reach
UNION ALL
SELECT c.chat_id,
       CAST(coalesce((SELECT max(v.next_position) FROM coverage v WHERE v.chat_id = c.chat_id), 1) AS INTEGER),
       c.next_position
FROM chats c
WHERE c.next_position > coalesce((SELECT max(v.next_position) FROM coverage v WHERE v.chat_id = c.chat_id), 1);

-- A line a chat: is its transcript whole, as delivered to the clients behind this proxy?
--   complete    it ended, and everything up to the highest nextPosition was covered
--   incomplete  it is over (ended or quiet) and there are holes
--   unfinished  no end was seen, it went quiet, and there is no hole
--   open        still going on
-- Each number is a subquery of its own by chat_id, so that one chat costs the same however many others there are. Those
-- over a window look between the rows of coverage; what lies after the last row, up to next_position, is the tail.
CREATE VIEW completeness AS
WITH reached AS (
    SELECT c.chat_id, c.next_position,
           coalesce((SELECT max(v.next_position) FROM coverage v WHERE v.chat_id = c.chat_id), 1) AS covered_max,
           (SELECT count(*) FROM (
               SELECT v.from_position, coalesce(max(v.next_position) OVER (
                   ORDER BY v.from_position, v.next_position
                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 1) AS reach
               FROM coverage v WHERE v.chat_id = c.chat_id) WHERE from_position > reach) AS inner_holes,
           (SELECT sum(from_position - reach) FROM (
               SELECT v.from_position, coalesce(max(v.next_position) OVER (
                   ORDER BY v.from_position, v.next_position
                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 1) AS reach
               FROM coverage v WHERE v.chat_id = c.chat_id) WHERE from_position > reach) AS inner_missing,
           (SELECT min(reach) FROM (
               SELECT v.from_position, coalesce(max(v.next_position) OVER (
                   ORDER BY v.from_position, v.next_position
                   ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 1) AS reach
               FROM coverage v WHERE v.chat_id = c.chat_id) WHERE from_position > reach) AS first_hole,
           (SELECT count(*) FROM events e WHERE e.chat_id = c.chat_id AND EXISTS (
               SELECT 1 FROM coverage v WHERE v.chat_id = e.chat_id
                  AND v.from_position <= e.event_index AND e.event_index < v.next_position)) AS covered_events,
           CASE WHEN c.ended_at IS NOT NULL THEN c.ended_how
                WHEN c.last_seen_at + (SELECT CASE c.is_async WHEN 1 THEN async_quiet_after_ms ELSE quiet_after_ms END
                                         FROM archive) <= CAST(strftime('%s', 'now') AS INTEGER) * 1000 THEN 'quiet'
           END AS over_how
    FROM chats c
), chat AS (
    SELECT chat_id, next_position, covered_max, covered_events, over_how,
           inner_holes + (coalesce(next_position, 1) > covered_max) AS holes,
           coalesce(inner_missing, 0)                               AS inner_missing,
           coalesce(first_hole, covered_max)                        AS covered_to
    FROM reached
)
SELECT
    chat_id                                                          AS chat_id,
    CAST(covered_to AS INTEGER)                                      AS covered_to,
    next_position                                                    AS next_position,
    CAST(covered_max - 1 - inner_missing - covered_events AS INTEGER) AS hidden,
    CAST(holes AS INTEGER)                                           AS holes,
    CAST(over_how AS TEXT)                                           AS ended_how,
    CAST(CASE WHEN over_how IS NULL       THEN 'open'
              WHEN holes > 0              THEN 'incomplete'
              WHEN over_how = 'quiet'     THEN 'unfinished'
              WHEN covered_to <= 1        THEN 'incomplete'
              ELSE 'complete' END AS TEXT)                           AS status
FROM chat;

-- A line a chat: who, when, how long, how much.
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
           ORDER BY t.id DESC LIMIT 1) AS TEXT)                      AS email_address,
    c.ended_how                                                      AS ended_how
FROM chats c LEFT JOIN events e ON e.chat_id = c.chat_id
GROUP BY c.chat_id;

-- A line a day (UTC).
CREATE VIEW daily_summary AS
WITH days AS (
    SELECT strftime('%Y-%m-%d', first_seen_at / 1000, 'unixepoch') AS day, 1 AS chats, 0 AS events, 0 AS errors, 0 AS holes FROM chats
    UNION ALL SELECT strftime('%Y-%m-%d', recorded_at / 1000, 'unixepoch'), 0, count(*), 0, 0 FROM events GROUP BY 1
    UNION ALL SELECT strftime('%Y-%m-%d', observed_at / 1000, 'unixepoch'), 0, 0, sum(repeats), 0 FROM api_errors GROUP BY 1
    UNION ALL SELECT strftime('%Y-%m-%d', c.first_seen_at / 1000, 'unixepoch'), 0, 0, 0, count(*)
                FROM coverage_holes h JOIN chats c ON c.chat_id = h.chat_id GROUP BY 1
)
SELECT CAST(day AS TEXT) AS day, CAST(sum(chats) AS INTEGER) AS chats, CAST(sum(events) AS INTEGER) AS events,
       CAST(sum(errors) AS INTEGER) AS errors, CAST(sum(holes) AS INTEGER) AS holes
FROM days GROUP BY day ORDER BY day;

-- A star for analysts, in a copy that `snapshot --star` makes: tables, so that every driver sees the types (a view has none, and
-- DuckDB reads a view's text as its own SQL). Times are UTC, `2026-03-01 14:02:05.123`; days are those of UTC.

-- A row a chat.
CREATE TABLE dim_chats (
    chat_id          TEXT PRIMARY KEY NOT NULL,
    service          TEXT,
    day              DATE,                                -- on which it was first seen
    first_seen_at    TIMESTAMP,
    last_seen_at     TIMESTAMP,
    ended_at         TIMESTAMP,
    ended_how        TEXT,
    status           TEXT,                                -- complete | incomplete | unfinished | open
    holes            INTEGER,
    hidden           INTEGER,
    is_async         BOOLEAN,
    customer         TEXT,                                -- the latest e-mail address
    agents           TEXT,                                -- nicknames, separated by commas
    parties          INTEGER,
    events           INTEGER,
    messages         INTEGER,
    client_messages  INTEGER,
    agent_messages   INTEGER,
    variants         INTEGER,
    errors           INTEGER,
    duration_s       REAL,                                -- from the first event to the last
    waiting_s        REAL                                 -- until an agent joined; NULL: none did
);

-- A row an event.
CREATE TABLE fact_events (
    chat_id         TEXT NOT NULL,                        -- joins dim_chats
    event_index     INTEGER NOT NULL,
    day             DATE,                                 -- of at; where GMS gave none, of recorded_at
    at              TIMESTAMP,                            -- as GMS said
    recorded_at     TIMESTAMP,
    type            TEXT,
    party_type      TEXT,
    participant_id  INTEGER,
    nickname        TEXT,
    text            TEXT,
    characters      INTEGER,
    node            TEXT,
    PRIMARY KEY (chat_id, event_index)
);

-- A row an error that a client was given; identical ones of a minute are one.
CREATE TABLE fact_errors (
    id           INTEGER PRIMARY KEY,
    day          DATE,
    at           TIMESTAMP,
    repeats      INTEGER,
    code         INTEGER,                                 -- joins error_codes
    meaning      TEXT,
    class        TEXT,
    origin       TEXT,
    http_status  INTEGER,
    chat_id      TEXT,                                    -- joins dim_chats; NULL: of none
    service      TEXT,
    operation    TEXT,
    node         TEXT,
    duration_s   REAL
);

-- A row an hour in which a recorder ran: what it saw, and what became of it.
CREATE TABLE fact_hours (
    day         DATE,
    hour        TIMESTAMP,
    run_id      INTEGER,                                  -- joins runs
    seen        INTEGER,
    new         INTEGER,
    duplicate   INTEGER,
    variant     INTEGER,
    finding     INTEGER,
    suppressed  INTEGER,
    refused     INTEGER,
    dropped     INTEGER
);

-- A row a day from the first chat to the last.
CREATE TABLE dim_days (
    day      DATE PRIMARY KEY NOT NULL,
    year     INTEGER,
    month    INTEGER,
    weekday  INTEGER                                      -- 1 is Monday
);

INSERT INTO dim_chats
SELECT s.chat_id, s.service, date(c.first_seen_at / 1000, 'unixepoch'),
       strftime('%Y-%m-%d %H:%M:%f', c.first_seen_at / 1000.0, 'unixepoch'),
       strftime('%Y-%m-%d %H:%M:%f', c.last_seen_at / 1000.0, 'unixepoch'),
       strftime('%Y-%m-%d %H:%M:%f', c.ended_at / 1000.0, 'unixepoch'),
       c.ended_how, k.status, k.holes, k.hidden, c.is_async, s.email_address, s.agents, s.parties, s.events, s.messages,
       s.client_messages, s.agent_messages, s.variants, s.errors, s.duration_ms / 1000.0, s.waiting_ms / 1000.0
  FROM chats c JOIN chat_summary s ON s.chat_id = c.chat_id JOIN completeness k ON k.chat_id = c.chat_id
 ORDER BY c.first_seen_at, c.chat_id;

INSERT INTO fact_events
SELECT chat_id, event_index, date(coalesce(utc_time, recorded_at) / 1000, 'unixepoch'),
       strftime('%Y-%m-%d %H:%M:%f', utc_time / 1000.0, 'unixepoch'),
       strftime('%Y-%m-%d %H:%M:%f', recorded_at / 1000.0, 'unixepoch'),
       type, party_type, participant_id, nickname, text, length(text), node
  FROM events;

INSERT INTO fact_errors
SELECT id, date(observed_at / 1000, 'unixepoch'), strftime('%Y-%m-%d %H:%M:%f', observed_at / 1000.0, 'unixepoch'),
       repeats, code, meaning, class, origin, http_status, chat_id, service, operation, node, duration_ms / 1000.0
  FROM api_errors;

INSERT INTO fact_hours
SELECT date(hour / 1000, 'unixepoch'), strftime('%Y-%m-%d %H:%M:%f', hour / 1000.0, 'unixepoch'), run_id, seen, new,
       duplicate, variant, finding, suppressed, refused, dropped
  FROM accounts;

INSERT INTO dim_days
WITH RECURSIVE days (day) AS (
    SELECT min(day) FROM dim_chats
    UNION ALL SELECT date(day, '+1 day') FROM days WHERE day < (SELECT max(day) FROM dim_chats) LIMIT 100000)
SELECT day, strftime('%Y', day), strftime('%m', day), (strftime('%w', day) + 6) % 7 + 1 FROM days WHERE day IS NOT NULL;

CREATE INDEX dim_chats_by_day ON dim_chats (day);
CREATE INDEX fact_events_by_day ON fact_events (day);
CREATE INDEX fact_errors_by_day ON fact_errors (day);
CREATE INDEX fact_errors_by_chat ON fact_errors (chat_id);

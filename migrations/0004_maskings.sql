-- What was masked before it was written (card numbers, verification values, rules of the configuration): where, by which
-- rule, how long. Never what it was, nor anything that could tell. A row is written in the transaction of what it is of.
CREATE TABLE maskings (
    id            INTEGER PRIMARY KEY,
    what          TEXT    NOT NULL CHECK (what IN ('event', 'variant', 'attribute', 'error', 'finding')),
    chat_id       TEXT,                                   -- where it is known
    event_index   INTEGER,                                -- of events and variants
    digest        BLOB,                                   -- of variants: event_variants.digest
    row_id        INTEGER,                                -- of others: the id in chat_attributes, api_errors, findings
    -- In which text. Of events, variants and findings: a JSON pointer (RFC 6901) into raw, '#' behind a member's own name,
    -- empty where raw is no JSON. Of attributes and errors: a column; or, of what a node said, a pointer into that.
    field         TEXT    NOT NULL,
    rule          TEXT    NOT NULL,                       -- cards, cvv, or the name of a configured rule (runs.settings)
    at_character  INTEGER NOT NULL CHECK (at_character >= 0),  -- characters before it, escapes decoded
    characters    INTEGER NOT NULL CHECK (characters >= 1),    -- separators between a card's digits included
    recorded_at   INTEGER NOT NULL,
    run_id        INTEGER NOT NULL
);
CREATE INDEX maskings_by_chat ON maskings (chat_id, event_index) WHERE chat_id IS NOT NULL;
CREATE INDEX maskings_by_rule ON maskings (rule, recorded_at);

-- An error is found by the trace it happened in, where the client sent a W3C traceparent: 32 hex digits.
ALTER TABLE api_errors ADD COLUMN trace_id TEXT;
CREATE INDEX api_errors_by_trace ON api_errors (trace_id) WHERE trace_id IS NOT NULL;

-- As in 0001, and with it.
DROP VIEW error_audit;
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
    a.trace_id                                                         AS trace_id,
    a.duration_ms                                                      AS duration_ms,
    c.remedy                                                           AS remedy,
    a.observed_at                                                      AS observed_at,
    a.last_observed_at                                                 AS last_observed_at,
    a.run_id                                                           AS run_id
FROM api_errors a LEFT JOIN error_codes c ON c.code = a.code
ORDER BY a.observed_at DESC, a.id DESC;

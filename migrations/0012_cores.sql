-- Of rows that change the latest leaf alone must fit, and who can write the file could have another state of one sealed after it. What of
-- them never changes is their core: it is a leaf of its own, in the transaction that inserts the row, and sealed once. So an error
-- stays the error that it was, whatever becomes of its repeats; a run stays one that began then, and sealed its rows itself; an act
-- is by whom it was by, whatever words of it become stars.
--
-- The bytes of a core are those of a row (see 0005): the name of its table, then the columns below. Rows of earlier releases have no
-- core. Masking an error or a finding seals its core anew, as it does events; what is erased or purged loses the salts of both.
INSERT INTO sealed_forms VALUES
    (22, 'api_errors', 'id', 'id,observed_at,origin,http_status,status_code,format,code,meaning,class,field,detail,advice,reference_id,service,operation,chat_id,alias,method,path,node,client,request_id,duration_ms,run_id,trace_id'),
    (23, 'findings', 'id', 'id,kind,chat_id,detail,raw,raw_length,digest,run_id'),
    (24, 'acts', 'id', 'id,kind,at,who,via,host,version'),
    (25, 'runs', 'run_id', 'run_id,instance,version,started_at,deliver,when_unavailable,settings,config_hash,sealing'),
    (26, 'holds', 'id', 'id,act_id,at,chat_id,name,value');

-- acts.ended_at without found: the act was killed, and `serve` or the next one that removes something has noticed. It is when it
-- removed something last.

-- hidden: what was erased or purged of a chat that goes on is not hidden.
DROP VIEW completeness;
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
           coalesce((SELECT max(x.below) FROM erasures x WHERE x.chat_id = c.chat_id), 1) - 1 AS erased,
           CASE WHEN c.ended_at IS NOT NULL THEN c.ended_how
                WHEN c.last_seen_at + (SELECT CASE c.is_async WHEN 1 THEN async_quiet_after_ms ELSE quiet_after_ms END
                                         FROM archive) <= CAST(strftime('%s', 'now') AS INTEGER) * 1000 THEN 'quiet'
           END AS over_how
    FROM chats c
), chat AS (
    SELECT chat_id, next_position, covered_max, covered_events, erased, over_how,
           inner_holes + (coalesce(next_position, 1) > covered_max) AS holes,
           coalesce(inner_missing, 0)                               AS inner_missing,
           coalesce(first_hole, covered_max)                        AS covered_to
    FROM reached
)
SELECT
    chat_id                                                          AS chat_id,
    CAST(covered_to AS INTEGER)                                      AS covered_to,
    next_position                                                    AS next_position,
    CAST(max(covered_max - 1 - inner_missing - covered_events - erased, 0) AS INTEGER) AS hidden,
    CAST(holes AS INTEGER)                                           AS holes,
    CAST(over_how AS TEXT)                                           AS ended_how,
    CAST(CASE WHEN over_how IS NULL       THEN 'open'
              WHEN holes > 0              THEN 'incomplete'
              WHEN over_how = 'quiet'     THEN 'unfinished'
              WHEN covered_to <= 1        THEN 'incomplete'
              ELSE 'complete' END AS TEXT)                           AS status
FROM chat;

-- The queries of the operator's commands. A filter that was not given is null; {where} is the operator's own condition.

-- name: asked
(%(ids)s::bigint[] IS NULL OR delivery.id = ANY (%(ids)s))
    AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s))
    AND (%(rule)s::text IS NULL OR rule = %(rule)s)
    AND (%(lane)s::text IS NULL OR lane = %(lane)s)
    AND (%(key)s::text IS NULL OR key = %(key)s)
    AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)

-- name: find
SELECT delivery.* FROM pgherald.delivery LEFT JOIN pgherald.event USING (event_id)
WHERE {asked} AND ({where})
ORDER BY delivery.id DESC
LIMIT %(limit)s

-- name: count_by_reason
SELECT rule, state, error ->> 'class' AS class, error ->> 'reason' AS reason, count(*), max(delivery.id) AS last
FROM pgherald.delivery LEFT JOIN pgherald.event USING (event_id)
WHERE {asked} AND ({where})
GROUP BY 1, 2, 3, 4
ORDER BY 5 DESC

-- name: page
-- In the order of the primary key: however many there are, all pages together read the tables once. The condition is looked
-- at afterwards, of these few: before the limit, a planner that thinks it rare would read all events for each page.
WITH page AS MATERIALIZED (
    SELECT * FROM pgherald.delivery
    WHERE {asked} AND delivery.id > %(after)s AND delivery.id <= %(last)s
    ORDER BY delivery.id
    LIMIT %(most)s
)
SELECT delivery.id, consumer, lane, key, coalesce(({where}), false) AS chosen
FROM page AS delivery LEFT JOIN pgherald.event USING (event_id)
ORDER BY delivery.id

-- name: show
SELECT delivery.*, topic, partition, record_offset, committed_at, envelope, raw IS NOT NULL AS has_raw,
    encode(raw_key, 'escape') AS raw_key, raw_headers, encode(substring(raw FOR 1000), 'escape') AS raw_begins, (
    SELECT jsonb_agg(jsonb_build_object('at', at, 'who', who, 'command', command, 'was', was) ORDER BY operation.id)
    FROM pgherald.operation_delivery JOIN pgherald.operation ON operation.id = operation_id
    WHERE delivery_id = delivery.id
) AS operations
FROM pgherald.delivery LEFT JOIN pgherald.event USING (event_id)
WHERE delivery.id = %(id)s

-- name: noted
-- Ends every change: which deliveries it was, by which operation. In the statement of the change, so that both are there
-- or neither.
noted AS (
    INSERT INTO pgherald.operation_delivery (delivery_id, operation_id, was)
    SELECT id, %(operation)s, was FROM changed
    ON CONFLICT DO NOTHING
), counted AS (
    UPDATE pgherald.operation SET count = count + (SELECT count(*) FROM changed) WHERE id = %(operation)s
)
SELECT id, was FROM changed

-- name: replay
-- The same row again. It may run after later events of its key: order is by position among what is unfinished.
-- Where no order is (no key) it is a head at once; else it waits for the queue's head, or is promoted. Without
-- its payload nothing can be made.
WITH chosen AS (
    SELECT id, state, row_number() OVER (ORDER BY id) AS turn
    FROM (
        SELECT id, state FROM pgherald.delivery
        WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s) AND finished_at IS NOT NULL
            AND EXISTS (SELECT FROM pgherald.event WHERE event.event_id = delivery.event_id)
        ORDER BY id
        FOR UPDATE
    ) AS locked
), changed AS (
    UPDATE pgherald.delivery SET
        state = 'pending', attempt = 0, failing_since = NULL, replays = replays + 1, head = key IS NULL,
        finished_at = NULL,
        due_at = clock_timestamp() + (%(begin)s + turn - 1) * %(pause_s)s * interval '1 second'
    FROM chosen
    WHERE delivery.id = chosen.id
    RETURNING delivery.id, chosen.state AS was
), {noted}

-- name: cancel
WITH chosen AS (
    SELECT id, state FROM pgherald.delivery WHERE id = ANY (%(ids)s) AND state = 'pending' ORDER BY id FOR UPDATE
), changed AS (
    UPDATE pgherald.delivery SET state = 'cancelled', head = false, finished_at = clock_timestamp()
    FROM chosen
    WHERE delivery.id = chosen.id
    RETURNING delivery.id, chosen.state AS was
), {noted}

-- name: purge
-- The row of facts stays, or a topic that is read again would plan the delivery anew. What waits for a person, waits no
-- more; what was sent or skipped stays so and is only no longer replayable.
WITH chosen AS (
    SELECT id, state FROM pgherald.delivery
    WHERE id = ANY (%(ids)s) AND state = ANY (%(states)s) AND finished_at IS NOT NULL
    ORDER BY id
    FOR UPDATE
), changed AS (
    UPDATE pgherald.delivery SET
        state = CASE WHEN delivery.state IN ('dead', 'unknown') THEN 'cancelled' ELSE delivery.state END
    FROM chosen
    WHERE delivery.id = chosen.id
    RETURNING delivery.id, chosen.state AS was
), {noted}

-- name: erase
-- What other servers answered may name the address, so it goes too. What is in work now is left to a next look.
WITH chosen AS (
    SELECT id, state FROM pgherald.delivery
    WHERE id = ANY (%(ids)s) AND key = %(key)s AND leased_by IS NULL
    ORDER BY id
    FOR UPDATE
), changed AS (
    UPDATE pgherald.delivery SET
        key = %(pseudonym)s, head = false, finished_at = coalesce(delivery.finished_at, clock_timestamp()),
        state = CASE WHEN delivery.state IN ('pending', 'dead', 'unknown') THEN 'cancelled' ELSE delivery.state END,
        result = delivery.result - 'reply',
        error = CASE WHEN delivery.state = 'pending' OR delivery.error IS NOT NULL
            THEN coalesce(delivery.error, '{"class": "Erased", "code": null}') || '{"reason": "erased"}' END
    FROM chosen
    WHERE delivery.id = chosen.id
    RETURNING delivery.id, chosen.state AS was
), {noted}

-- name: erase_links
-- Used links stay used: they are known by their tokens' hashes.
UPDATE pgherald.link_use SET key = %(pseudonym)s WHERE key = %(key)s

-- name: lanes
SELECT coalesce(counted.consumer, known.consumer) AS consumer, coalesce(counted.lane, known.lane) AS lane,
    coalesce(unfinished, 0) AS unfinished, oldest, coalesce(failures, 0) AS failures,
    coalesce(paused_until > clock_timestamp(), false) AS paused, paused_until::text, paused_by, reason
FROM (
    SELECT consumer, lane, count(*) AS unfinished, min(created_at) AS oldest
    FROM pgherald.delivery
    WHERE head OR NOT head AND finished_at IS NULL
    GROUP BY consumer, lane
) AS counted
FULL JOIN pgherald.lane AS known ON known.consumer = counted.consumer AND known.lane = counted.lane
ORDER BY 1, 2

-- name: pause
INSERT INTO pgherald.lane (consumer, lane, paused_until, reason, paused_by)
VALUES (%(consumer)s, %(lane)s, 'infinity', %(reason)s, %(by)s)
ON CONFLICT (consumer, lane) DO UPDATE
SET paused_until = excluded.paused_until, reason = excluded.reason, paused_by = excluded.paused_by
RETURNING lane

-- name: resume
UPDATE pgherald.lane
SET paused_until = NULL, failures = 0, reason = NULL, paused_by = NULL, alike = NULL, alike_keys = '{}'
FROM (
    SELECT lane, failures > 0 OR paused_until > clock_timestamp() AS was_paused FROM pgherald.lane
    WHERE consumer = %(consumer)s AND lane = %(lane)s
    FOR UPDATE
) AS before
WHERE consumer = %(consumer)s AND lane.lane = before.lane
RETURNING was_paused

-- name: states
SELECT consumer, rule, state, count(*) FROM pgherald.delivery GROUP BY 1, 2, 3 ORDER BY 1, 2, 3

-- name: begin_operation
INSERT INTO pgherald.operation (who, command, filter) VALUES (%(who)s, %(command)s, %(filter)s) RETURNING id

-- name: end_operation
UPDATE pgherald.operation SET finished_at = clock_timestamp(), count = count + %(count)s WHERE id = %(operation)s

-- name: history
SELECT id, at, who, role, command, filter, count, finished_at FROM pgherald.operation
WHERE %(since)s::timestamptz IS NULL OR at >= %(since)s
ORDER BY id DESC
LIMIT %(limit)s

-- name: had
SELECT DISTINCT key, rule, target FROM pgherald.delivery WHERE consumer = %(consumer)s AND key = ANY (%(keys)s)

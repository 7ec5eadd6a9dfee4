-- The queries of the operator's commands. A filter that was not given is null.

-- name: find
SELECT delivery.* FROM pgherald.delivery LEFT JOIN pgherald.event USING (event_id)
WHERE (%(ids)s::bigint[] IS NULL OR delivery.id = ANY (%(ids)s))
    AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s))
    AND (%(rule)s::text IS NULL OR rule = %(rule)s)
    AND (%(lane)s::text IS NULL OR lane = %(lane)s)
    AND (%(key)s::text IS NULL OR key = %(key)s)
    AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
    AND ({where})
ORDER BY delivery.id DESC
LIMIT %(limit)s

-- name: show
SELECT delivery.*, topic, partition, record_offset, committed_at, envelope, raw IS NOT NULL AS has_raw
FROM pgherald.delivery LEFT JOIN pgherald.event USING (event_id)
WHERE delivery.id = %(id)s

-- name: replay
-- The same row again. It may run after later events of its key: order is by position among what is unfinished.
-- Where no order is (no key) it is a head at once; else it waits for the queue's head, or is promoted. A target in
-- brackets is none: an undecodable record, a plan that settings do not know.
UPDATE pgherald.delivery SET
    state = 'pending', attempt = 0, replays = replays + 1, head = key IS NULL, finished_at = NULL,
    due_at = clock_timestamp() + (%(begin)s + turn - 1) * %(pause_s)s * interval '1 second'
FROM unnest(%(ids)s::bigint[]) WITH ORDINALITY AS chosen (id, turn)
WHERE delivery.id = chosen.id AND state = ANY (%(states)s) AND finished_at IS NOT NULL AND left(target, 1) <> '('
RETURNING delivery.id

-- name: cancel
UPDATE pgherald.delivery SET state = 'cancelled', head = false, finished_at = clock_timestamp()
WHERE id = ANY (%(ids)s) AND state = 'pending'
RETURNING id

-- name: count_by_reason
SELECT rule, state, error ->> 'class' AS class, error ->> 'reason' AS reason, count(*)
FROM pgherald.delivery
WHERE id = ANY (%(ids)s)
GROUP BY 1, 2, 3, 4
ORDER BY 5 DESC

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

-- name: resume
UPDATE pgherald.lane
SET paused_until = NULL, failures = 0, reason = NULL, paused_by = NULL, alike = NULL, alike_keys = '{}'
WHERE consumer = %(consumer)s AND lane = %(lane)s
RETURNING lane

-- name: states
SELECT consumer, rule, state, count(*) FROM pgherald.delivery GROUP BY 1, 2, 3 ORDER BY 1, 2, 3

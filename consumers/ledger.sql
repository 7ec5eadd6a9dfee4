-- The queries of the two loops. A queue is one (consumer, lane, key); its head is the one delivery that may be claimed.
--
-- The race that decides the shape of this file: one process inserts a delivery of a queue while another finishes the
-- queue's head. The first sees an unfinished head and inserts "not head"; the second does not see the uncommitted row
-- and promotes nobody: a delivery that no one ever takes. Therefore whoever inserts or finishes first takes the queue's
-- lock, in a statement of its own: the statements after it, in READ COMMITTED, see all that the last holder committed.
--
-- Time is the database's everywhere. Conditions that an index answers use now(), the start of the transaction (these
-- statements are one each); all else clock_timestamp().

-- name: epoch
-- Of an event: LSNs are in order within one only. As the index `delivery_waiting` has it, to the letter.
substring(event_id, '^[^:]*:([0-9]{1,9}):')::integer

-- name: lock_queues
-- 256 buckets: enough that strangers seldom wait for each other, few enough that many processes' polls do not exhaust
-- the server's lock table (64 slots a connection). Sorted: two transactions never wait for each other crosswise.
SELECT pg_advisory_xact_lock(%(lock)s, bucket)
FROM (
    SELECT DISTINCT ((hashtextextended(key, 0) # hashtextextended(%(consumer)s || lane, 0)) & 255)::integer AS bucket
    FROM unnest(%(lanes)s::text[], %(keys)s::text[]) AS queue (lane, key)
    WHERE key IS NOT NULL
    ORDER BY bucket
) AS sorted

-- name: store_events
-- Sorted: several consumers insert the same events at the same time, and wait for each other at equal ids. No commit is
-- in the future, whatever a record says: retention counts from it.
INSERT INTO pgherald.event (
    event_id, topic, partition, record_offset, committed_at, envelope, raw, raw_key, raw_headers
)
SELECT event_id, topic, partition, record_offset, least(committed_at, clock_timestamp()), envelope::jsonb, raw,
    raw_key, raw_headers::jsonb
FROM unnest(
    %(event_ids)s::text[], %(topics)s::text[], %(partitions)s::integer[], %(offsets)s::bigint[],
    %(committed)s::timestamptz[], %(envelopes)s::text[], %(raws)s::bytea[], %(raw_keys)s::bytea[],
    %(raw_headers)s::text[]
) AS read (event_id, topic, partition, record_offset, committed_at, envelope, raw, raw_key, raw_headers)
ORDER BY event_id
ON CONFLICT (event_id) DO NOTHING

-- name: store_deliveries
-- What is in the ledger already (a topic read again) is left out before heads are counted: it must not take a place.
WITH planned AS (
    SELECT * FROM unnest(
        %(event_ids)s::text[], %(rules)s::text[], %(targets)s::text[], %(lanes)s::text[], %(keys)s::text[],
        %(lsns)s::pg_lsn[], %(indexes)s::bigint[], %(states)s::text[], %(errors)s::text[]
    ) AS planned (event_id, rule, target, lane, key, position_lsn, position_index, state, error)
), fresh AS (
    SELECT planned.*, row_number() OVER (
        PARTITION BY lane, hashtextextended(key, 0), state = 'pending'
        ORDER BY {epoch}, position_lsn, position_index, rule, target
    ) AS place
    FROM planned
    WHERE NOT EXISTS (
        SELECT FROM pgherald.delivery AS known
        WHERE known.consumer = %(consumer)s AND known.event_id = planned.event_id
            AND known.rule = planned.rule AND known.target = planned.target
    )
)
INSERT INTO pgherald.delivery (
    consumer, event_id, rule, target, lane, key, position_lsn, position_index, head, state, finished_at, error
)
SELECT %(consumer)s, event_id, rule, target, lane, key, position_lsn, position_index,
    state = 'pending' AND (key IS NULL OR place = 1 AND NOT EXISTS (
        SELECT FROM pgherald.delivery AS ahead
        WHERE ahead.head AND ahead.consumer = %(consumer)s AND ahead.lane = fresh.lane
            AND hashtextextended(ahead.key, 0) = hashtextextended(fresh.key, 0)
    )),
    state, CASE WHEN state <> 'pending' THEN clock_timestamp() END, error::jsonb
FROM fresh
ORDER BY {epoch}, position_lsn, position_index, rule, target
ON CONFLICT (consumer, event_id, rule, target) DO NOTHING
RETURNING event_id, rule, state

-- name: record
SELECT topic, partition, record_offset, committed_at, raw_key, raw, raw_headers::text
FROM pgherald.event WHERE event_id = %(event_id)s AND raw IS NOT NULL

-- name: takes_json
SELECT %(text)s::jsonb IS NOT NULL

-- name: count_unfinished
-- Two partial indexes hold them, and nothing is read but these.
SELECT (SELECT count(*) FROM pgherald.delivery WHERE consumer = %(consumer)s AND head)
    + (SELECT count(*) FROM pgherald.delivery WHERE consumer = %(consumer)s AND NOT head AND finished_at IS NULL)

-- name: claim
-- Due heads of the open lanes, taken in turns so that one lane's backlog does not hold up another's. Rules that this
-- process does not know are left to one that does. Of a lane that failed before and whose pause is over one delivery is
-- taken, as a probe: the pause is prolonged for it, so that no other process probes too.
--
-- It begins at `since`, about where the last one ended: before it lies what is dead of those that were claimed, and while
-- a long transaction runs (a dump, a snapshot), no vacuum takes that away.
WITH open_lane AS MATERIALIZED (
    SELECT asked.lane, coalesce(known.failures, 0) AS failures, asked.since,
        CASE WHEN known.failures > 0 THEN 1 ELSE asked.room END AS room
    FROM unnest(%(lanes)s::text[], %(rooms)s::integer[], %(sinces)s::timestamptz[]) AS asked (lane, room, since)
    LEFT JOIN pgherald.lane AS known ON known.consumer = %(consumer)s AND known.lane = asked.lane
    WHERE known.paused_until IS NULL OR known.paused_until <= clock_timestamp()
), due AS MATERIALIZED (
    SELECT taken.id, open_lane.lane, open_lane.failures,
        row_number() OVER (PARTITION BY open_lane.lane ORDER BY taken.due_at) AS place
    FROM open_lane CROSS JOIN LATERAL (
        SELECT id, due_at FROM pgherald.delivery
        WHERE consumer = %(consumer)s AND lane = open_lane.lane AND head AND state = 'pending'
            AND due_at >= open_lane.since AND due_at <= now() AND rule = ANY (%(rules)s)
        ORDER BY due_at
        LIMIT open_lane.room
        FOR UPDATE SKIP LOCKED
    ) AS taken
), chosen AS MATERIALIZED (
    SELECT id, lane, failures FROM due ORDER BY place LIMIT %(room)s
), probed AS (
    UPDATE pgherald.lane SET paused_until = clock_timestamp() + %(lease_s)s * interval '1 second'
    FROM (SELECT DISTINCT lane FROM chosen WHERE failures > 0) AS probing
    WHERE lane.consumer = %(consumer)s AND lane.lane = probing.lane AND lane.paused_until <= clock_timestamp()
    RETURNING lane.lane
), claimed AS (
    UPDATE pgherald.delivery SET state = 'claimed', attempt = attempt + 1, leased_by = %(worker)s,
        leased_until = clock_timestamp() + %(lease_s)s * interval '1 second'
    FROM chosen
    WHERE delivery.id = chosen.id AND (chosen.failures = 0 OR chosen.lane IN (SELECT lane FROM probed))
    RETURNING delivery.*, chosen.failures
)
SELECT claimed.id, consumer, claimed.event_id, rule, target, claimed.lane, key, attempt, replays, created_at,
    coalesce(committed_at, created_at), failures, failing_since, error @> '{"in_doubt": true}' IS TRUE,
    envelope::text, raw, due_at
FROM claimed LEFT JOIN pgherald.event USING (event_id)
ORDER BY {epoch}, position_lsn, position_index, claimed.id

-- name: renew
-- In the order in which marks lock them.
UPDATE pgherald.delivery SET leased_until = clock_timestamp() + %(lease_s)s * interval '1 second'
FROM (
    SELECT id FROM pgherald.delivery WHERE id = ANY (%(ids)s) AND leased_by = %(worker)s ORDER BY id FOR UPDATE
) AS ours
WHERE delivery.id = ours.id
RETURNING delivery.id

-- name: expired
SELECT id, rule, lane, key, state, attempt, leased_by, error @> '{"in_doubt": true}' IS TRUE
FROM pgherald.delivery
WHERE leased_until < now() AND consumer = %(consumer)s AND rule = ANY (%(rules)s)
ORDER BY leased_until
LIMIT 500

-- name: sending
-- The permission for the final dot: it needs enough of the lease for it, and the worker's lease it must be.
UPDATE pgherald.delivery SET state = 'sending'
WHERE id = ANY (%(ids)s) AND leased_by = %(worker)s
    AND leased_until >= clock_timestamp() + %(dot_s)s * interval '1 second'
RETURNING id

-- name: mark
-- Every other transition after a claim, with the promotion of who comes next. It happens only if the delivery is still
-- leased by whom the mark says: a worker that was paused past its lease changes nothing, and of two who take an expired
-- lease back only one does. Rows in the order in which they are given: no two processes lock them crosswise.
--
-- One message: a transaction of its own without a word more, in which each statement sees what was committed before it.
-- No database's default may change that. The client is not waited for in it, so a paused one holds nobody up.
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
{lock_queues};
WITH marked AS (
    UPDATE pgherald.delivery SET
        state = mark.state,
        attempt = attempt - mark.given_back::integer,
        due_at = CASE WHEN mark.state = 'pending'
            THEN clock_timestamp() + mark.after_s * interval '1 second' ELSE due_at END,
        head = head AND mark.state = 'pending',
        sent_at = CASE WHEN mark.state = 'sent' THEN clock_timestamp() ELSE sent_at END,
        finished_at = CASE WHEN mark.state <> 'pending' THEN clock_timestamp() END,
        failing_since = CASE WHEN mark.state = 'pending' AND NOT mark.given_back
            THEN coalesce(failing_since, clock_timestamp()) ELSE failing_since END,
        leased_by = NULL,
        leased_until = NULL,
        result = coalesce(mark.result::jsonb, delivery.result),
        error = CASE WHEN mark.state = 'pending'
            THEN coalesce(mark.error::jsonb, delivery.error) ELSE mark.error::jsonb END
    FROM unnest(
        %(ids)s::bigint[], %(workers)s::text[], %(states)s::text[], %(afters)s::float8[], %(given_back)s::boolean[],
        %(results)s::text[], %(errors)s::text[], %(expired)s::boolean[]
    ) AS mark (id, worker, state, after_s, given_back, result, error, expired)
    WHERE delivery.id = mark.id AND delivery.leased_by = mark.worker
        AND (NOT mark.expired OR leased_until < clock_timestamp())
    RETURNING delivery.id, delivery.lane, delivery.key, delivery.state
), gone AS (
    SELECT id, lane, key FROM marked WHERE state <> 'pending'
), queue AS (
    SELECT lane, key FROM gone
), promoted AS (
    {promoting}
), forgotten AS (
    -- Someone succeeded: the others failed for reasons of their own.
    UPDATE pgherald.lane SET alike = NULL, alike_keys = '{}'
    WHERE consumer = %(consumer)s AND lane IN (SELECT lane FROM marked WHERE state = 'sent') AND alike IS NOT NULL
)
SELECT id FROM marked

-- name: promote
WITH queue AS (
    SELECT lane, key FROM unnest(%(lanes)s::text[], %(keys)s::text[]) AS asked (lane, key)
), gone AS (
    SELECT NULL::bigint AS id
)
{promoting}

-- name: promoting
-- The next head of queues that have none but those that are gone. Their locks are held. It is due now, not before:
-- claims look where they ended.
UPDATE pgherald.delivery SET head = true, due_at = greatest(delivery.due_at, clock_timestamp())
FROM (
    SELECT DISTINCT next.id
    FROM queue
    CROSS JOIN LATERAL (
        SELECT id FROM pgherald.delivery AS waiting
        WHERE waiting.consumer = %(consumer)s AND waiting.lane = queue.lane
            AND hashtextextended(waiting.key, 0) = hashtextextended(queue.key, 0)
            AND NOT waiting.head AND waiting.finished_at IS NULL
        ORDER BY {epoch}, waiting.position_lsn, waiting.position_index, waiting.id
        LIMIT 1
    ) AS next
    WHERE NOT EXISTS (
        SELECT FROM pgherald.delivery AS ahead
        WHERE ahead.head AND ahead.consumer = %(consumer)s AND ahead.lane = queue.lane
            AND hashtextextended(ahead.key, 0) = hashtextextended(queue.key, 0)
            AND NOT EXISTS (SELECT FROM gone WHERE gone.id = ahead.id)
    )
) AS next
WHERE delivery.id = next.id

-- name: fail_lane
-- Only the failure of a delivery that was claimed when the lane stood as it still stands counts: eight that fail together
-- are one failure, and no one ends an operator's pause.
INSERT INTO pgherald.lane AS known (consumer, lane, paused_until, failures, reason)
VALUES (%(consumer)s, %(lane)s, clock_timestamp() + %(pause_s)s * interval '1 second', %(failures)s + 1, %(reason)s)
ON CONFLICT (consumer, lane) DO UPDATE
SET paused_until = excluded.paused_until, failures = excluded.failures, reason = excluded.reason
WHERE known.failures = %(failures)s AND known.paused_by IS NULL AND known.paused_until IS DISTINCT FROM 'infinity'
RETURNING failures

-- name: stop_lane
-- Until an operator resumes it. An operator's own pause keeps the operator's name and reason.
INSERT INTO pgherald.lane AS known (consumer, lane, paused_until, reason)
VALUES (%(consumer)s, %(lane)s, 'infinity', %(reason)s)
ON CONFLICT (consumer, lane) DO UPDATE
SET paused_until = 'infinity', reason = excluded.reason, alike = NULL, alike_keys = '{}'
WHERE known.paused_by IS NULL
RETURNING reason

-- name: clear_lane
UPDATE pgherald.lane SET paused_until = NULL, failures = 0, reason = NULL
WHERE consumer = %(consumer)s AND lane = %(lane)s AND failures = %(failures)s AND paused_by IS NULL
    AND paused_until IS DISTINCT FROM 'infinity'
RETURNING lane

-- name: release_probe
-- The probe came back without an answer: the next claim probes again.
UPDATE pgherald.lane SET paused_until = clock_timestamp()
WHERE consumer = %(consumer)s AND lane = %(lane)s AND failures = %(failures)s AND paused_by IS NULL
    AND paused_until IS DISTINCT FROM 'infinity'

-- name: count_alike
-- One more user of a lane failed; how many did in a row, each in the same way. A user who fails again is no other user.
INSERT INTO pgherald.lane AS known (consumer, lane, alike, alike_keys)
VALUES (%(consumer)s, %(lane)s, %(alike)s, ARRAY[hashtextextended(%(whom)s, 0)])
ON CONFLICT (consumer, lane) DO UPDATE
SET alike = excluded.alike,
    alike_keys = CASE
        WHEN known.alike IS DISTINCT FROM excluded.alike THEN excluded.alike_keys
        WHEN known.alike_keys @> excluded.alike_keys THEN known.alike_keys
        ELSE known.alike_keys || excluded.alike_keys
    END
RETURNING cardinality(alike_keys)

-- name: lane_figures
SELECT lane, count(*) AS backlog, extract(epoch FROM clock_timestamp() - min(created_at))::float8 AS oldest_s
FROM pgherald.delivery
WHERE consumer = %(consumer)s AND (head OR NOT head AND finished_at IS NULL)
GROUP BY lane

-- name: paused_lanes
SELECT lane FROM pgherald.lane WHERE consumer = %(consumer)s AND paused_until > clock_timestamp()

-- name: orphans
SELECT rule, count(*) FROM pgherald.delivery
WHERE consumer = %(consumer)s AND (head OR NOT head AND finished_at IS NULL) AND rule <> ALL (%(rules)s)
GROUP BY rule
ORDER BY rule

-- name: in_doubt
SELECT rule, count(*) FROM pgherald.delivery
WHERE consumer = %(consumer)s AND state = 'unknown'
GROUP BY rule

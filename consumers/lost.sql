-- The queries after an interruption: what the answers said that were lost with the connection.

-- name: unheard
-- What this worker claimed without hearing of it.
SELECT id, rule, delivery.lane, key, state, attempt, leased_by, false, coalesce(known.failures, 0)
FROM pgherald.delivery
LEFT JOIN pgherald.lane AS known ON known.consumer = delivery.consumer AND known.lane = delivery.lane
WHERE leased_until IS NOT NULL AND leased_by = %(worker)s AND state = 'claimed' AND id <> ALL (%(held)s)

-- name: marked
-- What stands as these marks would have it, in the attempt that they are of: nobody else can have sent it in the same one.
SELECT delivery.id
FROM pgherald.delivery
JOIN unnest(%(ids)s::bigint[], %(states)s::text[], %(attempts)s::integer[]) AS mark (id, state, attempt)
    ON delivery.id = mark.id AND delivery.state = mark.state AND delivery.attempt = mark.attempt
WHERE finished_at IS NOT NULL

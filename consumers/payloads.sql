-- Events leave the ledger: by age, by `purge`, by `erase`. The facts in `delivery` stay.
--
-- The race: one process stores a delivery of an event that is there already, another removes that event, because none of
-- the deliveries that it sees needs it. Therefore storing shares a lock that removing has for itself, in a statement
-- before the one that looks.

-- name: share_payloads
SELECT pg_advisory_xact_lock_shared(%(lock)s, -2)

-- name: own_payloads
SELECT pg_advisory_xact_lock(%(lock)s, -2)

-- name: only_one
SELECT pg_try_advisory_xact_lock(%(lock)s, -3)

-- name: known
-- Every consumer that the ledger knows, by a few steps down the index of identities. It begins with the consumer: without
-- naming it, that index would not find the deliveries of an event.
known AS (
    (SELECT consumer FROM pgherald.delivery ORDER BY consumer LIMIT 1)
    UNION ALL
    SELECT (SELECT consumer FROM pgherald.delivery WHERE consumer > known.consumer ORDER BY consumer LIMIT 1)
    FROM known WHERE known.consumer IS NOT NULL
)

-- name: drop_payloads
-- Those of the given deliveries that no delivery needs: none that is unfinished or waits for a person.
WITH RECURSIVE {known}
DELETE FROM pgherald.event
WHERE event_id IN (SELECT event_id FROM pgherald.delivery WHERE id = ANY (%(ids)s))
    AND NOT EXISTS (
        SELECT FROM known JOIN pgherald.delivery AS needing
            ON needing.consumer = known.consumer AND needing.event_id = event.event_id
        WHERE needing.finished_at IS NULL OR needing.state IN ('dead', 'unknown')
    )
RETURNING event_id

-- name: erase_payloads
DELETE FROM pgherald.event
WHERE event_id IN (SELECT event_id FROM pgherald.delivery WHERE id = ANY (%(ids)s))
RETURNING event_id

-- name: retire
-- A page of the old events, oldest first, and without those of which a delivery is unfinished or ended too recently.
WITH RECURSIVE {known}, page AS MATERIALIZED (
    SELECT committed_at, event_id FROM pgherald.event
    WHERE (committed_at, event_id) > (%(after_at)s, %(after_id)s)
        AND committed_at < now() - %(days)s * interval '1 day'
    ORDER BY committed_at, event_id
    LIMIT %(most)s
), gone AS (
    DELETE FROM pgherald.event USING page
    WHERE event.event_id = page.event_id AND NOT EXISTS (
        SELECT FROM known JOIN pgherald.delivery AS needing
            ON needing.consumer = known.consumer AND needing.event_id = page.event_id
        WHERE needing.finished_at IS NULL OR needing.finished_at >= now() - %(days)s * interval '1 day'
    )
    RETURNING event.event_id
)
SELECT page.committed_at, page.event_id, (SELECT count(*) FROM gone)
FROM page ORDER BY committed_at DESC, event_id DESC LIMIT 1

-- name: retire_links
-- Those that nobody could use any more anyhow: a link is no younger than its use.
WITH gone AS (DELETE FROM pgherald.link_use WHERE used_at < now() - %(kept)s RETURNING token_hash)
SELECT count(*) FROM gone

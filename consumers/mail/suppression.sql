-- The queries of the suppression list. A filter that was not given is null.

-- name: reasons
SELECT address_hash, reason FROM pgherald.suppression WHERE address_hash = ANY (%(hashes)s)

-- name: add
INSERT INTO pgherald.suppression (address_hash, reason, source)
SELECT DISTINCT hash, %(reason)s, %(source)s FROM unnest(%(hashes)s::text[]) AS given (hash)
ON CONFLICT (address_hash, reason) DO NOTHING
RETURNING address_hash

-- name: remove
DELETE FROM pgherald.suppression
WHERE (%(hashes)s::text[] IS NULL OR address_hash = ANY (%(hashes)s))
    AND (%(reason)s::text IS NULL OR reason = %(reason)s)
    AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
RETURNING address_hash

-- name: find
SELECT address_hash, reason, source, created_at FROM pgherald.suppression
WHERE (%(hashes)s::text[] IS NULL OR address_hash = ANY (%(hashes)s))
    AND (%(reason)s::text IS NULL OR reason = %(reason)s)
    AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
ORDER BY created_at DESC, address_hash
LIMIT %(limit)s

-- Which users of a lane failed alike in a row, with no success between them, whatever the process: many mean that the
-- cause is not theirs, and the lane stops (consumers/breaker.py). Code that does not know these columns may run beside.
ALTER TABLE pgherald.lane
    ADD COLUMN alike text,                                -- how they failed: class and code; null: none did
    ADD COLUMN alike_keys bigint[] NOT NULL DEFAULT '{}'; -- hashes of their keys

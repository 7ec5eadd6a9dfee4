-- All of a record that does not decode, so that a replay reads it as Kafka gave it. Code that does not know these columns
-- may run beside.
ALTER TABLE pgherald.event
    ADD COLUMN raw_key bytea,
    ADD COLUMN raw_headers jsonb;   -- [[name, value as base64 or null], ...]

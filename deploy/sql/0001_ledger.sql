-- The ledger: what was planned for every event, and what became of it. DESIGN.md section 5 has the columns.
-- Runs in one transaction. The schema may have been made beforehand, for a role that may not create one.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'pgherald') THEN
        CREATE SCHEMA pgherald;
    END IF;
END
$$;

CREATE TABLE pgherald.migration (
    number integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Written once, by whichever consumer reads the event first. No foreign key leads here: payloads leave after
-- ledger.retention_days, the facts in `delivery` stay.
CREATE TABLE pgherald.event (
    event_id text PRIMARY KEY,
    topic text NOT NULL,
    partition integer NOT NULL,
    record_offset bigint NOT NULL,
    committed_at timestamptz NOT NULL,
    envelope jsonb,
    raw bytea   -- the value's bytes, of a record that does not decode or that jsonb can't hold
);

CREATE TABLE pgherald.delivery (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer text NOT NULL,
    event_id text NOT NULL,
    rule text NOT NULL,
    target text NOT NULL,
    lane text NOT NULL,
    key text,   -- the Kafka key; null: no order, every delivery is a head
    position_lsn pg_lsn NOT NULL,
    position_index bigint NOT NULL,
    head boolean NOT NULL,
    state text NOT NULL CHECK (
        state IN ('pending', 'claimed', 'sending', 'sent', 'skipped', 'unknown', 'dead', 'cancelled')
    ),
    attempt integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    leased_until timestamptz,
    leased_by text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    sent_at timestamptz,
    finished_at timestamptz,
    replays integer NOT NULL DEFAULT 0,
    result jsonb,
    error jsonb,
    -- one (event, rule, target) is one delivery
    CONSTRAINT delivery_identity UNIQUE (consumer, event_id, rule, target),
    CONSTRAINT delivery_lease CHECK ((leased_by IS NOT NULL) = (state IN ('claimed', 'sending'))),
    CONSTRAINT delivery_finished CHECK ((finished_at IS NULL) = (state IN ('pending', 'claimed', 'sending'))),
    CONSTRAINT delivery_head CHECK (NOT head OR finished_at IS NULL)
);

-- At most one head of a queue, whatever the code does. The key is hashed: B-tree entries end at 2.7 kB, keys need not.
-- Keys of one hash share a queue, which costs them nothing but waiting for each other.
CREATE UNIQUE INDEX delivery_one_head ON pgherald.delivery (consumer, lane, hashtextextended(key, 0)) WHERE head;

-- Who comes after the head. Rows without anyone before them never enter it.
CREATE INDEX delivery_waiting ON pgherald.delivery
    (consumer, lane, hashtextextended(key, 0), position_lsn, position_index, id) WHERE NOT head AND finished_at IS NULL;

-- What a claim reads, in the order in which it takes.
CREATE INDEX delivery_due ON pgherald.delivery (consumer, lane, due_at) WHERE head AND state = 'pending';

-- What is in work: a few rows.
CREATE INDEX delivery_leased ON pgherald.delivery (leased_until) WHERE leased_until IS NOT NULL;

-- What waits for a person: alerts count it, operators list it.
CREATE INDEX delivery_failed ON pgherald.delivery (consumer, state, id) WHERE state IN ('unknown', 'dead');

-- A row only for a lane that was paused once. failures > 0: the dependency is down, one delivery at a time probes it.
CREATE TABLE pgherald.lane (
    consumer text NOT NULL,
    lane text NOT NULL,
    paused_until timestamptz,   -- null: open; infinity: until someone resumes it
    failures integer NOT NULL DEFAULT 0,
    reason text,
    paused_by text,   -- the operator; null: pgherald itself
    PRIMARY KEY (consumer, lane)
);

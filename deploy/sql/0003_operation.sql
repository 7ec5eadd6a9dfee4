-- Who did what to the ledger: one row a command that changes something, and which deliveries it changed.
CREATE TABLE pgherald.operation (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    who text NOT NULL,   -- the login that ran the command, and its machine
    role text NOT NULL DEFAULT session_user,
    command text NOT NULL,
    filter jsonb NOT NULL,   -- what it was asked to change: literals of --where masked, a key hashed; no row's value
    count bigint NOT NULL DEFAULT 0,   -- what it has changed so far
    finished_at timestamptz   -- null: it is running or was broken off; what `count` says is done
);

CREATE TABLE pgherald.operation_delivery (
    delivery_id bigint NOT NULL,
    operation_id bigint NOT NULL,
    was text NOT NULL,   -- the state before
    PRIMARY KEY (delivery_id, operation_id)
);

-- Retention walks along it, oldest first. It only ever grows at its end.
CREATE INDEX event_committed ON pgherald.event (committed_at, event_id);

-- Each delivery leaves some dead versions of its row behind. The default is to clean up when a fifth of the table is dead:
-- of a ledger that keeps its facts for years that is too late for the few pages which claims read.
ALTER TABLE pgherald.delivery SET (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0.02
);

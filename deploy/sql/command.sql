-- What operators ask of a running reader: `pgherald snapshot` inserts a row here, the reader finds it in the WAL. In the
-- source database. `pgherald snapshot` runs this file itself where its role may create a schema; otherwise run it once as
-- a superuser, and say who may ask:
--     GRANT USAGE ON SCHEMA pgherald TO operators;
--     GRANT INSERT ON pgherald.command TO operators;
-- Whoever may insert can make the reader read a captured table again, with a condition that runs as the reader's role. The
-- reader itself needs no right here: it reads the WAL. Rows may be deleted at any time; they are history.
CREATE SCHEMA IF NOT EXISTS pgherald;

CREATE TABLE IF NOT EXISTS pgherald.command (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slot text NOT NULL,   -- whose reader is asked
    action text NOT NULL CHECK (action IN ('snapshot', 'pause', 'resume')),
    schema_name text,
    table_name text,
    condition text,
    asked_by text NOT NULL DEFAULT session_user,
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

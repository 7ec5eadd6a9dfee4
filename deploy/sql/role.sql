-- The role that pgherald runs as, with the least it needs. Run it once as a superuser, in the database that is read; name
-- your own tables. Then give the role a password (\password pgherald in psql) and let it in by pg_hba.conf:
--     hostssl  DATABASE  pgherald  ADDRESS OF THE READER  scram-sha-256
-- The database's line is enough: "replication" in pg_hba.conf means physical replication only.

-- LOGIN: to connect. REPLICATION: to make the slot and to read it; no narrower right allows that. Neither lets it change a
-- row. A role with REPLICATION can read every database's WAL: keep its password as you keep the superuser's.
CREATE ROLE pgherald LOGIN REPLICATION;

-- The snapshot reads the rows that were there before the slot. Changes come by the slot and need no right on the table:
-- which columns leave is for [[source.tables]] to say.
GRANT USAGE ON SCHEMA public TO pgherald;
GRANT SELECT ON TABLE public."User" TO pgherald;

-- `pgherald snapshot` asks by a row of pgherald.command (deploy/sql/command.sql). The reader finds it in the WAL and needs no
-- right on it; who may ask is whoever may insert, which is best a role of its own:
--     GRANT USAGE ON SCHEMA pgherald TO operators; GRANT INSERT ON pgherald.command TO operators;

-- The ledger lies in a schema of its own, `pgherald`, which the role makes when a consumer first starts. Not needed here if
-- [ledger] dsn names another database: there it is needed instead.
DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO pgherald', current_database()); END $$;

-- Lets `pgherald preflight` see output_plugin_libraries, which recent minor releases show to few. Without it the reader
-- works just as well, and preflight can't tell beforehand whether wal2json is allowed.
GRANT pg_read_all_settings TO pgherald;

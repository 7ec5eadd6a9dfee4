-- Order across a lost slot: LSNs of a restored or another database may be below those that came before, so the epoch, which
-- `slot recover` raises, comes first. The event id carries it; an id without one stands last. Code that orders by LSN alone
-- may run beside, and sorts a queue where it read an index.
DROP INDEX pgherald.delivery_waiting;
CREATE INDEX delivery_waiting ON pgherald.delivery (
    consumer, lane, hashtextextended(key, 0), (substring(event_id, '^[^:]*:([0-9]{1,9}):')::integer),
    position_lsn, position_index, id
) WHERE NOT head AND finished_at IS NULL;

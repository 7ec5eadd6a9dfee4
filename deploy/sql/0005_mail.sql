-- Addresses that get no mail. Hashed: whoever reads the ledger learns no address, whoever knows an address can find it.
CREATE TABLE pgherald.suppression (
    address_hash text NOT NULL,   -- SHA-256 of the address in lower case
    reason text NOT NULL CHECK (reason IN ('bounce', 'complaint', 'unsubscribe')),
    source text NOT NULL,   -- who said so: a delivery's refusal, an operator, a link
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (address_hash, reason)
);

-- Links that were used: each can be, once.
CREATE TABLE pgherald.link_use (
    token_hash text PRIMARY KEY,
    purpose text NOT NULL,
    key text NOT NULL,   -- whose: the Kafka key
    used_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

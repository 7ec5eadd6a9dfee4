-- When the first attempt that counts failed: `give_up` is measured from there, not from the event. A delivery that waited
-- out an outage of days has all its patience. Code that does not know the column may run beside.
ALTER TABLE pgherald.delivery ADD COLUMN failing_since timestamptz;

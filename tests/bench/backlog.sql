-- What the peers capture, beside Badgeyay's table: marks around a backlog, and what fills it.
CREATE TABLE mark (mark text PRIMARY KEY);

CREATE PROCEDURE register(prefix text, first integer, last integer) LANGUAGE sql AS $$
    INSERT INTO "User" (id, username, password, email, "photoURL", allowed_usage, ftl, created_at, "siteAdmin",
        last_login_ip, plan)
    SELECT prefix || g, 'User ' || g, md5(g::text), 'user' || g || '@example.org',
        'https://photos.example.org/' || md5((g * 7)::text) || '.jpg', g % 100, g % 2 = 0,
        '2026-01-01'::timestamp + g * interval '1 second', false, '203.0.113.' || g % 250,
        CASE g % 3 WHEN 0 THEN 'pro' ELSE 'free' END
    FROM generate_series(first, last) g
$$;

CREATE PROCEDURE fill(rows integer, of_one integer) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO mark VALUES ('begin');
    COMMIT;
    FOR turn IN 0 .. rows / of_one - 1 LOOP
        CALL register('u', turn * of_one, (turn + 1) * of_one - 1);
        COMMIT;
    END LOOP;
    INSERT INTO mark VALUES ('end');
END
$$;

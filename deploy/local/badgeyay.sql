-- The users table of Badgeyay (fossasia/badgeyay), as its ORM makes it, and a plan, which it has not.
CREATE TABLE "User" (
    id varchar(100) PRIMARY KEY,
    username varchar(80),
    password varchar(100),
    email varchar(100),
    "photoURL" varchar,
    allowed_usage integer,
    ftl boolean,
    created_at timestamp NOT NULL,
    deleted_at timestamp,
    "siteAdmin" boolean,
    last_login_ip varchar,
    last_login_date timestamp,
    plan varchar(20)
);

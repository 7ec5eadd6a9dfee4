-- One column a type. types.jsonl has what Debezium wrote for a row that holds the literal in that column alone.
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE EXTENSION ltree;
CREATE EXTENSION isn;
CREATE EXTENSION cube;
CREATE EXTENSION seg;
CREATE TYPE mood AS ENUM ('sad','ok','very "happy"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE DOMAIN price AS numeric(10,2);
CREATE DOMAIN yes AS boolean;
CREATE DOMAIN blob AS bytea;
CREATE DOMAIN words AS text[];
CREATE DOMAIN small_price AS price CHECK (VALUE < 100);
CREATE DOMAIN mail AS citext;
CREATE DOMAIN mooddom AS mood;
CREATE DOMAIN bit1 AS bit(1);
CREATE DOMAIN stamp AS timestamptz(3);
CREATE TYPE floatrange2 AS RANGE (subtype = float8);
CREATE TABLE types (id int PRIMARY KEY,
  money money, vb bit varying, vb1 varbit(1), b3 bit(3), b bit, vb70 varbit(70), mac macaddr, mac8 macaddr8,
  cidr cidr, inet inet, cq "char", nm name, o oid, xd xid, xd8 xid8, cd cid, td tid, lsn pg_lsn,
  pt point, bx box, ci circle, li line, ls lseg, pa path, po polygon, tsv tsvector, tsq tsquery, jp jsonpath,
  txs txid_snapshot, pgs pg_snapshot,
  rc regclass, rt regtype, rp regproc, rr regrole, ct citext, hs hstore, lt ltree, lq lquery, isb isbn, ea ean13,
  cu cube, sg seg,
  m mood, co pair, dp posint, pr price, sp small_price, ye yes, bl blob, wo words, ma mail, md mooddom, b1 bit1,
  st stamp,
  r8 int8range, nr numrange, tr tsrange, tzr tstzrange, dr daterange, fr floatrange2, mr int4multirange,
  nmr nummultirange, tzmr tstzmultirange,
  ts0 timestamp(0), ts3 timestamp(3), tz0 timestamptz(0), tz1 timestamptz(1), tz3 timestamptz(3), tz6 timestamptz,
  t0 time(0), t3 time(3), ttz timetz, ttz3 timetz(3), iv interval, ivym interval year to month,
  ivs interval second(3),
  c char(3), vc varchar(10), c1 char, by bytea, x xml, j json, jb jsonb, f4 real, f8 double precision, n numeric,
  n5 numeric(5,0), nneg numeric(5,-2), i2 smallint, i4 int, i8 bigint, bo boolean, d date, ts timestamp, u uuid,
  iv2 int2vector, ov oidvector, ac aclitem);
CREATE TABLE arrays (id int PRIMARY KEY,
  a_money money[], a_varbit varbit[], a_bit3 bit(3)[], a_bit1 bit(1)[], a_mac macaddr[], a_mac8 macaddr8[],
  a_cidr cidr[], a_inet inet[], a_name name[], a_cq "char"[], a_oid oid[], a_lsn pg_lsn[], a_pt point[],
  a_box box[], a_ci circle[], a_tsv tsvector[], a_ct citext[], a_hs hstore[], a_lt ltree[], a_mood mood[],
  a_co pair[], a_posint posint[], a_price price[], a_ye yes[], a_ma mail[],
  a_r8 int8range[], a_nr numrange[], a_tzr tstzrange[], a_fr floatrange2[], a_mr int4multirange[],
  a_ts timestamp[], a_ts3 timestamp(3)[], a_tz timestamptz[], a_tz3 timestamptz(3)[], a_t time[], a_t3 time(3)[],
  a_ttz timetz[], a_iv interval[], a_c char(3)[], a_vc varchar(10)[], a_by bytea[], a_x xml[], a_j json[],
  a_jb jsonb[], a_f4 real[], a_f8 double precision[], a_n numeric[], a_n52 numeric(5,2)[], a_i2 smallint[],
  a_i4 int[], a_i8 bigint[], a_bo boolean[], a_d date[], a_u uuid[], a_t2 text[], a_nest int[], a_bound int[],
  a_ac aclitem[]);

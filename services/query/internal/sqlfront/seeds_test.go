package sqlfront

// seeds begin the search of FuzzParse.
var seeds = []string{
	"CREATE USER TABLE app.messages (id BIGINT DEFAULT SNOWFLAKE_ID(), content TEXT, timestamp TIMESTAMP DEFAULT NOW()) FLUSH ROW_THRESHOLD 1000;",
	"CREATE STREAM TABLE app.events (event_id TEXT, data TEXT) RETENTION 10 EPHEMERAL MAX_BUFFER 5000;",
	"CREATE TABLE t (id INT UNSIGNED PRIMARY KEY, d DECIMAL(10,2) DEFAULT -1.5, PRIMARY KEY (id)) USING x WITH (TYPE = 'USER', FLUSH_POLICY = 'rows:1,interval:2')",
	"CREATE USER 'a' WITH OAUTH PROVIDER 'google' SUBJECT 's' ROLE 'service' METADATA '{}' ALLOW_REMOTE true",
	"ALTER USER 'a' SET PASSWORD 'p', EMAIL 'e', METADATA '{}'",
	"UPDATE system.users SET deleted_at = NULL WHERE username = 'name'",
	"EXECUTE AS USER 'bob' (SELECT * FROM t)",
	"SUBSCRIBE TO app.t WHERE room = 'a' OPTIONS (last_rows=10, batch_size=5, from='123')",
	"EXPLAIN ANALYZE SELECT 1; KILL LIVE QUERY 'a-b-c'; SHOW STATS FOR TABLE a.b; DESC t HISTORY",
	"FLUSH TABLE a.b; STORAGE FLUSH ALL IN NAMESPACE \"A\"; FLUSH ALL TABLES IN namespace; KILL JOB 'FL-a258332a4315'; SHOW JOBS",
	"INSERT INTO t (a, b,) VALUES (1, DEFAULT), ($1, CURRENT_USER()) ON CONFLICT (a) DO NOTHING RETURNING *",
	"DELETE FROM \"T\" WHERE `a` LIKE 'x!%' ESCAPE '!' AND ts > NOW() - INTERVAL '1' DAY",
	"SELECT E'a\\'b', $t$;$t$, X'1F', B'01' /* /* */ */ -- x\n FROM t WHERE a @> b AND c->'d'->>0 = 'e'",
	"WITH a AS (SELECT 1) SELECT CASE a WHEN 1 THEN 2 ELSE 3 END FROM a UNION SELECT (b).c[1] FROM t",
}

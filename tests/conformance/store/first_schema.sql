-- A database as the first broker made it, before its schema had versions.
PRAGMA auto_vacuum = 2;
PRAGMA application_id = 1633841713;
PRAGMA journal_mode = WAL;
CREATE TABLE store_meta (
	"key" TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY ("key")
);
CREATE TABLE ledger_entry (
	seq INTEGER NOT NULL,
	prev TEXT NOT NULL,
	leaf BLOB NOT NULL,
	data BLOB NOT NULL,
	PRIMARY KEY (seq),
	CONSTRAINT ledger_entry_prev CHECK (length(prev) = 64),
	CONSTRAINT ledger_entry_leaf CHECK (length(leaf) = 32),
	CONSTRAINT ledger_entry_data CHECK (length(data) < 65536),
	UNIQUE (prev)
);
CREATE TABLE ledger_agent (
	agent TEXT NOT NULL,
	seq INTEGER NOT NULL,
	leaf BLOB NOT NULL,
	PRIMARY KEY (agent)
);
CREATE TABLE vault_object (
	id TEXT NOT NULL,
	owner TEXT NOT NULL,
	kind TEXT NOT NULL,
	wrapped BLOB NOT NULL,
	created TEXT NOT NULL,
	expires TEXT,
	size INTEGER NOT NULL,
	digest TEXT NOT NULL,
	data_classes TEXT NOT NULL,
	complete BOOLEAN NOT NULL,
	PRIMARY KEY (id)
);
CREATE INDEX vault_object_expires ON vault_object (expires);
CREATE TABLE vault_usage (
	owner TEXT NOT NULL,
	stored BIGINT NOT NULL,
	PRIMARY KEY (owner)
);
CREATE TABLE identity (
	id TEXT NOT NULL,
	kind TEXT NOT NULL,
	name TEXT NOT NULL,
	owner TEXT NOT NULL,
	registrar TEXT NOT NULL,
	created TEXT NOT NULL,
	revoked TEXT,
	PRIMARY KEY (id),
	CONSTRAINT identity_name UNIQUE (kind, name)
);
CREATE TABLE session (
	id TEXT NOT NULL,
	agent TEXT NOT NULL,
	workspace TEXT NOT NULL,
	starter TEXT NOT NULL,
	schedule TEXT NOT NULL,
	created TEXT NOT NULL,
	expires TEXT NOT NULL,
	ended TEXT,
	PRIMARY KEY (id)
);
CREATE INDEX session_starter ON session (starter, id);
CREATE INDEX session_agent ON session (agent, id);
CREATE TABLE schedule (
	id TEXT NOT NULL,
	agent TEXT NOT NULL,
	workspace TEXT NOT NULL,
	registrar TEXT NOT NULL,
	weekdays TEXT NOT NULL,
	from_minute INTEGER NOT NULL,
	until_minute INTEGER NOT NULL,
	session_ttl_s FLOAT NOT NULL,
	expires TEXT NOT NULL,
	PRIMARY KEY (id)
);
CREATE TABLE call (
	id TEXT NOT NULL,
	agent TEXT NOT NULL,
	owner TEXT NOT NULL,
	tool TEXT NOT NULL,
	tool_version TEXT NOT NULL,
	workspace TEXT NOT NULL,
	workflow TEXT NOT NULL,
	state TEXT NOT NULL,
	tier INTEGER NOT NULL,
	request_id TEXT NOT NULL,
	request_digest TEXT NOT NULL,
	created TEXT NOT NULL,
	started TEXT,
	ended TEXT,
	expires TEXT,
	decision_seq INTEGER,
	intent_seq INTEGER,
	outcome_seq INTEGER,
	last_event INTEGER NOT NULL,
	envelope_digest TEXT NOT NULL,
	PRIMARY KEY (id)
);
CREATE INDEX call_state ON call (state);
CREATE INDEX call_agent_state ON call (agent, state);
CREATE UNIQUE INDEX call_request ON call (agent, request_id) WHERE request_id != '';
CREATE INDEX call_agent_id ON call (agent, id);
CREATE TABLE refusal (
	agent TEXT NOT NULL,
	"key" TEXT NOT NULL,
	first TEXT NOT NULL,
	last TEXT NOT NULL,
	count INTEGER NOT NULL,
	body BLOB NOT NULL,
	PRIMARY KEY (agent, "key")
);
CREATE INDEX ix_refusal_first ON refusal (first);
CREATE TABLE vault_chunk (
	object_id TEXT NOT NULL,
	idx INTEGER NOT NULL,
	sealed BLOB NOT NULL,
	PRIMARY KEY (object_id, idx),
	FOREIGN KEY(object_id) REFERENCES vault_object (id)
);
CREATE TABLE certificate (
	number INTEGER NOT NULL,
	fingerprint TEXT NOT NULL,
	identity TEXT NOT NULL,
	public_key_der BLOB NOT NULL,
	not_before TEXT NOT NULL,
	not_after TEXT NOT NULL,
	revoked TEXT,
	PRIMARY KEY (number),
	UNIQUE (fingerprint),
	FOREIGN KEY(identity) REFERENCES identity (id)
);
CREATE TRIGGER ledger_entry_no_update BEFORE UPDATE ON ledger_entry BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: no entry is changed'); END;
CREATE TRIGGER ledger_entry_no_delete BEFORE DELETE ON ledger_entry BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: no entry is deleted'); END;
CREATE TRIGGER ledger_entry_only_next BEFORE INSERT ON ledger_entry WHEN typeof(NEW.leaf) <> 'blob' OR typeof(NEW.data) <> 'blob' OR typeof(NEW.prev) <> 'text' OR NEW.seq IS NOT (SELECT coalesce(max(seq) + 1, 0) FROM ledger_entry) OR NEW.prev IS NOT coalesce((SELECT lower(hex(leaf)) FROM ledger_entry ORDER BY seq DESC LIMIT 1), '0000000000000000000000000000000000000000000000000000000000000000') BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: only the next entry is added'); END;
INSERT INTO store_meta VALUES ('schema_version', '1');
INSERT INTO store_meta VALUES ('in_use', '0');

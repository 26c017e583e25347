CREATE TABLE cauce_audit (
    position INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at FLOAT NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    why TEXT,
    consumer TEXT,
    source TEXT,
    event_id VARCHAR(128),
    detail TEXT
);
CREATE INDEX cauce_audit_event ON cauce_audit (consumer, source, event_id);
CREATE TABLE cauce_dead_letter (
    id VARCHAR(32) NOT NULL,
    consumer TEXT NOT NULL,
    source TEXT NOT NULL,
    event_id VARCHAR(128) NOT NULL,
    name TEXT NOT NULL,
    lane SMALLINT NOT NULL,
    "key" TEXT,
    channel TEXT NOT NULL,
    message BLOB NOT NULL,
    reason TEXT NOT NULL,
    error TEXT NOT NULL,
    stack TEXT,
    attempts INTEGER NOT NULL,
    first_at FLOAT NOT NULL,
    last_at FLOAT NOT NULL,
    worker TEXT NOT NULL,
    version TEXT,
    tried TEXT,
    size BIGINT,
    sha256 VARCHAR(64),
    PRIMARY KEY (id),
    UNIQUE (consumer, source, event_id)
);
CREATE TABLE cauce_inbox (
    consumer TEXT NOT NULL,
    source TEXT NOT NULL,
    event_id VARCHAR(128) NOT NULL,
    received_at FLOAT NOT NULL,
    state TEXT,
    PRIMARY KEY (consumer, source, event_id)
);
CREATE INDEX ix_cauce_inbox_received_at ON cauce_inbox (received_at);
CREATE TABLE cauce_key_head (
    topic TEXT NOT NULL,
    "key" TEXT NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (topic, "key")
);
CREATE TABLE cauce_lane (
    lane SMALLINT NOT NULL,
    member TEXT,
    epoch BIGINT DEFAULT 0 NOT NULL,
    PRIMARY KEY (lane)
);
CREATE TABLE cauce_listener (
    consumer TEXT NOT NULL,
    first_seen_at FLOAT NOT NULL,
    last_seen_at FLOAT NOT NULL,
    paused_at FLOAT,
    paused_because TEXT,
    name TEXT,
    events TEXT,
    retired_at FLOAT,
    PRIMARY KEY (consumer)
);
CREATE TABLE cauce_member (
    id TEXT NOT NULL,
    lease_until FLOAT NOT NULL,
    lease_s FLOAT,
    PRIMARY KEY (id)
);
CREATE TABLE cauce_meta (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE cauce_outbox (
    position INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    event_id VARCHAR(128) NOT NULL,
    topic TEXT NOT NULL,
    lane SMALLINT NOT NULL,
    "key" TEXT,
    key_seq BIGINT,
    name TEXT NOT NULL,
    message BLOB NOT NULL,
    created_at FLOAT NOT NULL,
    problem TEXT,
    sent_at FLOAT,
    sent_seq BIGINT DEFAULT 0 NOT NULL,
    broker_id TEXT,
    UNIQUE (event_id)
);
CREATE INDEX cauce_outbox_aside ON cauce_outbox (topic, "key") WHERE problem IS NOT NULL;
CREATE INDEX cauce_outbox_sent_at ON cauce_outbox (sent_at) WHERE sent_at IS NOT NULL;
CREATE INDEX cauce_outbox_sent_seq ON cauce_outbox (topic, lane, sent_seq, position) WHERE sent_at IS NOT NULL;
CREATE INDEX cauce_outbox_unsent ON cauce_outbox (lane, position) WHERE sent_at IS NULL;
CREATE TABLE cauce_position (
    consumer TEXT NOT NULL,
    source TEXT NOT NULL,
    "key" TEXT NOT NULL,
    last_seq BIGINT NOT NULL,
    incarnation TEXT NOT NULL,
    occurred_at FLOAT,
    moved_at FLOAT,
    PRIMARY KEY (consumer, source, "key")
);
CREATE TABLE cauce_started (
    consumer TEXT NOT NULL,
    source TEXT NOT NULL,
    event_id VARCHAR(128) NOT NULL,
    marks INTEGER NOT NULL,
    marked_at FLOAT NOT NULL,
    PRIMARY KEY (consumer, source, event_id)
);
CREATE TABLE cauce_waiting (
    position INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    consumer TEXT NOT NULL,
    source TEXT NOT NULL,
    event_id VARCHAR(128) NOT NULL,
    lane SMALLINT NOT NULL,
    "key" TEXT,
    channel TEXT NOT NULL,
    message BLOB NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    next_at FLOAT,
    scheduled_at FLOAT,
    first_failed_at FLOAT,
    error TEXT,
    place TEXT,
    tried TEXT,
    troubles INTEGER,
    in_trouble_since FLOAT,
    created_at FLOAT NOT NULL,
    name TEXT,
    reason TEXT,
    UNIQUE (consumer, source, event_id)
);
CREATE INDEX cauce_waiting_key ON cauce_waiting (consumer, source, "key", position);
CREATE INDEX cauce_waiting_next ON cauce_waiting (lane, next_at);
INSERT INTO cauce_lane (lane, epoch) VALUES (0, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (1, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (2, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (3, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (4, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (5, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (6, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (7, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (8, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (9, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (10, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (11, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (12, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (13, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (14, 0);
INSERT INTO cauce_lane (lane, epoch) VALUES (15, 0);
INSERT INTO cauce_meta (name, value) VALUES ('incarnation', lower(hex(randomblob(16))));
INSERT INTO cauce_meta (name, value) VALUES ('lanes', '16');
INSERT INTO cauce_meta (name, value) VALUES ('schema', '1');
INSERT INTO cauce_meta (name, value) VALUES ('build', 'd6e13e63');

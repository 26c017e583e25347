CREATE TABLE cauce_audit (
    position BIGSERIAL NOT NULL,
    at FLOAT NOT NULL,
    who TEXT NOT NULL,
    what TEXT NOT NULL,
    why TEXT,
    consumer TEXT,
    source TEXT,
    event_id VARCHAR(128),
    detail TEXT,
    PRIMARY KEY (position)
);
CREATE INDEX cauce_audit_event ON cauce_audit (consumer, source, event_id);
CREATE TABLE cauce_dead_letter (
    id VARCHAR(32) NOT NULL,
    consumer TEXT NOT NULL,
    source TEXT NOT NULL,
    event_id VARCHAR(128) NOT NULL,
    name TEXT NOT NULL,
    lane SMALLINT NOT NULL,
    key TEXT,
    channel TEXT NOT NULL,
    message BYTEA NOT NULL,
    reason TEXT NOT NULL,
    error TEXT NOT NULL,
    stack TEXT,
    attempts INTEGER NOT NULL,
    first_at FLOAT NOT NULL,
    last_at FLOAT NOT NULL,
    worker TEXT NOT NULL,
    version TEXT,
    tried TEXT,
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
)
 WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX ix_cauce_inbox_received_at ON cauce_inbox (received_at);
CREATE TABLE cauce_key_head (
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (topic, key)
)
 WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0, fillfactor = 80);
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
    PRIMARY KEY (consumer)
);
CREATE TABLE cauce_member (
    id TEXT NOT NULL,
    lease_until FLOAT NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE cauce_meta (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE cauce_outbox (
    position BIGSERIAL NOT NULL,
    event_id VARCHAR(128) NOT NULL,
    topic TEXT NOT NULL,
    lane SMALLINT NOT NULL,
    key TEXT,
    key_seq BIGINT,
    name TEXT NOT NULL,
    message BYTEA NOT NULL,
    created_at FLOAT NOT NULL,
    problem TEXT,
    sent_at FLOAT,
    broker_id TEXT,
    PRIMARY KEY (position),
    UNIQUE (event_id)
)
 WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX cauce_outbox_aside ON cauce_outbox (topic, key) WHERE problem IS NOT NULL;
CREATE INDEX cauce_outbox_sent ON cauce_outbox (topic, lane, sent_at) WHERE sent_at IS NOT NULL;
CREATE INDEX cauce_outbox_sent_at ON cauce_outbox (sent_at) WHERE sent_at IS NOT NULL;
CREATE INDEX cauce_outbox_unsent ON cauce_outbox (lane, position) WHERE sent_at IS NULL;
CREATE TABLE cauce_position (
    consumer TEXT NOT NULL,
    source TEXT NOT NULL,
    key TEXT NOT NULL,
    last_seq BIGINT NOT NULL,
    incarnation TEXT NOT NULL,
    PRIMARY KEY (consumer, source, key)
)
 WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0, fillfactor = 80);
CREATE TABLE cauce_started (
    consumer TEXT NOT NULL,
    source TEXT NOT NULL,
    event_id VARCHAR(128) NOT NULL,
    marks INTEGER NOT NULL,
    marked_at FLOAT NOT NULL,
    PRIMARY KEY (consumer, source, event_id)
);
CREATE TABLE cauce_waiting (
    position BIGSERIAL NOT NULL,
    consumer TEXT NOT NULL,
    source TEXT NOT NULL,
    event_id VARCHAR(128) NOT NULL,
    lane SMALLINT NOT NULL,
    key TEXT,
    channel TEXT NOT NULL,
    message BYTEA NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    next_at FLOAT,
    first_failed_at FLOAT,
    error TEXT,
    tried TEXT,
    created_at FLOAT NOT NULL,
    PRIMARY KEY (position),
    UNIQUE (consumer, source, event_id)
)
 WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX cauce_waiting_key ON cauce_waiting (consumer, source, key, position);
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
INSERT INTO cauce_meta (name, value) VALUES ('incarnation', CAST(gen_random_uuid() AS text));
INSERT INTO cauce_meta (name, value) VALUES ('lanes', '16');
INSERT INTO cauce_meta (name, value) VALUES ('schema', '1');
INSERT INTO cauce_meta (name, value) VALUES ('build', 'c89312b9');

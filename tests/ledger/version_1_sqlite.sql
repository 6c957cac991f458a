CREATE TABLE meter_events (
    id TEXT NOT NULL,
    source TEXT NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    account TEXT,
    "key" TEXT,
    time_us BIGINT NOT NULL,
    route TEXT,
    method TEXT,
    status INTEGER,
    "plan" TEXT,
    requests BIGINT NOT NULL,
    request_bytes BIGINT NOT NULL,
    response_bytes BIGINT NOT NULL,
    duration_us BIGINT,
    overage TEXT,
    amends TEXT,
    policy TEXT,
    raw TEXT NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX meter_events_by_subject ON meter_events (subject, time_us);
CREATE INDEX meter_events_by_time ON meter_events (time_us);
CREATE TABLE meter_quantities (
    event_id TEXT NOT NULL,
    field TEXT NOT NULL,
    units BIGINT NOT NULL,
    PRIMARY KEY (event_id, field),
    CHECK (typeof(units) = 'integer')
)
 WITHOUT ROWID;
CREATE TABLE meter_schema (
    version INTEGER NOT NULL,
    PRIMARY KEY (version)
);
CREATE TABLE meter_usage_hours (
    subject TEXT NOT NULL,
    field TEXT NOT NULL,
    hour_us BIGINT NOT NULL,
    source TEXT NOT NULL,
    account TEXT NOT NULL,
    "plan" TEXT NOT NULL,
    route TEXT NOT NULL,
    units BIGINT NOT NULL,
    events BIGINT NOT NULL,
    PRIMARY KEY (subject, field, hour_us, source, account, "plan", route),
    CHECK (typeof(units) = 'integer')
)
 WITHOUT ROWID;
INSERT INTO meter_events VALUES ('event-0', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'globex', NULL, NULL, 1767284220077061, 'write', NULL, 200, 'pro', 1, 0, 1045875683778, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-0", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "globex", "time": "2026-01-01T16:17:00.077061+00:00", "data": {"requests": 1, "request_bytes": 0, "response_bytes": 1045875683778, "route": "write", "plan": "pro", "status": 200}}');
INSERT INTO meter_events VALUES ('event-1', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'globex', NULL, NULL, 1767260693033089, 'read', NULL, 200, 'pro', 0, 0, 346389417272, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-1", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "globex", "time": "2026-01-01T09:44:53.033089+00:00", "data": {"requests": 0, "request_bytes": 0, "response_bytes": 346389417272, "route": "read", "plan": "pro", "status": 200, "tokens": -3}}');
INSERT INTO meter_events VALUES ('event-10', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'globex', NULL, NULL, 1767263769215167, 'read', NULL, 200, 'free', 1, 0, 221521355737, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-10", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "globex", "time": "2026-01-01T10:36:09.215167+00:00", "data": {"requests": 1, "request_bytes": 0, "response_bytes": 221521355737, "route": "read", "plan": "free", "status": 200, "tokens": 480177972298220}}');
INSERT INTO meter_events VALUES ('event-11', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'globex', NULL, NULL, 1767274896197460, 'write', NULL, 200, 'free', 0, 0, 163524001648, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-11", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "globex", "time": "2026-01-01T13:41:36.197460+00:00", "data": {"requests": 0, "request_bytes": 0, "response_bytes": 163524001648, "route": "write", "plan": "free", "status": 200, "tokens": -3}}');
INSERT INTO meter_events VALUES ('event-2', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'acme', NULL, NULL, 1767251055770067, 'read', NULL, 200, 'pro', 1, 0, 66999849509, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-2", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "acme", "time": "2026-01-01T07:04:15.770067+00:00", "data": {"requests": 1, "request_bytes": 0, "response_bytes": 66999849509, "route": "read", "plan": "pro", "status": 200, "tokens": 1044689712192704}}');
INSERT INTO meter_events VALUES ('event-3', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'globex', NULL, NULL, 1767285998637290, 'read', NULL, 200, 'free', 1, 0, 10736443945, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-3", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "globex", "time": "2026-01-01T16:46:38.637290+00:00", "data": {"requests": 1, "request_bytes": 0, "response_bytes": 10736443945, "route": "read", "plan": "free", "status": 200, "tokens": 191377997974255}}');
INSERT INTO meter_events VALUES ('event-4', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'initech', NULL, NULL, 1767277764504348, 'read', NULL, 200, 'free', 1, 0, 65665926576, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-4", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "initech", "time": "2026-01-01T14:29:24.504348+00:00", "data": {"requests": 1, "request_bytes": 0, "response_bytes": 65665926576, "route": "read", "plan": "free", "status": 200, "tokens": 243029720658288}}');
INSERT INTO meter_events VALUES ('event-5', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'acme', NULL, NULL, 1767271615918172, 'write', NULL, 200, 'pro', 1, 0, 38474499101, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-5", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "acme", "time": "2026-01-01T12:46:55.918172+00:00", "data": {"requests": 1, "request_bytes": 0, "response_bytes": 38474499101, "route": "write", "plan": "pro", "status": 200}}');
INSERT INTO meter_events VALUES ('event-6', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'acme', NULL, NULL, 1767278588383752, 'write', NULL, 200, 'free', 1, 0, 436495185153, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-6", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "acme", "time": "2026-01-01T14:43:08.383752+00:00", "data": {"requests": 1, "request_bytes": 0, "response_bytes": 436495185153, "route": "write", "plan": "free", "status": 200}}');
INSERT INTO meter_events VALUES ('event-7', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'globex', NULL, NULL, 1767252228444401, 'write', NULL, 200, 'pro', 1, 0, 541743966744, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-7", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "globex", "time": "2026-01-01T07:23:48.444401+00:00", "data": {"requests": 1, "request_bytes": 0, "response_bytes": 541743966744, "route": "write", "plan": "pro", "status": 200}}');
INSERT INTO meter_events VALUES ('event-8', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'acme', NULL, NULL, 1767261480824710, 'read', NULL, 200, 'free', 1, 0, 418797388132, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-8", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "acme", "time": "2026-01-01T09:58:00.824710+00:00", "data": {"requests": 1, "request_bytes": 0, "response_bytes": 418797388132, "route": "read", "plan": "free", "status": 200, "tokens": 294912939484382}}');
INSERT INTO meter_events VALUES ('event-9', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'initech', NULL, NULL, 1767256743168695, 'write', NULL, 200, 'free', 0, 0, 468108709993, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-9", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "initech", "time": "2026-01-01T08:39:03.168695+00:00", "data": {"requests": 0, "request_bytes": 0, "response_bytes": 468108709993, "route": "write", "plan": "free", "status": 200, "tokens": -3}}');
INSERT INTO meter_events VALUES ('event-a', 'urn:meter-mw:shop', 'meter_mw.adjustment.v1', 'acme', NULL, NULL, 1767268800000000, 'r', NULL, NULL, NULL, -1, 0, 0, NULL, NULL, 'event-3', NULL, '{"specversion": "1.0", "id": "event-a", "source": "urn:meter-mw:shop", "type": "meter_mw.adjustment.v1", "subject": "acme", "time": "2026-01-01T12:00:00+00:00", "data": {"requests": -1, "request_bytes": 0, "response_bytes": 0, "route": "r", "amends": "event-3", "tokens": -4}}');
INSERT INTO meter_events VALUES ('event-o', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'acme', 'group', NULL, 1767268800000000, 'r', NULL, 503, 'pro', 1, 0, 0, 1200, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-o", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "acme", "time": "2026-01-01T12:00:00+00:00", "data": {"requests": 1, "request_bytes": 0, "response_bytes": 0, "route": "r", "status": 503, "account": "group", "duration_us": 1200, "limited_by": ["egress-month"], "plan": "pro"}}');
INSERT INTO meter_events VALUES ('event-p', 'urn:meter-mw:shop', 'meter_mw.request.v1', 'acme', NULL, NULL, 1767268800000000, 'r', NULL, 200, NULL, 1, 0, 0, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-p", "source": "urn:meter-mw:shop", "type": "meter_mw.request.v1", "subject": "acme", "time": "2026-01-01T12:00:00+00:00", "data": {"requests": 1, "request_bytes": 0, "response_bytes": 0, "route": "r", "status": 200, "exchange": "event-1", "part": 1}}');
INSERT INTO meter_events VALUES ('event-t', 'urn:meter-mw:shop', 'meter_mw.threshold.v1', 'acme', NULL, NULL, 1767268800000000, 'r', NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, '{"specversion": "1.0", "id": "event-t", "source": "urn:meter-mw:shop", "type": "meter_mw.threshold.v1", "subject": "acme", "time": "2026-01-01T12:00:00+00:00", "data": {"requests": 1, "request_bytes": 0, "response_bytes": 0, "route": "r", "cap": 100}}');
INSERT INTO meter_quantities VALUES ('event-1', 'tokens', -3);
INSERT INTO meter_quantities VALUES ('event-10', 'tokens', 480177972298220);
INSERT INTO meter_quantities VALUES ('event-11', 'tokens', -3);
INSERT INTO meter_quantities VALUES ('event-2', 'tokens', 1044689712192704);
INSERT INTO meter_quantities VALUES ('event-3', 'tokens', 191377997974255);
INSERT INTO meter_quantities VALUES ('event-4', 'tokens', 243029720658288);
INSERT INTO meter_quantities VALUES ('event-8', 'tokens', 294912939484382);
INSERT INTO meter_quantities VALUES ('event-9', 'tokens', -3);
INSERT INTO meter_quantities VALUES ('event-a', 'tokens', -4);
INSERT INTO meter_schema VALUES (1);
INSERT INTO meter_usage_hours VALUES ('acme', 'requests', 1767250800000000, 'urn:meter-mw:shop', '', 'pro', 'read', 1, 1);
INSERT INTO meter_usage_hours VALUES ('acme', 'requests', 1767258000000000, 'urn:meter-mw:shop', '', 'free', 'read', 1, 1);
INSERT INTO meter_usage_hours VALUES ('acme', 'requests', 1767268800000000, 'urn:meter-mw:shop', '', '', 'r', 0, 2);
INSERT INTO meter_usage_hours VALUES ('acme', 'requests', 1767268800000000, 'urn:meter-mw:shop', '', 'pro', 'write', 1, 1);
INSERT INTO meter_usage_hours VALUES ('acme', 'requests', 1767268800000000, 'urn:meter-mw:shop', 'group', 'pro', 'r', 1, 1);
INSERT INTO meter_usage_hours VALUES ('acme', 'requests', 1767276000000000, 'urn:meter-mw:shop', '', 'free', 'write', 1, 1);
INSERT INTO meter_usage_hours VALUES ('acme', 'response_bytes', 1767250800000000, 'urn:meter-mw:shop', '', 'pro', 'read', 66999849509, 1);
INSERT INTO meter_usage_hours VALUES ('acme', 'response_bytes', 1767258000000000, 'urn:meter-mw:shop', '', 'free', 'read', 418797388132, 1);
INSERT INTO meter_usage_hours VALUES ('acme', 'response_bytes', 1767268800000000, 'urn:meter-mw:shop', '', 'pro', 'write', 38474499101, 1);
INSERT INTO meter_usage_hours VALUES ('acme', 'response_bytes', 1767276000000000, 'urn:meter-mw:shop', '', 'free', 'write', 436495185153, 1);
INSERT INTO meter_usage_hours VALUES ('acme', 'tokens', 1767250800000000, 'urn:meter-mw:shop', '', 'pro', 'read', 1044689712192704, 1);
INSERT INTO meter_usage_hours VALUES ('acme', 'tokens', 1767258000000000, 'urn:meter-mw:shop', '', 'free', 'read', 294912939484382, 1);
INSERT INTO meter_usage_hours VALUES ('acme', 'tokens', 1767268800000000, 'urn:meter-mw:shop', '', '', 'r', -4, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'requests', 1767250800000000, 'urn:meter-mw:shop', '', 'pro', 'write', 1, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'requests', 1767261600000000, 'urn:meter-mw:shop', '', 'free', 'read', 1, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'requests', 1767283200000000, 'urn:meter-mw:shop', '', 'free', 'read', 1, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'requests', 1767283200000000, 'urn:meter-mw:shop', '', 'pro', 'write', 1, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'response_bytes', 1767250800000000, 'urn:meter-mw:shop', '', 'pro', 'write', 541743966744, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'response_bytes', 1767258000000000, 'urn:meter-mw:shop', '', 'pro', 'read', 346389417272, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'response_bytes', 1767261600000000, 'urn:meter-mw:shop', '', 'free', 'read', 221521355737, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'response_bytes', 1767272400000000, 'urn:meter-mw:shop', '', 'free', 'write', 163524001648, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'response_bytes', 1767283200000000, 'urn:meter-mw:shop', '', 'free', 'read', 10736443945, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'response_bytes', 1767283200000000, 'urn:meter-mw:shop', '', 'pro', 'write', 1045875683778, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'tokens', 1767258000000000, 'urn:meter-mw:shop', '', 'pro', 'read', -3, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'tokens', 1767261600000000, 'urn:meter-mw:shop', '', 'free', 'read', 480177972298220, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'tokens', 1767272400000000, 'urn:meter-mw:shop', '', 'free', 'write', -3, 1);
INSERT INTO meter_usage_hours VALUES ('globex', 'tokens', 1767283200000000, 'urn:meter-mw:shop', '', 'free', 'read', 191377997974255, 1);
INSERT INTO meter_usage_hours VALUES ('initech', 'requests', 1767276000000000, 'urn:meter-mw:shop', '', 'free', 'read', 1, 1);
INSERT INTO meter_usage_hours VALUES ('initech', 'response_bytes', 1767254400000000, 'urn:meter-mw:shop', '', 'free', 'write', 468108709993, 1);
INSERT INTO meter_usage_hours VALUES ('initech', 'response_bytes', 1767276000000000, 'urn:meter-mw:shop', '', 'free', 'read', 65665926576, 1);
INSERT INTO meter_usage_hours VALUES ('initech', 'tokens', 1767254400000000, 'urn:meter-mw:shop', '', 'free', 'write', -3, 1);
INSERT INTO meter_usage_hours VALUES ('initech', 'tokens', 1767276000000000, 'urn:meter-mw:shop', '', 'free', 'read', 243029720658288, 1);

//! Metrics of an edge. Handles are made once per plane: naming one costs a look-up.

use metrics::{Counter, Gauge, counter, gauge};
use std::cell::Cell;

/// Counted within a turn, and told at its end: all planes share the counter, and each telling takes it from the others.
pub(crate) struct Gathered {
    counter: Counter,
    waiting: Cell<u64>,
}

impl Gathered {
    fn new(counter: Counter) -> Gathered {
        Gathered { counter, waiting: Cell::new(0) }
    }

    pub(crate) fn add(&self, count: u64) {
        self.waiting.set(self.waiting.get() + count);
    }

    fn tell(&self) {
        let count = self.waiting.take();
        if count > 0 {
            self.counter.increment(count);
        }
    }
}

/// What one plane counts.
pub(crate) struct Counters {
    pub(crate) connections: Gauge,
    pub(crate) accepted: Counter,
    pub(crate) refused_total: Counter,
    pub(crate) refused_address: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) handshakes: Counter,
    pub(crate) handshakes_failed: Counter,
    pub(crate) logins: Counter,
    pub(crate) logins_failed: Counter,
    pub(crate) logins_put_off: Counter,
    pub(crate) stanzas_received: Gathered,
    pub(crate) stanzas_sent: Counter,
    pub(crate) bytes_received: Gathered,
    pub(crate) bytes_sent: Gathered,
    pub(crate) reads_slowed: Counter,
    pub(crate) frames_refused: Counter,
    pub(crate) frames_late: Counter,
    pub(crate) closed_backlog: Counter,
    pub(crate) closed_stalled: Counter,
    pub(crate) closed_overrun: Counter,
    pub(crate) password_jobs_refused: Counter,
}

impl Counters {
    pub(crate) fn new() -> Counters {
        let refused = |limit: &'static str| counter!("chappe_edge_refused_total", "limit" => limit);
        let closed = |reason: &'static str| counter!("chappe_edge_closed_total", "reason" => reason);
        let handshakes = |result: &'static str| counter!("chappe_edge_tls_handshakes_total", "result" => result);
        let logins = |result: &'static str| counter!("chappe_edge_logins_total", "result" => result);
        Counters {
            connections: gauge!("chappe_edge_connections"),
            accepted: counter!("chappe_edge_accepted_total"),
            refused_total: refused("connections"),
            refused_address: refused("connections_per_address"),
            accept_errors: counter!("chappe_edge_accept_errors_total"),
            handshakes: handshakes("ok"),
            handshakes_failed: handshakes("failed"),
            logins: logins("ok"),
            logins_failed: logins("failed"),
            logins_put_off: logins("put off"),
            stanzas_received: Gathered::new(counter!("chappe_edge_stanzas_received_total")),
            stanzas_sent: counter!("chappe_edge_stanzas_sent_total"),
            bytes_received: Gathered::new(counter!("chappe_edge_bytes_received_total")),
            bytes_sent: Gathered::new(counter!("chappe_edge_bytes_sent_total")),
            reads_slowed: counter!("chappe_edge_reads_slowed_total"),
            frames_refused: counter!("chappe_edge_frames_refused_total"),
            frames_late: counter!("chappe_edge_frames_late_total"),
            closed_backlog: closed("write_backlog"),
            closed_stalled: closed("write_stall"),
            closed_overrun: closed("mailbox"),
            password_jobs_refused: counter!("chappe_edge_password_jobs_refused_total"),
        }
    }

    /// A connection's turn has ended.
    pub(crate) fn turn_ended(&self) {
        for gathered in [&self.stanzas_received, &self.bytes_received, &self.bytes_sent] {
            gathered.tell();
        }
    }
}

/// Say what each metric means, for exporters that show it.
pub(crate) fn describe() {
    use metrics::{describe_counter, describe_gauge};
    describe_gauge!("chappe_edge_connections", "client connections open now");
    describe_counter!("chappe_edge_accepted_total", "connections accepted");
    describe_counter!("chappe_edge_refused_total", "connections closed as they were accepted, by limit");
    describe_counter!("chappe_edge_accept_errors_total", "errors of accept(2)");
    describe_counter!("chappe_edge_tls_handshakes_total", "TLS handshakes, by result");
    describe_counter!("chappe_edge_logins_total", "login attempts that ended, by result");
    describe_counter!("chappe_edge_stanzas_received_total", "stanzas of clients handed to shards");
    describe_counter!("chappe_edge_stanzas_sent_total", "stanzas of shards handed to clients");
    describe_counter!("chappe_edge_bytes_received_total", "bytes read from clients, TLS included");
    describe_counter!("chappe_edge_bytes_sent_total", "bytes written to clients, TLS included");
    describe_counter!("chappe_edge_reads_slowed_total", "times that reading paused to keep a rate");
    describe_counter!("chappe_edge_frames_refused_total", "frames that a link did not take at once");
    describe_counter!("chappe_edge_frames_late_total", "frames for connections that had ended");
    describe_counter!("chappe_edge_closed_total", "connections that the shell closed, by reason");
    describe_counter!("chappe_edge_password_jobs_refused_total", "logins refused because too many waited for a password thread");
}
